//! Reading a FAT32 file system as firmware does, and the forms that its writers share with it
//! (Microsoft: FAT32 File System Specification 1.03).
//!
//! Damage is looked at, not repaired: the first copy of the table counts, a long name that does not
//! belong to its short one is not there, and a chain that ends early or runs in a circle is an
//! error of that file alone. One thing is mended, by [`erase`]: a rename that a power cut ended
//! half way leaves two names for one chain of clusters, and whoever deletes one of them in the
//! usual way takes the clusters from the other.
//!
//! ```text
//! reserved sectors: boot sector, … | FAT | FAT again | clusters, numbered from 2
//! ```

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes of an entry of a folder.
pub const ENTRY: usize = 32;
/// The attribute of a folder.
pub const FOLDER: u8 = 0x10;
/// The attribute of a file.
pub const FILE: u8 = 0x20;
/// The attribute of the volume's label.
pub const LABEL: u8 = 0x08;
/// The attributes of an entry that holds a part of a long name.
pub const LONG_NAME: u8 = 0x0f;
/// The first cluster.
pub const FIRST: u32 = 2;
/// Stands in the table for the last cluster of a file.
pub const END_OF_CHAIN: u32 = 0x0fff_ffff;

/// The first byte of an entry that is free; a zero says that all behind it are, too.
pub const FREE: u8 = 0xe5;
/// Numbers from here on end a chain.
const ENDS: u32 = 0x0fff_fff8;
/// The upper bits of a number in the table belong to nobody.
const NUMBER: u32 = 0x0fff_ffff;
/// Marks the last part of a long name, which comes first.
const LAST_PART: u8 = 0x40;
/// UTF-16 units of a part of a long name.
const PART: usize = 13;
/// A folder has no more entries than this.
const MOST_ENTRIES: u64 = 65_536;
/// As much of the table as is read at once.
const PAGE: u64 = 4096;

/// What is in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The long name, or the short one where there is none.
    pub name: String,
    /// The short name, such as `KEELSO~1.EFI`.
    pub alias: String,
    /// Whether it has a long name, and a whole one.
    pub long: bool,
    /// It is a folder.
    pub folder: bool,
    /// The first cluster; 0 is none.
    pub cluster: u32,
    /// Bytes, of a file.
    pub size: u32,
}

/// What is in a folder, and where its name stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What it is.
    pub entry: Entry,
    /// The offsets on the volume of its slots in the folder, the short name's last.
    slots: Vec<u64>,
}

