//! The command line: one file for each command. The doc comments are the help texts.

pub mod build;
pub mod bundle;
pub mod check;
pub mod completion;
pub mod disk;
pub mod inspect;
pub mod key;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::image::manifest::Manifest;
use crate::image::{self, Format, Layout};
use crate::inputs::RootTree;
use crate::report::{self, Report};

/// Builds Keelson images, as an ordinary user and reproducibly
///
/// The same inputs give the same bytes. What has not changed since the last build is not built
/// again.
#[derive(Debug, Parser)]
#[command(
    name = "image-builder",
    version,
    max_term_width = 100,
    after_help = "Examples:
  image-builder build                          everything, into build/image
  image-builder build --orchestrator none      without an orchestrator
  image-builder inspect build/image/keelson.raw  what is on a disk image
  image-builder bundle --key release.key       an upgrade for machines that run already

See 'image-builder help <command>' for more on a command."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Print only warnings and errors
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Arguments),
    Disk(disk::Arguments),
    Bundle(bundle::Arguments),
    #[command(subcommand)]
    Key(key::Arguments),
    Check(check::Arguments),
    Inspect(inspect::Arguments),
    Completion(completion::Arguments),
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let report = Report::new(self.quiet);
        match self.command {
            Command::Build(arguments) => arguments.run(&report),
            Command::Disk(arguments) => arguments.run(&report),
            Command::Bundle(arguments) => arguments.run(&report),
            Command::Key(arguments) => arguments.run(&report),
            Command::Check(arguments) => arguments.run(&report),
            Command::Inspect(arguments) => arguments.run(),
            Command::Completion(arguments) => arguments.run(),
        }
    }
}

/// What both ways to build have in common.
#[derive(Debug, clap::Args)]
struct Output {
    /// The folder for everything that is built
    #[arg(short, long, value_name = "DIR", default_value = "build/image")]
    output: PathBuf,

    /// How the space of the disk is divided
    #[arg(long, value_enum, default_value_t = Layout::Standard)]
    layout: Layout,

    /// Which disk images to write
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "FORMAT",
        default_value = "raw,qcow2"
    )]
    format: Vec<Format>,

    /// The root's compression in mkfs.erofs's words, or `none`; `zstd,8` is a sixteenth smaller
    /// and takes four times as long
    #[arg(long, value_name = "ALGORITHM", default_value = "zstd,3")]
    compression: String,
}

impl Output {
    fn build(self, tree: &RootTree, report: &Report) -> anyhow::Result<Manifest> {
        let options = image::Options {
            layout: self.layout,
            formats: self.format,
            compression: self.compression,
        };
        let manifest = image::build(tree, &options, &self.output, report)?;
        report.summary();
        report.note("Root hash", &manifest.root.root_hash);
        report.note("Output", &self.output.display().to_string());
        Ok(manifest)
    }
}

/// Reads a text file, or says which could not be read.
fn read_text(path: &std::path::Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A size for people.
fn shown(bytes: u64) -> String {
    report::size(bytes)
}
