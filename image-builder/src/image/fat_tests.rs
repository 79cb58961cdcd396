//! Tests of the FAT32 writer: the fatfs crate and fsck.fat read what it writes.

use std::process::Command;

use super::*;

const BYTES: u64 = 512 << 20;

fn volume() -> Volume {
    Volume {
        bytes: BYTES,
        serial: 0x1234_abcd,
        label: *b"KEELSON-ESP",
        time: 1_767_225_600,
    }
}

fn write(nodes: &[Node]) -> anyhow::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.as_file_mut().set_len(BYTES)?;
    volume().write(nodes, file.as_file_mut())?;
    Ok(file)
}

#[test]
fn other_programs_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let large: Vec<u8> = (0..200_001u32).map(|n| (n % 253) as u8).collect();
    std::fs::write(&source, &large).unwrap();
    let many = |n: u8| Node::bytes(&format!("keelson-{n}.1.0.efi"), &[n]);
    let file = write(&[
        Node::folder(
            "EFI",
            vec![
                Node::folder("BOOT", vec![Node::file("BOOTX64.EFI", &source).unwrap()]),
                // More entries than fit into one cluster.
                Node::folder("Linux", (0..9).map(many).collect()),
                Node::folder("LONG", vec![Node::bytes(&"a".repeat(130), b"x")]),
            ],
        ),
        Node::folder("loader", vec![Node::bytes("loader.conf", b"timeout 0\n")]),
        Node::bytes("empty", b""),
    ])
    .unwrap();

    file.as_file().rewind().unwrap();
    let system = fatfs::FileSystem::new(file.as_file(), fatfs::FsOptions::new()).unwrap();
    assert_eq!(system.volume_id(), 0x1234_abcd);
    assert_eq!(
        system.read_volume_label_from_root_dir().unwrap().unwrap(),
        "KEELSON-ESP"
    );
    let root = system.root_dir();
    let read = |path: &str| {
        let mut bytes = Vec::new();
        root.open_file(path)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    };
    assert!(read("EFI/BOOT/BOOTX64.EFI") == large);
    assert_eq!(read("loader/loader.conf"), b"timeout 0\n");
    assert_eq!(read("EFI/Linux/keelson-7.1.0.efi"), [7]);
    assert_eq!(read(&format!("EFI/LONG/{}", "a".repeat(130))), b"x");
    assert_eq!(read("empty"), b"");
    let entry = root
        .iter()
        .find(|e| e.as_ref().unwrap().file_name() == "loader");
    let modified = entry.unwrap().unwrap().modified();
    assert_eq!(
        (modified.date.year, modified.date.month, modified.date.day),
        (2026, 1, 1)
    );
    drop(root);

    let Ok(output) = Command::new("/usr/sbin/fsck.fat")
        .arg("-nv")
        .arg(file.path())
        .output()
    else {
        eprintln!("skipped: fsck.fat is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for problem in ["Expected", "differ", "wrong", "Auto", "uninitialized"] {
        assert!(!text.contains(problem), "{text}");
    }
}

#[test]
fn names_that_cannot_be_are_refused() {
    let bytes = |name: &str| Node::bytes(name, b"");
    for (nodes, want) in [
        (vec![bytes("")], "cannot be the name"),
        (vec![bytes("a/b")], "cannot be the name"),
        (vec![bytes("ä")], "cannot be the name"),
        (vec![bytes("A"), bytes("A")], "twice"),
        (vec![bytes("loader"), bytes("LOADER")], "twice"),
    ] {
        let error = write(&nodes).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("large");
    File::create(&source).unwrap().set_len(BYTES).unwrap();
    let error = write(&[Node::file("large", &source).unwrap()]).unwrap_err();
    assert!(error.to_string().contains("do not fit"), "{error}");
    let tiny = Volume {
        bytes: 1 << 20,
        ..volume()
    };
    assert!(tiny.write(&[], &mut io::Cursor::new(Vec::new())).is_err());
}

#[test]
fn short_names_are_exact_or_numbered() {
    for (name, want) in [
        ("EFI", Some(b"EFI        ")),
        ("BOOTX64.EFI", Some(b"BOOTX64 EFI")),
        ("loader", None),
        ("A.B.C", None),
        ("TOOLONGNAME", None),
    ] {
        assert_eq!(exact(name).as_ref(), want, "{name}");
    }
    assert_eq!(&alias("keelson-0.1.0+3.efi", 2), b"KEELSO~2EFI");
    assert_eq!(&alias("loader.conf", 1), b"LOADER~1CON");
}
