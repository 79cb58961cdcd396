//! A disk as it would be found after a cut of power: which sectors of the log lie over the disk
//! that the log began with. A state holds places, not bytes, so hundreds of them cost little.

use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt as _,
};

use super::log::SECTOR;

/// Where the content of some sectors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// At this byte of the log.
    Log(u64),
    /// Nowhere: they read as zeros.
    Zeros,
}

impl Source {
    /// The source of what lies so many sectors behind.
    fn behind(self, sectors: u64) -> Source {
        match self {
            Source::Log(at) => Source::Log(at + sectors * SECTOR),
            Source::Zeros => Source::Zeros,
        }
    }
}

/// The sectors that are not those of the disk that the log began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// By the first sector: how many, and what they hold. None lies over another.
    extents: BTreeMap<u64, (u64, Source)>,
}

impl Map {
    /// Lays sectors over what is there.
    pub fn put(&mut self, sectors: Range<u64>, source: Source) {
        if sectors.is_empty() {
            return;
        }
        self.cut(sectors.start);
        self.cut(sectors.end);
        let covered: Vec<u64> = self
            .extents
            .range(sectors.clone())
            .map(|(at, _)| *at)
            .collect();
        for at in covered {
            self.extents.remove(&at);
        }
        let count = sectors.end - sectors.start;
        self.extents.insert(sectors.start, (count, source));
    }

    /// Divides the extent that a sector lies inside of.
    fn cut(&mut self, at: u64) {
        let Some((&first, &(count, source))) = self.extents.range(..at).next_back() else {
            return;
        };
        if first + count > at {
            self.extents.insert(first, (at - first, source));
            let rest = (first + count - at, source.behind(at - first));
            self.extents.insert(at, rest);
        }
    }

    /// What lies over the first disk, in order.
    pub fn extents(&self) -> impl Iterator<Item = (Range<u64>, Source)> {
        let extents = self.extents.iter();
        extents.map(|(first, (count, source))| (*first..first + count, *source))
    }

    /// The pieces of a range in order; those without a source are the first disk's.
    pub fn pieces(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<Source>)> {
        let before = self.extents.range(..range.start).next_back();
        let mut pieces = Vec::new();
        let mut at = range.start;
        for (&first, &(count, source)) in
            before.into_iter().chain(self.extents.range(range.clone()))
        {
            let end = (first + count).min(range.end);
            if end <= at {
                continue;
            }
            if first > at {
                pieces.push((at..first, None));
                at = first;
            }
            pieces.push((at..end, Some(source.behind(at - first))));
            at = end;
        }
        if at < range.end {
            pieces.push((at..range.end, None));
        }
        pieces
    }
}

/// A state of a disk, or a part of it, to be read.
#[derive(Clone, Copy)]
pub struct Disk<'a> {
    base: &'a File,
    log: &'a File,
    map: &'a Map,
    start: u64,
    length: u64,
    position: u64,
}

impl<'a> Disk<'a> {
    /// All of a disk of so many bytes. `base` is the raw disk that the log began with.
    pub fn new(base: &'a File, log: &'a File, map: &'a Map, length: u64) -> Disk<'a> {
        Disk {
            base,
            log,
            map,
            start: 0,
            length,
            position: 0,
        }
    }

    /// A part of it, cut where the disk ends.
    pub fn part(&self, start: u64, length: u64) -> Disk<'a> {
        let start = start.min(self.length);
        Disk {
            start: self.start + start,
            length: length.min(self.length - start),
            position: 0,
            ..*self
        }
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds to a digest what the content is made of: equal sums are equal contents, without
    /// reading them.
    pub fn origin(&self, digest: &mut Sha256) {
        for (sectors, source) in self.map.pieces(self.sectors(0..self.length)) {
            let (kind, at) = match source {
                None => (0u8, sectors.start),
                Some(Source::Log(at)) => (1, at),
                Some(Source::Zeros) => (2, 0),
            };
            digest.update([kind]);
            digest.update(at.to_le_bytes());
            digest.update((sectors.end - sectors.start).to_le_bytes());
        }
    }

    /// The sectors that bytes of this part touch.
    fn sectors(&self, bytes: Range<u64>) -> Range<u64> {
        (self.start + bytes.start) / SECTOR..(self.start + bytes.end).div_ceil(SECTOR)
    }
}

impl Read for Disk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        let n = left.min(buffer.len() as u64);
        let from = self.start + self.position;
        for (sectors, source) in self
            .map
            .pieces(self.sectors(self.position..self.position + n))
        {
            let begin = (sectors.start * SECTOR).max(from);
            let end = (sectors.end * SECTOR).min(from + n);
            let part = &mut buffer[(begin - from) as usize..(end - from) as usize];
            let skipped = begin - sectors.start * SECTOR;
            match source {
                None => self.base.read_exact_at(part, begin)?,
                Some(Source::Log(at)) => self.log.read_exact_at(part, at + skipped)?,
                Some(Source::Zeros) => part.fill(0),
            }
        }
        self.position += n;
        Ok(n as usize)
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_state_reads_as_a_plain_disk_would(
            writes in prop::collection::vec((0u64..60, 1u64..20, any::<bool>()), 0..30),
            at in 0u64..30_000, length in 0usize..30_000,
        ) {
            let base: Vec<u8> = (0..64 * 512u32).map(|n| (n / 512) as u8).collect();
            let log: Vec<u8> = (0..64 * 512u32).map(|n| 100 + (n / 512) as u8).collect();
            let mut plain = base.clone();
            let mut map = Map::default();
            for (first, count, zeros) in writes {
                let end = (first + count).min(64);
                let bytes = first as usize * 512..end as usize * 512;
                if zeros {
                    plain[bytes].fill(0);
                    map.put(first..end, Source::Zeros);
                } else {
                    plain[bytes.clone()].copy_from_slice(&log[bytes.clone()]);
                    map.put(first..end, Source::Log(bytes.start as u64));
                }
            }
            let (base, log) = (file(&base), file(&log));
            let disk = Disk::new(&base, &log, &map, plain.len() as u64);
            let mut part = disk.part(at, length as u64);
            let mut read = Vec::new();
            part.read_to_end(&mut read).unwrap();
            let end = (at as usize + length).min(plain.len());
            prop_assert!(read == plain[at as usize..end]);
        }
    }

    #[test]
    fn the_origin_tells_contents_apart() {
        let (base, log) = (file(&[1; 8192]), file(&[2; 8192]));
        let sum = |map: &Map| {
            let mut digest = Sha256::new();
            Disk::new(&base, &log, map, 8192)
                .part(1024, 1024)
                .origin(&mut digest);
            digest.finalize()
        };
        let empty = Map::default();
        let mut elsewhere = Map::default();
        elsewhere.put(0..2, Source::Log(0));
        let mut here = Map::default();
        here.put(3..4, Source::Log(0));
        assert_eq!(sum(&empty), sum(&elsewhere));
        assert_ne!(sum(&empty), sum(&here));
    }
}
