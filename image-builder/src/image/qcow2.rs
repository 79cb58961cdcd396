//! A qcow2 image that is written as if it were a plain disk (QEMU: docs/interop/qcow2.txt,
//! version 3). Only clusters that ever held something else than zeros take space; where they lie
//! follows from the order of the writes, so the same writes give the same file.
//!
//! ```text
//! cluster 0: header | data clusters … | L2 tables | L1 table | refcount blocks | refcount table
//! ```

use std::io::{self, Read, Seek, SeekFrom, Write};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of 8 bytes in a cluster.
const PER_TABLE: u64 = CLUSTER / 8;
/// Reference counts of 2 bytes in a cluster.
const PER_REFCOUNT_BLOCK: u64 = CLUSTER / 2;
/// Says in an entry that the cluster has exactly one reference.
const COPIED: u64 = 1 << 63;

/// The disk inside the file `T`.
pub struct Qcow2<T> {
    file: T,
    size: u64,
    position: u64,
    /// Where each cluster of the disk lies in the file; 0 is nowhere.
    map: Vec<u64>,
    /// Where the next cluster goes.
    end: u64,
}

impl<T: Read + Write + Seek> Qcow2<T> {
    /// An empty disk of `size` bytes (a multiple of 512) in an empty file.
    pub fn new(file: T, size: u64) -> Qcow2<T> {
        Qcow2 {
            file,
            size,
            position: 0,
            map: vec![0; size.div_ceil(CLUSTER) as usize],
            end: CLUSTER,
        }
    }

    /// Writes the tables and the header; until then the file is no image.
    pub fn finish(mut self) -> io::Result<T> {
        let mut l1 = Vec::new();
        for clusters in self.map.clone().chunks(PER_TABLE as usize) {
            if clusters.iter().all(|at| *at == 0) {
                l1.push(0);
                continue;
            }
            let used = |at: u64| if at == 0 { 0 } else { at | COPIED };
            let table: Vec<u64> = clusters.iter().map(|at| used(*at)).collect();
            l1.push(self.append(&words(&table))? | COPIED);
        }
        let l1_at = self.append(&words(&l1))?;

        // The counts cover the file with the counts in it: add blocks until they suffice.
        let before = self.end / CLUSTER;
        let (mut blocks, mut tables) = (0, 0);
        while before + blocks + tables > blocks * PER_REFCOUNT_BLOCK || blocks > tables * PER_TABLE
        {
            blocks = (before + blocks + tables).div_ceil(PER_REFCOUNT_BLOCK);
            tables = blocks.div_ceil(PER_TABLE);
        }
        let total = before + blocks + tables;
        let mut table = Vec::new();
        for block in 0..blocks {
            let counted = (total - block * PER_REFCOUNT_BLOCK).min(PER_REFCOUNT_BLOCK);
            let counts = [0u8, 1].repeat(counted as usize);
            table.push(self.append(&counts)?);
        }
        let table_at = self.append(&words(&table))?;

        let mut header = Vec::new();
        header.extend_from_slice(b"QFI\xfb");
        let put = |header: &mut Vec<u8>, n: u32| header.extend_from_slice(&n.to_be_bytes());
        let put_long = |header: &mut Vec<u8>, n: u64| header.extend_from_slice(&n.to_be_bytes());
        put(&mut header, 3); // version
        put_long(&mut header, 0); // backing file: none
        put(&mut header, 0);
        put(&mut header, CLUSTER_BITS);
        put_long(&mut header, self.size);
        put(&mut header, 0); // not encrypted
        put(&mut header, l1.len() as u32);
        put_long(&mut header, l1_at);
        put_long(&mut header, table_at);
        put(&mut header, tables as u32);
        put(&mut header, 0); // snapshots: none
        put_long(&mut header, 0);
        for _ in 0..3 {
            put_long(&mut header, 0); // features: none
        }
        put(&mut header, 4); // 2^4 bits a reference count
        put(&mut header, 104); // bytes of this header; no extension follows
        header.resize(CLUSTER as usize, 0);
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)?;
        self.file.flush()?;
        Ok(self.file)
    }

    /// Writes whole clusters, the last filled up with zeros, at the end of the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.end;
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)?;
        let length = bytes.len() as u64;
        let whole = length.next_multiple_of(CLUSTER);
        self.file.write_all(&vec![0; (whole - length) as usize])?;
        self.end += whole;
        Ok(at)
    }

    /// The cluster at the position, the offset in it, and how many of `wanted` bytes are in it.
    fn locate(&self, wanted: usize) -> (usize, u64, usize) {
        let offset = self.position % CLUSTER;
        let left = self.size.saturating_sub(self.position);
        let n = (CLUSTER - offset).min(left).min(wanted as u64);
        ((self.position / CLUSTER) as usize, offset, n as usize)
    }
}

