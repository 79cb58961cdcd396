//! Tests of the FAT32 reader: what the fatfs crate writes is read, and damage is told apart.

use super::*;
use proptest::prelude::*;
use std::io::Cursor;

/// A volume of 68000 clusters of one sector, just large enough for FAT32, with a few files.
fn volume() -> Vec<u8> {
    let mut bytes = vec![0; 70_000 * 512];
    let options = fatfs::FormatVolumeOptions::new()
        .bytes_per_cluster(512)
        .fat_type(fatfs::FatType::Fat32);
    fatfs::format_volume(Cursor::new(&mut bytes), options).unwrap();
    {
        let system =
            fatfs::FileSystem::new(Cursor::new(&mut bytes), fatfs::FsOptions::new()).unwrap();
        let root = system.root_dir();
        root.create_dir("EFI").unwrap();
        let linux = root.create_dir("EFI/Linux").unwrap();
        for n in 0..20u8 {
            let name = format!("keelson-{n}.0+3-0.efi");
            let mut file = linux.create_file(&name).unwrap();
            file.write_all(&vec![n; 700 * usize::from(n)]).unwrap();
        }
    }
    bytes
}

fn open(bytes: &[u8]) -> Volume<Cursor<&[u8]>> {
    Volume::open(Cursor::new(bytes)).unwrap()
}

/// Where the entry with this short name stands.
fn at(bytes: &[u8], short: &[u8; 11]) -> usize {
    bytes.windows(11).position(|w| w == short).unwrap()
}

#[test]
fn what_another_program_wrote_is_read() {
    let bytes = volume();
    let mut volume = open(&bytes);
    let folder = volume.find("efi/LINUX").unwrap().unwrap();
    let entries = volume.list(&folder).unwrap();
    assert_eq!(entries.len(), 20);
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry.name, format!("keelson-{n}.0+3-0.efi"));
        assert!(entry.long && !entry.folder && entry.alias.ends_with(".EFI"));
        assert_eq!(volume.read(entry, 1 << 20).unwrap(), vec![n as u8; 700 * n]);
        assert!(volume.read(entry, 1).is_err() || n == 0);
    }
    assert_eq!(volume.find("EFI/Linux/none").unwrap(), None);
    assert_eq!(
        volume.find("EFI/Linux/keelson-3.0+3-0.efi/x").unwrap(),
        None
    );
}

#[test]
fn a_long_name_that_lost_a_part_is_gone() {
    let mut bytes = volume();
    let found = |bytes: &[u8]| {
        let mut volume = open(bytes);
        let folder = volume.find("EFI/Linux").unwrap().unwrap();
        let entries = volume.list(&folder).unwrap();
        entries
            .into_iter()
            .find(|e| e.alias == "KEELSO~1.EFI")
            .unwrap()
    };
    let short = at(&bytes, b"KEELSO~1EFI");
    assert!(found(&bytes).long);
    // The part before the short entry is the first one; before that comes the last.
    for (what, part, value) in [
        ("free", short - ENTRY, FREE),
        ("another number", short - 2 * ENTRY, 0x43),
        ("of another name", short - ENTRY + 13, 0),
    ] {
        let before = std::mem::replace(&mut bytes[part], value);
        let entry = found(&bytes);
        assert!(!entry.long, "{what}");
        assert_eq!(entry.name, "KEELSO~1.EFI", "{what}");
        bytes[part] = before;
    }
}

