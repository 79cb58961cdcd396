//! Writes a tree of files with exact modes, whatever the umask. Every path is relative to the
//! tree's root; what is already there is only replaced on purpose. Knows nothing of what is in
//! the files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// A tree that is being built.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty tree at `root`; what was there goes.
    pub(crate) fn create(root: &Path) -> anyhow::Result<Tree> {
        if root.exists() {
            remove(root)?;
        }
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        set_mode(root, 0o755)?;
        Ok(Tree {
            root: root.to_path_buf(),
        })
    }

    /// Where a path of the tree lies.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Makes a folder and those above it; `mode` is the folder's, the others get 0755.
    pub(crate) fn directory(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        self.parents(path)?;
        let full = self.path(path);
        if !full.is_dir() {
            fs::create_dir(&full).with_context(|| format!("cannot make {}", full.display()))?;
        }
        set_mode(&full, mode)
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        self.parents(path)?;
        let full = self.path(path);
        if full.symlink_metadata().is_ok() {
            bail!("two files want to be /{path} in the image");
        }
        fs::write(&full, bytes).with_context(|| format!("cannot write {}", full.display()))?;
        set_mode(&full, mode)
    }

    /// Copies a file: executable (0755) if it was so for its owner, else 0644. Setuid and setgid
    /// bits, and everything else about it, stay behind.
    pub(crate) fn copy(&self, from: &Path, path: &str) -> anyhow::Result<()> {
        let read = || format!("cannot read {}", from.display());
        let mode = fs::metadata(from).with_context(read)?.permissions().mode();
        let bytes = fs::read(from).with_context(read)?;
        let mode = if mode & 0o100 != 0 { 0o755 } else { 0o644 };
        self.write(path, &bytes, mode)
    }

    /// Makes a symbolic link.
    pub(crate) fn link(&self, path: &str, to: &str) -> anyhow::Result<()> {
        self.parents(path)?;
        let full = self.path(path);
        symlink(to, &full).with_context(|| format!("cannot link {} to {to}", full.display()))
    }

    fn parents(&self, path: &str) -> anyhow::Result<()> {
        let mut at = self.root.clone();
        let folders = Path::new(path).parent().unwrap_or(Path::new(""));
        for name in folders {
            at.push(name);
            if !at.is_dir() {
                fs::create_dir(&at).with_context(|| format!("cannot make {}", at.display()))?;
                set_mode(&at, 0o755)?;
            }
        }
        Ok(())
    }
}

/// Removes a tree, folders without write permission included.
fn remove(root: &Path) -> anyhow::Result<()> {
    for entry in walk(root)? {
        let path = root.join(&entry);
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            set_mode(&path, 0o755)?;
        }
    }
    fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// Every path below `root`, relative to it, sorted; links are not followed.
pub(crate) fn walk(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = root.join(&folder);
        let entries =
            fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", full.display()))?;
            let path = folder.join(entry.file_name());
            let kind = entry
                .file_type()
                .with_context(|| format!("cannot list {}", full.display()))?;
            let Some(text) = path.to_str() else {
                bail!("the name {} is not UTF-8", path.display());
            };
            found.push(text.to_string());
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_leaves_the_setuid_bit_behind() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let from = folder.path().join("mount");
        fs::write(&from, "x").expect("write");
        set_mode(&from, 0o4755).expect("mode");
        let tree = Tree::create(&folder.path().join("tree")).expect("tree");
        tree.copy(&from, "usr/bin/mount").expect("copy");
        let mode = fs::metadata(tree.path("usr/bin/mount"))
            .expect("copied")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let tree = Tree::create(&folder.path().join("tree")).expect("tree");
        tree.write("etc/a", b"1", 0o644).expect("first");
        assert!(tree.write("etc/a", b"2", 0o644).is_err());
    }
}
