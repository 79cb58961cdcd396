//! What must stand on the machine when the orchestrator starts: its directories, the
//! binds into the image, its config and token. Every part may be there already. What
//! does not hang on the payload is the nouns' `file`.

use super::{
    payload::Payload,
    render::{Files, Rendered},
};
use crate::mounted::is_mount_point;
use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Which files the config had written: those that it does not want any more are deleted.
/// They may be on DATA, so it is there as well.
const WRITTEN: &str = "/var/lib/keelson/orchestrator-files.json";

/// Makes all of it. Blocks.
pub(crate) fn prepare(payload: &Payload, rendered: &Rendered) -> Result<()> {
    make(
        Path::new(super::LOG_FILE)
            .parent()
            .unwrap_or(Path::new("/")),
        0o750,
    )?;
    make(&payload.data_dir, 0o755)?;
    for directory in &payload.directories {
        make(directory, 0o755)?;
    }
    for bind in &payload.binds {
        show(&bind.from, &bind.to)?;
    }
    for path in [&payload.config, &rendered.token_file] {
        make(path.parent().unwrap_or(Path::new("/")), 0o700)?;
    }
    if !rendered.cas.is_empty() {
        let image = Path::new(crate::facts::CAS);
        let mut all = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
        all.extend_from_slice(rendered.cas.as_bytes());
        write(Path::new(super::TRUSTED_CAS), &all)?;
    }
    put(&rendered.files, Path::new(WRITTEN))?;
    // The token first: a config that names it must find it.
    write(&rendered.token_file, rendered.token.as_bytes())?;
    write(&payload.config, rendered.config.as_bytes())
}

/// Writes the files of the config, and deletes those of an earlier one. What was written is
/// known before it is there, and until it is gone.
fn put(files: &Files, list: &Path) -> Result<()> {
    let before: BTreeSet<PathBuf> = match fs::read(list) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}; its files stay", list.display());
            BTreeSet::new()
        }),
        Err(_) => BTreeSet::new(),
    };
    for path in before.iter().filter(|path| !files.contains_key(*path)) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("deleting {}", path.display()));
            }
            _ => {}
        }
    }
    let now: BTreeSet<&PathBuf> = files.keys().collect();
    if !now.is_empty() || !before.is_empty() {
        make(list.parent().unwrap_or(Path::new("/")), 0o700)?;
        write(list, &serde_json::to_vec(&now)?)?;
    }
    for (path, text) in files {
        make(path.parent().unwrap_or(Path::new("/")), 0o700)?;
        write(path, text.as_bytes())?;
    }
    Ok(())
}

fn make(directory: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .with_context(|| format!("making the directory {}", directory.display()))
}

/// Shows a directory of the image at another place, read-only.
fn show(from: &Path, to: &Path) -> Result<()> {
    if is_mount_point(to).unwrap_or(false) {
        return Ok(());
    }
    make(to, 0o755)?;
    let doing = || format!("binding {} to {}", from.display(), to.display());
    mount_bind(from, to).with_context(doing)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount_remount(to, flags, "").with_context(doing)
}

/// Replaces a file that only root may read.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let options = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .clone();
    let mut file = options.open(&temporary).with_context(doing)?;
    file.write_all(bytes).with_context(doing)?;
    fs::rename(&temporary, path).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        for text in ["a long first text", "second"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_wanted_any_more_is_deleted_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("home/files.json");
        let at = |name: &str| dir.path().join("deep/er").join(name);
        let files = |names: &[&str]| -> Files {
            let text = |name: &&str| (at(name), name.to_string().into());
            names.iter().map(text).collect()
        };
        put(&files(&[]), &list).unwrap();
        assert!(!list.exists());
        put(&files(&["a", "b"]), &list).unwrap();
        fs::write(at("foreign"), "").unwrap();
        put(&files(&["b", "c"]), &list).unwrap();
        for (name, there) in [("a", false), ("b", true), ("c", true), ("foreign", true)] {
            assert_eq!(at(name).exists(), there, "{name}");
        }
        put(&files(&[]), &list).unwrap();
        assert!(!at("b").exists() && at("foreign").exists());
    }
}
