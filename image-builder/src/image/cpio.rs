//! The initramfs: a tree as a cpio archive of the "newc" form (kernel:
//! Documentation/driver-api/early-userspace/buffer-format.rst), compressed with zstd. Sorted,
//! owned by root, without times.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};

use super::walk::{self, Kind};

/// Writes the tree below `root` into `file`. It must have an `/init` that can run.
pub(super) fn write(root: &Path, level: i32, file: &mut File) -> anyhow::Result<()> {
    let init = root.join("init");
    let runs = |m: std::fs::Metadata| m.is_file() && m.permissions().mode() & 0o111 != 0;
    if !std::fs::metadata(&init).is_ok_and(runs) {
        bail!(
            "the initramfs has no program {}: the kernel could not start",
            init.display()
        );
    }
    let mut encoder = zstd::Encoder::new(BufWriter::new(file), level)?;
    archive(root, &mut encoder)?;
    encoder
        .finish()
        .and_then(|mut file| file.flush())
        .context("cannot write the initramfs")
}

/// Writes the archive, not compressed.
fn archive(root: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    for (node, inode) in walk::walk(root)?.iter().zip(1..) {
        let content = match &node.kind {
            Kind::Folder => Vec::new(),
            Kind::Link(target) => target.as_os_str().as_bytes().to_vec(),
            Kind::File => std::fs::read(&node.path)
                .with_context(|| format!("cannot read {}", node.path.display()))?,
        };
        let entry = Entry {
            inode,
            mode: node.metadata.permissions().mode(),
            links: if node.kind == Kind::Folder { 2 } else { 1 },
            name: node.name.as_os_str().as_bytes(),
            content: &content,
        };
        entry
            .write(out)
            .with_context(|| format!("cannot add {} to the initramfs", node.path.display()))?;
    }
    let trailer = Entry {
        inode: 0,
        mode: 0,
        links: 1,
        name: b"TRAILER!!!",
        content: &[],
    };
    trailer.write(out).context("cannot write the initramfs")
}

struct Entry<'a> {
    inode: u32,
    mode: u32,
    links: u32,
    name: &'a [u8],
    content: &'a [u8],
}

impl Entry<'_> {
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let too_large = |_| std::io::Error::other("a file of 4 GiB or more");
        let size = u32::try_from(self.content.len()).map_err(too_large)?;
        let name_size = u32::try_from(self.name.len() + 1).map_err(too_large)?;
        let mut header = String::from("070701");
        // inode, mode, uid, gid, links, mtime, size, device (2), rdev (2), name size, check
        for field in [
            self.inode, self.mode, 0, 0, self.links, 0, size, 0, 0, 0, 0, name_size, 0,
        ] {
            header.push_str(&format!("{field:08x}"));
        }
        out.write_all(header.as_bytes())?;
        out.write_all(self.name)?;
        // The name ends with a zero; header and name, and the content, fill whole words.
        let used = header.len() + self.name.len() + 1;
        out.write_all(&[0; 4][..1 + used.next_multiple_of(4) - used])?;
        out.write_all(self.content)?;
        let used = self.content.len();
        out.write_all(&[0; 4][..used.next_multiple_of(4) - used])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_archive_is_the_recorded_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("lib/modules")).unwrap();
        fs::write(root.join("init"), "hello").unwrap();
        fs::write(root.join("lib/modules/a.ko"), "").unwrap();
        symlink("lib", root.join("bin")).unwrap();
        for (name, mode) in [
            ("init", 0o755),
            ("lib", 0o755),
            ("lib/modules", 0o700),
            ("lib/modules/a.ko", 0o644),
        ] {
            fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut bytes = Vec::new();
        archive(root, &mut bytes).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap().replace('\0', "~");
        insta::assert_snapshot!("newc", text.replace("0707", "\n0707"));
    }

    #[test]
    fn an_initramfs_without_init_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let error = write(dir.path(), 1, &mut file).unwrap_err();
        assert!(error.to_string().contains("no program"), "{error}");
        fs::write(dir.path().join("init"), "x").unwrap();
        fs::set_permissions(dir.path().join("init"), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(write(dir.path(), 1, &mut file).is_err(), "it cannot run");
    }
}
