//! What it keeps over a restart, where K3s keeps its cluster: how often it was started. So
//! tests see whether it was kept, or put back as it was.

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Instant,
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

/// How much is written to see how fast that is.
const WRITTEN: usize = 64 << 20;

/// Writes a file and flushes it to the disk: `write: BYTES bytes in MICROSECONDS us`.
pub(crate) fn write(data_dir: &Path) -> Result<()> {
    // What the volume would pack or share is no measure.
    let mut state = 1u64;
    let piece: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    let begun = Instant::now();
    let mut file = File::create(data_dir.join("written")).context("making a file")?;
    for _ in 0..WRITTEN / piece.len() {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let micros = begun.elapsed().as_micros();
    println!("write: {WRITTEN} bytes in {micros} us");
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
