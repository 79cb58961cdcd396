//! Digests of what a step reads: files by content, trees by names, modes and contents. Times and
//! owners do not count, since no artifact keeps them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use keelson_disk::verity::hex;
use sha2::{Digest as _, Sha256};

use super::walk::{self, Kind};

/// A digest that is being put together; every part carries its length, so that no two lists of
/// parts are the same.
pub struct Digest(Sha256);

impl Digest {
    /// An empty digest of something of this kind.
    pub fn new(kind: &str) -> Digest {
        Digest(Sha256::new()).text(kind)
    }

    /// Adds a text.
    pub fn text(mut self, text: &str) -> Digest {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    /// Adds a file's content.
    pub fn file(self, path: &Path) -> anyhow::Result<Digest> {
        let (bytes, sum) = of_file(path)?;
        Ok(self.text(&bytes.to_string()).text(&sum))
    }

    /// Adds a tree: every name, mode, link and content.
    pub fn tree(mut self, root: &Path) -> anyhow::Result<Digest> {
        for node in walk::walk(root)? {
            let mode = node.metadata.permissions().mode();
            self = self
                .text(&node.name.to_string_lossy())
                .text(&format!("{mode:o}"));
            self = match &node.kind {
                Kind::Folder => self.text("folder"),
                Kind::File => self.file(&node.path)?,
                Kind::Link(target) => self.text(&target.to_string_lossy()),
            };
        }
        Ok(self)
    }

    /// The digest as hex.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// The size of a file and the SHA-256 of its content as hex.
pub fn of_file(path: &Path) -> anyhow::Result<(u64, String)> {
    let (bytes, sum) = sum(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((bytes, hex(&sum)))
}

/// The size of a file and the SHA-256 of its content after `prefix`.
fn sum(path: &Path) -> std::io::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hash.finalize().into())),
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// The bytes that a file takes on its disk, which is less than its length if it has holes.
pub fn stored(path: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// The salt of a root image: it follows from the data, and no two images share one.
pub fn salt(data: &Path) -> std::io::Result<[u8; 32]> {
    let (_, sum) = sum(data)?;
    Ok(Sha256::new_with_prefix(b"keelson verity salt\0")
        .chain_update(sum)
        .finalize()
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_is_its_names_modes_links_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let digest = || Digest::new("t").tree(root).unwrap().finish();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/file"), "x").unwrap();
        let mut seen = vec![digest()];
        assert_eq!(digest(), seen[0]);
        fs::write(root.join("a/file"), "y").unwrap();
        seen.push(digest());
        fs::set_permissions(root.join("a/file"), PermissionsExt::from_mode(0o755)).unwrap();
        seen.push(digest());
        symlink("file", root.join("a/link")).unwrap();
        seen.push(digest());
        fs::rename(root.join("a"), root.join("b")).unwrap();
        seen.push(digest());
        let different: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(different.len(), seen.len());
    }

    #[test]
    fn parts_do_not_run_together() {
        let digest = |a, b| Digest::new("t").text(a).text(b).finish();
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
    }
}
