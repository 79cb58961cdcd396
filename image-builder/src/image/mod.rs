//! The image pipeline: from a [`RootTree`] to files that boot. Each step reads files, writes one
//! file, and is skipped when nothing that it reads has changed.
//!
//! ```text
//! root.img           EROFS, verity superblock and hash tree; what a slot holds
//! initramfs.cpio.zst init and the modules of the boot path
//! keelson.efi        the UKI: stub, os-release, command line, initramfs, kernel
//! vmlinuz            the same kernel by itself, for who boots without firmware
//! keelson.raw        GPT disk: ESP with boot loader and UKI, slot A, the rest empty
//! keelson.qcow2      the same disk for QEMU
//! image.json         what was built, from what, and the digest of every file
//! *.bundle           the upgrade to this image, made of the files above when it is signed
//! ```

pub mod bundle;
pub mod cpio;
pub mod digest;
pub mod disk;
pub mod erofs;
pub mod esp;
mod fat;
pub mod manifest;
pub mod qcow2;
pub mod stamp;
pub mod uki;
mod walk;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keelson_disk::cmdline;
use keelson_disk::verity::{self, RootSpec};
use serde::{Deserialize, Serialize};

use crate::inputs::RootTree;
use crate::report::Report;
use digest::Digest;
use manifest::{Artifact, Manifest};
use stamp::{Built, State};

/// The initramfs is read once at each boot and written once at each upgrade: small wins.
const INITRAMFS_LEVEL: i32 = 19;

/// How the space of the disk is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// For disks of 8 GB and more: slots of 2 GiB.
    #[default]
    Standard,
    /// For devices of 4 GB: slots of 1 GiB.
    Compact,
}

impl Layout {
    fn of_disk(self) -> keelson_disk::layout::Layout {
        match self {
            Layout::Standard => keelson_disk::layout::Layout::Standard,
            Layout::Compact => keelson_disk::layout::Layout::Compact,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Layout::Standard => "standard",
            Layout::Compact => "compact",
        }
    }
}

/// The form of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Format {
    /// The disk's bytes as they are, in a file with holes.
    Raw,
    /// QEMU's format; it has only what is not zero.
    Qcow2,
}

impl Format {
    fn file_name(self) -> &'static str {
        match self {
            Format::Raw => "keelson.raw",
            Format::Qcow2 => "keelson.qcow2",
        }
    }
}

/// What the person chose for the image itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the space is divided.
    pub layout: Layout,
    /// Which disk images to write.
    pub formats: Vec<Format>,
    /// The root's compression, in mkfs.erofs's words: `zstd,3`, `lz4hc,12`, `none`.
    pub compression: String,
}

/// What is known of a root image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// The verity root hash, hex.
    pub root_hash: String,
    /// How many blocks of 4096 bytes the data has.
    pub data_blocks: u64,
    /// The salt, hex.
    pub salt: String,
}

impl Root {
    fn new(spec: &RootSpec) -> Root {
        Root {
            root_hash: verity::hex(&spec.root_hash),
            data_blocks: spec.data_blocks,
            salt: verity::hex(&spec.salt),
        }
    }

    /// The spec in the form that the disk crate works with.
    pub fn spec(&self) -> anyhow::Result<RootSpec> {
        let hash = |text: &str| {
            verity::parse_hash(text).with_context(|| format!("{text} is not 64 hex digits"))
        };
        Ok(RootSpec {
            root_hash: hash(&self.root_hash)?,
            data_blocks: self.data_blocks,
            salt: hash(&self.salt)?,
        })
    }
}

/// Builds every artifact into `out`. What is there and still right is left as it is.
pub fn build(
    tree: &RootTree,
    options: &Options,
    out: &Path,
    report: &Report,
) -> anyhow::Result<Manifest> {
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let mut artifacts = BTreeMap::new();
    let recipe = recipe()?;
    let arch = uki::arch(&tree.stub)?;

    let root = step(report, "root.img", out, &mut artifacts, |state| {
        root_image(tree, options, &recipe, out, state)
    })?;
    let spec = root.facts.spec()?;
    let initramfs = step(report, "initramfs.cpio.zst", out, &mut artifacts, |state| {
        let inputs = Digest::new("initramfs")
            .text(&recipe)
            .text(&INITRAMFS_LEVEL.to_string())
            .tree(&tree.initramfs)?;
        state.build(inputs, |file| {
            cpio::write(&tree.initramfs, INITRAMFS_LEVEL, file)
        })
    })?;
    let command_line = command_line(&spec, &tree.kernel_options)?;
    let efi = step(report, "keelson.efi", out, &mut artifacts, |state| {
        let parts = uki::Parts {
            stub: &tree.stub,
            os_release: &tree.os_release,
            command_line: &command_line,
            kernel_release: &tree.kernel_release,
            initramfs: &initramfs.path,
            kernel: &tree.kernel,
        };
        let inputs = Digest::new("uki")
            .text(&recipe)
            .text(&tree.os_release)
            .text(&command_line)
            .text(&tree.kernel_release)
            .text(initramfs.artifact.sum())
            .file(&tree.stub)?
            .file(&tree.kernel)?;
        state.build(inputs, |file| uki::write(&parts, file))
    })?;
    step(report, "vmlinuz", out, &mut artifacts, |state| {
        let inputs = Digest::new("kernel").text(&recipe).file(&tree.kernel)?;
        state.build(inputs, |file| copy(&tree.kernel, file))
    })?;
    let disk = disk::Contents {
        layout: options.layout.of_disk(),
        arch,
        version: &tree.version,
        build_time: tree.build_time,
        spec,
        root: &root.path,
        uki: &efi.path,
        boot_loader: &tree.boot_loader,
    };
    for format in [Format::Raw, Format::Qcow2] {
        let name = format.file_name();
        if !options.formats.contains(&format) {
            stamp::remove(&out.join(name))?;
            continue;
        }
        step(report, name, out, &mut artifacts, |state| {
            let inputs = Digest::new(name)
                .text(&recipe)
                .text(options.layout.name())
                .text(&tree.version)
                .text(&tree.build_time.to_string())
                .text(root.artifact.sum())
                .text(efi.artifact.sum())
                .file(&tree.boot_loader)?;
            match format {
                // Nobody hands it out as it is, and digesting gigabytes of zeros takes longer
                // than everything else together.
                Format::Raw => state
                    .without_digest()
                    .build(inputs, |file| disk::write_raw(&disk, file)),
                Format::Qcow2 => state.build(inputs, |file| disk::write_qcow2(&disk, file)),
            }
        })?;
    }
    for paper in &tree.papers {
        let artifact = copy_paper(paper, out)?;
        artifacts.insert(artifact.0, artifact.1);
    }
    let manifest = Manifest {
        format_version: manifest::FORMAT,
        version: tree.version.clone(),
        arch: arch.name().to_string(),
        kernel: tree.kernel_release.clone(),
        build_time: tree.build_time,
        layout: options.layout.name().to_string(),
        release: crate::rootfs::release(&tree.root)?,
        root: root.facts,
        command_line,
        artifacts,
    };
    manifest.write(&out.join(manifest::FILE_NAME))?;
    Ok(manifest)
}

