//! A private apt: its own sources, lists and state in one folder, run as whoever builds. It sees
//! nothing of the host's apt but its programs and Debian's keyring. Owns no policy about which
//! packages are wanted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use super::stanza;
use super::{Error, Package};
use crate::arch::Arch;

/// Lists younger than this are not fetched again.
const LISTS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

/// Debian's keyring, as its package `debian-archive-keyring` installs it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Which archive, where from.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// The release: `trixie`.
    pub release: String,
    /// The components: `main`.
    pub components: Vec<String>,
    /// The address of the archive, without a slash at the end.
    pub url: String,
    /// The address of the security archive.
    pub security: String,
}

impl Mirror {
    /// The archive that the environment names (`KEELSON_MIRROR`, `KEELSON_SECURITY_MIRROR`), else
    /// Debian's own.
    pub fn from_environment(release: &str, components: &[String]) -> Mirror {
        let read = |name: &str, default: &str| {
            std::env::var(name)
                .ok()
                .filter(|url| !url.is_empty())
                .unwrap_or_else(|| default.to_string())
                .trim_end_matches('/')
                .to_string()
        };
        Mirror {
            release: release.to_string(),
            components: components.to_vec(),
            url: read("KEELSON_MIRROR", "http://deb.debian.org/debian"),
            security: read(
                "KEELSON_SECURITY_MIRROR",
                "http://deb.debian.org/debian-security",
            ),
        }
    }

    /// The sources in deb822 form (sources.list(5)).
    fn sources(&self, arch: Arch) -> String {
        let components = self.components.join(" ");
        let release = &self.release;
        let block = |url: &str, suites: &str| {
            format!(
                "Types: deb\nURIs: {url}\nSuites: {suites}\nComponents: {components}\n\
                 Architectures: {}\nSigned-By: {KEYRING}\n",
                arch.name()
            )
        };
        format!(
            "{}\n{}",
            block(&self.url, &format!("{release} {release}-updates")),
            block(&self.security, &format!("{release}-security")),
        )
    }
}

/// The private apt of one architecture.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
    mirror: Mirror,
    arch: Arch,
}

impl Apt {
    /// Lays out the folder; `/etc/apt` is never read.
    pub(super) fn open(folder: &Path, mirror: Mirror, arch: Arch) -> Result<Apt, Error> {
        if !Path::new(KEYRING).exists() {
            return Err(Error::NoKeyring(PathBuf::from(KEYRING)));
        }
        let apt = Apt {
            folder: folder.to_path_buf(),
            mirror,
            arch,
        };
        for name in [
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/sources.list.d",
            "etc/trusted.gpg.d",
            "etc/auth.conf.d",
            "lists/partial",
            "cache/archives/partial",
        ] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::io(&path))?;
        }
        apt.write("status", "")?;
        apt.write("apt.conf", &apt.config())?;
        let sources = apt.mirror.sources(arch);
        let path = folder.join("etc/sources.list.d/keelson.sources");
        // Lists of another mirror are not lists of this one.
        if fs::read_to_string(&path).is_ok_and(|old| old != sources) {
            remove(&apt.stamp())?;
        }
        apt.write("etc/sources.list.d/keelson.sources", &sources)?;
        Ok(apt)
    }

    fn config(&self) -> String {
        let folder = self.folder.display();
        let arch = self.arch.name();
        format!(
            "Dir::Etc \"{folder}/etc/\";\n\
             Dir::State \"{folder}/\";\n\
             Dir::State::lists \"{folder}/lists/\";\n\
             Dir::State::status \"{folder}/status\";\n\
             Dir::Cache \"{folder}/cache/\";\n\
             Dir::Log \"{folder}/\";\n\
             APT::Architecture \"{arch}\";\n\
             APT::Architectures {{ \"{arch}\"; }};\n\
             APT::Sandbox::User \"\";\n\
             APT::Update::Error-Mode \"any\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             Acquire::http::Timeout \"20\";\n\
             Acquire::https::Timeout \"20\";\n"
        )
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("updated")
    }

    /// True if there are lists of this mirror at all.
    pub(super) fn has_lists(&self) -> bool {
        let lists = fs::read_dir(self.folder.join("lists"));
        let mut names = lists.into_iter().flatten().flatten();
        self.stamp().exists()
            && names.any(|entry| entry.file_name().to_string_lossy().ends_with("_Packages"))
    }

    /// True if the lists are younger than a day.
    pub(super) fn fresh(&self) -> bool {
        let modified = fs::metadata(self.stamp()).and_then(|meta| meta.modified());
        self.has_lists()
            && modified.is_ok_and(|then| {
                SystemTime::now()
                    .duration_since(then)
                    .is_ok_and(|age| age < LISTS_LAST)
            })
    }

    /// Fetches the lists; apt checks their signatures.
    pub(super) fn update(&self) -> Result<(), Error> {
        let output = self.run("apt-get", [OsStr::new("update")], &self.folder)?;
        if !output.status.success() {
            return Err(Error::Lists {
                mirror: self.mirror.url.clone(),
                output: complaints(&output),
            });
        }
        let stamp = self.stamp();
        fs::write(&stamp, "").map_err(Error::io(&stamp))
    }

    /// The newest version of each package that the lists know.
    pub(super) fn show(&self, names: &[&str]) -> Result<BTreeMap<String, Package>, Error> {
        let mut words = vec!["show", "--no-all-versions", "--"];
        words.extend(names);
        let output = self.run("apt-cache", words.iter().map(OsStr::new), &self.folder)?;
        // The exit code tells of unknown names too, and the caller finds those by their absence.
        let text = String::from_utf8_lossy(&output.stdout);
        let mut packages = BTreeMap::new();
        for fields in stanza::parse(&text) {
            let package = package(&fields)?;
            packages.insert(package.name.clone(), package);
        }
        Ok(packages)
    }

    /// Downloads exactly these versions into `folder`.
    pub(super) fn download(&self, packages: &[&Package], folder: &Path) -> Result<(), Error> {
        let wanted = packages.iter().map(|p| format!("{}={}", p.name, p.version));
        let words: Vec<String> = ["--quiet", "download"]
            .into_iter()
            .map(String::from)
            .chain(wanted)
            .collect();
        let output = self.run("apt-get", words.iter().map(OsStr::new), folder)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Download {
            mirror: self.mirror.url.clone(),
            output: complaints(&output),
        })
    }

    /// The error for a package that the lists do not know.
    pub(super) fn unknown(&self, name: &str) -> Error {
        Error::Unknown {
            name: name.to_string(),
            release: self.mirror.release.clone(),
            arch: self.arch.name(),
        }
    }

    fn run<'a>(
        &self,
        program: &'static str,
        words: impl IntoIterator<Item = &'a OsStr>,
        folder: &Path,
    ) -> Result<Output, Error> {
        Command::new(program)
            .args(words)
            .current_dir(folder)
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .map_err(|source| Error::Missing {
                program,
                package: "apt",
                source,
            })
    }

    /// Writes a file unless it holds the text already: apt keeps an index of its lists only as
    /// long as nothing around it is younger.
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(&path, text).map_err(Error::io(&path))
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io(path)),
    }
}

