//! `osctl config diff`.

use crate::{draft, error::Result, output};
use clap::Args;
use std::path::PathBuf;

/// Show what differs between two machine configs; needs no node
///
/// Each difference has its path; secrets are starred out. The configs need not be
/// valid. With --as-patch it is written as a patch for `osctl gen config --patch` and
/// `osctl patch`, and then secrets that differ are in it.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The config to begin with; `-` is stdin
    #[arg(value_name = "A")]
    before: PathBuf,

    /// The config to compare it with
    #[arg(value_name = "B")]
    after: PathBuf,

    /// Write the patch that makes B of A
    #[arg(long)]
    as_patch: bool,
}

impl Diff {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let (before, after) = (draft::read(&self.before)?, draft::read(&self.after)?);
        if self.as_patch {
            return output::bytes(before.patch_to(&after).as_bytes());
        }
        let changes = before.changes(&after);
        output::bytes(draft::lines(&changes, output::colour_stdout()).as_bytes())
    }
}
