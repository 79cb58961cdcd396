//! Assembles the root tree and the initramfs tree from packages, the orchestrator's payload,
//! our own programs and the static files of `rootfs/`.

use std::path::Path;

use crate::inputs::{Inputs, RootTree};
use crate::report::Report;

/// Builds the trees below `out`, which is kept between builds.
pub fn assemble(_inputs: &Inputs, _out: &Path, _report: &Report) -> anyhow::Result<RootTree> {
    anyhow::bail!("the root tree cannot be assembled yet: use `image-builder disk`")
}
