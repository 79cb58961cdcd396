//! The GUID partition table (UEFI specification, section 5): read with every checksum and bound
//! checked, written whole. Holds 128 entries of 128 bytes, the form that every tool writes.
//!
//! A table is written in two steps, [`Table::write_backup`] and then [`Table::write_primary`];
//! whoever writes to a device flushes in between, so that a cut of power leaves one of them whole.

use std::io::{self, Read, Seek, SeekFrom, Write};

use uuid::Uuid;

mod free;

pub use free::{Extent, Mbr, bounds, is_begun, mbr};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
const ENTRIES: usize = 128;
const ARRAY_BYTES: usize = ENTRIES * ENTRY_BYTES;
const NAME_UNITS: usize = 36;
/// Partitions begin and end at multiples of this many bytes.
pub const ALIGNMENT: u64 = 1 << 20;

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the table, from 1: the 3 of `vda3`.
    pub number: u32,
    /// What it is for.
    pub kind: Uuid,
    /// The partition's own UUID, the kernel's PARTUUID.
    pub uuid: Uuid,
    /// The first block.
    pub first: u64,
    /// The last block; it belongs to the partition.
    pub last: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// The label, 36 UTF-16 units at most; the kernel's PARTNAME.
    pub name: String,
}

impl Entry {
    /// How many blocks it has.
    pub fn blocks(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// How large a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical block: 512 or 4096.
    pub block: u64,
    /// The number of blocks.
    pub blocks: u64,
}

impl Geometry {
    /// The geometry of an image file, which has blocks of 512 bytes.
    pub fn of_image(bytes: u64) -> Geometry {
        Geometry {
            block: 512,
            blocks: bytes / 512,
        }
    }

    /// Blocks of the array of entries.
    fn array(self) -> u64 {
        ARRAY_BYTES as u64 / self.block
    }

    /// The first block that a partition may have.
    pub fn first_usable(self) -> u64 {
        2 + self.array()
    }

    /// The last block that a partition may have.
    pub fn last_usable(self) -> u64 {
        self.blocks.saturating_sub(2 + self.array())
    }

    /// Both tables fit and something is left between them.
    fn check(self) -> Result<(), Error> {
        let bytes = self.blocks.checked_mul(self.block);
        if !matches!(self.block, 512 | 4096)
            || bytes.is_none_or(|bytes| bytes > i64::MAX as u64)
            || self.first_usable() >= self.last_usable()
        {
            return Err(Error::Geometry(self));
        }
        Ok(())
    }
}

/// Which copy of the table was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The one at the start of the disk.
    Primary,
    /// The one at the end, because the first was damaged.
    Backup,
}

/// A whole partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The disk's UUID.
    pub disk: Uuid,
    /// The disk that the table was made for; a disk may have grown since, see [`Table::grow`].
    pub geometry: Geometry,
    /// The partitions, in the order of their numbers.
    pub entries: Vec<Entry>,
}

