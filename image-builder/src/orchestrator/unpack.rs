//! Unpacks the archive of a K3s release, trimmed to what may be in the image. The archive is not
//! trusted: a path or a link that leads out, a file that is none, and more than a release can hold
//! are errors, whether the entry would have been kept or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use crate::rootfs::pattern;
use crate::rootfs::resolve;

/// How much an archive may hold: a release has about 300 MB in 300 entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) entries: usize,
}

/// What is unpacked: path patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keep {
    /// Each must fit something.
    pub(super) needed: Vec<String>,
    /// These need not.
    pub(super) optional: Vec<String>,
}

impl Keep {
    fn holds(&self, path: &str) -> bool {
        let mut forms = self.needed.iter().chain(&self.optional);
        forms.any(|form| pattern::matches(form, path))
    }
}

/// The limits for a release.
pub(super) const LIMITS: Limits = Limits {
    bytes: 1 << 30,
    entries: 10_000,
};

/// The base-2 logarithm of the largest window that is given to an archive; the release uses 25.
const LARGEST_WINDOW: u32 = 27;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read to its end.
    #[error("it is damaged: {0}")]
    Damaged(io::Error),
    /// A path that is not a plain relative one.
    #[error("the path {0} leads out of it")]
    Path(String),
    /// A link that leads out.
    #[error("the link {path} leads out of it, to {target}")]
    Link {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// An entry that is neither a file nor a folder nor a link.
    #[error("{0} is neither a file nor a folder nor a link")]
    Kind(String),
    /// Two entries of one path, or one below a file.
    #[error("{0} is in it twice")]
    Twice(String),
    /// It holds more than a release can.
    #[error("it holds more than {0}")]
    TooMuch(String),
    /// It lacks something that the image needs.
    #[error("it holds no {0}")]
    Lacks(String),
    /// Writing what it holds.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Unpacks what `keep` names from a tar.zst into the empty folder `to`, and the links to it.
pub(super) fn unpack(archive: &[u8], keep: &Keep, limits: Limits, to: &Path) -> Result<(), Error> {
    let mut decoder = zstd::Decoder::with_buffer(archive).map_err(Error::Damaged)?;
    decoder
        .window_log_max(LARGEST_WINDOW)
        .map_err(Error::Damaged)?;
    let mut counted = Counted {
        inner: decoder,
        left: limits.bytes,
    };
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    let mut files = BTreeSet::new();
    let mut seen = BTreeSet::new();
    {
        let mut tar = tar::Archive::new(&mut counted);
        for (number, entry) in tar.entries().map_err(|e| damage(e, limits))?.enumerate() {
            let mut entry = entry.map_err(|error| damage(error, limits))?;
            if number >= limits.entries {
                return Err(Error::TooMuch(format!("{} entries", limits.entries)));
            }
            let path = plain_path(&entry.path_bytes())?;
            let kind = entry.header().entry_type();
            if kind.is_dir() {
                continue;
            }
            if !seen.insert(path.clone()) {
                return Err(Error::Twice(path));
            }
            if kind.is_symlink() {
                let target = link_target(&entry, &path)?;
                links.insert(path, target);
            } else if kind.is_hard_link() {
                // None that is kept; but one that leads out is a sign of a hostile archive.
                let target = entry.link_name_bytes().unwrap_or_default();
                plain_path(&target).map_err(|_| Error::Link {
                    path: path.clone(),
                    target: String::from_utf8_lossy(&target).into_owned(),
                })?;
            } else if kind.is_file() {
                if keep.holds(&path) {
                    let executable = entry.header().mode().unwrap_or(0) & 0o100 != 0;
                    write(&mut entry, &path, executable, to, limits)?;
                    files.insert(path);
                }
            } else {
                return Err(Error::Kind(path));
            }
        }
    }
    // What follows the archive must be readable too: the checksum is at the end.
    io::copy(&mut counted, &mut io::sink()).map_err(|error| damage(error, limits))?;
    for form in &keep.needed {
        if !files.iter().any(|path| pattern::matches(form, path)) {
            return Err(Error::Lacks(form.clone()));
        }
    }
    for path in kept_links(&links, &files) {
        let target = &links[&path];
        let full = to.join(&path);
        parents(&full)?;
        symlink(target, &full).map_err(|source| Error::Write { path: full, source })?;
    }
    Ok(())
}

/// The links that lead, over other links perhaps, to a file that stays.
fn kept_links(links: &BTreeMap<String, String>, files: &BTreeSet<String>) -> Vec<String> {
    links
        .keys()
        .filter(|path| {
            let mut at = (*path).clone();
            for _ in 0..8 {
                if files.contains(&at) {
                    return true;
                }
                match links.get(&at) {
                    Some(target) => at = resolve::join(&at, target),
                    None => return false,
                }
            }
            false
        })
        .cloned()
        .collect()
}

/// The path of an entry as plain names, without the leading `./`.
fn plain_path(bytes: &[u8]) -> Result<String, Error> {
    let lossy = || String::from_utf8_lossy(bytes).into_owned();
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Path(lossy()))?;
    let mut names = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::CurDir => {}
            _ => return Err(Error::Path(lossy())),
        }
    }
    Ok(names.join("/"))
}

