//! The boot loader's entries: which releases it knows, which one it tries next. The
//! loader counts the tries; here they are only read and reset. Correct without a
//! writable EFI variable: everything is a file's name.
//!
//! systemd-boot boots the entry that sorts first: entries without tries left last, then
//! by version, the newest first. So a known good entry carries no counter, and "prefer
//! the older" takes the newer one's tries away (UAPI group: Boot Loader Specification,
//! "Boot counting"; systemd's AUTOMATIC_BOOT_ASSESSMENT).

use super::record::Tries;
use anyhow::{Context as _, bail, ensure};
use keelson_disk::{cmdline, uki, verity::RootSpec};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// How often a staged release is tried.
const TRIES: u32 = 3;

/// Every entry of ours begins so.
const PREFIX: &str = "keelson-";

/// What the loader takes for an entry.
const SUFFIX: &str = ".efi";

/// What it does not: an entry that is being written.
const PARTIAL: &str = ".partial";

/// One release that the loader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The version, as its name says.
    pub version: String,
    /// The root that it opens; nothing where the file cannot be read as a UKI.
    pub root: Option<RootSpec>,
    /// Whether its tries are counted.
    pub tries: Tries,
    /// Where it is.
    path: PathBuf,
}

impl Entry {
    /// Whether it opens the root with this hash.
    pub(crate) fn opens(&self, root_hash: &[u8; 32]) -> bool {
        self.root.is_some_and(|root| root.root_hash == *root_hash)
    }
}

/// What a boot loader is asked to do. Every change is on the disk when it returns.
pub(crate) trait Loader {
    /// The entries, in the order of their names.
    fn entries(&self) -> anyhow::Result<Vec<Entry>>;
    /// That a UKI of so many bytes has room once these entries are gone.
    fn room(&self, bytes: u64, gone: &[&Entry]) -> anyhow::Result<()>;
    /// A place for a UKI that is being written; it is no entry yet. What was there is gone.
    fn partial(&self, version: &str, bytes: u64) -> anyhow::Result<File>;
    /// Makes what was written there the entry that is tried next.
    fn stage(&self, version: &str) -> anyhow::Result<()>;
    /// The entry is known to be good.
    fn mark_good(&self, entry: &Entry) -> anyhow::Result<()>;
    /// The entry is not booted as long as there is another.
    fn give_up(&self, entry: &Entry) -> anyhow::Result<()>;
    /// The entry, or what there is of a partial one, is gone.
    fn remove(&self, entry: &Entry) -> anyhow::Result<()>;
    /// Nothing partial is left.
    fn clean(&self) -> anyhow::Result<()>;
}

/// systemd-boot, with its partition mounted.
pub(crate) struct SystemdBoot {
    dir: PathBuf,
}

impl SystemdBoot {
    /// The loader whose partition is mounted here.
    pub(crate) fn new(partition: &Path) -> Self {
        SystemdBoot {
            dir: partition.join("EFI/Linux"),
        }
    }

    fn rename(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let to = self.dir.join(to);
        if from == to {
            return Ok(());
        }
        // The old name is whole on the disk before the new one is made.
        self.sync()?;
        ensure!(!to.exists(), "{} is there already", to.display());
        fs::rename(from, &to)
            .with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
        self.sync()
    }

    /// A rename on FAT is two changes of a folder and one of a file: all are out
    /// before anything else goes on.
    fn sync(&self) -> anyhow::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&self.dir, flags, Mode::empty())
            .with_context(|| format!("opening {}", self.dir.display()))?;
        rustix::fs::fsync(&dir).with_context(|| format!("flushing {}", self.dir.display()))?;
        rustix::fs::syncfs(&dir).with_context(|| format!("flushing {}", self.dir.display()))?;
        Ok(())
    }

    fn unlink(&self, path: &Path) -> anyhow::Result<()> {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        self.sync()
    }
}