#[test]
fn a_second_name_for_the_same_clusters_is_erased_and_the_file_stays() {
    let mut bytes = volume();
    // As a rename leaves it that was cut off: file 4 has the clusters of file 3 too.
    let aliases: Vec<[u8; 11]> = {
        let mut volume = open(&bytes);
        let folder = volume.find("EFI/Linux").unwrap().unwrap();
        let entries = volume.list(&folder).unwrap();
        let short = |n: usize| entries[n].alias.replace('.', "").into_bytes();
        [3, 4].map(|n| short(n).try_into().unwrap()).into()
    };
    let (third, fourth) = (at(&bytes, &aliases[0]), at(&bytes, &aliases[1]));
    bytes.copy_within(third + 20..third + 32, fourth + 20);
    let mut volume = open(&bytes);
    let folder = volume.find("EFI/Linux").unwrap().unwrap();
    let placed = volume.placed(&folder).unwrap();
    let twins: Vec<_> = placed
        .iter()
        .filter(|one| one.entry.cluster == placed[3].entry.cluster)
        .cloned()
        .collect();
    assert_eq!(twins.len(), 2);
    erase(&mut Cursor::new(&mut bytes), &twins[1]).unwrap();
    let mut volume = open(&bytes);
    let left = volume.list(&folder).unwrap();
    assert_eq!(left.len(), 19);
    assert_eq!(left[3], twins[0].entry);
    assert_eq!(volume.read(&left[3], 1 << 20).unwrap(), vec![3; 2100]);
}

#[test]
fn chains_that_make_no_sense_are_told() {
    let bytes = volume();
    let mut volume = open(&bytes);
    let entry = volume
        .find("EFI/Linux/keelson-9.0+3-0.efi")
        .unwrap()
        .unwrap();
    let clusters = volume.clusters(&entry).unwrap();
    assert_eq!(clusters.len(), 6300usize.div_ceil(512));
    let fat = volume.fat_at as usize + clusters[2] as usize * 4;
    for (value, told) in [
        (END_OF_CHAIN, "end before the file does"),
        (clusters[0], "run in a circle"),
        (0, "lead to where no cluster is"),
        (100_000, "lead to where no cluster is"),
    ] {
        let mut bad = bytes.clone();
        bad[fat..fat + 4].copy_from_slice(&value.to_le_bytes());
        let error = open(&bad).runs(&entry).unwrap_err();
        assert!(error.to_string().ends_with(told), "{error}");
    }
}

#[test]
fn long_names_go_both_ways() {
    for name in [
        "a",
        "thirteen-long",
        "keelson-1.2.3+3-0.efi",
        &"ä".repeat(255),
    ] {
        let short = *b"KEELSO~1EFI";
        let mut long = Long::default();
        for slot in long_name(name, checksum(&short)) {
            long.take(&slot);
        }
        assert_eq!(long.name(&short).as_deref(), Some(name));
        assert_eq!(long.name(b"KEELSO~2EFI"), None);
    }
}

#[test]
fn other_volumes_are_refused() {
    let bytes = volume();
    for (what, at, value) in [
        ("no signature", 510, 0),
        ("no sector size", 12, 0),
        ("clusters of three sectors", 13, 3),
        ("no table", 16, 0),
        ("FAT16", 22, 1),
        ("a table too small", 37, 0),
    ] {
        let mut bad = bytes[..4096].to_vec();
        bad[at] = value;
        let result = Volume::open(Cursor::new(bad));
        assert!(matches!(result, Err(Error::Volume(_))), "{what}");
    }
    assert!(Volume::open(Cursor::new(&bytes[..100])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn hostile_bytes_never_panic(
        boot in prop::collection::vec((11usize..64, any::<u8>()), 0..3),
        rest in prop::collection::vec((0x4000usize..0x9_0000, any::<u8>()), 0..3000),
    ) {
        let mut bytes = volume();
        for (at, byte) in boot.into_iter().chain(rest) {
            bytes[at] = byte;
        }
        let Ok(mut volume) = Volume::open(Cursor::new(&bytes)) else { return Ok(()) };
        let Ok(Some(folder)) = volume.find("EFI/Linux") else { return Ok(()) };
        for entry in volume.list(&folder).unwrap_or_default() {
            volume.clusters(&entry).ok();
            volume.read(&entry, 1 << 20).ok();
        }
    }
}
