//! Where a table has room, a partition more, and what a half written table is told by.

use uuid::Uuid;

use super::{ALIGNMENT, ENTRIES, Entry, Error, Geometry, SIGNATURE, Table, u64_at};

/// Blocks that no partition has, from `first` to `last`. Both ends are aligned, as a
/// partition's are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block.
    pub first: u64,
    /// The last block; it belongs to the extent.
    pub last: u64,
}

impl Extent {
    /// How many blocks it has.
    pub fn blocks(self) -> u64 {
        self.last - self.first + 1
    }
}

/// What the first block of a disk says of who has divided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mbr {
    /// Nothing: it has no signature, and no partition.
    None,
    /// A GUID partition table follows, and there is nothing else.
    Protective,
    /// It has partitions of its own.
    Other,
}

/// Reads the master boot record (UEFI specification, section 5.2): its four partitions, of 16
/// bytes each, stand at byte 446. The boot code before them says nothing.
pub fn mbr(block: &[u8]) -> Mbr {
    let (Some(partitions), Some(signature)) = (block.get(446..510), block.get(510..512)) else {
        return Mbr::Other;
    };
    let kinds = partitions.chunks(16).map(|partition| partition[4]);
    let kinds: Vec<u8> = kinds.filter(|kind| *kind != 0).collect();
    match (kinds.as_slice(), signature) {
        ([], [0, 0]) if partitions.iter().all(|byte| *byte == 0) => Mbr::None,
        ([0xee], [0x55, 0xaa]) => Mbr::Protective,
        _ => Mbr::Other,
    }
}

/// The blocks that partitions may have by the header of the first table, and `None` where the
/// entries do not follow it at once: [`Table::write_primary`] would write them elsewhere.
pub fn bounds(header: &[u8]) -> Option<Extent> {
    if header.len() < super::HEADER_BYTES || header[..8] != *SIGNATURE || u64_at(header, 72) != 2 {
        return None;
    }
    let (first, last) = (u64_at(header, 40), u64_at(header, 48));
    (first <= last).then_some(Extent { first, last })
}

/// Whether the end of a disk, `tail`, holds nothing but a table that was begun there and that
/// holds no partition other than those of these names: power was cut, and nothing is lost with it.
pub fn is_begun(tail: &[u8], block: u64, ours: impl Fn(&str) -> bool) -> bool {
    let Ok(block) = usize::try_from(block) else {
        return false;
    };
    let length = tail.len().checked_sub(super::ARRAY_BYTES + block);
    let Some((before, table)) = length.and_then(|length| tail.split_at_checked(length)) else {
        return false;
    };
    let (array, header) = table.split_at(super::ARRAY_BYTES);
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let slots = || array.chunks(super::ENTRY_BYTES);
    zero(before)
        && (zero(header) || header[..8] == *SIGNATURE)
        && slots()
            .filter(|slot| !zero(slot))
            .all(|slot| super::entry(slot, 1).is_some_and(|entry| ours(&entry.name)))
}

impl Table {
    /// A table without partitions.
    pub fn empty(disk: Uuid, geometry: Geometry) -> Result<Table, Error> {
        geometry.check()?;
        Ok(Table {
            disk,
            geometry,
            entries: Vec::new(),
        })
    }

    /// The free extents within these bounds, in the order of their place, each of one unit of
    /// [`ALIGNMENT`] or more.
    pub fn free(&self, bounds: Extent) -> Vec<Extent> {
        let unit = ALIGNMENT / self.geometry.block;
        let mut taken: Vec<(u64, u64)> = self.entries.iter().map(|e| (e.first, e.last)).collect();
        taken.sort_unstable();
        let end = bounds.last.min(self.geometry.last_usable());
        let mut free = Vec::new();
        // Never before the first unit: what is there belongs to the table, and to boot loaders.
        let mut next = bounds.first.max(self.geometry.first_usable()).max(unit);
        let mut gap = |from: u64, to: u64| {
            // From `from` up to `to`, which is not in it.
            let (first, end) = (from.div_ceil(unit) * unit, to / unit * unit);
            if first < end {
                free.push(Extent {
                    first,
                    last: end - 1,
                });
            }
        };
        for (first, last) in taken {
            gap(next, first.min(end + 1));
            next = next.max(last + 1);
        }
        gap(next, end + 1);
        free
    }

