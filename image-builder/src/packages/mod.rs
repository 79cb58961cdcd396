//! Debian packages: found in the archive's signed lists, fetched by apt into a private place,
//! checked, kept by their digest, unpacked. Never touches the host's own apt, needs no root.
//!
//! ```text
//! mirror ── apt-get update (signatures) ──> lists ── apt-cache show ──> Package (version, sha256)
//!        ── apt-get download ──> debs/<sha256>.deb ── dpkg-deb ──> unpacked/<sha256>/
//! ```

mod apt;
pub mod lock;
mod stanza;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::arch::Arch;
use crate::report::Step;
pub use apt::Mirror;

/// What can go wrong with packages, by what a person would do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the work needs is not on this machine.
    #[error("cannot run {program}; install it: apt-get install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
        /// Why it did not start.
        source: std::io::Error,
    },
    /// The keyring that signs Debian's lists is not on this machine.
    #[error("no Debian archive keyring at {0}; install it: apt-get install debian-archive-keyring")]
    NoKeyring(PathBuf),
    /// The lists could not be fetched or their signature was wrong.
    #[error(
        "cannot fetch the package lists from {mirror}; with lists of an earlier build, --offline \
         builds from what is already here. apt says:\n{output}"
    )]
    Lists {
        /// Where they should have come from.
        mirror: String,
        /// apt's words.
        output: String,
    },
    /// `--offline`, and the lists were never fetched.
    #[error("there are no package lists in {0} yet; build once without --offline")]
    NoLists(PathBuf),
    /// The lists do not know a package.
    #[error("package {name} is not in Debian {release} for {arch}; correct the list that names it")]
    Unknown {
        /// The package.
        name: String,
        /// The release that was searched.
        release: String,
        /// The architecture that was searched.
        arch: &'static str,
    },
    /// `--offline`, and some packages are not in the cache.
    #[error("not in the cache, and --offline forbids to fetch: {}", .0.join(", "))]
    NotCached(Vec<String>),
    /// The mirror did not deliver. Lists that are older than the mirror are the usual cause: see
    /// [`Archive::refresh`].
    #[error("cannot fetch packages from {mirror}. apt says:\n{output}")]
    Download {
        /// Where they should have come from.
        mirror: String,
        /// apt's words.
        output: String,
    },
    /// What came is not what the signed lists promise.
    #[error("{name} {version} as fetched does not have the sha256 {sha256} of the signed list")]
    Digest {
        /// The package.
        name: String,
        /// Its version.
        version: String,
        /// The digest it should have.
        sha256: String,
    },
    /// A package that would not unpack.
    #[error("cannot unpack {package}: {output}")]
    Unpack {
        /// The file.
        package: String,
        /// dpkg-deb's words.
        output: String,
    },
    /// A list that cannot be read.
    #[error("apt's answer about {name} lacks the field {field}")]
    Field {
        /// The package.
        name: String,
        /// The field.
        field: &'static str,
    },
    /// Reading or writing a file.
    #[error("{path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// A package as the signed lists describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// Its name: `libc6`.
    pub name: String,
    /// Its version, with epoch and revision: `2.41-12+deb13u4`.
    pub version: String,
    /// The architecture it was built for, or `all`.
    pub architecture: String,
    /// The digest of the `.deb` file, from the signed list.
    pub sha256: String,
    /// The file's path on the mirror.
    pub filename: String,
    /// What it depends on, as written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub depends: String,
}

/// Where packages come from and are kept.
#[derive(Debug)]
pub struct Archive {
    apt: apt::Apt,
    debs: PathBuf,
    unpacked: PathBuf,
    offline: bool,
    /// True if something was fetched or unpacked.
    changed: Cell<bool>,
    /// Held as long as this is in use, so that two builds do not share apt's files.
    _lock: fs::File,
}