impl<T: Read + Write + Seek> Read for Qcow2<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (cluster, offset, n) = self.locate(buffer.len());
        match self.map.get(cluster) {
            Some(0) | None => buffer[..n].fill(0),
            Some(at) => {
                self.file.seek(SeekFrom::Start(at + offset))?;
                self.file.read_exact(&mut buffer[..n])?;
            }
        }
        self.position += n as u64;
        Ok(n)
    }
}

impl<T: Read + Write + Seek> Write for Qcow2<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (cluster, offset, n) = self.locate(buffer.len());
        let bytes = &buffer[..n];
        match self.map.get(cluster).copied() {
            Some(0) if bytes.iter().any(|b| *b != 0) => {
                let mut whole = vec![0; CLUSTER as usize];
                whole[offset as usize..offset as usize + n].copy_from_slice(bytes);
                self.map[cluster] = self.append(&whole)?;
            }
            Some(0) | None => {}
            Some(at) => {
                self.file.seek(SeekFrom::Start(at + offset))?;
                self.file.write_all(bytes)?;
            }
        }
        self.position += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<T> Seek for Qcow2<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Cursor;
    use std::process::Command;

    /// Applies the same writes to a plain disk and to a qcow2 one.
    fn both(size: u64, writes: &[(u64, Vec<u8>)]) -> (Vec<u8>, Qcow2<Cursor<Vec<u8>>>) {
        let mut plain = vec![0; size as usize];
        let mut disk = Qcow2::new(Cursor::new(Vec::new()), size);
        for (at, bytes) in writes {
            let n = bytes.len().min((size - at) as usize);
            plain[*at as usize..*at as usize + n].copy_from_slice(&bytes[..n]);
            disk.seek(SeekFrom::Start(*at)).unwrap();
            disk.write_all(&bytes[..n]).unwrap();
        }
        (plain, disk)
    }

    /// QEMU's own opinion, where it is installed.
    fn agrees(plain: &[u8], image: &[u8]) {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            eprintln!("skipped: qemu-img is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (raw, qcow2) = (dir.path().join("a.raw"), dir.path().join("a.qcow2"));
        std::fs::write(&raw, plain).unwrap();
        std::fs::write(&qcow2, image).unwrap();
        for words in [
            vec![
                "check".as_ref(),
                "-f".as_ref(),
                "qcow2".as_ref(),
                qcow2.as_os_str(),
            ],
            vec!["compare".as_ref(), raw.as_os_str(), qcow2.as_os_str()],
        ] {
            let output = Command::new("qemu-img").args(words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }

    #[test]
    fn qemu_reads_what_was_written() {
        let size = (3 << 30) + 512 * 7;
        let mut file = tempfile::tempfile().unwrap();
        let mut raw = tempfile::NamedTempFile::new().unwrap();
        raw.as_file_mut().set_len(size).unwrap();
        let mut disk = Qcow2::new(&mut file, size);
        for (at, n) in [(0, 10), (65_530, 20), (1 << 30, 200_000), (size - 5, 5)] {
            for disk in [&mut disk as &mut dyn Both, raw.as_file_mut()] {
                disk.seek(SeekFrom::Start(at)).unwrap();
                disk.write_all(&vec![0xa5; n]).unwrap();
            }
        }
        disk.finish().unwrap();
        if Command::new("qemu-img").arg("--version").output().is_ok() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.qcow2");
            file.seek(SeekFrom::Start(0)).unwrap();
            io::copy(&mut file, &mut File::create(&path).unwrap()).unwrap();
            let output = Command::new("qemu-img")
                .arg("compare")
                .args([raw.path(), &path])
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }

    trait Both: Write + Seek {}
    impl<T: Write + Seek> Both for T {}

    #[test]
    fn zeros_take_no_space() {
        let (_, disk) = both(1 << 20, &[(0, vec![0; 300_000]), (500_000, vec![1])]);
        let image = disk.finish().unwrap().into_inner();
        // header, one data cluster, L2, L1, refcounts, their table
        assert_eq!(image.len() as u64, 6 * CLUSTER);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn reads_and_qemu_see_the_same_as_a_plain_disk(
            sectors in 1u64..1000,
            writes in prop::collection::vec((0u64..512_000, prop::collection::vec(0u8..3, 0..5000)), 0..20),
        ) {
            let size = sectors * 512;
            let writes: Vec<_> = writes.into_iter().map(|(at, b)| (at % size, b)).collect();
            let (plain, mut disk) = both(size, &writes);
            let mut read = Vec::new();
            disk.seek(SeekFrom::Start(0)).unwrap();
            disk.read_to_end(&mut read).unwrap();
            prop_assert!(read == plain);
            let image = disk.finish().unwrap().into_inner();
            agrees(&plain, &image);
            let again = both(size, &writes).1.finish().unwrap().into_inner();
            prop_assert!(again == image);
        }
    }
}