/// A piece of a file: so many bytes at an offset of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it begins on the volume.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device could not be read.
    #[error("cannot read the file system")]
    Io(#[from] io::Error),
    /// It has no boot sector of a FAT32 file system.
    #[error("not a FAT32 file system: {0}")]
    Volume(&'static str),
    /// The clusters of a file or folder make no sense.
    #[error("the clusters of {name} {problem}")]
    Chain {
        /// The file's name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// A file system that is being read.
pub struct Volume<R> {
    device: R,
    cluster_bytes: u64,
    fat_at: u64,
    data_at: u64,
    /// The number behind the last cluster's.
    end: u32,
    root: u32,
    /// A page of the table, and where it begins.
    page: Option<(u64, Vec<u8>)>,
}

impl<R: Read + Seek> Volume<R> {
    /// Reads the boot sector.
    pub fn open(mut device: R) -> Result<Volume<R>, Error> {
        let refuse = |what| Err(Error::Volume(what));
        let mut boot = [0; 512];
        device.seek(SeekFrom::Start(0))?;
        device.read_exact(&mut boot)?;
        let sector = u64::from(u16_at(&boot, 11));
        let per_cluster = u64::from(boot[13]);
        let reserved = u64::from(u16_at(&boot, 14));
        let copies = u64::from(boot[16]);
        let sectors = u64::from(u32_at(&boot, 32));
        let fat_sectors = u64::from(u32_at(&boot, 36));
        let flags = u16_at(&boot, 40);
        let root = u32_at(&boot, 44);
        if boot[510..] != [0x55, 0xaa] {
            return refuse("the boot sector is not signed");
        }
        if !matches!(sector, 512 | 1024 | 2048 | 4096)
            || !per_cluster.is_power_of_two()
            || reserved == 0
            || copies == 0
            || u16_at(&boot, 22) != 0
        {
            return refuse("the boot sector says so");
        }
        // Where the copies are not kept the same, the flags say which is the one.
        let active = match flags & 0x80 {
            0 => 0,
            _ => u64::from(flags & 0x0f),
        };
        let data_sector = reserved + copies * fat_sectors;
        let clusters = sectors.saturating_sub(data_sector) / per_cluster;
        let described = (fat_sectors * sector / 4).saturating_sub(u64::from(FIRST));
        if active >= copies || clusters == 0 || clusters > described {
            return refuse("its sizes contradict each other");
        }
        let end = u32::try_from(clusters + u64::from(FIRST)).unwrap_or(ENDS);
        Ok(Volume {
            device,
            cluster_bytes: sector * per_cluster,
            fat_at: (reserved + active * fat_sectors) * sector,
            data_at: data_sector * sector,
            end: end.min(ENDS),
            root,
            page: None,
        })
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        self.cluster_bytes
    }

    /// Where a cluster begins on the volume.
    pub fn offset(&self, cluster: u32) -> u64 {
        self.data_at + u64::from(cluster.saturating_sub(FIRST)) * self.cluster_bytes
    }

    /// Finds a file or folder by its path, such as `EFI/Linux`; case does not matter.
    pub fn find(&mut self, path: &str) -> Result<Option<Entry>, Error> {
        let mut found = self.root_folder();
        for part in path.split('/') {
            if !found.folder {
                return Ok(None);
            }
            let same = |entry: &Entry| {
                entry.name.eq_ignore_ascii_case(part) || entry.alias.eq_ignore_ascii_case(part)
            };
            match self.list(&found)?.into_iter().find(same) {
                Some(entry) => found = entry,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// The root folder.
    pub fn root_folder(&self) -> Entry {
        Entry {
            name: "/".into(),
            alias: "/".into(),
            long: false,
            folder: true,
            cluster: self.root,
            size: 0,
        }
    }

    /// What is in a folder, without the label and the folder's own dots.
    pub fn list(&mut self, folder: &Entry) -> Result<Vec<Entry>, Error> {
        let placed = self.placed(folder)?;
        Ok(placed.into_iter().map(|placed| placed.entry).collect())
    }

    /// The same, each with its place on the volume.
    pub fn placed(&mut self, folder: &Entry) -> Result<Vec<Placed>, Error> {
        // In `..` of a folder below it, the root folder is called 0.
        let first = match folder.cluster {
            0 => self.root,
            cluster => cluster,
        };
        let most = (MOST_ENTRIES * ENTRY as u64).div_ceil(self.cluster_bytes);
        let clusters = self.chain(&folder.name, first, most)?;
        let mut entries = Vec::new();
        let mut long = Long::default();
        let mut slots = Vec::new();
        let mut bytes = vec![0; self.cluster_bytes as usize];
        for cluster in clusters {
            let start = self.offset(cluster);
            self.device.seek(SeekFrom::Start(start))?;
            self.device.read_exact(&mut bytes)?;
            for (slot, offset) in bytes.chunks_exact(ENTRY).zip((start..).step_by(ENTRY)) {
                match slot[0] {
                    0 => return Ok(entries),
                    FREE => {
                        long = Long::default();
                        slots.clear();
                    }
                    _ if slot[11] & 0x3f == LONG_NAME => {
                        long.take(slot);
                        slots.push(offset);
                    }
                    _ => {
                        let long = std::mem::take(&mut long);
                        let mut slots = std::mem::take(&mut slots);
                        slots.push(offset);
                        if slot[11] & LABEL == 0 && slot[0] != b'.' {
                            let entry = entry(slot, &long);
                            entries.push(Placed { entry, slots });
                        }
                    }
                }
            }
        }
        Ok(entries)
    }

    /// The clusters of a file, from its first to the end of its chain, whatever its size says.
    pub fn clusters(&mut self, file: &Entry) -> Result<Vec<u32>, Error> {
        match file.cluster {
            0 => Ok(Vec::new()),
            first => self.chain(&file.name, first, u64::from(self.end)),
        }
    }

    /// Where the bytes of a file lie; neighbours are one run.
    pub fn runs(&mut self, file: &Entry) -> Result<Vec<Run>, Error> {
        let mut left = u64::from(file.size);
        let needed = left.div_ceil(self.cluster_bytes);
        let clusters = match needed {
            0 => Vec::new(),
            _ => self.chain(&file.name, file.cluster, needed)?,
        };
        if (clusters.len() as u64) < needed {
            return Err(chain(&file.name, "end before the file does"));
        }
        let mut runs: Vec<Run> = Vec::new();
        for cluster in clusters {
            let offset = self.offset(cluster);
            let bytes = left.min(self.cluster_bytes);
            left -= bytes;
            match runs.last_mut() {
                Some(last) if last.offset + last.bytes == offset => last.bytes += bytes,
                _ => runs.push(Run { offset, bytes }),
            }
        }
        Ok(runs)
    }

    /// A file's content. One that says it is longer than `most` bytes is an error.
    pub fn read(&mut self, file: &Entry, most: u32) -> Result<Vec<u8>, Error> {
        if file.size > most {
            return Err(chain(&file.name, "are more than it may have"));
        }
        let mut content = Vec::new();
        for run in self.runs(file)? {
            self.device.seek(SeekFrom::Start(run.offset))?;
            let before = content.len();
            content.resize(before + run.bytes as usize, 0);
            self.device.read_exact(&mut content[before..])?;
        }
        Ok(content)
    }

    /// The chain that begins with a cluster, cut after `most`.
    fn chain(&mut self, name: &str, first: u32, most: u64) -> Result<Vec<u32>, Error> {
        let mut seen = HashSet::new();
        let mut clusters = Vec::new();
        let mut cluster = first;
        while cluster < ENDS && (clusters.len() as u64) < most {
            if cluster < FIRST || cluster >= self.end {
                return Err(chain(name, "lead to where no cluster is"));
            }
            if !seen.insert(cluster) {
                return Err(chain(name, "run in a circle"));
            }
            clusters.push(cluster);
            cluster = self.next(cluster)?;
        }
        Ok(clusters)
    }

    /// What the table says of a cluster.
    pub fn next(&mut self, cluster: u32) -> Result<u32, Error> {
        let at = self.fat_at + u64::from(cluster) * 4;
        let start = at / PAGE * PAGE;
        if self.page.as_ref().is_none_or(|(page, _)| *page != start) {
            self.device.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            self.device.by_ref().take(PAGE).read_to_end(&mut bytes)?;
            self.page = Some((start, bytes));
        }
        let in_page = (at - start) as usize;
        let bytes = self.page.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        match bytes.get(in_page..in_page + 4) {
            Some(word) => Ok(u32_at(word, 0) & NUMBER),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// Takes a name out of its folder and leaves its clusters alone: they must belong to another
/// name too. Counts once the caller has flushed the device.
pub fn erase(device: &mut (impl Write + Seek), name: &Placed) -> io::Result<()> {
    // The short name first: without it the rest is nothing.
    for slot in name.slots.iter().rev() {
        device.seek(SeekFrom::Start(*slot))?;
        device.write_all(&[FREE])?;
    }
    device.flush()
}

/// The parts of a long name as they come, last part first.
#[derive(Default)]
struct Long {
    units: Vec<u16>,
    sum: u8,
    /// The number of the part that is to come next; 0 when all are there.
    awaited: u8,
    begun: bool,
}

impl Long {
    fn take(&mut self, slot: &[u8]) {
        let number = slot[0] & !LAST_PART;
        if slot[0] & LAST_PART != 0 {
            *self = Long {
                sum: slot[13],
                awaited: number,
                begun: true,
                units: Vec::new(),
            };
        }
        if !self.begun || number == 0 || number != self.awaited || slot[13] != self.sum {
            *self = Long::default();
            return;
        }
        self.awaited -= 1;
        let part = places().map(|at| u16_at(slot, at));
        self.units.splice(0..0, part);
    }

    /// The name, if it is whole and belongs to this short one.
    fn name(&self, short: &[u8; 11]) -> Option<String> {
        if !self.begun || self.awaited != 0 || self.sum != checksum(short) {
            return None;
        }
        let units: Vec<u16> = self.units.iter().copied().take_while(|u| *u != 0).collect();
        let name = String::from_utf16_lossy(&units);
        (!name.is_empty()).then_some(name)
    }
}

fn entry(slot: &[u8], long: &Long) -> Entry {
    let mut short = [0; 11];
    short.copy_from_slice(&slot[..11]);
    let name = long.name(&short);
    let alias = alias(&short, slot[12]);
    Entry {
        long: name.is_some(),
        name: name.unwrap_or_else(|| alias.clone()),
        alias,
        folder: slot[11] & FOLDER != 0,
        cluster: u32::from(u16_at(slot, 20)) << 16 | u32::from(u16_at(slot, 26)),
        size: u32_at(slot, 28),
    }
}

/// A short name as text. `case` says whether base (8) and extension (16) are in small letters.
fn alias(short: &[u8; 11], case: u8) -> String {
    let part = |bytes: &[u8], small: bool| -> String {
        let text: String = bytes.iter().map(|b| char::from(*b)).collect();
        match small {
            true => text.trim_end().to_ascii_lowercase(),
            false => text.trim_end().to_string(),
        }
    };
    let base = part(&short[..8], case & 0x08 != 0);
    let extension = part(&short[8..], case & 0x10 != 0);
    match extension.is_empty() {
        true => base,
        false => format!("{base}.{extension}"),
    }
}

/// Ties the parts of a long name to its short one.
pub fn checksum(short: &[u8; 11]) -> u8 {
    short
        .iter()
        .fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The entries that hold a long name of 255 units at most, in their order in the folder: the last
/// part first.
pub fn long_name(name: &str, sum: u8) -> Vec<[u8; ENTRY]> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let count = units.len().div_ceil(PART);
    if units.len() < count * PART {
        units.push(0);
    }
    units.resize(count * PART, 0xffff);
    let mut entries = Vec::new();
    for (part, n) in units.chunks(PART).zip(1u8..) {
        let mut entry = [0; ENTRY];
        entry[0] = n;
        entry[11] = LONG_NAME;
        entry[13] = sum;
        for (unit, at) in part.iter().zip(places()) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.push(entry);
    }
    if let Some(last) = entries.last_mut() {
        last[0] |= LAST_PART;
    }
    entries.reverse();
    entries
}

/// Where in an entry the units of a long name's part stand.
fn places() -> impl Iterator<Item = usize> {
    (1..11)
        .step_by(2)
        .chain((14..26).step_by(2))
        .chain([28, 30])
}

fn chain(name: &str, problem: &'static str) -> Error {
    Error::Chain {
        name: name.to_string(),
        problem,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
#[path = "fat_tests.rs"]
mod tests;