/// What stands for the way that things are made: this program. When it is another, nothing that
/// it made before counts as fresh.
fn recipe() -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(digest::of_file(&program)?.1)
}

/// Runs one step under its own line of the report and notes the artifact it made.
fn step<T>(
    report: &Report,
    name: &str,
    out: &Path,
    artifacts: &mut BTreeMap<String, Artifact>,
    run: impl FnOnce(State) -> anyhow::Result<Built<T>>,
) -> anyhow::Result<Built<T>> {
    let line = report.step(name);
    let built = run(State::new(out.join(name))).with_context(|| format!("cannot build {name}"))?;
    match built.fresh {
        true => line.fresh(Some(built.artifact.stored)),
        false => line.done(Some(built.artifact.stored)),
    }
    artifacts.insert(name.to_string(), built.artifact.clone());
    Ok(built)
}

/// The root tree as EROFS, followed by its hash tree.
fn root_image(
    tree: &RootTree,
    options: &Options,
    recipe: &str,
    out: &Path,
    state: State,
) -> anyhow::Result<Built<Root>> {
    let made = erofs::Options {
        command: &tree.mkfs_erofs,
        compression: &options.compression,
        build_time: tree.build_time,
    };
    let mut inputs = Digest::new("root").text(recipe).tree(&tree.root)?;
    for word in made.words() {
        inputs = inputs.text(&word.to_string_lossy());
    }
    for word in &tree.mkfs_erofs {
        if Path::new(word).is_file() {
            inputs = inputs.file(Path::new(word))?;
        }
    }
    state.build(inputs, |file| {
        let partial: PathBuf = out.join("root.erofs.partial");
        let spec = erofs::write(&made, &tree.root, &partial, file)?;
        let most = options
            .layout
            .of_disk()
            .size(keelson_disk::layout::Role::RootA);
        let bytes = spec.image_blocks() * verity::BLOCK;
        if bytes > most {
            bail!(
                "the root image has {}, a slot of the {} layout {}: leave something out, or compress it better with --compression",
                crate::report::size(bytes),
                options.layout.name(),
                crate::report::size(most),
            );
        }
        Ok(Root::new(&spec))
    })
}

/// The kernel command line: what names the root first, then the plain options.
fn command_line(spec: &RootSpec, options: &str) -> anyhow::Result<String> {
    let ours = cmdline::Options {
        root: *spec,
        debug: false,
        watchdog: true,
    };
    let options: Vec<&str> = options.split_whitespace().collect();
    let mut line = ours.to_string();
    for word in options {
        line.push(' ');
        line.push_str(word);
    }
    // Read it as init will, so that an option that collides is found now and not at boot.
    match cmdline::Options::parse(&line) {
        Ok(read) if read.root == *spec => Ok(line),
        Ok(_) => bail!("the kernel options `{line}` replace the root"),
        Err(error) => Err(error).context("the kernel options cannot be used"),
    }
}

/// Copies a file's bytes.
fn copy(from: &Path, to: &mut fs::File) -> anyhow::Result<()> {
    let mut from =
        fs::File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    io::copy(&mut from, to)?;
    Ok(())
}

/// Copies a file that is handed out beside the image.
fn copy_paper(paper: &Path, out: &Path) -> anyhow::Result<(String, Artifact)> {
    let name = paper
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no file name", paper.display()))?;
    let to = out.join(name);
    let bytes = fs::read(paper).with_context(|| format!("cannot read {}", paper.display()))?;
    if fs::read(&to).ok().as_deref() != Some(&bytes) {
        fs::write(&to, &bytes).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok((name.to_string(), Artifact::of(&to)?))
}

#[cfg(test)]
mod tests;
