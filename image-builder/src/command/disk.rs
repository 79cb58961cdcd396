//! `image-builder disk`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Output, read_text};
use crate::inputs::RootTree;
use crate::report::Report;

/// Build an image from trees that are already there
///
/// This is the second half of `build`: it takes a finished root tree, an initramfs tree and the
/// boot programs, and makes root image, UKI and disk image of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  image-builder disk --root-tree root --initramfs-tree initramfs --kernel boot/vmlinuz \\
      --stub linuxx64.efi.stub --boot-loader systemd-bootx64.efi --build-time 1767225600")]
pub struct Arguments {
    /// The tree that becomes the root image
    #[arg(long, value_name = "DIR")]
    root_tree: PathBuf,

    /// The tree that becomes the initramfs; it needs a program /init
    #[arg(long, value_name = "DIR")]
    initramfs_tree: PathBuf,

    /// The kernel
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// systemd's EFI stub, version 257 or later
    #[arg(long, value_name = "FILE")]
    stub: PathBuf,

    /// systemd-boot, version 257 or later
    #[arg(long, value_name = "FILE")]
    boot_loader: PathBuf,

    /// What runs mkfs.erofs 1.8 or later, words separated by spaces
    #[arg(long, value_name = "COMMAND", default_value = "mkfs.erofs")]
    mkfs_erofs: String,

    /// The os-release file that names the boot entry [default: the root tree's]
    #[arg(long, value_name = "FILE")]
    os_release: Option<PathBuf>,

    /// The kernel's release [default: the one folder below lib/modules of a tree]
    #[arg(long, value_name = "RELEASE")]
    kernel_release: Option<String>,

    /// Words for the kernel command line besides those that name the root
    #[arg(long, value_name = "WORDS", default_value = "")]
    kernel_options: String,

    /// The image's version [default: VERSION_ID of os-release]
    #[arg(long, value_name = "VERSION")]
    image_version: Option<String>,

    /// The one clock of the build, in Unix seconds
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    build_time: u64,

    #[command(flatten)]
    output: Output,
}

impl Arguments {
    pub(super) fn run(self, report: &Report) -> anyhow::Result<()> {
        let os_release = match &self.os_release {
            Some(path) => read_text(path)?,
            None => read_text(&self.root_tree.join("usr/lib/os-release"))
                .or_else(|_| read_text(&self.root_tree.join("etc/os-release")))
                .context("the root tree has no os-release; give one with --os-release")?,
        };
        let version = match self.image_version {
            Some(version) => version,
            None => version_id(&os_release)
                .context("os-release has no VERSION_ID; give the version with --image-version")?,
        };
        let kernel_release = match self.kernel_release {
            Some(release) => release,
            None => release_of(&[&self.initramfs_tree, &self.root_tree])?,
        };
        let tree = RootTree {
            root: self.root_tree,
            initramfs: self.initramfs_tree,
            kernel: self.kernel,
            kernel_release,
            stub: self.stub,
            boot_loader: self.boot_loader,
            mkfs_erofs: words(&self.mkfs_erofs),
            os_release,
            kernel_options: self.kernel_options,
            version,
            build_time: self.build_time,
            papers: Vec::new(),
        };
        self.output.build(&tree, report)?;
        Ok(())
    }
}

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

/// The version in an os-release file.
fn version_id(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.trim().strip_prefix("VERSION_ID="))?;
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_string())
}

/// The name of the one folder of modules in the first tree that has any.
fn release_of(trees: &[&Path]) -> anyhow::Result<String> {
    for tree in trees {
        for modules in ["lib/modules", "usr/lib/modules"] {
            let Ok(folder) = std::fs::read_dir(tree.join(modules)) else {
                continue;
            };
            let mut names = Vec::new();
            for entry in folder {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            match names.as_slice() {
                [name] => return Ok(name.clone()),
                [] => {}
                _ => bail!(
                    "{}/{modules} is for several kernels; say which with --kernel-release",
                    tree.display()
                ),
            }
        }
    }
    bail!("no tree has modules that tell the kernel's release; give it with --kernel-release")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_with_and_without_quotes() {
        for (text, want) in [
            ("NAME=x\nVERSION_ID=1.2\n", Some("1.2")),
            ("VERSION_ID=\"1.2-3\"", Some("1.2-3")),
            ("OLD_VERSION_ID=1\n", None),
            ("VERSION_ID=\n", None),
        ] {
            assert_eq!(version_id(text).as_deref(), want, "{text}");
        }
    }
}
