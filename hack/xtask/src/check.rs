//! Everything that can be said about the tree without booting it.

use crate::{
    build::cargo,
    directions, fields, generate,
    step::{log, logged, step},
};
use anyhow::Result;
use std::{path::Path, process::Command};

/// Runs the checks, then the unit tests, whose output is shown as it comes.
pub(crate) fn run(root: &Path) -> Result<()> {
    step("format", || {
        logged(
            cargo(root).args(["fmt", "--all", "--check"]),
            &log(root, "format"),
        )
    })?;
    step("dependency directions", || directions::run(root))?;
    step("generated files", || generate::run(root, true))?;
    step("each field of the config is shown by a test", || {
        fields::table(root).map(drop)
    })?;
    step("lints", || {
        let mut clippy = cargo(root);
        clippy.args([
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]);
        logged(&mut clippy, &log(root, "lints"))
    })?;
    step("licences and sources of dependencies", || deny(root))?;
    step("compile the unit tests", || {
        let mut build = cargo(root);
        build.args([
            "test",
            "--locked",
            "--workspace",
            "--exclude",
            "keelson-tests",
            "--no-run",
        ]);
        logged(&mut build, &log(root, "unit-build"))
    })?;
    step("unit tests", || {
        let mut units = cargo(root);
        units.args([
            "test",
            "--locked",
            "--workspace",
            "--exclude",
            "keelson-tests",
        ]);
        logged(&mut units, &log(root, "unit"))
    })?;
    step("unit tests of the harness", || {
        let mut units = cargo(root);
        units.args(["test", "--locked", "-p", "keelson-tests", "--lib"]);
        logged(&mut units, &log(root, "unit-harness"))
    })
}

/// cargo-deny without its advisory check, whose database is fetched from elsewhere:
/// the other three need the registry alone.
fn deny(root: &Path) -> Result<()> {
    let mut command = Command::new("cargo-deny");
    command
        .current_dir(root)
        .args(["check", "bans", "licenses", "sources"]);
    logged(&mut command, &log(root, "deny"))
}