/// Where a link leads; it may climb, but not out of the archive.
fn link_target<R: Read>(entry: &tar::Entry<'_, R>, path: &str) -> Result<String, Error> {
    let bytes = entry.link_name_bytes().unwrap_or_default();
    let target = String::from_utf8_lossy(&bytes).into_owned();
    let out = || Error::Link {
        path: path.to_string(),
        target: target.clone(),
    };
    let mut depth = path.split('/').count() - 1;
    for part in Path::new(&target).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(out)?,
            _ => return Err(out()),
        }
    }
    if target.is_empty() {
        return Err(out());
    }
    Ok(target)
}

fn write<R: Read>(
    entry: &mut R,
    path: &str,
    executable: bool,
    to: &Path,
    limits: Limits,
) -> Result<(), Error> {
    let full = to.join(path);
    parents(&full)?;
    let failed = |source| Error::Write {
        path: full.clone(),
        source,
    };
    // The archive's own errors must not look like ours.
    let mut file = fs::File::create_new(&full).map_err(failed)?;
    let mut block = vec![0; 1 << 16];
    loop {
        let read = entry
            .read(&mut block)
            .map_err(|error| damage(error, limits))?;
        if read == 0 {
            break;
        }
        io::Write::write_all(&mut file, &block[..read]).map_err(failed)?;
    }
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(&full, fs::Permissions::from_mode(mode)).map_err(failed)
}

fn parents(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| Error::Write {
        path: parent.to_path_buf(),
        source,
    })
}

/// The mark of an error that the limit made.
#[derive(Debug, thiserror::Error)]
#[error("more than the limit")]
struct OverLimit;

fn damage(error: io::Error, limits: Limits) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if inner.is::<OverLimit>() {
            return Error::TooMuch(format!("{} bytes", limits.bytes));
        }
        cause = inner.source().or_else(|| {
            inner
                .downcast_ref::<io::Error>()
                .and_then(|inner| inner.get_ref())
                .map(|inner| inner as _)
        });
    }
    Error::Damaged(error)
}

