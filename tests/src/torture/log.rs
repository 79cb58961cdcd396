//! The log of a disk's writes, in the format of the kernel's dm-log-writes, which QEMU's
//! `blklogwrites` writes too (kernel: Documentation/admin-guide/device-mapper/log-writes.rst).
//!
//! ```text
//! sector 0: magic u64 | version u64 | entries u64 | bytes of a sector u32
//! then, for each entry: one sector with sector u64 | sectors u64 | flags u64 | data length u64,
//!                       and its data, unless it is a discard
//! ```
//!
//! All numbers are little-endian. QEMU counts an entry once the write is done, before the guest
//! is told, and updates the first sector at each flush: what came behind the last flush is not
//! in the count. Nothing here is checksummed, so a log says what it says.

use std::io::{self, Read, Seek, SeekFrom, Write};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// The kernel's flag for metadata, which means nothing here.
const METADATA: u64 = 16;
const HEADER: usize = 32;
/// Sectors of the disk, whatever the log's are.
pub const SECTOR: u64 = 512;

/// Something that happened to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Data was written.
    Write {
        /// The first sector of 512 bytes.
        sector: u64,
        /// How many.
        sectors: u64,
        /// Where the data begins in the log, in bytes.
        data: u64,
        /// It was on the disk for good when it was done.
        durable: bool,
    },
    /// The disk was told that nobody needs these sectors.
    Discard {
        /// The first sector of 512 bytes.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// Everything before it is on the disk for good.
    Flush,
}

/// A log as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// Where each entry begins in the log, in bytes.
    pub places: Vec<u64>,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("cannot read or write the log of writes")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("not a log of writes: {0}")]
    Header(&'static str),
    /// An entry makes no sense.
    #[error("entry {number} of the log of writes {problem}")]
    Entry {
        /// Which, from 0.
        number: u64,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Log {
    /// Reads a log. An empty file, to which nothing was flushed yet, is an empty log.
    pub fn read(file: &mut (impl Read + Seek)) -> Result<Log, Error> {
        let length = file.seek(SeekFrom::End(0))?;
        let mut log = Log::default();
        if length == 0 {
            return Ok(log);
        }
        let header: [u8; HEADER] =
            read(file, 0)?.ok_or(Error::Header("it ends in its first sector"))?;
        if word(&header, 0) == 0 {
            // Entries there may be; none is behind a flush.
            return Ok(log);
        }
        if word(&header, 0) != MAGIC || word(&header, 1) != VERSION {
            return Err(Error::Header("it begins as something else"));
        }
        let count = word(&header, 2);
        let unit = word(&header, 3) & 0xffff_ffff;
        if !unit.is_power_of_two() || !(SECTOR..=1 << 20).contains(&unit) {
            return Err(Error::Header("its sectors have a strange size"));
        }
        let mut at = unit;
        for number in 0..count {
            let refuse = |problem| Err(Error::Entry { number, problem });
            let Some(header) = read::<HEADER>(file, at)? else {
                return refuse("is behind the end of the file");
            };
            let [sector, sectors, flags, _] = std::array::from_fn(|n| word(&header, n));
            let place = at;
            at += unit;
            if flags & !(FLUSH | FUA | DISCARD | MARK | METADATA) != 0 {
                return refuse("has flags that nobody knows");
            }
            if flags & MARK != 0 {
                continue;
            }
            let scale = unit / SECTOR;
            let scaled = |n: u64| {
                n.checked_mul(scale)
                    .filter(|n| *n <= i64::MAX as u64 / SECTOR)
            };
            let (Some(sector), Some(sectors)) = (scaled(sector), scaled(sectors)) else {
                return refuse("is behind the end of any disk");
            };
            // A flush that carries data comes before them.
            if flags & FLUSH != 0 {
                log.put(place, Entry::Flush);
            } else if sectors == 0 {
                return refuse("is empty");
            }
            if sectors == 0 {
                continue;
            }
            if flags & DISCARD != 0 {
                log.put(place, Entry::Discard { sector, sectors });
                continue;
            }
            let data = at;
            at = match at.checked_add(sectors * SECTOR) {
                Some(end) if end <= length => end,
                _ => return refuse("has data behind the end of the file"),
            };
            let durable = flags & FUA != 0;
            log.put(
                place,
                Entry::Write {
                    sector,
                    sectors,
                    data,
                    durable,
                },
            );
        }
        Ok(log)
    }

    fn put(&mut self, place: u64, entry: Entry) {
        self.entries.push(entry);
        self.places.push(place);
    }
}

/// A disk in a file whose writes are logged as QEMU would: for histories made by hand.
pub struct Recorder<T> {
    disk: T,
    log: T,
    entries: u64,
    position: u64,
    end: u64,
}

impl<T: Read + Write + Seek> Recorder<T> {
    /// Logs into an empty file.
    pub fn new(disk: T, log: T) -> Recorder<T> {
        Recorder {
            disk,
            log,
            entries: 0,
            position: 0,
            end: SECTOR,
        }
    }

    /// Writes whole sectors at a place.
    pub fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(at))?;
        self.write_all(bytes)
    }

    /// Reads from a place.
    pub fn get(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.seek(SeekFrom::Start(at))?;
        self.disk.read_exact(bytes)
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    fn log(&mut self, sector: u64, flags: u64, data: &[u8]) -> io::Result<()> {
        let mut header = vec![0; SECTOR as usize];
        let words = [sector, data.len() as u64 / SECTOR, flags, 0];
        for (bytes, word) in header.chunks_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.log.seek(SeekFrom::Start(self.end))?;
        self.log.write_all(&header)?;
        self.log.write_all(data)?;
        self.end += SECTOR + data.len() as u64;
        self.entries += 1;
        Ok(())
    }
}

impl<T: Read + Write + Seek> Write for Recorder<T> {
    /// Writes the sectors that the bytes touch, as a device does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let first = self.position / SECTOR * SECTOR;
        let end = (self.position + bytes.len() as u64).next_multiple_of(SECTOR);
        let mut sectors = vec![0; (end - first) as usize];
        self.get(first, &mut sectors)?;
        let skip = (self.position - first) as usize;
        sectors[skip..skip + bytes.len()].copy_from_slice(bytes);
        self.disk.seek(SeekFrom::Start(first))?;
        self.disk.write_all(&sectors)?;
        self.log(first / SECTOR, 0, &sectors)?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.log(0, FLUSH, &[])?;
        let mut header = Vec::new();
        for word in [MAGIC, VERSION, self.entries, SECTOR] {
            header.extend_from_slice(&word.to_le_bytes());
        }
        self.log.seek(SeekFrom::Start(0))?;
        self.log.write_all(&header)?;
        self.log.flush()
    }
}

