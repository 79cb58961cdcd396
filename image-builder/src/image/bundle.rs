//! The upgrade bundle of a built image: root image and UKI packed, described and signed. What a
//! bundle is, is the `disk` crate's; this says what goes into it, and signs nothing that would
//! not boot.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use keelson_disk::bundle::{self, Orchestrator, SigningKey};
use keelson_disk::verity::{self, RootSpec};
use keelson_disk::version::Version;
use keelson_disk::{cmdline, uki};

use super::digest::Digest;
use super::manifest::{Artifact, Manifest};
use super::stamp::Built;
use crate::inputs::Release;
use crate::report::Report;

/// What the person chose for the bundle.
#[derive(Debug)]
pub struct Options {
    /// The keys that sign it.
    pub keys: Vec<SigningKey>,
    /// The security floor, if it is not to be the image's own.
    pub security_floor: Option<Version>,
    /// zstd's level.
    pub level: i32,
}

/// Writes the bundle of the image in `folder` to `output`. One that is there and still right is
/// left as it is.
pub fn build(
    folder: &Path,
    image: &Manifest,
    options: &Options,
    output: &Path,
    report: &Report,
) -> anyhow::Result<Artifact> {
    let release = release(folder, image)?;
    let floor = options.security_floor.as_ref();
    let floor = floor.unwrap_or(&release.security_floor);
    ensure!(
        *floor <= release.version,
        "the security floor {floor} is above the image's own version {}",
        release.version
    );
    let name = output.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no file name", output.display()))?;
    let into = output.parent().unwrap_or(Path::new(""));
    let mut inputs = Digest::new("bundle")
        .text(&super::recipe()?)
        .text(&serde_json::to_string(image)?)
        .text(&floor.to_string())
        .text(&options.level.to_string());
    for key in &options.keys {
        inputs = inputs.text(&key.public().to_pem());
    }
    let built: Built<()> = super::step(report, name, into, &mut BTreeMap::new(), |state| {
        state.build(inputs, |file| {
            write(folder, image, release, floor, options, into, file)
        })
    })?;
    Ok(built.artifact)
}

/// What the image says of itself.
fn release<'a>(folder: &Path, image: &'a Manifest) -> anyhow::Result<&'a Release> {
    image.release.as_ref().with_context(|| {
        format!(
            "the image in {} does not say what it is (its root has no release.json); build it with `image-builder build`",
            folder.display()
        )
    })
}

fn write(
    folder: &Path,
    image: &Manifest,
    release: &Release,
    floor: &Version,
    options: &Options,
    scratch: &Path,
    file: &mut File,
) -> anyhow::Result<()> {
    let spec = image.root.spec()?;
    let mut root = open(&folder.join("root.img"))?;
    let mut efi = open(&folder.join("keelson.efi"))?;
    verity::verify(&mut root, &spec)
        .context("root.img is not the one that image.json names; build the image again")?;
    names_root(&mut efi, &spec)
        .context("keelson.efi is not the one that belongs to root.img; build the image again")?;

    let scratch = if scratch.as_os_str().is_empty() {
        Path::new(".")
    } else {
        scratch
    };
    let mut packed = tempfile::tempfile_in(scratch)
        .with_context(|| format!("cannot make a file in {}", scratch.display()))?;
    root.rewind()?;
    let described = bundle::pack(&mut root, options.level, &mut BufWriter::new(&packed))
        .context("cannot pack root.img")?;
    efi.rewind()?;
    let manifest = bundle::Manifest {
        format_version: bundle::FORMAT,
        version: release.version.clone(),
        arch: release.arch.clone(),
        variant: release.variant.name().to_string(),
        root: spec,
        uki: bundle::digest(&mut efi).context("cannot read keelson.efi")?,
        image: described,
        orchestrator: release.orchestrator.as_ref().map(|carried| Orchestrator {
            name: carried.name.clone(),
            version: carried.version.clone(),
        }),
        security_floor: floor.clone(),
        build_time: release.build_time,
    };
    packed.rewind()?;
    efi.rewind()?;
    let mut to = BufWriter::new(file);
    bundle::write(&manifest, &options.keys, &mut efi, &mut packed, &mut to)?;
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

/// The UKI boots this root and no other.
fn names_root(efi: &mut BufReader<File>, spec: &RootSpec) -> anyhow::Result<()> {
    let line = uki::text(efi, ".cmdline")?.context("it has no command line")?;
    if cmdline::Options::parse(&line)?.root != *spec {
        bail!("it boots another root");
    }
    Ok(())
}
