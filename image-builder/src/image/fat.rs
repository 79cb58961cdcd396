//! Writes a FAT32 file system whole: everything that goes onto it is known, so every file is in
//! one piece and nothing is ever changed (Microsoft: FAT32 File System Specification 1.03).
//!
//! ```text
//! 32 reserved sectors: boot sector, FSInfo, their copies at 6 | FAT | FAT again | clusters of 4 KiB
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keelson_disk::fat::{END_OF_CHAIN, ENTRY, FILE, FIRST, FOLDER, LABEL, checksum, long_name};

const SECTOR: u64 = 512;
const SECTORS_PER_CLUSTER: u64 = 8;
const CLUSTER: u64 = SECTOR * SECTORS_PER_CLUSTER;
const RESERVED: u64 = 32;
const FSINFO_AT: u64 = 1;
const BACKUP_AT: u64 = 6;
const FATS: u64 = 2;
/// With fewer clusters it would be FAT16.
const LEAST_CLUSTERS: u64 = 65_525;

/// Something on the volume.
pub(super) struct Node {
    name: String,
    content: Content,
}

enum Content {
    Folder(Vec<Node>),
    Bytes(Vec<u8>),
    File(PathBuf, u32),
}

impl Node {
    /// A folder.
    pub(super) fn folder(name: &str, nodes: Vec<Node>) -> Node {
        let name = name.to_string();
        let content = Content::Folder(nodes);
        Node { name, content }
    }

    /// A file with this content.
    pub(super) fn bytes(name: &str, bytes: &[u8]) -> Node {
        let name = name.to_string();
        let content = Content::Bytes(bytes.to_vec());
        Node { name, content }
    }

    /// A copy of a file.
    pub(super) fn file(name: &str, path: &Path) -> anyhow::Result<Node> {
        let size = std::fs::metadata(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .len();
        let size = u32::try_from(size)
            .with_context(|| format!("{} is larger than FAT allows", path.display()))?;
        let name = name.to_string();
        let content = Content::File(path.to_path_buf(), size);
        Ok(Node { name, content })
    }

    /// The size as its entry says; a folder's is not said.
    fn size(&self) -> u32 {
        match &self.content {
            Content::Folder(_) => 0,
            // Nothing of 4 GiB is ever given as bytes.
            Content::Bytes(bytes) => bytes.len() as u32,
            Content::File(_, size) => *size,
        }
    }
}

/// The volume itself.
pub(super) struct Volume {
    /// Bytes of the partition.
    pub(super) bytes: u64,
    /// The serial number.
    pub(super) serial: u32,
    /// The label, filled up with spaces.
    pub(super) label: [u8; 11],
    /// The time stamp of everything, Unix seconds.
    pub(super) time: u64,
}

impl Volume {
    /// Writes the file system with `nodes` in its root folder to a partition that is all zeros.
    pub(super) fn write(
        &self,
        nodes: &[Node],
        out: &mut (impl Write + Seek),
    ) -> anyhow::Result<()> {
        let sectors = u32::try_from(self.bytes / SECTOR).context("FAT32 ends at 2 TiB")?;
        let per_fat_sector = SECTOR / 4;
        let covered = per_fat_sector * SECTORS_PER_CLUSTER + FATS;
        let fat_sectors = (u64::from(sectors).saturating_sub(RESERVED)).div_ceil(covered);
        let clusters =
            u64::from(sectors).saturating_sub(RESERVED + FATS * fat_sectors) / SECTORS_PER_CLUSTER;
        if clusters < LEAST_CLUSTERS {
            bail!("{} bytes are too few for FAT32", self.bytes);
        }
        let mut writer = Writer {
            out,
            data_at: (RESERVED + FATS * fat_sectors) * SECTOR,
            fat: vec![0x0fff_fff8, END_OF_CHAIN],
            clusters,
            stamp: stamp(self.time)?,
        };
        writer.root(self.label, nodes)?;
        let used = writer.fat.len() as u64 - u64::from(FIRST);
        let fat: Vec<u8> = writer.fat.iter().flat_map(|n| n.to_le_bytes()).collect();
        for copy in 0..FATS {
            put(out, (RESERVED + copy * fat_sectors) * SECTOR, &fat)?;
        }
        let boot = self.boot_sector(sectors, fat_sectors as u32);
        let info = fsinfo(clusters - used, FIRST + used as u32);
        for at in [0, BACKUP_AT] {
            put(out, at * SECTOR, &boot)?;
            put(out, (at + FSINFO_AT) * SECTOR, &info)?;
        }
        Ok(out.flush()?)
    }