impl Archive {
    /// Opens the archive of a Debian release below `cache`. Fetches the signed lists when those at
    /// hand are older than a day, unless `offline`.
    pub fn open(
        cache: &Path,
        mirror: Mirror,
        arch: Arch,
        offline: bool,
        step: &Step<'_>,
    ) -> Result<Archive, Error> {
        // apt is run in other folders, so every path is an absolute one.
        let cache = std::path::absolute(cache).map_err(Error::io(cache))?;
        let debs = cache.join("debs");
        let unpacked = cache.join("unpacked");
        for folder in [&debs, &unpacked] {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let lock_path = debs.join(format!("{}.lock", arch.name()));
        let lock = fs::File::create(&lock_path).map_err(Error::io(&lock_path))?;
        step.detail("waiting for another build");
        lock.lock().map_err(Error::io(&lock_path))?;
        let apt = apt::Apt::open(&cache.join("apt").join(arch.name()), mirror, arch)?;
        let archive = Archive {
            apt,
            debs,
            unpacked,
            offline,
            changed: Cell::new(false),
            _lock: lock,
        };
        if !archive.apt.fresh() {
            if !offline {
                archive.refresh(step)?;
            } else if !archive.apt.has_lists() {
                return Err(Error::NoLists(cache));
            }
        }
        Ok(archive)
    }

    /// Fetches the signed lists, however young those at hand are. Debian's mirrors keep only the
    /// newest version of a package, so lists can be out of date within the hour.
    pub fn refresh(&self, step: &Step<'_>) -> Result<(), Error> {
        step.detail("package lists");
        self.changed.set(true);
        self.apt.update()
    }

    /// True if anything was fetched or unpacked since this was opened.
    pub fn changed(&self) -> bool {
        self.changed.get()
    }

    /// The newest version of each named package, in the order of the names.
    pub fn resolve(&self, names: &[&str]) -> Result<Vec<Package>, Error> {
        let known = self.apt.show(names)?;
        names
            .iter()
            .map(|name| {
                known
                    .get(*name)
                    .cloned()
                    .ok_or_else(|| self.apt.unknown(name))
            })
            .collect()
    }

    /// Brings the packages into the cache, unpacks them, and returns the folder of each by name.
    pub fn unpack(
        &self,
        packages: &[Package],
        step: &Step<'_>,
    ) -> Result<BTreeMap<String, PathBuf>, Error> {
        let mut missing = Vec::new();
        for package in packages.iter().filter(|p| !self.folder(p).exists()) {
            // The cache is only files: one that was damaged is fetched again.
            let file = self.file(package);
            if !file.exists() || file_sha256(&file)? != package.sha256 {
                missing.push(package);
            }
        }
        if !missing.is_empty() {
            if self.offline {
                let names = missing
                    .iter()
                    .map(|p| format!("{} {}", p.name, p.version))
                    .collect();
                return Err(Error::NotCached(names));
            }
            step.detail(&format!("fetching {} packages", missing.len()));
            self.changed.set(true);
            self.fetch(&missing)?;
        }
        let mut folders = BTreeMap::new();
        for package in packages {
            let folder = self.folder(package);
            if !folder.exists() {
                step.detail(&package.name);
                self.changed.set(true);
                self.unpack_one(package, &folder)?;
            }
            folders.insert(package.name.clone(), folder);
        }
        Ok(folders)
    }

    fn file(&self, package: &Package) -> PathBuf {
        self.debs.join(format!("{}.deb", package.sha256))
    }

    fn folder(&self, package: &Package) -> PathBuf {
        self.unpacked.join(&package.sha256)
    }

    /// apt downloads into a folder of its own; a file enters the cache only under the digest that
    /// the signed list gives for it.
    fn fetch(&self, packages: &[&Package]) -> Result<(), Error> {
        let inbox = tempfile::Builder::new()
            .prefix("inbox-")
            .tempdir_in(&self.debs)
            .map_err(Error::io(&self.debs))?;
        self.apt.download(packages, inbox.path())?;
        let mut arrived = BTreeMap::new();
        for entry in fs::read_dir(inbox.path()).map_err(Error::io(inbox.path()))? {
            let path = entry.map_err(Error::io(inbox.path()))?.path();
            if path.extension().is_some_and(|e| e == "deb") {
                arrived.insert(file_sha256(&path)?, path);
            }
        }
        for package in packages {
            let path = arrived.get(&package.sha256).ok_or_else(|| Error::Digest {
                name: package.name.clone(),
                version: package.version.clone(),
                sha256: package.sha256.clone(),
            })?;
            let target = self.file(package);
            fs::rename(path, &target).map_err(Error::io(&target))?;
        }
        Ok(())
    }

    /// Unpacks beside the final place and renames, so that an interrupted build leaves nothing
    /// half done that looks whole.
    fn unpack_one(&self, package: &Package, folder: &Path) -> Result<(), Error> {
        let file = self.file(package);
        let work = tempfile::Builder::new()
            .prefix("unpack-")
            .tempdir_in(&self.unpacked)
            .map_err(Error::io(&self.unpacked))?;
        let tree = work.path().join("tree");
        let output = Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&file)
            .arg(&tree)
            .env("LC_ALL", "C")
            .output()
            .map_err(|source| Error::Missing {
                program: "dpkg-deb",
                package: "dpkg",
                source,
            })?;
        if !output.status.success() {
            return Err(Error::Unpack {
                package: package.name.clone(),
                output: String::from_utf8_lossy(&output.stderr).trim().to_string(),
            });
        }
        match fs::rename(&tree, folder) {
            // Another build was faster with the same bytes.
            Err(_) if folder.exists() => Ok(()),
            other => other.map_err(Error::io(folder)),
        }
    }
}

/// The sha256 of a file's bytes, as 64 lower-case hex digits.
pub fn file_sha256(path: &Path) -> Result<String, Error> {
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut Hashing(&mut hash)).map_err(Error::io(path))?;
    Ok(hex(&hash.finalize()))
}

/// The sha256 of some bytes, as 64 lower-case hex digits.
pub fn bytes_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lets a hash be written to.
struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