/// Why there is no table to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk could not be read or written.
    #[error("cannot read or write the partition table")]
    Io(#[from] io::Error),
    /// The disk is too small, too large, or has blocks of a strange size.
    #[error("a disk of {} blocks of {} bytes cannot have a partition table", .0.blocks, .0.block)]
    Geometry(Geometry),
    /// Neither the table at the start nor the one at the end is valid.
    #[error("no valid partition table: {primary}; at the end of the disk: {backup}")]
    None {
        /// What is wrong with the first.
        primary: &'static str,
        /// What is wrong with the second.
        backup: &'static str,
    },
    /// The entries contradict each other or the disk.
    #[error("partition {number} {problem}")]
    Entry {
        /// The partition.
        number: u32,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What stops one copy of the table from being read.
enum Fault {
    Io(io::Error),
    Invalid(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Invalid("the disk ends too early"),
            _ => Fault::Io(error),
        }
    }
}

impl Table {
    /// Reads the primary table or, if that is damaged, the backup at the end of the disk.
    pub fn read(
        disk: &mut (impl Read + Seek),
        geometry: Geometry,
    ) -> Result<(Table, Source), Error> {
        geometry.check()?;
        let primary = match read_copy(disk, geometry, 1) {
            Ok(table) => return Ok((table, Source::Primary)),
            Err(Fault::Io(error)) => return Err(error.into()),
            Err(Fault::Invalid(problem)) => problem,
        };
        match read_copy(disk, geometry, geometry.blocks - 1) {
            Ok(table) => Ok((table, Source::Backup)),
            Err(Fault::Io(error)) => Err(error.into()),
            Err(Fault::Invalid(backup)) => Err(Error::None { primary, backup }),
        }
    }

    /// The partition with this number.
    pub fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.number == number)
    }

    /// The partition with this number, to change it.
    pub fn entry_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.number == number)
    }

    /// Adapts the table to a larger disk of `blocks` blocks and stretches partition `number`,
    /// which must be the last on the disk, to its end. Says whether anything changed; then the
    /// table is to be written.
    pub fn grow(&mut self, number: u32, blocks: u64) -> Result<bool, Error> {
        let refuse = |problem| Err(Error::Entry { number, problem });
        let geometry = Geometry {
            blocks,
            ..self.geometry
        };
        geometry.check()?;
        let Some(entry) = self.entry(number) else {
            return refuse("does not exist");
        };
        if self.entries.iter().any(|other| other.first > entry.first) {
            return refuse("is not the last on the disk, so it cannot grow");
        }
        let unit = ALIGNMENT / geometry.block;
        let last = ((geometry.last_usable() + 1) / unit * unit).saturating_sub(1);
        let last = last.max(entry.last);
        let before = self.clone();
        self.geometry = geometry;
        if let Some(entry) = self.entry_mut(number) {
            entry.last = last;
        }
        if let Err(error) = self.check() {
            *self = before;
            return Err(error);
        }
        Ok(*self != before)
    }

    /// Writes the copy at the end of the disk.
    pub fn write_backup(&self, disk: &mut (impl Write + Seek)) -> Result<(), Error> {
        self.check()?;
        let array = self.array();
        let last = self.geometry.blocks - 1;
        let start = last - self.geometry.array();
        self.put(disk, start, &array)?;
        self.put(disk, last, &self.header(last, 1, start, &array))?;
        Ok(disk.flush()?)
    }

    /// Writes the protective MBR's table (not the boot code before it) and the copy at the start
    /// of the disk.
    pub fn write_primary(&self, disk: &mut (impl Write + Seek)) -> Result<(), Error> {
        self.check()?;
        disk.seek(SeekFrom::Start(446))?;
        disk.write_all(&protective(self.geometry.blocks))?;
        let array = self.array();
        self.put(disk, 2, &array)?;
        self.put(
            disk,
            1,
            &self.header(1, self.geometry.blocks - 1, 2, &array),
        )?;
        Ok(disk.flush()?)
    }

    fn put(&self, disk: &mut (impl Write + Seek), block: u64, bytes: &[u8]) -> io::Result<()> {
        disk.seek(SeekFrom::Start(block * self.geometry.block))?;
        disk.write_all(bytes)
    }

    fn header(&self, here: u64, other: u64, array_at: u64, array: &[u8]) -> Vec<u8> {
        let mut block = vec![0; self.geometry.block as usize];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, SIGNATURE);
        put(8, &REVISION.to_le_bytes());
        put(12, &(HEADER_BYTES as u32).to_le_bytes());
        put(24, &here.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &self.geometry.first_usable().to_le_bytes());
        put(48, &self.geometry.last_usable().to_le_bytes());
        put(56, &self.disk.to_bytes_le());
        put(72, &array_at.to_le_bytes());
        put(80, &(ENTRIES as u32).to_le_bytes());
        put(84, &(ENTRY_BYTES as u32).to_le_bytes());
        put(88, &crc32fast::hash(array).to_le_bytes());
        let crc = crc32fast::hash(&block[..HEADER_BYTES]);
        block[16..20].copy_from_slice(&crc.to_le_bytes());
        block
    }

    fn array(&self) -> Vec<u8> {
        let mut array = vec![0; ARRAY_BYTES];
        for entry in &self.entries {
            // check() has seen that the number is in range and the name short enough.
            let at = (entry.number as usize - 1) * ENTRY_BYTES;
            let slot = &mut array[at..at + ENTRY_BYTES];
            slot[0..16].copy_from_slice(&entry.kind.to_bytes_le());
            slot[16..32].copy_from_slice(&entry.uuid.to_bytes_le());
            slot[32..40].copy_from_slice(&entry.first.to_le_bytes());
            slot[40..48].copy_from_slice(&entry.last.to_le_bytes());
            slot[48..56].copy_from_slice(&entry.attributes.to_le_bytes());
            for (pair, unit) in slot[56..].chunks_mut(2).zip(entry.name.encode_utf16()) {
                pair.copy_from_slice(&unit.to_le_bytes());
            }
        }
        array
    }

    /// Every entry lies on the disk, none on another, each has a number, a kind and a name that
    /// fits.
    fn check(&self) -> Result<(), Error> {
        self.geometry.check()?;
        let (first, last) = (self.geometry.first_usable(), self.geometry.last_usable());
        for (n, entry) in self.entries.iter().enumerate() {
            let others = &self.entries[n + 1..];
            let problem = if entry.number == 0 || entry.number as usize > ENTRIES {
                "has no place in the table"
            } else if entry.kind.is_nil() {
                "has no type"
            } else if entry.first < first || entry.last > last {
                "reaches past the end of the disk or into the table"
            } else if entry.first > entry.last {
                "ends before it begins"
            } else if entry.name.encode_utf16().count() > NAME_UNITS {
                "has a name of more than 36 letters"
            } else if others.iter().any(|o| o.number == entry.number) {
                "is there twice"
            } else if others
                .iter()
                .any(|o| o.first <= entry.last && entry.first <= o.last)
            {
                "overlaps another"
            } else {
                continue;
            };
            return Err(Error::Entry {
                number: entry.number,
                problem,
            });
        }
        Ok(())
    }
}

