//! Disks in sparse files.

use super::{super::apply::write, *};
use keelson_config::{DiskSelector, Volume};
use keelson_disk::layout::KIND_LINUX;
use std::{fs::File, io::Write as _};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 400 * MIB;
const UNIT: u64 = MIB / 512;

fn geometry() -> Geometry {
    Geometry::of_image(SIZE)
}

fn blank() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    file
}

fn put(file: &mut File, at: u64, bytes: &[u8]) {
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// A disk with partitions of these names, from and to these MiB.
fn divided(partitions: &[(&str, u64, u64)]) -> File {
    let mut file = blank();
    let mut table = Table::empty(Uuid::from_u128(7), geometry()).unwrap();
    for (name, from, to) in partitions {
        let at = Extent {
            first: from * UNIT,
            last: to * UNIT - 1,
        };
        table
            .add(KIND_LINUX, Uuid::from_u128(at.first.into()), at, name)
            .unwrap();
    }
    table.write_backup(&mut file).unwrap();
    table.write_primary(&mut file).unwrap();
    file
}

fn look(file: &mut File) -> Result<Layout, String> {
    layout(file, geometry(), Uuid::nil()).map_err(|error| format!("{error:#}"))
}

fn volume(name: &str, size: Option<u64>) -> Volume {
    Volume {
        name: name.into(),
        disk: DiskSelector::default(),
        size,
    }
}

/// The MiB that a partition of this size would have.
fn place(file: &mut File, size: Option<u64>) -> Result<(u64, u64), String> {
    let layout = look(file)?;
    let at = room(file, &layout, size).map_err(|error| format!("{error:#}"))?;
    Ok((at.first / UNIT, (at.last + 1) / UNIT))
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let mbr = |kind: u8| {
        let mut block = [0; 512];
        block[446 + 4] = kind;
        block[510..].copy_from_slice(b"\x55\xaa");
        block
    };
    let cases: Vec<(&str, File, &str)> = vec![
        ("LUKS", with(0, b"LUKS\xba\xbe"), "holds a LUKS container"),
        ("any byte", with(MIB - 1, b"x"), "holds unknown data"),
        ("LVM", with(512, b"LABELONE"), "an LVM physical volume"),
        ("DOS", with(0, &mbr(0x83)), "holds a boot sector"),
        (
            "a lone protective record",
            with(0, &mbr(0xee)),
            "holds a boot sector",
        ),
        ("at the end", with(SIZE - 512, b"x"), "has data at its end"),
        (
            "md 1.0",
            with(SIZE - 128 * 1024, b"\xfc\x4e\x2b\xa9"),
            "has data at its end",
        ),
        (
            "another system",
            divided(&[("KEELSON-DATA", 1, 9)]),
            "holds a Keelson system",
        ),
        (
            "a hybrid",
            on(divided(&[("a", 1, 9)]), 446 + 16, &mbr(0x83)[446..462]),
            "another one",
        ),
        (
            "others' damaged table",
            on(divided(&[("a", 1, 9)]), 600, b"x"),
            "damaged",
        ),
        (
            "others' lost start",
            on(divided(&[("a", 1, 9)]), 0, &[0; 64 << 10]),
            "damaged",
        ),
        (
            "both copies damaged",
            on(on(divided(&[("a", 1, 9)]), 1024, b"x"), SIZE - 600, b"x"),
            "damaged partition table",
        ),
        (
            "what was a volume's disk and is another's",
            on(divided(&[("KEELSON-one", 1, 90)]), 0, b"LUKS\xba\xbe\0\0"),
            "",
        ),
    ];
    for (rule, mut file, want) in cases {
        if want.is_empty() {
            // The boot code's place says nothing: the table is whole.
            assert!(look(&mut file).is_ok(), "{rule}");
            continue;
        }
        let error = look(&mut file).expect_err(rule);
        assert!(error.contains(want), "{rule}: {error}");
        let error = write(&mut file, geometry(), &volume("one", None)).expect_err(rule);
        assert!(format!("{error:#}").contains(want), "{rule}: {error:#}");
    }
}

fn with(at: u64, bytes: &[u8]) -> File {
    on(blank(), at, bytes)
}

fn on(mut file: File, at: u64, bytes: &[u8]) -> File {
    put(&mut file, at, bytes);
    file
}

#[test]
fn a_partition_goes_where_nothing_is() {
    let gib = Some(1 << 30);
    let sized = |mib: u64| Some(mib * MIB);
    assert_eq!(place(&mut blank(), None), Ok((1, 399)));
    assert_eq!(place(&mut blank(), sized(100)), Ok((1, 101)));
    assert_eq!(
        place(&mut blank(), Some(100 * MIB - 1)),
        Ok((1, 101)),
        "whole MiB"
    );
    let others = [("a", 80, 90), ("b", 300, 310)];
    let mut file = divided(&others);
    assert_eq!(place(&mut file, None), Ok((90, 300)), "the largest");
    assert_eq!(
        place(&mut file, sized(70)),
        Ok((1, 71)),
        "the first that is large enough"
    );
    assert_eq!(place(&mut file, sized(80)), Ok((90, 170)));
    let error = place(&mut file, gib).unwrap_err();
    assert!(
        error.contains("no room for 1024 MiB") && error.contains("is 210 MiB"),
        "{error}"
    );

    // What was deleted from the table may still be wanted.
    put(&mut file, 90 * MIB + 1080, b"\x53\xef");
    assert_eq!(place(&mut file, None), Ok((310, 399)));
    assert_eq!(place(&mut file, sized(80)), Ok((310, 390)));
    put(&mut file, 389 * MIB, b"x");
    let error = place(&mut file, sized(80)).unwrap_err();
    assert!(error.contains("between 90 and 170 MiB holds"), "{error}");
    let error = place(&mut divided(&[("a", 1, 350)]), None).unwrap_err();
    assert!(error.contains("no room for 64 MiB"), "{error}");
}

#[test]
fn what_is_there_is_used_as_it_is() {
    let mut file = divided(&[("KEELSON-one", 1, 90), ("other", 100, 120)]);
    let before = look(&mut file).unwrap().table;
    let entry = write(&mut file, geometry(), &volume("one", Some(200 * MIB))).unwrap();
    assert_eq!((entry.number, entry.blocks()), (1, 89 * UNIT));
    assert_eq!(look(&mut file).unwrap().table, before);
    let entry = write(&mut file, geometry(), &volume("two", Some(64 * MIB))).unwrap();
    assert_eq!((entry.number, entry.first), (3, 120 * UNIT));
    let table = look(&mut file).unwrap().table;
    assert_eq!(
        table.entries[..2],
        before.entries,
        "the others stay where they are"
    );
}

#[test]
fn a_disk_that_has_grown_has_more_room_once_its_table_is_written() {
    let mut file = divided(&[("other", 1, 200)]);
    file.set_len(2 * SIZE).unwrap();
    let grown = Geometry::of_image(2 * SIZE);
    let entry = write(&mut file, grown, &volume("one", Some(100 * MIB))).unwrap();
    assert_eq!(entry.first, 200 * UNIT);
    put(&mut file, 600, b"torn");
    let layout = layout(&mut file, grown, Uuid::nil()).unwrap();
    assert!(layout.torn, "the backup is at the new end");
}

/// All sectors that differ, as they are and as they are to be.
fn difference(before: &mut File, after: &mut File) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    for at in (0..MIB).chain(SIZE - MIB..SIZE).step_by(512) {
        let (mut old, mut new) = (vec![0; 512], vec![0; 512]);
        for (file, bytes) in [(&mut *before, &mut old), (&mut *after, &mut new)] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(bytes).unwrap();
        }
        if old != new {
            all.push((at, new));
        }
    }
    all
}

