//! The partition table of the disk that holds the running root: read for the volumes,
//! and written for the one reason that DATA grows. The format is `keelson_disk::gpt`'s.

use anyhow::{Context as _, bail};
use keelson_disk::gpt::{Geometry, Source, Table};
use std::{
    fs,
    io::{Seek as _, SeekFrom},
    path::Path,
};

/// One partition, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub start: u64,
    /// Where it could end, if it were grown.
    pub limit: u64,
}

/// Reads the table.
pub(crate) fn read(disk: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut file = fs::File::open(disk).with_context(|| format!("opening {}", disk.display()))?;
    let (table, geometry) = table(&mut file, disk)?;
    Ok(entries(&table, geometry))
}

/// Stretches the partition to the end of the disk, and says where it ends now, in
/// bytes. It must be the last one. The backup is whole before the first copy changes.
pub(crate) fn grow(disk: &Path, number: u32) -> anyhow::Result<u64> {
    let _held = crate::upgrade::table_lock();
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .with_context(|| format!("opening {} to write", disk.display()))?;
    let (mut table, geometry) = table(&mut file, disk)?;
    if table.grow(number, geometry.blocks)? {
        table.write_backup(&mut file)?;
        file.sync_all()?;
        table.write_primary(&mut file)?;
        file.sync_all()?;
    }
    let entry = table
        .entry(number)
        .with_context(|| format!("there is no partition {number}"))?;
    Ok((entry.last + 1).saturating_mul(geometry.block))
}

fn table(file: &mut fs::File, disk: &Path) -> anyhow::Result<(Table, Geometry)> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let geometry = geometry(disk, bytes)?;
    let (table, source) = Table::read(file, geometry)
        .with_context(|| format!("reading the partition table of {}", disk.display()))?;
    if source == Source::Backup {
        tracing::warn!(
            "{}: the first partition table is damaged, the backup is used",
            disk.display()
        );
    }
    Ok((table, geometry))
}

fn geometry(disk: &Path, bytes: u64) -> anyhow::Result<Geometry> {
    let name = disk
        .file_name()
        .with_context(|| format!("{} is not a disk", disk.display()))?;
    let path = Path::new("/sys/class/block")
        .join(name)
        .join("queue/logical_block_size");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    match text.trim().parse() {
        Ok(block @ 512..) => Ok(Geometry {
            block,
            blocks: bytes / block,
        }),
        _ => bail!("{} holds {text:?}, not a block size", path.display()),
    }
}

fn entries(table: &Table, geometry: Geometry) -> Vec<Entry> {
    let mut all = Vec::new();
    for entry in &table.entries {
        let mut grown = table.clone();
        // What cannot grow keeps its end.
        let end = match grown.grow(entry.number, geometry.blocks) {
            Ok(_) => grown
                .entry(entry.number)
                .map_or(entry.last, |entry| entry.last),
            Err(_) => entry.last,
        };
        all.push(Entry {
            number: entry.number,
            name: entry.name.clone(),
            start: entry.first.saturating_mul(geometry.block),
            limit: (end + 1).saturating_mul(geometry.block),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_disk::layout::Layout;

    #[test]
    fn only_the_last_partition_has_room_on_a_larger_disk() {
        let size = Layout::Standard.image_bytes(true);
        let image = Geometry::of_image(size);
        let table = Layout::Standard
            .table(image, b"seed", &[7; 32], true)
            .unwrap();
        let exact = entries(&table, image);
        let larger = entries(&table, Geometry::of_image(size + (1 << 30)));
        for (exact, larger) in exact.iter().zip(&larger) {
            let more = larger.limit - exact.limit;
            assert_eq!(
                more,
                if exact.name == "KEELSON-DATA" {
                    1 << 30
                } else {
                    0
                },
                "{exact:?}"
            );
        }
        assert_eq!(exact.len(), 7);
    }
}
