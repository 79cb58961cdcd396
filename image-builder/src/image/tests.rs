//! Tests of the whole pipeline on a tiny tree: reproducible, fresh when nothing changed, and what
//! is on the disk is what went in. The file system maker is a stand-in that packs one file, so
//! that they run anywhere.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;
use crate::command::inspect::describe;

const MKFS: &str = r#"#!/bin/sh
for last; do image=$tree; tree=$last; done
cat "$tree/etc/os-release" "$tree/data" >"$image" && truncate -s %8192 "$image"
"#;

struct Bench {
    dir: TempDir,
    tree: RootTree,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let os_release = "ID=keelson\nPRETTY_NAME=\"Keelson 1.2.3\"\nVERSION_ID=1.2.3\n";
        fs::create_dir_all(at("root/etc")).unwrap();
        fs::create_dir_all(at("initramfs/lib")).unwrap();
        fs::write(at("root/etc/os-release"), os_release).unwrap();
        fs::write(at("root/data"), vec![7; 100_000]).unwrap();
        fs::write(at("kernel"), vec![0xcc; 70_000]).unwrap();
        fs::write(at("stub"), uki::tests::stub(1024)).unwrap();
        fs::write(at("loader"), b"MZ loader").unwrap();
        for (name, text) in [("initramfs/init", "#!init"), ("mkfs", MKFS)] {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let tree = RootTree {
            root: at("root"),
            initramfs: at("initramfs"),
            kernel: at("kernel"),
            kernel_release: "6.12.0".into(),
            stub: at("stub"),
            boot_loader: at("loader"),
            mkfs_erofs: vec![at("mkfs").into()],
            os_release: os_release.into(),
            kernel_options: "console=ttyS0".into(),
            version: "1.2.3".into(),
            build_time: 1_767_225_600,
            papers: Vec::new(),
        };
        Bench { dir, tree }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn build(&self) -> anyhow::Result<Manifest> {
        let options = Options {
            layout: Layout::Compact,
            formats: vec![Format::Raw, Format::Qcow2],
            compression: "none".into(),
        };
        build(&self.tree, &options, &self.out(), &Report::new(true))
    }

    fn modified(&self, name: &str) -> SystemTime {
        fs::metadata(self.out().join(name))
            .unwrap()
            .modified()
            .unwrap()
    }
}

const NAMES: [&str; 5] = [
    "root.img",
    "initramfs.cpio.zst",
    "keelson.efi",
    "keelson.raw",
    "keelson.qcow2",
];

#[test]
fn the_same_inputs_build_the_same_bytes() {
    let (one, two) = (Bench::new(), Bench::new());
    assert_eq!(one.build().unwrap(), two.build().unwrap());
    // The raw disk is left out for its gigabytes of zeros: the qcow2 disk is the same disk.
    for name in [
        "root.img",
        "initramfs.cpio.zst",
        "keelson.efi",
        "keelson.qcow2",
        "image.json",
    ] {
        let read = |bench: &Bench| fs::read(bench.out().join(name)).unwrap();
        assert!(read(&one) == read(&two), "{name}");
    }
}

#[test]
fn only_what_changed_is_built_again() {
    let mut bench = Bench::new();
    bench.build().unwrap();
    let times = |bench: &Bench| NAMES.map(|name| bench.modified(name));
    let first = times(&bench);
    bench.build().unwrap();
    assert_eq!(times(&bench), first, "nothing changed");

    fs::write(bench.tree.initramfs.join("lib/module.ko"), "x").unwrap();
    bench.build().unwrap();
    let second = times(&bench);
    assert_eq!(second[0], first[0], "the root does not hold the initramfs");
    for n in 1..NAMES.len() {
        assert_ne!(second[n], first[n], "{}", NAMES[n]);
    }

    bench.tree.kernel_options = "quiet".into();
    bench.build().unwrap();
    let third = times(&bench);
    assert_eq!(third[..2], second[..2], "the options are in the UKI alone");
    assert_ne!(third[2], second[2]);
}

#[test]
fn the_disk_says_what_went_in() {
    let bench = Bench::new();
    let manifest = bench.build().unwrap();
    let raw = bench.out().join("keelson.raw");
    let text = describe(&raw).unwrap();
    for want in [
        "KEELSON-ESP    512.0 MiB",
        "empty slot",
        "EFI/Linux/keelson-1.2.3.efi",
        "osrel     Keelson 1.2.3",
        "partition 3, whole",
        &manifest.command_line,
    ] {
        assert!(text.contains(want), "{want} is not in\n{text}");
    }
    assert!(manifest.command_line.ends_with(" console=ttyS0"));
    assert!(
        describe(&bench.out().join("keelson.efi"))
            .unwrap()
            .contains("6.12.0")
    );
    let error = describe(&bench.out().join("keelson.qcow2")).unwrap_err();
    assert!(error.to_string().contains("qcow2"), "{error}");

    let mut file = fs::OpenOptions::new().write(true).open(&raw).unwrap();
    let slot = (1 + 512 + 1) << 20;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(slot + 4096 * 3)).unwrap();
    std::io::Write::write_all(&mut file, b"!").unwrap();
    let text = describe(&raw).unwrap();
    assert!(
        text.contains("partition 3: data block 3 is damaged"),
        "{text}"
    );
}

#[test]
fn other_programs_agree() {
    let bench = Bench::new();
    bench.build().unwrap();
    let run = |program: &str, words: &[&str]| {
        let output = Command::new(program)
            .current_dir(bench.out())
            .args(words)
            .output();
        match output {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{program}: {text}");
                Some(text)
            }
            Err(_) => {
                eprintln!("skipped: {program} is not installed");
                None
            }
        }
    };
    if let Some(text) = run("sgdisk", &["-v", "keelson.raw"]) {
        assert!(text.contains("No problems found"), "{text}");
    }
    run("qemu-img", &["check", "keelson.qcow2"]);
    run("qemu-img", &["compare", "keelson.raw", "keelson.qcow2"]);
}

#[test]
fn what_cannot_boot_is_not_built() {
    type Damage = fn(&mut Bench);
    let cases: [(Damage, &str); 4] = [
        (
            |bench| fs::remove_file(bench.tree.initramfs.join("init")).unwrap(),
            "cannot build initramfs.cpio.zst: the initramfs has no program",
        ),
        (
            |bench| bench.tree.kernel_options = "keelson.root=0".into(),
            "keelson.root more than once",
        ),
        (
            |bench| fs::write(&bench.tree.stub, "text").unwrap(),
            "is not an EFI stub that can be used",
        ),
        (
            |bench| bench.tree.mkfs_erofs = vec!["/nonexistent/mkfs.erofs".into()],
            "install erofs-utils 1.8 or later",
        ),
    ];
    for (damage, want) in cases {
        let mut bench = Bench::new();
        damage(&mut bench);
        let error = format!("{:#}", bench.build().unwrap_err());
        assert!(error.contains(want), "{error}");
    }
}