#[test]
fn power_may_be_cut_at_any_moment() {
    type Disk = fn() -> File;
    let disks: [(&str, Disk); 3] = [
        ("blank", blank),
        ("others'", || divided(&[("a", 1, 9), ("b", 20, 30)])),
        ("with a volume", || divided(&[("KEELSON-zero", 1, 70)])),
    ];
    let one = volume("one", Some(100 * MIB));
    for (disk, make) in disks {
        let mut after = make();
        let entry = write(&mut after, geometry(), &one).unwrap();
        let whole = look(&mut after).unwrap().table;
        let changes = difference(&mut make(), &mut after);
        let (primary, backup): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|(at, _)| *at < SIZE / 2);
        assert!(backup.len() >= 2 && primary.len() >= 2, "{disk}");
        // Any sectors of the backup, or all of them and any of the first copy.
        let backups = (0..1u32 << backup.len()).map(|some| (some, 0));
        let primaries = (0..1u32 << primary.len()).map(|some| (u32::MAX, some));
        for (some_backup, some_primary) in backups.chain(primaries) {
            let mut cut = make();
            for (sectors, some) in [(&backup, some_backup), (&primary, some_primary)] {
                for (n, (at, bytes)) in sectors.iter().enumerate() {
                    if some & (1 << n) != 0 {
                        put(&mut cut, *at, bytes);
                    }
                }
            }
            let case = format!("{disk}: {some_backup:b} {some_primary:b}");
            let again = write(&mut cut, geometry(), &one).expect(&case);
            assert_eq!(
                (again.first, again.last),
                (entry.first, entry.last),
                "{case}"
            );
            let found = look(&mut cut).expect(&case);
            assert!(!found.torn, "{case}");
            let names = |table: &Table| -> Vec<(u32, String, u64, u64)> {
                let entries = table.entries.iter();
                entries
                    .map(|e| (e.number, e.name.clone(), e.first, e.last))
                    .collect()
            };
            assert_eq!(names(&found.table), names(&whole), "{case}");
        }
    }
}
