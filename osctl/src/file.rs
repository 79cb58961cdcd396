//! Files at the desk: reading with a limit, and writing so that a file is either
//! the old one or the new one, whole, and secret files are never readable to
//! others, not even for a moment.

use crate::error::{Error, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Reads all of a file, or of stdin if the path is `-`. More than `limit` bytes
/// are refused before they are all read.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Error::input(format!("cannot read {}", path.display())).cause(error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::input(format!("{} is too large", path.display()))
            .cause(format!("it has more than {}", size(limit)))
            .hint("is it the file that you mean?"));
    }
    Ok(bytes)
}

/// Reads a text file. See [`read`].
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|_| Error::input(format!("{} is not a text file (UTF-8)", path.display())))
}

/// What to do if the file to be written is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Refuse, with a hint to use `--force`.
    Refuse,
    /// Replace it.
    Replace,
}

/// Writes a file that only its owner may read: beside it first, then renamed over
/// it. A link is followed, so that what it points to is replaced and the link stays.
pub(crate) fn write_secret(path: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    write(path, bytes, existing).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::input(format!("{} exists already", path.display()))
            .hint("use another name, or --force to replace it"),
        _ => Error::failed(format!("cannot write {}", path.display())).cause(error),
    })
}

fn write(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = beside(&target)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let result = file
        .set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| match existing {
            Existing::Replace => fs::rename(&temporary, &target),
            Existing::Refuse => rename_new(&temporary, &target),
        });
    if result.is_err() && temporary.exists() {
        fs::remove_file(&temporary)?;
    }
    result
}

/// Renames a file, but not over another one.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    // A link fails where the name is taken; a rename would replace what is there.
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Not every filesystem has links.
        Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// A name in the same folder that nothing else uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("this is not the name of a file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(hidden))
}

/// Makes the folder that a file is in, readable only to its owner if it was not there.
pub(crate) fn make_parent(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|error| Error::failed(format!("cannot make {}", parent.display())).cause(error))
}

/// The person's home folder.
pub(crate) fn home() -> Result<PathBuf> {
    std::env::home_dir()
        .filter(|home| !home.as_os_str().is_empty())
        .ok_or_else(|| Error::input("there is no home folder").hint("set HOME"))
}

/// A size in words: `1 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 2] = [("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, factor) in UNITS {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{} {unit}", bytes / factor);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_file_is_for_its_owner_alone_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.yaml");
        write_secret(&path, b"one", Existing::Refuse).unwrap();
        assert_eq!(mode(&path), 0o600);
        let refused = write_secret(&path, b"two", Existing::Refuse).unwrap_err();
        assert_eq!(refused.kind(), crate::error::Kind::Input);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_secret(&path, b"two", Existing::Replace).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), mode(&path)),
            (b"two".to_vec(), 0o600)
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "one").unwrap();
        symlink(&real, &link).unwrap();
        write_secret(&link, b"two", Existing::Replace).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"two");
    }

    #[test]
    fn too_much_is_refused_without_end() {
        let error = read(Path::new("/dev/zero"), 1 << 20).unwrap_err();
        assert!(
            error.render(false).contains("more than 1 MiB"),
            "{}",
            error.render(false)
        );
    }
}
