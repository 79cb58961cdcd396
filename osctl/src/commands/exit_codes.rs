//! `osctl exit-codes`: a page of help that is a command, so that `osctl help
//! exit-codes` finds it.

use crate::{
    error::{EXIT_CODES, Result},
    output,
};
use clap::Args;

/// What the exit codes mean
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ExitCodes {}

impl ExitCodes {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        output::line(EXIT_CODES)
    }
}