/// A reader that gives no more than so many bytes.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(block)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(OverLimit))?;
        Ok(read)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rootfs::tree::walk;
    use tar::EntryType;

    /// An entry of an archive under test: path, kind, and contents or target.
    pub(crate) type Entry<'a> = (&'a str, EntryType, &'a str);

    /// A tar.zst of the entries. Paths are written as they are, hostile or not.
    pub(crate) fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (path, kind, what) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            let body = if matches!(kind, EntryType::Regular) {
                what.as_bytes()
            } else {
                header.as_old_mut().linkname[..what.len()].copy_from_slice(what.as_bytes());
                &[]
            };
            header.set_size(body.len() as u64);
            header.set_cksum();
            tar.extend(header.as_bytes());
            tar.extend(body);
            tar.resize(tar.len().div_ceil(512) * 512, 0);
        }
        tar.extend([0; 1024]);
        zstd::encode_all(tar.as_slice(), 3).expect("compresses")
    }

    fn run(entries: &[Entry<'_>], limits: Limits) -> Result<Vec<String>, Error> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let to = folder.path().join("to");
        fs::create_dir(&to).expect("folder");
        let keep = Keep {
            needed: vec!["bin/k3s".to_string(), "bin/cni".to_string()],
            optional: vec!["bin/blkid".to_string()],
        };
        let result = unpack(&archive(entries), &keep, limits, &to);
        // Whatever happened, nothing was written beside.
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1);
        result.map(|()| walk(&to).expect("tree"))
    }

    const FILE: EntryType = EntryType::Regular;
    const LINK: EntryType = EntryType::Symlink;

    #[test]
    fn what_is_kept_and_the_links_to_it() {
        let got = run(
            &[
                ("./bin/", EntryType::Directory, ""),
                ("./bin/k3s", FILE, "program"),
                ("./bin/cni", FILE, "plugins"),
                ("./bin/blkid", FILE, "asked for"),
                ("./bin/busybox", FILE, "a shell"),
                ("./bin/sh", LINK, "busybox"),
                ("./bin/kubectl", LINK, "k3s"),
                ("./bin/aux/bridge", LINK, "../cni"),
                ("./bin/again", LINK, "kubectl"),
                ("./bin/aux/iptables", LINK, "iptables-detect.sh"),
                ("./bin/aux/iptables-detect.sh", FILE, "#!/bin/sh"),
                ("./bin/hard", EntryType::Link, "bin/busybox"),
                ("./bin/circle", LINK, "circle"),
                ("./etc/x.conf", FILE, "text"),
            ],
            LIMITS,
        );
        assert_eq!(
            got.expect("unpacked"),
            [
                "bin",
                "bin/again",
                "bin/aux",
                "bin/aux/bridge",
                "bin/blkid",
                "bin/cni",
                "bin/k3s",
                "bin/kubectl"
            ]
        );
    }

    #[test]
    fn hostile_archives() {
        let good = [("bin/k3s", FILE, "p"), ("bin/cni", FILE, "p")];
        for (what, entry, want) in [
            (
                "climbing",
                ("../evil", FILE, "x"),
                "the path ../evil leads out of it",
            ),
            (
                "climbing inside",
                ("bin/../../evil", FILE, "x"),
                "the path bin/../../evil leads out of it",
            ),
            (
                "absolute",
                ("/etc/passwd", FILE, "x"),
                "the path /etc/passwd leads out of it",
            ),
            (
                "link out",
                ("bin/x", LINK, "../../etc"),
                "the link bin/x leads out of it, to ../../etc",
            ),
            (
                "absolute link",
                ("bin/x", LINK, "/bin/sh"),
                "the link bin/x leads out of it, to /bin/sh",
            ),
            (
                "empty link",
                ("bin/x", LINK, ""),
                "the link bin/x leads out of it, to ",
            ),
            (
                "hard link out",
                ("bin/x", EntryType::Link, "../x"),
                "the link bin/x leads out of it, to ../x",
            ),
            (
                "device",
                ("bin/x", EntryType::Block, ""),
                "bin/x is neither a file nor a folder nor a link",
            ),
            (
                "pipe",
                ("bin/x", EntryType::Fifo, ""),
                "bin/x is neither a file nor a folder nor a link",
            ),
            ("twice", ("./bin/k3s", FILE, "y"), "bin/k3s is in it twice"),
            (
                "a link, then a file through it",
                ("bin/k3s/x", LINK, "../../../up"),
                "the link bin/k3s/x leads out of it, to ../../../up",
            ),
        ] {
            let entries = [good[0], good[1], entry];
            let error = run(&entries, LIMITS).expect_err(what);
            assert_eq!(error.to_string(), want, "{what}");
        }
    }

    #[test]
    fn a_file_is_never_written_through_a_link() {
        // The link is made only after all files, so the file lands where its path says.
        let got = run(
            &[
                ("bin/dir", LINK, "k3s"),
                ("bin/k3s", FILE, "p"),
                ("bin/cni", FILE, "p"),
            ],
            LIMITS,
        );
        assert_eq!(got.expect("unpacked").len(), 4);
    }

    #[test]
    fn bombs() {
        let big = "x".repeat(100_000);
        let entries = [
            ("bin/k3s", FILE, "p"),
            ("bin/cni", FILE, "p"),
            ("z", FILE, &big),
        ];
        let small = Limits {
            bytes: 50_000,
            entries: 10,
        };
        let error = run(&entries, small).expect_err("too many bytes");
        assert_eq!(error.to_string(), "it holds more than 50000 bytes");
        let few = Limits {
            entries: 2,
            ..LIMITS
        };
        let error = run(&entries, few).expect_err("too many entries");
        assert_eq!(error.to_string(), "it holds more than 2 entries");
        let kept = [("bin/k3s", FILE, big.as_str())];
        let error = run(&kept, small).expect_err("too many bytes in a file that is kept");
        assert_eq!(error.to_string(), "it holds more than 50000 bytes");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = run(&[("bin/k3s", FILE, "p")], LIMITS).expect_err("no cni");
        assert_eq!(error.to_string(), "it holds no bin/cni");
    }

    #[test]
    fn a_truncated_archive_is_damaged() {
        let whole = archive(&[("bin/k3s", FILE, "p"), ("bin/cni", FILE, "p")]);
        for length in 0..whole.len() {
            let folder = tempfile::tempdir().expect("temporary folder");
            let keep = Keep {
                needed: vec!["bin/k3s".to_string()],
                optional: Vec::new(),
            };
            let result = unpack(&whole[..length], &keep, LIMITS, folder.path());
            assert!(result.is_err(), "cut at {length} of {}", whole.len());
        }
    }
}
