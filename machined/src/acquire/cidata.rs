//! The config on a NoCloud volume: an ISO 9660 or FAT file system labelled cidata,
//! with the file `keelson.yaml` or `user-data`. It is mounted read-only for the
//! moment of reading.

use super::{Found, bounded};
use crate::store::make_private;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileExt as _, FileTypeExt as _},
    path::Path,
};

/// Where the volume is mounted while it is read.
const MOUNT_POINT: &str = "/run/keelson/cidata";

/// The files to look for, the more particular name first.
const FILES: [&str; 2] = ["keelson.yaml", "user-data"];

/// How much of a device is enough to tell its label.
const HEAD: usize = 0x8000 + 2048;

/// Looks at every block device that is not in `seen`, and adds it there.
pub(super) fn look(seen: &mut BTreeSet<String>) -> io::Result<Vec<Result<Found, String>>> {
    let mut names = Vec::new();
    match fs::read_dir("/sys/class/block") {
        Ok(entries) => {
            for entry in entries {
                names.extend(entry?.file_name().into_string().ok());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort();
    let virtual_ones = ["loop", "ram", "zram", "dm-", "md", "nbd", "rbd"];
    names.retain(|name| !virtual_ones.iter().any(|prefix| name.starts_with(prefix)));
    // What is gone is looked at again when it comes back.
    seen.retain(|name| names.contains(name));
    let mut found = Vec::new();
    for name in names {
        let device = format!("/dev/{}", name.replace('!', "/"));
        match head(Path::new(&device)) {
            Ok(head) => {
                if let Some(file_system) = file_system(&head).filter(|_| !seen.contains(&name)) {
                    found.extend(read(&device, file_system).transpose());
                }
                seen.insert(name);
            }
            // A drive without a disc, or a device whose node is not there yet.
            Err(_) => drop(seen.remove(&name)),
        }
    }
    Ok(found)
}

/// The first bytes of a device; fewer where it is shorter.
fn head(device: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(device)?;
    if !file.metadata()?.file_type().is_block_device() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut head = vec![0; HEAD];
    let mut filled = 0;
    while filled < HEAD {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// The type of the file system, if it is one that is labelled cidata.
fn file_system(head: &[u8]) -> Option<&'static str> {
    let is = |offset: usize, wanted: &[u8]| head.get(offset..offset + wanted.len()) == Some(wanted);
    let labelled = |offset: usize, length: usize| {
        let label = head.get(offset..offset + length).unwrap_or_default();
        label.trim_ascii_end().eq_ignore_ascii_case(b"cidata")
    };
    // ECMA-119: the primary volume descriptor is sector 16.
    if is(0x8000, b"\x01CD001\x01") && labelled(0x8000 + 40, 32) {
        return Some("iso9660");
    }
    let fat = is(0x1fe, b"\x55\xaa")
        && ((is(0x36, b"FAT") && labelled(0x2b, 11)) || (is(0x52, b"FAT32") && labelled(0x47, 11)));
    fat.then_some("vfat")
}

/// Reads the config from a volume; `None` if neither file is there.
fn read(device: &str, file_system: &str) -> Result<Option<Found>, String> {
    let doing =
        |what: &str, error: io::Error| format!("{what} the volume cidata on {device}: {error}");
    make_private(Path::new(MOUNT_POINT))
        .map_err(|error| format!("making {MOUNT_POINT}: {error}"))?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(device, MOUNT_POINT, file_system, flags, None)
        .map_err(|error| doing("mounting", error.into()))?;
    let config = first_file(Path::new(MOUNT_POINT));
    unmount(MOUNT_POINT, UnmountFlags::NOFOLLOW)
        .map_err(|error| doing("unmounting", error.into()))?;
    let config = config.map_err(|error| doing("reading", error))?;
    Ok(config.map(|(bytes, name)| Found {
        bytes,
        source: format!("{name} on the volume cidata, {device}"),
    }))
}

fn first_file(dir: &Path) -> io::Result<Option<(Vec<u8>, &'static str)>> {
    for name in FILES {
        match openat(
            CWD,
            dir.join(name),
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => return Ok(Some((bounded(file.into())?, name))),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(writes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        for (offset, bytes) in writes {
            head[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn labels() {
        let iso = |label: &[u8]| {
            with(&[
                (0x8000, b"\x01CD001\x01"),
                (0x8028, &[b' '; 32]),
                (0x8028, label),
            ])
        };
        let fat16 =
            |label: &[u8]| with(&[(0x1fe, b"\x55\xaa"), (0x36, b"FAT16   "), (0x2b, label)]);
        let fat32 =
            |label: &[u8]| with(&[(0x1fe, b"\x55\xaa"), (0x52, b"FAT32   "), (0x47, label)]);
        let cases = [
            ("iso, lower case", iso(b"cidata"), Some("iso9660")),
            ("iso, upper case", iso(b"CIDATA"), Some("iso9660")),
            ("iso, another label", iso(b"cidata2"), None),
            ("fat16", fat16(b"CIDATA     "), Some("vfat")),
            ("fat32", fat32(b"cidata     "), Some("vfat")),
            ("fat32, another label", fat32(b"DATA       "), None),
            (
                "a label without a file system",
                with(&[(0x8028, b"cidata")]),
                None,
            ),
            ("nothing", vec![], None),
        ];
        for (name, head, wanted) in cases {
            assert_eq!(file_system(&head), wanted, "{name}");
        }
    }

    #[test]
    fn the_more_particular_file_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        assert!(first_file(dir.path()).unwrap().is_none());
        fs::write(dir.path().join("user-data"), "a").unwrap();
        assert_eq!(
            first_file(dir.path()).unwrap(),
            Some((b"a".to_vec(), "user-data"))
        );
        fs::write(dir.path().join("keelson.yaml"), "b").unwrap();
        assert_eq!(
            first_file(dir.path()).unwrap(),
            Some((b"b".to_vec(), "keelson.yaml"))
        );
    }

    #[test]
    fn a_link_is_not_followed_and_a_huge_file_not_read() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("keelson.yaml")).unwrap();
        assert!(first_file(dir.path()).is_err());
        fs::remove_file(dir.path().join("keelson.yaml")).unwrap();
        fs::write(
            dir.path().join("user-data"),
            vec![b'x'; crate::store::LARGEST + 1],
        )
        .unwrap();
        assert!(first_file(dir.path()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            file_system(&bytes);
        }
    }
}