impl Loader for SystemdBoot {
    fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        let mut names = Vec::new();
        let entries =
            fs::read_dir(&self.dir).with_context(|| format!("listing {}", self.dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", self.dir.display()))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names
            .iter()
            .filter_map(|name| {
                let (version, tries) = parse(name)?;
                let path = self.dir.join(name);
                Some(Entry {
                    version: version.to_owned(),
                    root: File::open(&path).ok().and_then(|mut file| root(&mut file)),
                    tries,
                    path,
                })
            })
            .collect())
    }

    fn room(&self, bytes: u64, gone: &[&Entry]) -> anyhow::Result<()> {
        let space = rustix::fs::statvfs(&self.dir)
            .with_context(|| format!("reading the free space of {}", self.dir.display()))?;
        let mut free = space.f_bavail.saturating_mul(space.f_frsize);
        for entry in gone {
            let path = &entry.path;
            let meta = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
            free = free.saturating_add(meta.len());
        }
        ensure!(
            free >= bytes,
            "the boot partition is full: {} KiB are needed, {} KiB are free",
            bytes >> 10,
            free >> 10
        );
        Ok(())
    }

    fn partial(&self, version: &str, bytes: u64) -> anyhow::Result<File> {
        check(version)?;
        self.room(bytes, &[])?;
        let path = self.dir.join(format!("{PREFIX}{version}{PARTIAL}"));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        options
            .open(&path)
            .with_context(|| format!("making {}", path.display()))
    }

    fn stage(&self, version: &str) -> anyhow::Result<()> {
        check(version)?;
        let partial = self.dir.join(format!("{PREFIX}{version}{PARTIAL}"));
        self.rename(&partial, &name(version, Some((TRIES, 0))))
    }

    fn mark_good(&self, entry: &Entry) -> anyhow::Result<()> {
        self.rename(&entry.path, &name(&entry.version, None))
    }

    fn give_up(&self, entry: &Entry) -> anyhow::Result<()> {
        let done = match entry.tries {
            Tries::Counted { done, .. } => done.max(1),
            Tries::Uncounted | Tries::NoEntry => 1,
        };
        self.rename(&entry.path, &name(&entry.version, Some((0, done))))
    }

    fn remove(&self, entry: &Entry) -> anyhow::Result<()> {
        self.unlink(&entry.path)
    }

    fn clean(&self) -> anyhow::Result<()> {
        let entries =
            fs::read_dir(&self.dir).with_context(|| format!("listing {}", self.dir.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("listing {}", self.dir.display()))?
                .path();
            let ours = path.file_name().and_then(|name| name.to_str());
            if ours.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(PARTIAL)) {
                self.unlink(&path)?;
            }
        }
        Ok(())
    }
}

/// The root that a UKI's command line opens.
pub(crate) fn root(file: &mut (impl Read + Seek)) -> Option<RootSpec> {
    file.seek(SeekFrom::Start(0)).ok()?;
    let line = uki::text(file, ".cmdline").ok()??;
    cmdline::Options::parse(&line).ok().map(|words| words.root)
}

/// What can stand in a file's name: a plus sign would be taken for a counter.
fn check(version: &str) -> anyhow::Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || ".-_~".contains(c);
    if version.is_empty() || version.len() > 64 || !version.chars().all(fine) {
        bail!("the version {version:?} cannot be the name of a boot entry");
    }
    Ok(())
}

fn name(version: &str, tries: Option<(u32, u32)>) -> String {
    match tries {
        None => format!("{PREFIX}{version}{SUFFIX}"),
        Some((left, 0)) => format!("{PREFIX}{version}+{left}{SUFFIX}"),
        Some((left, done)) => format!("{PREFIX}{version}+{left}-{done}{SUFFIX}"),
    }
}

/// The version and the counter in an entry's name; `None` where it is none of ours.
fn parse(name: &str) -> Option<(&str, Tries)> {
    let stem = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let Some((version, counter)) = stem.rsplit_once('+') else {
        return Some((stem, Tries::Uncounted));
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u32>().unwrap_or(u32::MAX))
    };
    let (left, done) = match counter.split_once('-') {
        Some((left, done)) => (number(left)?, number(done)?),
        None => (number(counter)?, 0),
    };
    Some((version, Tries::Counted { left, done }))
}