    /// Adds a partition with the first number that is free, and says which. It must lie in
    /// what [`Table::free`] says.
    pub fn add(&mut self, kind: Uuid, uuid: Uuid, at: Extent, name: &str) -> Result<u32, Error> {
        let taken = |number: &u32| self.entry(*number).is_some();
        let number = (1..=ENTRIES as u32).find(|number| !taken(number));
        let number = number.unwrap_or(ENTRIES as u32 + 1);
        let before = self.entries.clone();
        self.entries.push(Entry {
            number,
            kind,
            uuid,
            first: at.first,
            last: at.last,
            attributes: 0,
            name: name.to_owned(),
        });
        self.entries.sort_by_key(|entry| entry.number);
        if let Err(error) = self.check() {
            self.entries = before;
            return Err(error);
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::Source;
    use proptest::prelude::*;
    use std::io::Cursor;

    const MIB: u64 = 1 << 20;
    const UNIT: u64 = MIB / 512;
    const KIND: Uuid = crate::layout::KIND_LINUX;
    const ANYWHERE: Extent = Extent {
        first: 0,
        last: u64::MAX,
    };

    fn uuid(n: u128) -> Uuid {
        Uuid::from_u128(n + 1)
    }

    fn with(mib: u64, partitions: &[(u64, u64)]) -> Table {
        let mut table = Table::empty(uuid(0), Geometry::of_image(mib * MIB)).unwrap();
        for (n, (first, last)) in partitions.iter().enumerate() {
            let at = Extent {
                first: *first,
                last: *last,
            };
            table.add(KIND, uuid(n as u128), at, "other").unwrap();
        }
        table
    }

    fn units(extents: Vec<Extent>) -> Vec<(u64, u64)> {
        let unit = |extent: Extent| (extent.first / UNIT, extent.blocks() / UNIT);
        extents.into_iter().map(unit).collect()
    }

    #[test]
    fn what_is_free_lies_between_partitions_and_is_aligned() {
        let all = with(64, &[]).free(ANYWHERE);
        assert_eq!(
            units(all),
            [(1, 62)],
            "the tables have the first and the last MiB"
        );
        let table = with(
            64,
            &[(4 * UNIT + 1, 8 * UNIT - 2), (8 * UNIT, 10 * UNIT - 1)],
        );
        assert_eq!(units(table.free(ANYWHERE)), [(1, 3), (10, 53)]);
        let bounds = Extent {
            first: 2 * UNIT + 7,
            last: 20 * UNIT,
        };
        assert_eq!(
            units(table.free(bounds)),
            [(3, 1), (10, 10)],
            "others' bounds are kept"
        );
        let full = with(8, &[(34, 8 * UNIT - 34)]);
        assert_eq!(full.free(ANYWHERE), []);
    }

    #[test]
    fn blocks_of_4096_bytes_have_other_units() {
        let geometry = Geometry {
            block: 4096,
            blocks: 64 * MIB / 4096,
        };
        let table = Table::empty(uuid(0), geometry).unwrap();
        assert_eq!(
            table.free(ANYWHERE),
            [Extent {
                first: 256,
                last: 63 * 256 - 1
            }]
        );
    }

    #[test]
    fn a_partition_gets_the_first_number_that_is_free() {
        let mut table = with(64, &[(UNIT, 2 * UNIT - 1), (2 * UNIT, 3 * UNIT - 1)]);
        table.entries.remove(0);
        let at = table.free(ANYWHERE)[0];
        assert_eq!(table.add(KIND, uuid(9), at, "new").unwrap(), 1);
        let before = table.clone();
        for (at, name) in [
            (at, "there already"),
            (ANYWHERE, "nowhere"),
            (at, &"x".repeat(37)),
        ] {
            assert!(table.add(KIND, uuid(10), at, name).is_err(), "{name}");
            assert_eq!(table, before);
        }
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let places: Vec<_> = (1..=128).map(|n| (n * UNIT, (n + 1) * UNIT - 1)).collect();
        let mut table = with(200, &places);
        let at = table.free(ANYWHERE)[0];
        let error = table.add(KIND, uuid(999), at, "one too many").unwrap_err();
        assert!(error.to_string().contains("no place"), "{error}");
    }

    #[test]
    fn who_has_divided_a_disk_is_told_from_its_first_block() {
        let mut bytes = vec![0; 8 << 20];
        assert_eq!(mbr(&bytes), Mbr::None);
        bytes[..5].copy_from_slice(b"boot ");
        with(8, &[])
            .write_primary(&mut Cursor::new(&mut bytes))
            .unwrap();
        assert_eq!(mbr(&bytes), Mbr::Protective);
        let header = bounds(&bytes[512..]).unwrap();
        assert_eq!((header.first, header.last), (34, (8 << 20) / 512 - 34));
        bytes[446 + 16 + 4] = 0x83;
        assert_eq!(mbr(&bytes), Mbr::Other, "a hybrid");
        bytes[446 + 4] = 0;
        assert_eq!(mbr(&bytes), Mbr::Other, "partitions of DOS");
        assert_eq!(mbr(&[]), Mbr::Other);
        bytes[512 + 72] = 40;
        assert_eq!(bounds(&bytes[512..]), None, "the entries are elsewhere");
        assert_eq!(bounds(&[]), None);
    }

    /// A disk on which only the first `bytes` of a table's backup were written, or the last.
    fn begun(name: &str, written: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut table = with(8, &[]);
        let at = table.free(ANYWHERE)[0];
        table.add(KIND, uuid(5), at, name).unwrap();
        let mut disk = vec![0; 8 << 20];
        table.write_backup(&mut Cursor::new(&mut disk)).unwrap();
        for (n, sector) in disk.chunks_mut(512).rev().enumerate() {
            if !written(n) {
                sector.fill(0);
            }
        }
        disk
    }

    #[test]
    fn a_table_that_was_begun_is_told_from_what_others_wrote() {
        let ours = |name: &str| name == "ours";
        let is = |disk: &[u8]| is_begun(&disk[7 << 20..], 512, ours);
        for written in [
            &(|_| false) as &dyn Fn(usize) -> bool,
            &|n| n == 0,
            &|n| n > 0,
            &|_| true,
        ] {
            assert!(is(&begun("ours", written)));
        }
        assert!(!is(&begun("another's", |_| true)));
        assert!(!is(&begun("another's", |n| n > 0)));
        for place in [
            7 << 20,
            (8 << 20) - 512,
            (8 << 20) - 33 * 512,
            (8 << 20) - 33 * 512 - 1,
        ] {
            let mut disk = vec![0; 8 << 20];
            disk[place] = 1;
            assert!(!is(&disk), "byte {place}");
        }
        assert!(!is_begun(&[], 512, ours));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_added_leaves_all_others_where_they_are(
            cuts in prop::collection::btree_set(34u64..16 * UNIT - 34, 0..12),
            wanted in prop::collection::vec(1u64..6, 0..6),
        ) {
            // Every second piece between two cuts is a partition.
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let places: Vec<_> = cuts.chunks_exact(2).map(|two| (two[0], two[1] - 1)).collect();
            let mut table = with(16, &places);
            let others = table.entries.clone();
            let mut disk = vec![0; 16 << 20];
            for (n, size) in wanted.into_iter().enumerate() {
                for extent in table.free(ANYWHERE) {
                    prop_assert!(extent.first % UNIT == 0 && extent.blocks() % UNIT == 0);
                    prop_assert!(extent.first >= UNIT);
                }
                let fits = |extent: &Extent| extent.blocks() >= size * UNIT;
                let Some(found) = table.free(ANYWHERE).into_iter().find(fits) else { continue };
                let at = Extent { first: found.first, last: found.first + size * UNIT - 1 };
                let before = table.clone();
                let number = table.add(KIND, uuid(100 + n as u128), at, "new").unwrap();
                prop_assert_eq!(table.entry(number).unwrap().blocks(), size * UNIT);

                // Power is cut between the copies: the old table counts, then the new one.
                before.write_backup(&mut Cursor::new(&mut disk)).unwrap();
                before.write_primary(&mut Cursor::new(&mut disk)).unwrap();
                table.write_backup(&mut Cursor::new(&mut disk)).unwrap();
                let read = |disk: &[u8]| {
                    Table::read(&mut Cursor::new(disk), Geometry::of_image(16 << 20)).unwrap()
                };
                prop_assert_eq!(read(&disk), (before, Source::Primary));
                let mut torn = disk.clone();
                torn[1024] ^= 1;
                prop_assert_eq!(read(&torn), (table.clone(), Source::Backup));
                table.write_primary(&mut Cursor::new(&mut disk)).unwrap();
                prop_assert_eq!(read(&disk), (table.clone(), Source::Primary));
            }
            let left: Vec<_> = table.entries.iter().filter(|e| e.name != "new").cloned().collect();
            prop_assert_eq!(left, others);
        }
    }
}
