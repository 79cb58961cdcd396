//! The project's own chores: `cargo xtask help` lists them. They run on the
//! developer's machine only and never end up in an image.

mod generate;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::Path;

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate api/src/gen from the .proto files
    Gen {
        /// Only tell whether the generated files are stale
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    match Args::parse().command {
        Command::Gen { check } => generate::run(&root, check),
    }
}