    fn boot_sector(&self, sectors: u32, fat_sectors: u32) -> [u8; 512] {
        let mut boot = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| boot[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xeb, 0x58, 0x90]);
        put(3, b"KEELSON ");
        put(11, &(SECTOR as u16).to_le_bytes());
        put(13, &[SECTORS_PER_CLUSTER as u8]);
        put(14, &(RESERVED as u16).to_le_bytes());
        put(16, &[FATS as u8]);
        put(21, &[0xf8]); // a fixed disk
        put(24, &32u16.to_le_bytes()); // sectors per track and heads: nobody looks
        put(26, &64u16.to_le_bytes());
        put(32, &sectors.to_le_bytes());
        put(36, &fat_sectors.to_le_bytes());
        put(44, &FIRST.to_le_bytes());
        put(48, &(FSINFO_AT as u16).to_le_bytes());
        put(50, &(BACKUP_AT as u16).to_le_bytes());
        put(64, &[0x80, 0, 0x29]); // drive number; serial, label and type follow
        put(67, &self.serial.to_le_bytes());
        put(71, &self.label);
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xaa]);
        boot
    }
}

/// How many clusters are free, and where to look for one.
fn fsinfo(free: u64, next: u32) -> [u8; 512] {
    let mut info = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"RRaA");
    put(484, b"rrAa");
    put(488, &(free as u32).to_le_bytes());
    put(492, &next.to_le_bytes());
    put(508, &[0, 0, 0x55, 0xaa]);
    info
}

/// A volume that is being filled, cluster after cluster.
struct Writer<'a, T> {
    out: &'a mut T,
    data_at: u64,
    fat: Vec<u32>,
    clusters: u64,
    /// Time and date as an entry has them.
    stamp: [u8; 4],
}

impl<T: Write + Seek> Writer<'_, T> {
    fn root(&mut self, label: [u8; 11], nodes: &[Node]) -> anyhow::Result<()> {
        let label = self.entry(label, LABEL, 0, 0);
        self.folder(&[label], nodes, None).map(drop)
    }

    /// Writes a folder and all in it; `first` are entries before those of the nodes. Returns the
    /// folder's cluster. `parent` is nothing for the root folder.
    fn folder(
        &mut self,
        first: &[[u8; ENTRY]],
        nodes: &[Node],
        parent: Option<u32>,
    ) -> anyhow::Result<u32> {
        let names = names(nodes)?;
        let long: usize = names.iter().map(|name| name.long.len()).sum();
        let dots = if parent.is_some() { 2 } else { 0 };
        let count = dots + first.len() + long + nodes.len();
        let start = self.allocate((count * ENTRY) as u64)?;
        let mut entries: Vec<[u8; ENTRY]> = Vec::new();
        if let Some(parent) = parent {
            // The root folder counts as cluster 0 here.
            let up = if parent == FIRST { 0 } else { parent };
            entries.push(self.entry(*b".          ", FOLDER, start, 0));
            entries.push(self.entry(*b"..         ", FOLDER, up, 0));
        }
        entries.extend_from_slice(first);
        for (node, name) in nodes.iter().zip(names) {
            let (attribute, at) = match &node.content {
                Content::Folder(nodes) => (FOLDER, self.folder(&[], nodes, Some(start))?),
                Content::Bytes(bytes) => {
                    let at = self.allocate(bytes.len() as u64)?;
                    self.fill(at, &mut bytes.as_slice())
                        .with_context(|| format!("cannot write {}", node.name))?;
                    (FILE, at)
                }
                Content::File(path, size) => {
                    let at = self.allocate(u64::from(*size))?;
                    let mut file = File::open(path)
                        .with_context(|| format!("cannot read {}", path.display()))?;
                    let copied = self
                        .fill(at, &mut file)
                        .with_context(|| format!("cannot copy {}", path.display()))?;
                    if copied != u64::from(*size) {
                        bail!("{} changed while it was copied", path.display());
                    }
                    (FILE, at)
                }
            };
            entries.extend(name.long);
            entries.push(self.entry(name.short, attribute, at, node.size()));
        }
        self.fill(start, &mut entries.concat().as_slice())?;
        Ok(start)
    }

    /// Takes the next clusters for so many bytes; an empty file has none, which is cluster 0.
    fn allocate(&mut self, bytes: u64) -> anyhow::Result<u32> {
        let count = bytes.div_ceil(CLUSTER);
        let start = self.fat.len() as u64;
        if start + count > self.clusters + u64::from(FIRST) {
            bail!("the boot files do not fit onto the ESP");
        }
        if count == 0 {
            return Ok(0);
        }
        self.fat
            .extend((start + 1..start + count).map(|n| n as u32));
        self.fat.push(END_OF_CHAIN);
        Ok(start as u32)
    }

    fn fill(&mut self, cluster: u32, from: &mut impl Read) -> io::Result<u64> {
        let offset = u64::from(cluster.saturating_sub(FIRST)) * CLUSTER;
        self.out.seek(SeekFrom::Start(self.data_at + offset))?;
        io::copy(from, self.out)
    }

    fn entry(&self, name: [u8; 11], attribute: u8, cluster: u32, size: u32) -> [u8; ENTRY] {
        let [time_low, time_high, date_low, date_high] = self.stamp;
        let (time, date) = ([time_low, time_high], [date_low, date_high]);
        let mut entry = [0; ENTRY];
        let mut put = |at: usize, bytes: &[u8]| entry[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name);
        put(11, &[attribute]);
        put(14, &time);
        put(16, &date);
        put(18, &date);
        put(20, &((cluster >> 16) as u16).to_le_bytes());
        put(22, &time);
        put(24, &date);
        put(26, &(cluster as u16).to_le_bytes());
        put(28, &size.to_le_bytes());
        entry
    }
}