/// Which of two names for the same file counts more, the lowest most: a good entry, a counted
/// one, anything else.
pub(crate) fn rank(name: &str) -> u8 {
    match parse(name) {
        Some((_, Tries::Uncounted)) => 0,
        Some(_) => 1,
        None => 2,
    }
}

/// Of several entries for a root, the one that counts: a rename that was cut off may
/// leave two.
pub(crate) fn find<'a>(entries: &'a [Entry], root_hash: &[u8; 32]) -> Option<&'a Entry> {
    let mine = || entries.iter().filter(|entry| entry.opens(root_hash));
    mine()
        .find(|entry| entry.tries == Tries::Uncounted)
        .or_else(|| mine().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    #[test]
    fn names_are_those_of_the_specification() {
        let counted = |left, done| Tries::Counted { left, done };
        for (name, want) in [
            ("keelson-0.2.0.efi", Some(("0.2.0", Tries::Uncounted))),
            ("keelson-0.2.0+3.efi", Some(("0.2.0", counted(3, 0)))),
            (
                "keelson-0.2.0-rc.1+2-1.efi",
                Some(("0.2.0-rc.1", counted(2, 1))),
            ),
            ("keelson-0.2.0+0-3.efi", Some(("0.2.0", counted(0, 3)))),
            ("keelson-0.2.0+.efi", None),
            ("keelson-0.2.0+3-.efi", None),
            ("keelson-0.2.0+a.efi", None),
            ("keelson-0.2.0.partial", None),
            ("other-0.2.0.efi", None),
        ] {
            assert_eq!(parse(name), want, "{name}");
        }
        assert_eq!(name("1.0.0", Some((TRIES, 0))), "keelson-1.0.0+3.efi");
    }

    #[test]
    fn an_entry_goes_from_partial_to_staged_to_good_to_given_up() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("EFI/Linux")).unwrap();
        let loader = SystemdBoot::new(folder.path());
        let names = || -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(folder.path().join("EFI/Linux"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        loader
            .partial("2.0.0", 3)
            .unwrap()
            .write_all(b"uki")
            .unwrap();
        assert_eq!(loader.entries().unwrap(), []);
        loader.stage("2.0.0").unwrap();
        assert_eq!(names(), ["keelson-2.0.0+3.efi"]);
        let entry = &loader.entries().unwrap()[0];
        assert_eq!(entry.root, None, "this is no UKI");
        loader.mark_good(entry).unwrap();
        assert_eq!(names(), ["keelson-2.0.0.efi"]);
        loader.mark_good(&loader.entries().unwrap()[0]).unwrap();
        loader.give_up(&loader.entries().unwrap()[0]).unwrap();
        assert_eq!(names(), ["keelson-2.0.0+0-1.efi"]);
        drop(loader.partial("3.0.0", 0).unwrap());
        loader.clean().unwrap();
        loader.remove(&loader.entries().unwrap()[0]).unwrap();
        assert_eq!(names(), [] as [&str; 0]);
    }

    #[test]
    fn a_version_that_would_be_read_as_another_is_refused() {
        for version in ["", "1+3", "../1", "1/2", "a b"] {
            assert!(check(version).is_err(), "{version:?}");
        }
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("EFI/Linux")).unwrap();
        let error = SystemdBoot::new(folder.path())
            .partial("1.0.0", u64::MAX)
            .unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
    }

    proptest! {
        #[test]
        fn any_name_is_answered(text in any::<String>(), left: u32, done: u32) {
            parse(&text);
            let tries = Tries::Counted { left, done };
            let name = name("1.2.3", Some((left, done)));
            prop_assert_eq!(parse(&name), Some(("1.2.3", tries)));
        }
    }
}
