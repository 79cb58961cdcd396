//! Pulling the plug of a machine at every moment of its work: recorded once, judged many times,
//! a few of them booted.

use crate::{build, step::step};
use anyhow::{Context, Result, ensure};
use keelson_tests::{
    Flavor, Image,
    torture::{
        Options, Recording, boot, find, judge::Version, next, record_upgrade, replay::Number,
        try_states,
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How much to try.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many states between flushes; those after a flush are all tried
    #[arg(long, default_value_t = 200)]
    states: u64,
    /// How many of the states to boot for real
    #[arg(long, default_value_t = 3)]
    boots: usize,
    /// Decides which states between flushes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder of the recording, which is made where there is none [default: a new one in
    /// target/torture]
    #[arg(long, value_name = "FOLDER")]
    run: Option<PathBuf>,
    /// Only what happened since this mark of the recording
    #[arg(long, value_name = "MARK")]
    since: Option<String>,
    /// Only this state, such as cut-17, which is booted too
    #[arg(long, value_name = "STATE")]
    only: Option<Number>,
    /// A UKI that came onto the disk during the recording
    #[arg(long, value_name = "FILE")]
    uki: Vec<PathBuf>,
}

/// The command that tries one state of a recording once more: which it is depends on all
/// that decided which states there are.
fn again(args: &Args, folder: &Path, number: Number) -> String {
    let mut command = format!(
        "cargo xtask torture --run {} --seed {} --states {}",
        folder.display(),
        args.seed,
        args.states
    );
    if let Some(mark) = &args.since {
        command.push_str(&format!(" --since {mark}"));
    }
    for path in &args.uki {
        command.push_str(&format!(" --uki {}", path.display()));
    }
    format!("{command} --only {number}")
}

/// Records unless there is a recording, judges, boots.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let folder = match &args.run {
        Some(folder) => folder.clone(),
        None => {
            let folder = root.join("target/torture");
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            folder
        }
    };
    if !Recording::is_at(&folder) {
        build::image(root, Flavor::Standin)?;
        step("record an upgrade", || record_upgrade(&folder))?;
    }
    let recording = Recording::open(&folder)?;
    let mut versions = next(&folder)?;
    for path in &args.uki {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let version = Version::read(&bytes);
        versions.push(version.with_context(|| format!("reading {}", path.display()))?);
    }
    let options = Options {
        cuts: args.states,
        seed: args.seed,
        since: args.since.clone(),
        only: args.only,
    };
    let report = step("judge the states", || {
        try_states(&recording, &versions, &options)
    })?;
    println!("{report}");
    if let Some((number, _)) = report.bad.first() {
        println!("again: {}", again(args, &folder, *number));
    }
    let chosen = match args.only {
        // One that does not boot is looked at all the more.
        Some(number) if report.good.is_empty() => vec![(number, String::new())],
        Some(_) => report.good.clone(),
        None => report.sample(args.boots),
    };
    let mut failed = 0;
    for (number, version) in &chosen {
        let came = step(&format!("boot {number}"), || {
            let state = find(&recording, &options, *number)?;
            boot(&recording, &state, &Image::find(Flavor::Standin)?, version)
        });
        match came {
            Ok(what) => println!("{number}: {}", what.trim()),
            Err(error) => {
                failed += 1;
                println!("{number}: {error:#}");
            }
        }
    }
    println!("{} booted for real, {failed} of them in vain", chosen.len());
    ensure!(
        report.is_good() && failed == 0,
        "not every state boots; the recording is {}",
        folder.display()
    );
    Ok(())
}
