//! `image-builder check`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::report::Report;
use crate::rootfs;

/// Check what is in a built root image against the allow-list
///
/// Unpacks the root image that was built, not the tree that it was built from, and says which of
/// its files may not be there: shells, interpreters, setuid and writable files, and whatever the
/// list in rootfs/allow.yaml does not name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  image-builder check                      the image in build/image
  image-builder check target/image/k3s     another one")]
pub struct Arguments {
    /// The folder that `image-builder build` has built into
    #[arg(value_name = "DIR", default_value = "build/image")]
    image: PathBuf,

    /// The source tree, which has the folder rootfs
    #[arg(long, value_name = "DIR", default_value = ".")]
    source: PathBuf,
}

impl Arguments {
    pub(super) fn run(self, report: &Report) -> anyhow::Result<()> {
        let scratch = tempfile::tempdir().context("cannot make a folder to unpack into")?;
        let root = scratch.path().join("root");
        unpack(&self.image, &root)?;
        rootfs::check(&self.source, &root)?;
        report.note(
            "Checked",
            &self.image.join("root.img").display().to_string(),
        );
        Ok(())
    }
}

/// Unpacks the root image with the tool that came with the one that made it.
fn unpack(image: &Path, root: &Path) -> anyhow::Result<()> {
    let tree = rootfs::built(&image.join("trees"))?;
    let mut words = tree.mkfs_erofs;
    let mkfs = PathBuf::from(words.pop().unwrap_or_default());
    words.push(mkfs.with_file_name("fsck.erofs").into());
    let (program, rest) = words.split_first().context("no erofs tools are known")?;
    let mut extract = OsString::from("--extract=");
    extract.push(root);
    let output = Command::new(program)
        .args(rest)
        .arg(extract)
        .arg("--preserve-perms")
        .arg(image.join("root.img"))
        .output()
        .with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
    ensure!(
        output.status.success(),
        "cannot unpack {}: {}",
        image.join("root.img").display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
