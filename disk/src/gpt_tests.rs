//! Tests of the partition table: against itself, the `gpt` crate and sgdisk, and hostile bytes.

use std::io::{Cursor, Write as _};
use std::process::Command;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const LINUX: Uuid = Uuid::from_u128(0x0fc63daf_8483_4772_8e79_3d69d8477de4);

fn entry(number: u32, first: u64, last: u64, name: &str) -> Entry {
    Entry {
        number,
        kind: LINUX,
        uuid: Uuid::from_u128(u128::from(number) << 64 | 7),
        first,
        last,
        attributes: 0,
        name: name.into(),
    }
}

fn table(bytes: u64) -> Table {
    Table {
        disk: Uuid::from_u128(42),
        geometry: Geometry::of_image(bytes),
        entries: vec![
            entry(1, 2048, 4095, "ONE"),
            entry(3, 4096, 6143, "KEELSON-ÄÖ"),
        ],
    }
}

fn disk(table: &Table) -> Vec<u8> {
    let mut bytes = vec![0; (table.geometry.blocks * table.geometry.block) as usize];
    let mut cursor = Cursor::new(&mut bytes);
    table.write_backup(&mut cursor).unwrap();
    table.write_primary(&mut cursor).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<(Table, Source), Error> {
    Table::read(
        &mut Cursor::new(bytes),
        Geometry::of_image(bytes.len() as u64),
    )
}

#[test]
fn what_was_written_is_read_back() {
    let table = table(8 * MIB);
    assert_eq!(read(&disk(&table)).unwrap(), (table, Source::Primary));
}

#[test]
fn blocks_of_4096_bytes_work_too() {
    let geometry = Geometry {
        block: 4096,
        blocks: 2048,
    };
    let table = Table {
        disk: Uuid::from_u128(1),
        geometry,
        entries: vec![entry(1, 256, 511, "A")],
    };
    let found = Table::read(&mut Cursor::new(disk(&table)), geometry).unwrap();
    assert_eq!(found, (table, Source::Primary));
}

#[test]
fn a_damaged_primary_is_read_from_the_backup() {
    let table = table(8 * MIB);
    for at in [512, 512 + 60, 1024 + 20] {
        let mut bytes = disk(&table);
        bytes[at] ^= 1;
        assert_eq!(read(&bytes).unwrap(), (table.clone(), Source::Backup));
        let end = bytes.len() - 512;
        bytes[end] ^= 1;
        assert!(matches!(read(&bytes), Err(Error::None { .. })), "{at}");
    }
}

#[test]
fn boot_code_in_the_mbr_stays() {
    let table = table(8 * MIB);
    let mut bytes = disk(&table);
    bytes[..446].fill(0x90);
    table.write_primary(&mut Cursor::new(&mut bytes)).unwrap();
    assert!(bytes[..446].iter().all(|b| *b == 0x90));
    assert_eq!(bytes[510..512], [0x55, 0xaa]);
}

#[test]
fn the_last_partition_grows_with_the_disk() {
    let mut bytes = disk(&table(8 * MIB));
    bytes.resize(64 << 20, 0);
    let (mut table, source) = read(&bytes).unwrap();
    assert_eq!(source, Source::Primary);
    assert_eq!(table.geometry.blocks, 8 * 2048);
    let blocks = bytes.len() as u64 / 512;
    assert!(table.grow(3, blocks).unwrap());
    let mut cursor = Cursor::new(&mut bytes);
    table.write_backup(&mut cursor).unwrap();
    // Power lost here: the old table is still the one that is read.
    assert_eq!(read(&bytes).unwrap().0.geometry.blocks, 8 * 2048);
    table.write_primary(&mut Cursor::new(&mut bytes)).unwrap();
    let (mut grown, _) = read(&bytes).unwrap();
    assert_eq!(grown.entry(3).unwrap().last, 63 * 2048 - 1);
    assert_eq!(grown.entry(3).unwrap().first, 4096);
    assert!(
        !grown.grow(3, blocks).unwrap(),
        "growing again changes nothing"
    );
    bytes[512] = 0;
    assert_eq!(read(&bytes).unwrap(), (grown, Source::Backup));
}

#[test]
fn growing_what_cannot_grow_is_refused() {
    let mut table = table(8 * MIB);
    let before = table.clone();
    for (number, blocks, want) in [
        (
            1,
            1 << 20,
            "partition 1 is not the last on the disk, so it cannot grow",
        ),
        (2, 1 << 20, "partition 2 does not exist"),
        (
            3,
            4096,
            "partition 1 reaches past the end of the disk or into the table",
        ),
        (
            3,
            10,
            "a disk of 10 blocks of 512 bytes cannot have a partition table",
        ),
    ] {
        assert_eq!(table.grow(number, blocks).unwrap_err().to_string(), want);
        assert_eq!(table, before);
    }
}

#[test]
fn impossible_tables_are_not_written() {
    let with = |entries: Vec<Entry>| Table {
        entries,
        ..table(8 * MIB)
    };
    for (table, want) in [
        (with(vec![entry(0, 2048, 4095, "")]), "has no place"),
        (with(vec![entry(129, 2048, 4095, "")]), "has no place"),
        (with(vec![entry(1, 33, 4095, "")]), "reaches past"),
        (with(vec![entry(1, 2048, 1 << 40, "")]), "reaches past"),
        (with(vec![entry(1, 4095, 2048, "")]), "ends before"),
        (
            with(vec![entry(1, 2048, 4095, &"x".repeat(37))]),
            "36 letters",
        ),
        (
            with(vec![entry(1, 2048, 4095, ""), entry(1, 4096, 4097, "")]),
            "twice",
        ),
        (
            with(vec![entry(1, 2048, 4096, ""), entry(2, 4096, 4097, "")]),
            "overlaps",
        ),
    ] {
        let error = table.write_primary(&mut Cursor::new(Vec::new()));
        let text = error.unwrap_err().to_string();
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn a_partitions_uuid_can_be_changed_alone() {
    let mut table = table(8 * MIB);
    let mut bytes = disk(&table);
    table.entry_mut(3).unwrap().uuid = Uuid::nil();
    table.write_backup(&mut Cursor::new(&mut bytes)).unwrap();
    assert!(!read(&bytes).unwrap().0.entry(3).unwrap().uuid.is_nil());
    table.write_primary(&mut Cursor::new(&mut bytes)).unwrap();
    assert_eq!(read(&bytes).unwrap().0, table);
}

#[test]
fn the_gpt_crate_reads_the_same() {
    let ours = table(8 * MIB);
    let config = gpt::GptConfig::new().writable(false);
    let theirs = config
        .open_from_device(Cursor::new(disk(&ours)))
        .expect("the gpt crate accepts the table");
    assert_eq!(theirs.guid().as_u128(), ours.disk.as_u128());
    let found: Vec<_> = theirs
        .partitions()
        .iter()
        .map(|(n, p)| {
            (
                *n,
                p.part_guid.as_u128(),
                p.first_lba,
                p.last_lba,
                p.name.clone(),
            )
        })
        .collect();
    let want: Vec<_> = ours
        .entries
        .iter()
        .map(|e| (e.number, e.uuid.as_u128(), e.first, e.last, e.name.clone()))
        .collect();
    assert_eq!(found, want);
}

#[test]
fn sgdisk_finds_no_problem() {
    if Command::new("sgdisk").arg("--version").output().is_err() {
        eprintln!("skipped: sgdisk is not installed");
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&disk(&table(8 * MIB))).unwrap();
    let output = Command::new("sgdisk").arg("-v").arg(file.path()).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("No problems found"), "{text}");
}

proptest! {
    #[test]
    fn hostile_bytes_are_errors(
        patches in prop::collection::vec((0usize..(40 * 512), any::<u8>()), 1..40),
        fix_sums: bool,
        cut in 0usize..(8 << 20),
    ) {
        let mut bytes = disk(&table(8 * MIB));
        let end = bytes.len();
        for (at, byte) in patches {
            // Both copies get the same damage.
            bytes[at] = byte;
            let mirrored = end - 1 - at;
            bytes[mirrored] = byte;
        }
        if fix_sums {
            let array = crc32fast::hash(&bytes[1024..1024 + ARRAY_BYTES]);
            bytes[512 + 88..512 + 92].copy_from_slice(&array.to_le_bytes());
            bytes[512 + 16..512 + 20].fill(0);
            let header = crc32fast::hash(&bytes[512..512 + HEADER_BYTES]);
            bytes[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
        }
        if let Ok((table, _)) = read(&bytes) {
            // Whatever was accepted is whole: it can be written and grown.
            disk(&table);
            for entry in &table.entries {
                entry.blocks();
                table.clone().grow(entry.number, 1 << 24).ok();
            }
        }
        bytes.truncate(cut);
        read(&bytes).ok();
    }
}
