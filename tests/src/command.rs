//! Programs of the host that a test cannot do without.

use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// Runs a program, and says what it said where it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
