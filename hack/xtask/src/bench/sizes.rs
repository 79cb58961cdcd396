//! Bytes of a root: the files as they lie in the tree, and the same tree as a
//! root image. Debian's is made by the same image-builder, with the same tools
//! and options, as if it were Keelson's.

use super::{debian, read_json};
use crate::step::{log, logged, step};
use anyhow::{Context, Result};
use keelson_tests::Image;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What the image was made from, as image-builder keeps it.
pub(super) struct Sources {
    tree: Tree,
    command_line: String,
    build_time: u64,
}

#[derive(Deserialize)]
struct Record {
    tree: Tree,
}

#[derive(Deserialize)]
struct Tree {
    kernel: PathBuf,
    stub: PathBuf,
    boot_loader: PathBuf,
    mkfs_erofs: Vec<OsString>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    command_line: String,
    build_time: u64,
}

impl Sources {
    /// Reads them from an image's folder.
    pub(super) fn read(image: &Path) -> Result<Sources> {
        let Record { tree } = read_json(&image.join("trees/rootfs.json"))?;
        let manifest: Manifest = read_json(&image.join("image.json"))?;
        Ok(Sources {
            tree,
            command_line: manifest.command_line,
            build_time: manifest.build_time,
        })
    }

    /// The kernel, as Debian's package holds it.
    pub(super) fn kernel(&self) -> &Path {
        &self.tree.kernel
    }

    /// systemd-boot.
    pub(super) fn boot_loader(&self) -> &Path {
        &self.tree.boot_loader
    }

    /// The kernel's command line without the words that only Keelson knows.
    pub(super) fn plain_options(&self) -> String {
        let words = self.command_line.split_whitespace();
        let plain: Vec<_> = words.filter(|word| !word.starts_with("keelson.")).collect();
        plain.join(" ")
    }
}

/// Keelson's root: the image, and the tree that it was made from.
pub(super) fn keelson(image: &Image) -> Result<(u64, u64)> {
    let bytes = fs::metadata(image.root())?.len();
    Ok((bytes, installed(&image.dir().join("trees/root"))?))
}

/// Debian's root, measured the same way.
pub(super) fn debian(
    root: &Path,
    image: &Image,
    sources: &Sources,
    built: &debian::Built,
) -> Result<(u64, u64)> {
    let output = root.join("target/bench/debian-image");
    step("Debian's root as a root image", || {
        let mut mkfs = OsString::new();
        for word in &sources.tree.mkfs_erofs {
            if !mkfs.is_empty() {
                mkfs.push(" ");
            }
            mkfs.push(word);
        }
        logged(
            Command::new(root.join("target/debug/image-builder"))
                .arg("disk")
                .arg("--root-tree")
                .arg(&built.tree)
                .arg("--initramfs-tree")
                .arg(image.dir().join("trees/initramfs"))
                .arg("--kernel")
                .arg(&sources.tree.kernel)
                .arg("--stub")
                .arg(&sources.tree.stub)
                .arg("--boot-loader")
                .arg(&sources.tree.boot_loader)
                .arg("--mkfs-erofs")
                .arg(mkfs)
                .args(["--build-time", &sources.build_time.to_string()])
                .args(["--format", "raw", "--output"])
                .arg(&output),
            &log(root, "bench-debian-image"),
        )
    })?;
    let bytes = fs::metadata(output.join("root.img"))?.len();
    Ok((bytes, installed(&built.tree)?))
}

/// The bytes of all files below; one with several names counts once.
fn installed(tree: &Path) -> Result<u64> {
    let mut seen = BTreeSet::new();
    let mut open = vec![tree.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = open.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                open.push(entry.path());
            } else if meta.is_file() && seen.insert((meta.dev(), meta.ino())) {
                bytes += meta.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path();
        fs::create_dir(tree.join("a")).unwrap();
        fs::write(tree.join("a/one"), "12345").unwrap();
        fs::hard_link(tree.join("a/one"), tree.join("two")).unwrap();
        fs::write(tree.join("three"), "123").unwrap();
        std::os::unix::fs::symlink("three", tree.join("four")).unwrap();
        assert_eq!(installed(tree).unwrap(), 8);
    }

    #[test]
    fn the_words_that_only_keelson_knows_are_left_out() {
        let sources = Sources {
            tree: Tree {
                kernel: PathBuf::new(),
                stub: PathBuf::new(),
                boot_loader: PathBuf::new(),
                mkfs_erofs: Vec::new(),
            },
            command_line: "keelson.root=ab console=ttyS0 keelson.verity=1,2 loglevel=4".to_owned(),
            build_time: 0,
        };
        assert_eq!(sources.plain_options(), "console=ttyS0 loglevel=4");
    }
}