/// A name as a folder has it: the short one, and entries for the long one where it differs.
struct Name {
    short: [u8; 11],
    long: Vec<[u8; ENTRY]>,
}

fn names(nodes: &[Node]) -> anyhow::Result<Vec<Name>> {
    let mut taken: Vec<[u8; 11]> = Vec::new();
    let mut names = Vec::new();
    for node in nodes {
        let name = node.name.as_str();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+~".contains(c);
        if name.is_empty() || name.len() > 255 || !name.chars().all(allowed) {
            bail!("`{name}` cannot be the name of a file on the ESP");
        }
        let (short, long) = match exact(name) {
            Some(short) => (short, Vec::new()),
            None => {
                let short = (1..=9)
                    .map(|n| alias(name, n))
                    .find(|short| !taken.contains(short))
                    .with_context(|| format!("too many names like `{name}` in one folder"))?;
                (short, long_name(name, checksum(&short)))
            }
        };
        let same = |other: &&Node| other.name.eq_ignore_ascii_case(name);
        if taken.contains(&short) || nodes.iter().filter(same).count() > 1 {
            bail!("`{name}` is on the ESP twice");
        }
        taken.push(short);
        names.push(Name { short, long });
    }
    Ok(names)
}

/// Base and extension, split at the last point.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

fn join(base: &str, extension: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    for (to, from) in short[..8].iter_mut().zip(base.bytes()) {
        *to = from;
    }
    for (to, from) in short[8..].iter_mut().zip(extension.bytes()) {
        *to = from;
    }
    short
}

/// The name as a short one, if it is one.
fn exact(name: &str) -> Option<[u8; 11]> {
    let (base, extension) = split(name);
    let plain = |part: &str, most: usize| {
        let letters = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-';
        part.len() <= most && part.chars().all(letters)
    };
    let fits = !base.is_empty() && plain(base, 8) && plain(extension, 3) && !name.ends_with('.');
    fits.then(|| join(base, extension))
}

/// The short name number `n` for a long one, such as `KEELSO~1EFI`.
fn alias(name: &str, n: u32) -> [u8; 11] {
    let clean = |part: &str, most: usize| -> String {
        part.chars()
            .filter(|c| *c != '.')
            .map(|c| {
                if c == '+' {
                    '_'
                } else {
                    c.to_ascii_uppercase()
                }
            })
            .take(most)
            .collect()
    };
    let (base, extension) = split(name);
    join(&format!("{}~{n}", clean(base, 6)), &clean(extension, 3))
}

/// Time and date as FAT has them: from 1980 to 2107, every two seconds.
fn stamp(unix: u64) -> anyhow::Result<[u8; 4]> {
    let moment = i64::try_from(unix)
        .ok()
        .and_then(|unix| time::OffsetDateTime::from_unix_timestamp(unix).ok())
        .with_context(|| format!("{unix} is not a time"))?;
    let field = |n: u8, shift: u32| u16::from(n) << shift;
    let clock =
        field(moment.hour(), 11) | field(moment.minute(), 5) | field(moment.second() / 2, 0);
    let year = (moment.year().clamp(1980, 2107) - 1980) as u16;
    let date = year << 9 | field(u8::from(moment.month()), 5) | field(moment.day(), 0);
    let ([a, b], [c, d]) = (clock.to_le_bytes(), date.to_le_bytes());
    Ok([a, b, c, d])
}

fn put(out: &mut (impl Write + Seek), at: u64, bytes: &[u8]) -> io::Result<()> {
    out.seek(SeekFrom::Start(at))?;
    out.write_all(bytes)
}

#[cfg(test)]
#[path = "fat_tests.rs"]
mod tests;