/// apt's errors and warnings, without its progress.
fn complaints(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("E:") || line.starts_with("W:"))
        .collect();
    if lines.is_empty() {
        text.trim().to_string()
    } else {
        lines.join("\n")
    }
}

fn package(fields: &BTreeMap<&str, String>) -> Result<Package, Error> {
    let name = fields.get("Package").cloned().unwrap_or_default();
    let field = |field: &'static str| {
        fields
            .get(field)
            .filter(|value| !value.is_empty())
            .cloned()
            .ok_or_else(|| Error::Field {
                name: name.clone(),
                field,
            })
    };
    Ok(Package {
        version: field("Version")?,
        architecture: field("Architecture")?,
        sha256: field("SHA256")?,
        filename: field("Filename")?,
        depends: fields.get("Depends").cloned().unwrap_or_default(),
        name: field("Package")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        Mirror {
            release: "trixie".to_string(),
            components: vec!["main".to_string()],
            url: "http://mirror.test/debian".to_string(),
            security: "http://mirror.test/debian-security".to_string(),
        }
    }

    #[test]
    fn every_source_is_bound_to_debians_keyring() {
        let sources = mirror().sources(Arch::Arm64);
        assert_eq!(sources.matches("Types: deb").count(), 2);
        assert_eq!(sources.matches(&format!("Signed-By: {KEYRING}")).count(), 2);
        assert_eq!(sources.matches("Architectures: arm64").count(), 2);
        assert!(sources.contains("Suites: trixie trixie-updates\n"));
        assert!(sources.contains("Suites: trixie-security\n"));
    }

    #[test]
    fn a_stanza_becomes_a_package() {
        let text = "Package: libc6\nVersion: 2.41-12\nArchitecture: amd64\n\
                    SHA256: ab\nFilename: pool/libc6.deb\nDepends: libgcc-s1\n";
        let fields = &stanza::parse(text)[0];
        let package = package(fields).expect("whole");
        assert_eq!(package.name, "libc6");
        assert_eq!(package.version, "2.41-12");
        assert_eq!(package.depends, "libgcc-s1");
    }

    #[test]
    fn a_stanza_without_a_digest_is_refused() {
        let text = "Package: libc6\nVersion: 2.41-12\nArchitecture: amd64\nFilename: p\n";
        let error = package(&stanza::parse(text)[0]).expect_err("no digest");
        assert_eq!(
            error.to_string(),
            "apt's answer about libc6 lacks the field SHA256"
        );
    }
}
