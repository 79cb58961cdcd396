//! Tests of the whole pipeline on a tiny tree: reproducible, fresh when nothing changed, and what
//! is on the disk is what went in. The file system maker is a stand-in that packs one file, so
//! that they run anywhere.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::SystemTime;

use tempfile::TempDir;

use keelson_disk::bundle::{Bundle, SigningKey};

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
        "vmlinuz",
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

const RELEASE: &str = r#"{"version": "1.2.3", "arch": "amd64", "variant": "metal",
    "buildTime": 1767225600, "kernel": "6.12.0", "securityFloor": "1.1.0",
    "orchestrator": {"name": "k3s", "version": "v1.36.3+k3s1", "sha256": "00"}}"#;

/// A bench whose tree says what it is, and the options of its bundle.
fn release_bench() -> (Bench, bundle::Options) {
    let bench = Bench::new();
    fs::create_dir_all(bench.tree.root.join("usr/lib/keelson")).unwrap();
    fs::write(
        bench.tree.root.join("usr/lib/keelson/release.json"),
        RELEASE,
    )
    .unwrap();
    bench.build().unwrap();
    let text = include_str!("../../../disk/testdata/test-only-a.key");
    let options = bundle::Options {
        keys: vec![SigningKey::from_pem(text).unwrap()],
        security_floor: None,
        level: 3,
    };
    (bench, options)
}

fn bundled(bench: &Bench, options: &bundle::Options) -> anyhow::Result<PathBuf> {
    let image = Manifest::read(&bench.out())?;
    let output = bench.dir.path().join("x.bundle");
    bundle::build(&bench.out(), &image, options, &output, &Report::new(true))?;
    Ok(output)
}

#[test]
fn a_bundle_holds_what_the_image_holds_and_is_the_same_each_time() {
    let (bench, options) = release_bench();
    let path = bundled(&bench, &options).unwrap();
    let keys = options.keys.iter().map(SigningKey::public).collect();
    let (mut efi, mut root) = (Vec::new(), Vec::new());
    let bundle = Bundle::open(fs::File::open(&path).unwrap(), &keys).unwrap();
    let manifest = bundle.uki(&mut efi).unwrap().image(&mut root).unwrap();
    let manifest = manifest.finish().unwrap();
    assert!(efi == fs::read(bench.out().join("keelson.efi")).unwrap());
    assert!(root == fs::read(bench.out().join("root.img")).unwrap());
    assert_eq!(manifest.variant, "metal");
    assert_eq!(manifest.security_floor.to_string(), "1.1.0");
    assert_eq!(manifest.orchestrator.unwrap().name, "k3s");

    let (other, options) = release_bench();
    let again = bundled(&other, &options).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(again).unwrap());
}

#[test]
fn nothing_is_signed_that_would_not_boot() {
    let (bench, mut options) = release_bench();
    let refused = |options: &bundle::Options| {
        let error = bundled(&bench, options).unwrap_err();
        assert!(!bench.dir.path().join("x.bundle").exists());
        format!("{error:#}")
    };
    options.security_floor = Some("1.2.4".parse().unwrap());
    assert!(refused(&options).contains("above the image's own version 1.2.3"));
    options.security_floor = None;

    let root = bench.out().join("root.img");
    let good = fs::read(&root).unwrap();
    let mut bad = good.clone();
    bad[5000] ^= 1;
    fs::write(&root, bad).unwrap();
    let text = refused(&options);
    assert!(text.contains("data block 1 is damaged"), "{text}");
    fs::write(&root, good).unwrap();

    let other = Bench::new();
    fs::write(other.tree.root.join("data"), vec![8; 100_000]).unwrap();
    other.build().unwrap();
    let efi = bench.out().join("keelson.efi");
    fs::copy(other.out().join("keelson.efi"), efi).unwrap();
    let text = refused(&options);
    assert!(text.contains("it boots another root"), "{text}");

    let image = Manifest::read(&other.out()).unwrap();
    let output = other.dir.path().join("x.bundle");
    let report = Report::new(true);
    let error = bundle::build(&other.out(), &image, &options, &output, &report).unwrap_err();
    assert!(error.to_string().contains("does not say what it is"));
}
