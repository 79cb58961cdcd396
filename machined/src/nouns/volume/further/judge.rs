//! What a disk is, as far as a partition may be added to it. Reads, and never writes.
//!
//! Power may be cut while a table is written. What is found then is told apart from what
//! others left by this: both copies of a table that was written here hold a partition of a
//! volume, and nothing else is where the table is not.

use super::super::content::{self, Content};
use anyhow::{Context as _, bail};
use keelson_disk::gpt::{self, Error, Extent, Geometry, Mbr, Source, Table};
use std::io::{Read, Seek, SeekFrom};

/// What the names of all partitions of the OS begin with.
const PREFIX: &str = "KEELSON-";

/// How much is looked at, at either end of what must be empty.
const LOOKED_AT: u64 = content::LOOKED_AT as u64;

/// The least that is worth a partition.
const LEAST: u64 = 64 << 20;

/// A disk to which a partition may be added, or on which there is one.
#[derive(Debug)]
pub(super) struct Layout {
    /// Its table; without partitions where it has none yet.
    pub table: Table,
    /// Where partitions may lie.
    bounds: Extent,
    /// The first copy is not whole: it was being written when power was cut.
    pub torn: bool,
}

/// The name of a volume's partition.
pub(crate) fn partition_name(volume: &str) -> String {
    format!("{PREFIX}{volume}")
}

/// Whether a partition of this name is a volume's; those of the system have capital letters.
pub(super) fn is_a_volume(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|volume| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !volume.is_empty() && volume.chars().all(plain)
    })
}

/// Looks at a disk; an error says what was found, where nothing may be added.
pub(super) fn layout(
    disk: &mut (impl Read + Seek),
    geometry: Geometry,
    fresh: uuid::Uuid,
) -> anyhow::Result<Layout> {
    let bytes = geometry.block.saturating_mul(geometry.blocks);
    let head = read(disk, 0, bytes)?;
    let tail = read(disk, bytes.saturating_sub(LOOKED_AT), bytes)?;
    let (table, source) = match Table::read(disk, geometry) {
        Ok(found) => found,
        Err(Error::None { .. }) => {
            let begun = gpt::is_begun(&tail, geometry.block, is_a_volume);
            match content::probe(&head) {
                Content::Empty if begun => {}
                Content::Empty => bail!("has data at its end, which is not known"),
                Content::Other(what) if what == PARTITION_TABLE => {
                    bail!("has a damaged partition table, at its start and at its end")
                }
                what => bail!("holds {what}"),
            }
            let table = Table::empty(fresh, geometry).context("cannot have a partition table")?;
            return Ok(Layout {
                bounds: everything(geometry),
                table,
                torn: false,
            });
        }
        Err(error) => return Err(error).context("cannot be read"),
    };
    let others = |name: &str| name.starts_with(PREFIX) && !is_a_volume(name);
    if table.entries.iter().any(|entry| others(&entry.name)) {
        bail!("holds a Keelson system, with its own partitions");
    }
    if is_torn(&head, &table, geometry, source) {
        return Ok(Layout {
            table,
            bounds: everything(geometry),
            torn: true,
        });
    }
    match source {
        Source::Primary if gpt::mbr(&head) != Mbr::Protective => bail!(
            "has a GUID partition table and another one in its master boot record: one of them is \
             not in use, and it is not known which"
        ),
        Source::Primary => {
            let header = head.get(geometry.block as usize..).unwrap_or_default();
            let bounds = gpt::bounds(header)
                .context("has a partition table whose entries are in an unusual place")?;
            Ok(Layout {
                table,
                bounds,
                torn: false,
            })
        }
        Source::Backup => bail!(
            "has a damaged partition table at its start, and a whole one at its end: repair it, \
             as with sgdisk, elsewhere"
        ),
    }
}

/// As `content` calls it.
const PARTITION_TABLE: &str = "a partition table";

fn everything(geometry: Geometry) -> Extent {
    Extent {
        first: geometry.first_usable(),
        last: geometry.last_usable(),
    }
}

/// Whether the start of a disk is what is left of a table that was being written here.
fn is_torn(head: &[u8], table: &Table, geometry: Geometry, source: Source) -> bool {
    let (block, end) = (geometry.block, geometry.first_usable() * geometry.block);
    let (Some(header), Some(behind)) = (
        head.get(block as usize..2 * block as usize),
        head.get(end as usize..),
    ) else {
        return false;
    };
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let damaged = match gpt::mbr(head) {
        Mbr::None => true,
        Mbr::Protective => source == Source::Backup,
        Mbr::Other => false,
    };
    damaged
        && (zero(header) || header.starts_with(b"EFI PART"))
        && zero(behind)
        && table.entries.iter().any(|entry| is_a_volume(&entry.name))
}

/// A MiB, or what there is of it.
fn read(disk: &mut (impl Read + Seek), at: u64, end: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; LOOKED_AT.min(end.saturating_sub(at)) as usize];
    disk.seek(SeekFrom::Start(at))
        .and_then(|_| disk.read_exact(&mut bytes))
        .context("cannot be read")?;
    Ok(bytes)
}

/// What a part of a disk begins with.
pub(super) fn content_at(
    disk: &mut (impl Read + Seek),
    at: u64,
    end: u64,
) -> anyhow::Result<Content> {
    Ok(content::probe(&read(disk, at, end)?))
}

/// Where a partition of so many bytes goes, or the largest one that can be had: the first
/// extent that is large enough, or the largest, that holds nothing at its ends.
pub(super) fn room(
    disk: &mut (impl Read + Seek),
    layout: &Layout,
    bytes: Option<u64>,
) -> anyhow::Result<Extent> {
    let block = layout.table.geometry.block;
    let unit = gpt::ALIGNMENT / block;
    let mut free = layout.table.free(layout.bounds);
    let largest = free.iter().map(|extent| extent.blocks()).max().unwrap_or(0) * block;
    let least = bytes.unwrap_or(LEAST).div_ceil(gpt::ALIGNMENT) * unit;
    free.retain(|extent| extent.blocks() >= least);
    if bytes.is_none() {
        // Of those that are as large as each other the first stays the first.
        free.sort_by_key(|extent| std::cmp::Reverse(extent.blocks()));
    }
    let mut held = None;
    for mut extent in free {
        if bytes.is_some() {
            extent.last = extent.first + least - 1;
        }
        let (start, end) = (extent.first * block, (extent.last + 1) * block);
        let first = content_at(disk, start, end)?;
        let last = content_at(disk, end.saturating_sub(LOOKED_AT).max(start), end)?;
        match (first, last) {
            (Content::Empty, Content::Empty) => return Ok(extent),
            (Content::Empty, what) | (what, _) => held = held.or(Some((start, end, what))),
        }
    }
    if let Some((start, end, what)) = held {
        bail!(
            "has no room that is empty: what no partition has between {} and {} MiB holds {what}, \
             maybe of a partition that was deleted",
            start >> 20,
            end >> 20
        );
    }
    let least = (least * block) >> 20;
    bail!(
        "has no room for {least} MiB: the largest piece that no partition has is {} MiB",
        largest >> 20
    )
}

#[cfg(test)]
mod tests;
