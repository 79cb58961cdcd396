//! One line for each step of a chore: what is done, how long it took, and on a
//! failure which step it was and where the whole output is.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs::{self, File},
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Does one step and shows it while it runs.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    let done = work();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let seconds = begun.elapsed().as_secs_f64();
    match &done {
        Ok(_) => eprintln!("  ✓ {what:<52} {seconds:>7.1} s"),
        Err(_) => eprintln!("  ✗ {what:<52} {seconds:>7.1} s"),
    }
    done.with_context(|| format!("the step failed: {what}"))
}

/// Runs a program with its output in a log; its last lines become the error.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<()> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(25)..].join("\n");
        bail!(
            "{} ended with {status}; its last lines:\n{end}\n(all of it: {})",
            command.get_program().to_string_lossy(),
            log.display()
        );
    }
    Ok(())
}

/// Where the logs of the steps go.
pub(crate) fn log(root: &Path, name: &str) -> PathBuf {
    root.join("target/log").join(format!("{name}.log"))
}
