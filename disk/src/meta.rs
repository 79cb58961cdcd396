//! META: a log of small records that survives everything but the loss of the disk.
//!
//! The partition is 1 MiB, two halves of eight places. Record n goes to half n mod 2, place
//! n/2 mod 8, so writing one never touches the half that holds the newest: a torn write loses at
//! most the record being written. The newest valid record is the state; the older ones, up to
//! fifteen, are its history. What is inside a record is the caller's.
//!
//! ```text
//! 0 magic "KEELMETA" | 8 format u16 | 10 zero u16 | 12 length u32 | 16 sequence u64
//! 24 CRC-32 of header (this field zero) and payload | 28 zero u32 | 32 payload
//! ```
//!
//! All numbers are little-endian. Sequence numbers begin at 1.

use std::io::{self, Read, Seek, SeekFrom, Write};

const MAGIC: &[u8; 8] = b"KEELMETA";
const FORMAT: u16 = 1;
const HEADER: usize = 32;
const PLACE: u64 = 64 << 10;
const PLACES: u64 = 8;

/// The size of the log on the disk.
pub const BYTES: u64 = 2 * PLACES * PLACE;
/// The most that one record can hold.
pub const MAX_PAYLOAD: usize = PLACE as usize - HEADER;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in the log's life, from 1.
    pub sequence: u64,
    /// What was stored.
    pub payload: Vec<u8>,
}

/// The log as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Every valid record, oldest first.
    records: Vec<Record>,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The partition could not be read or written.
    #[error("cannot read or write the META log")]
    Io(#[from] io::Error),
    /// A later version of this program wrote it in another form.
    #[error("the META log has format {0}; this version reads format {FORMAT}")]
    Format(u16),
    /// The record is too large.
    #[error("a META record of {0} bytes is too large: {MAX_PAYLOAD} is the most")]
    Size(usize),
}

impl Log {
    /// Reads the log. A partition that was never written is an empty log; damaged records are
    /// passed over.
    pub fn read(device: &mut (impl Read + Seek)) -> Result<Log, Error> {
        let mut records = Vec::new();
        let mut bytes = vec![0; PLACE as usize];
        for place in 0..2 * PLACES {
            device.seek(SeekFrom::Start(place * PLACE))?;
            device.read_exact(&mut bytes)?;
            if let Some(record) = decode(&bytes)? {
                // A record that stands elsewhere than its number says was not put there by us.
                if offset(record.sequence) == place * PLACE {
                    records.push(record);
                }
            }
        }
        records.sort_by_key(|record| record.sequence);
        Ok(Log { records })
    }

    /// The newest record: the state.
    pub fn latest(&self) -> Option<&Record> {
        self.records.last()
    }

    /// All records that are still there, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Writes a record behind the newest. It counts once the caller has flushed the device; after
    /// an error it may or may not be there.
    pub fn append(
        &mut self,
        device: &mut (impl Write + Seek),
        payload: &[u8],
    ) -> Result<(), Error> {
        let sequence = self.latest().map_or(1, |newest| newest.sequence + 1);
        let bytes = encode(sequence, payload)?;
        let at = offset(sequence);
        device.seek(SeekFrom::Start(at))?;
        device.write_all(&bytes)?;
        device.flush()?;
        self.records.retain(|old| offset(old.sequence) != at);
        self.records.push(Record {
            sequence,
            payload: payload.to_vec(),
        });
        Ok(())
    }
}

/// Where record `sequence` stands.
fn offset(sequence: u64) -> u64 {
    let half = sequence % 2;
    let place = sequence / 2 % PLACES;
    (half * PLACES + place) * PLACE
}

