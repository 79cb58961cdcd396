//! The project's own chores: `cargo xtask help` lists them. They run on the
//! developer's machine only and never end up in an image.

mod bench;
mod build;
mod check;
mod demo;
mod directions;
mod fields;
mod fuzz;
mod generate;
mod reference;
mod step;
mod test;
mod torture;

use anyhow::Result;
use clap::{Parser, Subcommand};
use keelson_tests::Flavor;
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
    /// Build everything, boot it in QEMU and run a pod on it
    Demo {
        /// Shut the machine down through its API at the end
        #[arg(long)]
        once: bool,
        /// Then upgrade it to a release with the next version, or the one that runs already
        #[arg(long)]
        upgrade: bool,
    },
    /// Run every check and every test, the ones that boot machines too
    Test,
    /// Check format, lints, dependency directions, generated files, licences and unit tests
    Check,
    /// Build an image
    Image {
        /// Which orchestrator it carries; k3s becomes kubernetes where it cannot be downloaded
        #[arg(value_enum, default_value = "k3s")]
        orchestrator: Choice,
    },
    /// Measure Keelson beside a Debian that does the same: boot, memory, bytes
    Bench(bench::Args),
    /// Pull the plug of a machine at every moment: does its disk still boot?
    Torture(torture::Args),
    /// Which test shows what each field of the config does
    Fields,
    /// Read configs as nobody would write them: none may panic or take long
    Fuzz(fuzz::Args),
    /// Generate api/src/gen, docs/api.md and docs/reference from the .proto files and the config's model
    Gen {
        /// Only tell whether the generated files are stale
        #[arg(long)]
        check: bool,
    },
}

/// Which orchestrator an image carries.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Choice {
    /// The pinned K3s release
    K3s,
    /// Real Kubernetes built from Debian's packages, for tests and offline demos
    Kubernetes,
    /// A tiny program that only keeps the contract, for tests
    Standin,
    /// None
    None,
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    match Args::parse().command {
        Command::Demo { once, upgrade } => demo::run(&root, demo::Demo { once, upgrade }),
        Command::Test => test::run(&root),
        Command::Check => check::run(&root),
        Command::Image { orchestrator } => {
            let built = build::image(
                &root,
                match orchestrator {
                    Choice::K3s => Flavor::K3s,
                    Choice::Kubernetes => Flavor::Kubernetes,
                    Choice::Standin => Flavor::Standin,
                    Choice::None => Flavor::Bare,
                },
            )?;
            println!("{}", built.image.dir().display());
            Ok(())
        }
        Command::Bench(args) => bench::run(&root, &args),
        Command::Torture(args) => torture::run(&root, &args),
        Command::Fields => {
            print!("{}", fields::table(&root)?);
            Ok(())
        }
        Command::Fuzz(args) => fuzz::run(&root, &args),
        Command::Gen { check } => generate::run(&root, check),
    }
}
