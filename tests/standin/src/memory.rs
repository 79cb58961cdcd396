//! What it keeps over a restart, where K3s keeps its cluster: how often it was started. So
//! tests see whether it was kept, or put back as it was.

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
};

/// Where K3s has its SQLite file.
const DATASTORE: &str = "server/db/state.db";

/// What stays free of a volume that is filled, in bytes.
const LEFT: u64 = 24 << 20;

/// Says how often it was started before, and remembers this time.
pub(crate) fn open(data_dir: &Path) -> Result<()> {
    let path = data_dir.join(DATASTORE);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let starts = file.seek(SeekFrom::End(0))?;
    file.write_all(b"s")?;
    file.sync_all()?;
    println!("standin remembers {starts} starts");
    Ok(())
}

/// Fills the volume.
pub(crate) fn fill(data_dir: &Path) -> Result<()> {
    let seen = statvfs(data_dir).context("looking at the volume")?;
    let free = seen.blocks_available() * seen.fragment_size();
    let file = File::create(data_dir.join("filling"))?;
    let bytes = i64::try_from(free.saturating_sub(LEFT))?;
    nix::fcntl::posix_fallocate(file, 0, bytes).context("filling the volume")?;
    println!("standin has filled the volume");
    Ok(())
}
