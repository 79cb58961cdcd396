//! The root image: a tree as EROFS, made by mkfs.erofs, with its verity tree behind.
//!
//! Everything that differs from one machine or moment to the next is fixed: owners, times, the
//! file system's UUID; and extended attributes are left out.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use keelson_disk::verity::{self, RootSpec};

use super::digest;

/// How mkfs.erofs is run.
pub(super) struct Options<'a> {
    /// The words that run it.
    pub(super) command: &'a [OsString],
    /// Such as `zstd,3`; `none` for none.
    pub(super) compression: &'a str,
    /// The time stamp of everything.
    pub(super) build_time: u64,
}

impl Options<'_> {
    /// The options before the names of image and tree.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = [
            "--quiet",
            "--all-root",
            "-x-1",
            "-b4096",
            "-U00000000-0000-0000-0000-000000000000",
        ]
        .map(OsString::from)
        .to_vec();
        words.push(format!("-T{}", self.build_time).into());
        if self.compression != "none" {
            // Clusters of 64 KiB: a twentieth smaller than 4 KiB ones and no slower to read.
            words.push(format!("-z{}", self.compression).into());
            words.push("-C65536".into());
        }
        words
    }
}

/// Writes the root image into `image`; `scratch` is where the file system lies meanwhile.
pub(super) fn write(
    options: &Options<'_>,
    tree: &Path,
    scratch: &Path,
    image: &mut File,
) -> anyhow::Result<RootSpec> {
    let result = make(options, tree, scratch).and_then(|()| append(scratch, image));
    let removed = fs::remove_file(scratch);
    let spec = result?;
    removed.with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(spec)
}

fn make(options: &Options<'_>, tree: &Path, scratch: &Path) -> anyhow::Result<()> {
    let Some((program, first)) = options.command.split_first() else {
        bail!("no mkfs.erofs was given; name it with --mkfs-erofs");
    };
    // mkfs.erofs refuses to write over an image that is already there.
    match fs::remove_file(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", scratch.display()));
        }
        _ => {}
    }
    let output = Command::new(program)
        .args(first)
        .args(options.words())
        .args([scratch, tree])
        .output()
        .with_context(|| {
            format!(
                "cannot run {}; install erofs-utils 1.8 or later, or name it with --mkfs-erofs",
                program.display()
            )
        })?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let hint = if error.contains("compress") {
            format!(
                "; does this mkfs.erofs know `{}`? --compression names another",
                options.compression
            )
        } else {
            String::new()
        };
        bail!("mkfs.erofs failed: {}{hint}", error.trim());
    }
    Ok(())
}

/// Copies the data into the image, then builds the hash tree behind it.
fn append(data: &Path, image: &mut File) -> anyhow::Result<RootSpec> {
    let read = || format!("cannot read {}", data.display());
    let salt = digest::salt(data).with_context(read)?;
    let mut file = File::open(data).with_context(read)?;
    let bytes = std::io::copy(&mut file, image).context("cannot copy the file system")?;
    if bytes % verity::BLOCK != 0 {
        bail!("mkfs.erofs made an image of {bytes} bytes, which are not whole blocks");
    }
    file.seek(SeekFrom::Start(0)).with_context(read)?;
    let mut file = std::io::BufReader::with_capacity(1 << 20, file);
    verity::build(&mut file, bytes / verity::BLOCK, salt, image)
        .context("cannot build the hash tree")
}
