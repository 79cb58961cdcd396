//! Keelson beside a Debian that does the same, measured on this host in one run:
//! the same firmware, the same virtual hardware, the same kernel, one machine at a
//! time and the two in turns, so that whatever else the host does touches both.
//!
//! ```text
//! images (none, standin) ──┐                     ┌─ keelson: first answered call, memory ─┐
//!                          ├─ first boot, power ─┼─ debian: SSH banner, memory            ├─ medians ── table
//! debootstrap ── disk ─────┘  off: not measured  └─ keelson with the stand-in: programs ──┘
//! ```
//!
//! It measures what can be seen from outside and changes no image to be faster.

mod answer;
mod debian;
mod guest;
mod keelson;
mod memory;
mod sizes;
mod table;
mod upgrade;

use crate::{build, step::step};
use answer::Answer;
use anyhow::{Context, Result, ensure};
use keelson_tests::{Flavor, Image};
use memory::{Idle, Process};
use serde::Serialize;
use std::{
    collections::BTreeMap, fs, io, os::unix::fs::MetadataExt as _, path::Path, process::Command,
};

/// What to measure, and how to say it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each machine is booted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Print JSON in place of the table
    #[arg(long)]
    json: bool,
    /// Measure the images that are there, in place of building them
    #[arg(long)]
    no_build: bool,
    /// Measure an upgrade in its parts, and nothing else
    #[arg(long, conflicts_with = "json")]
    upgrade: bool,
}

/// What was measured on one system.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    /// The first answer, for each boot.
    answer: Vec<Answer>,
    /// The idle machine, for each boot.
    idle: Vec<Idle>,
    /// What the programs of an idle machine hold, for each boot; where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    programs: Vec<BTreeMap<String, Process>>,
    /// The root file system as a Keelson root image: EROFS and hash tree.
    root_image_bytes: u64,
    /// The files of the root as they are installed.
    root_tree_bytes: u64,
}

/// All of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    format_version: u32,
    version: String,
    kernel: String,
    accelerator: String,
    runs: u32,
    /// The host's load averages over one minute, before the first boot and after the last.
    host_load: [f64; 2],
    keelson: Figures,
    debian: Figures,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a Report,
    comparison: [table::Line; 6],
}

/// What the benchmark reads of an image's `image.json`.
#[derive(serde::Deserialize)]
struct Manifest {
    version: String,
    kernel: String,
}

/// Builds what is missing, boots both, and prints the table.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if args.upgrade {
        return upgrade::run(&image(root, Flavor::Standin, args.no_build)?, args.runs);
    }
    ensure!(
        fs::metadata("/proc/self")?.uid() == 0,
        "the benchmark needs root: debootstrap makes a file system with its owners and devices"
    );
    need(root)?;
    let folder = root.join("target/bench");
    let bare = image(root, Flavor::Bare, args.no_build)?;
    let standin = image(root, Flavor::Standin, args.no_build)?;
    let manifest: Manifest = read_json(&bare.dir().join("image.json"))?;
    let sources = sizes::Sources::read(bare.dir())?;
    let debian = debian::build(root, &folder.join("debian"), &manifest.kernel, &sources)?;

    let mut report = Report {
        format_version: 2,
        version: manifest.version,
        kernel: manifest.kernel,
        accelerator: guest::accelerator(&bare),
        runs: args.runs,
        host_load: [load()?, 0.0],
        keelson: Figures::default(),
        debian: Figures::default(),
    };
    (
        report.keelson.root_image_bytes,
        report.keelson.root_tree_bytes,
    ) = sizes::keelson(&bare)?;
    (
        report.debian.root_image_bytes,
        report.debian.root_tree_bytes,
    ) = sizes::debian(root, &bare, &sources, &debian)?;

    let quiet = step("first boot of Keelson without an orchestrator", || {
        keelson::Installed::make(&folder.join("keelson-none"), &bare, "none")
    })?;
    let watched = step("first boot of Keelson with the stand-in", || {
        keelson::Installed::make(&folder.join("keelson-standin"), &standin, "server")
    })?;
    let debian = step("first boot of Debian", || {
        debian::Installed::make(&folder, &bare, &debian)
    })?;

    for run in 1..=args.runs {
        let of = |what: &str| format!("{what} ({run} of {})", args.runs);
        let (answer, idle) = step(&of("Keelson: the first answered call, then idle"), || {
            quiet.measure()
        })?;
        report.keelson.answer.push(answer);
        report.keelson.idle.push(idle);
        let (answer, idle) = step(&of("Debian: the SSH banner, then idle"), || {
            debian.measure()
        })?;
        report.debian.answer.push(answer);
        report.debian.idle.push(idle);
        let programs = step(&of("Keelson: its programs"), || watched.programs())?;
        report.keelson.programs.push(programs);
    }
    report.host_load[1] = load()?;
    if args.json {
        let comparison = table::lines(&report.keelson, &report.debian);
        let output = Output {
            comparison,
            report: &report,
        };
        println!("{}", serde_json::to_string_pretty(&output)?);
    } else {
        print!("{}", table::render(&report));
    }
    Ok(())
}

/// The image of this flavor, built unless it is to be taken as it is.
fn image(root: &Path, flavor: Flavor, no_build: bool) -> Result<Image> {
    if no_build {
        return Image::find(flavor);
    }
    Ok(build::image(root, flavor)?.image)
}

/// Installs what only the benchmark needs of this host, if it is missing.
fn need(root: &Path) -> Result<()> {
    let status = Command::new(root.join("hack/setup"))
        .arg("--bench")
        .stdout(io::stderr())
        .status()
        .context("starting hack/setup")?;
    ensure!(status.success(), "hack/setup ended with {status}");
    Ok(())
}

/// The host's load average over one minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no load average in {text:?}"))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
}