impl<T: Read + Write + Seek> Read for Recorder<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.seek(SeekFrom::Start(self.position))?;
        let n = self.disk.read(buffer)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl<T: Read + Write + Seek> Seek for Recorder<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(_) => self.disk.seek(to)?,
            SeekFrom::Current(by) => self
                .position
                .checked_add_signed(by)
                .ok_or(io::ErrorKind::InvalidInput)?,
        };
        Ok(self.position)
    }
}

/// Reads so many bytes, or nothing where the file ends before them.
fn read<const N: usize>(file: &mut (impl Read + Seek), at: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], n: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[n * 8..n * 8 + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// A log by hand: entries of (sector, sectors, flags) with data after each that has some.
    fn bytes(unit: u64, entries: &[(u64, u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sector = |words: [u64; 4]| {
            let mut sector: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            sector.resize(unit as usize, 0);
            bytes.extend(sector);
            if words[2] & (DISCARD | MARK) == 0 && words[0] != MAGIC {
                bytes.resize(bytes.len() + (words[1] * unit) as usize, 7);
            }
        };
        sector([MAGIC, VERSION, entries.len() as u64, unit]);
        for (at, count, flags) in entries {
            sector([*at, *count, *flags, 0]);
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
        Log::read(&mut Cursor::new(bytes)).map(|log| log.entries)
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        let entries = [
            (10, 2, 0),
            (0, 0, FLUSH),
            (3, 1, FUA),
            (100, 1000, DISCARD),
            (0, 0, MARK),
            (5, 1, FLUSH | METADATA),
        ];
        let write = |sector, sectors, data, durable| Entry::Write {
            sector,
            sectors,
            data,
            durable,
        };
        let (sector, sectors) = (100, 1000);
        assert_eq!(
            parse(&bytes(512, &entries)).unwrap(),
            [
                write(10, 2, 1024, false),
                Entry::Flush,
                write(3, 1, 3072, true),
                Entry::Discard { sector, sectors },
                Entry::Flush,
                write(5, 1, 5120, false),
            ]
        );
        // Larger sectors are counted in the disk's.
        let large = parse(&bytes(4096, &entries[..1])).unwrap();
        assert_eq!(large, [write(80, 16, 8192, false)]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert_eq!(parse(&[]).unwrap(), []);
        assert_eq!(parse(&[0; 4096]).unwrap(), [], "nothing was flushed yet");
        let good = bytes(512, &[(10, 2, 0)]);
        let patched = |at: usize, byte| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        for (what, bytes) in [
            ("short", good[..20].to_vec()),
            ("other magic", patched(0, 1)),
            ("other version", patched(8, 2)),
            ("strange sectors", patched(24, 1)),
            ("more entries than there are", patched(16, 2)),
            ("unknown flags", patched(512 + 16, 64)),
            ("a sector beyond any disk", patched(512 + 7, 255)),
            ("cut in the data", good[..1600].to_vec()),
            ("an empty write", patched(512 + 8, 0)),
        ] {
            assert!(parse(&bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn what_was_recorded_is_read() {
        let (mut disk, mut log) = (vec![0; 8192], Vec::new());
        let mut recorder = Recorder::new(Cursor::new(&mut disk), Cursor::new(&mut log));
        recorder.put(510, b"abcd").unwrap();
        recorder.flush().unwrap();
        recorder.put(4096, &[1; 512]).unwrap();
        assert_eq!(recorder.entries(), 3);
        let entries = parse(&log).unwrap();
        let Entry::Write { data, sectors, .. } = entries[0] else {
            panic!("{entries:?}")
        };
        assert_eq!((sectors, entries.len()), (2, 2), "the rest is not flushed");
        assert_eq!(log[data as usize + 510..][..4], *b"abcd");
        assert_eq!(disk[510..514], *b"abcd");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            patches in prop::collection::vec((0usize..3000, any::<u8>()), 0..20), cut in 0usize..6000,
        ) {
            let mut bytes = bytes(512, &[(10, 2, 0), (0, 0, FLUSH), (3, 1, FUA), (1, 1, DISCARD)]);
            for (at, byte) in patches {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut);
            parse(&bytes).ok();
        }
    }
}