/// Reads and checks the copy whose header is in block `at`.
fn read_copy(disk: &mut (impl Read + Seek), geometry: Geometry, at: u64) -> Result<Table, Fault> {
    let invalid = |problem| Err(Fault::Invalid(problem));
    let mut header = [0; HEADER_BYTES];
    disk.seek(SeekFrom::Start(at * geometry.block))?;
    disk.read_exact(&mut header)?;
    let mut summed = header;
    summed[16..20].fill(0);
    if header[..8] != *SIGNATURE {
        return invalid("there is none");
    }
    if u32_at(&header, 8) != REVISION || u32_at(&header, 12) as usize != HEADER_BYTES {
        return invalid("it has an unknown form");
    }
    if u32_at(&header, 16) != crc32fast::hash(&summed) {
        return invalid("the header's checksum is wrong");
    }
    let array_at = u64_at(&header, 72);
    let other = u64_at(&header, 32);
    if u64_at(&header, 24) != at
        || u32_at(&header, 80) as usize != ENTRIES
        || u32_at(&header, 84) as usize != ENTRY_BYTES
        || array_at < 2
        || array_at >= geometry.blocks
    {
        return invalid("it has an unknown form");
    }
    // The backup lies in the last block of the disk that the table was made for.
    let made_for = Geometry {
        blocks: if at == 1 {
            other.saturating_add(1)
        } else {
            at + 1
        },
        ..geometry
    };
    if made_for.blocks > geometry.blocks {
        return invalid("it is for a larger disk");
    }
    let mut array = vec![0; ARRAY_BYTES];
    disk.seek(SeekFrom::Start(array_at * geometry.block))?;
    disk.read_exact(&mut array)?;
    if u32_at(&header, 88) != crc32fast::hash(&array) {
        return invalid("the entries' checksum is wrong");
    }
    let entries = array.chunks(ENTRY_BYTES).zip(1..);
    let table = Table {
        disk: uuid_at(&header, 56),
        geometry: made_for,
        entries: entries.filter_map(|(slot, n)| entry(slot, n)).collect(),
    };
    match table.check() {
        Ok(()) => Ok(table),
        Err(Error::Entry { problem, .. }) => invalid(problem),
        Err(_) => invalid("it has an impossible size"),
    }
}

/// The partition in a slot of the array; `None` where the slot is empty.
fn entry(slot: &[u8], number: u32) -> Option<Entry> {
    let kind = uuid_at(slot, 0);
    let units = slot[56..]
        .chunks(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0);
    (!kind.is_nil()).then(|| Entry {
        number,
        kind,
        uuid: uuid_at(slot, 16),
        first: u64_at(slot, 32),
        last: u64_at(slot, 40),
        attributes: u64_at(slot, 48),
        name: char::decode_utf16(units)
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
    })
}

/// The MBR's partition table and signature: one partition of type 0xee over the whole disk.
fn protective(blocks: u64) -> [u8; 66] {
    let mut mbr = [0; 66];
    let size = u32::try_from(blocks - 1).unwrap_or(u32::MAX);
    mbr[1..8].copy_from_slice(&[0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    mbr[8..12].copy_from_slice(&1u32.to_le_bytes());
    mbr[12..16].copy_from_slice(&size.to_le_bytes());
    mbr[64..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
mod tests;