fn encode(sequence: u64, payload: &[u8]) -> Result<Vec<u8>, Error> {
    if payload.len() > MAX_PAYLOAD {
        return Err(Error::Size(payload.len()));
    }
    let mut bytes = vec![0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(payload);
    let crc = crc32fast::hash(&bytes);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The record at the start of a place; `None` if there is none or it is damaged.
fn decode(place: &[u8]) -> Result<Option<Record>, Error> {
    let (header, rest) = place.split_at(HEADER);
    let field =
        |at: usize| -> [u8; 4] { [header[at], header[at + 1], header[at + 2], header[at + 3]] };
    let length = u32::from_le_bytes(field(12)) as usize;
    if header[..8] != *MAGIC || length > rest.len() {
        return Ok(None);
    }
    let payload = &rest[..length];
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..24]);
    crc.update(&[0; 4]);
    crc.update(&header[28..]);
    crc.update(payload);
    if crc.finalize().to_le_bytes() != field(24) {
        return Ok(None);
    }
    let format = u16::from_le_bytes([header[8], header[9]]);
    if format != FORMAT {
        return Err(Error::Format(format));
    }
    let low = u64::from(u32::from_le_bytes(field(16)));
    let high = u64::from(u32::from_le_bytes(field(20)));
    let sequence = high << 32 | low;
    // The first record is 1, and the one behind the last possible could not be written.
    Ok((1..u64::MAX).contains(&sequence).then(|| Record {
        sequence,
        payload: payload.to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn read(bytes: &[u8]) -> Log {
        Log::read(&mut Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn an_empty_partition_is_an_empty_log() {
        let mut bytes = vec![0; BYTES as usize];
        let mut log = read(&bytes);
        assert_eq!(log.latest(), None);
        log.append(&mut Cursor::new(&mut bytes), b"first").unwrap();
        assert_eq!(read(&bytes), log);
        assert_eq!(log.latest().unwrap().payload, b"first");
    }

    #[test]
    fn the_bytes_are_frozen() {
        let bytes = encode(0x0102_0304, b"hello").unwrap();
        let hex = crate::verity::hex(&bytes);
        assert_eq!(
            hex,
            "4b45454c4d45544101000000050000000403020100000000e932b4870000000068656c6c6f"
        );
    }

    #[test]
    fn the_last_sixteen_records_are_kept() {
        let mut bytes = vec![0; BYTES as usize];
        let mut log = read(&bytes);
        for n in 1..=40u64 {
            let payload = n.to_string();
            log.append(&mut Cursor::new(&mut bytes), payload.as_bytes())
                .unwrap();
            assert_eq!(read(&bytes), log);
        }
        let numbers: Vec<u64> = log.records().iter().map(|r| r.sequence).collect();
        assert_eq!(numbers, (25..=40).collect::<Vec<_>>());
    }

    #[test]
    fn a_later_format_is_refused_and_a_large_record_too() {
        let mut bytes = vec![0; BYTES as usize];
        let mut log = Log::default();
        let large = vec![0; MAX_PAYLOAD + 1];
        let error = log.append(&mut Cursor::new(&mut bytes), &large);
        assert!(matches!(error, Err(Error::Size(_))));
        let mut record = encode(2, b"x").unwrap();
        record[8] = 2;
        record[24..28].fill(0);
        let crc = crc32fast::hash(&record).to_le_bytes();
        record[24..28].copy_from_slice(&crc);
        let at = offset(2) as usize;
        bytes[at..at + record.len()].copy_from_slice(&record);
        let error = Log::read(&mut Cursor::new(&bytes));
        assert!(matches!(error, Err(Error::Format(2))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_torn_write_loses_only_itself(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6000), 1..25),
            torn in prop::collection::vec(any::<u8>(), 0..60_000),
            kept in prop::collection::vec(any::<bool>(), 130),
        ) {
            let mut bytes = vec![0; BYTES as usize];
            let mut log = read(&bytes);
            for payload in &payloads {
                log.append(&mut Cursor::new(&mut bytes), payload).unwrap();
            }
            // The disk keeps any set of the 512-byte sectors of the last write, in any order.
            let before = bytes.clone();
            let mut after = log.clone();
            after.append(&mut Cursor::new(&mut bytes), &torn).unwrap();
            let at = offset(after.latest().unwrap().sequence) as usize;
            let sectors = (HEADER + torn.len()).div_ceil(512);
            for (sector, kept) in kept.iter().enumerate().take(sectors) {
                if !kept {
                    let range = at + sector * 512..at + (sector + 1) * 512;
                    bytes[range.clone()].copy_from_slice(&before[range]);
                }
            }
            let found = read(&bytes);
            let newest = found.latest().unwrap();
            prop_assert!(newest == log.latest().unwrap() || newest == after.latest().unwrap());
            if kept[..sectors].iter().all(|kept| *kept) {
                prop_assert_eq!(newest, after.latest().unwrap());
            }
            // And the log goes on.
            let mut found = found;
            found.append(&mut Cursor::new(&mut bytes), b"next").unwrap();
            let found = read(&bytes);
            prop_assert_eq!(found.latest().unwrap().payload.as_slice(), b"next");
        }

        #[test]
        fn hostile_bytes_never_panic(
            patches in prop::collection::vec((0usize..64, any::<u8>()), 0..20), sequence: u64,
        ) {
            let mut bytes = vec![0; BYTES as usize];
            let record = encode(sequence, &[7; 40]).unwrap();
            for place in 0..16 {
                let at = place * PLACE as usize;
                bytes[at..at + record.len()].copy_from_slice(&record);
                for (n, byte) in &patches {
                    bytes[at + n] ^= byte;
                }
            }
            if let Ok(mut log) = Log::read(&mut Cursor::new(&bytes)) {
                log.append(&mut Cursor::new(&mut bytes), b"x").unwrap();
            }
        }
    }
}
