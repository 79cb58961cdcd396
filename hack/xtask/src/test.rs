//! Every check and every test, in the order of what they cost.

use crate::{
    build::{self, cargo},
    check,
    step::step,
};
use anyhow::{Result, ensure};
use keelson_tests::Flavor;
use std::path::Path;

/// Runs everything; the tests that boot machines come last and their runner's
/// summary ends the output.
pub(crate) fn run(root: &Path) -> Result<()> {
    check::run(root)?;
    for flavor in [Flavor::Standin, Flavor::Kubernetes] {
        build::image(root, flavor)?;
    }
    step("tests of the built images", || {
        // A machine in software keeps a core busy only while it boots; two share two cores well.
        let status = cargo(root)
            .args([
                "test",
                "--locked",
                "-p",
                "keelson-tests",
                "--no-fail-fast",
                "--",
                "--test-threads=2",
                "--nocapture",
            ])
            .status()?;
        ensure!(
            status.success(),
            "the consoles of the machines are in target/consoles/"
        );
        Ok(())
    })
}
