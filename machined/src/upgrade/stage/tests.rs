//! Tests of staging, on a disk that is a file: what goes well, and what each fault leaves.

use super::*;
use crate::upgrade::record::{Bad, End};
use keelson_disk::{
    bundle::{Orchestrator, SigningKey},
    gpt::{Geometry, Table},
    layout::{Layout, Role},
    verity::RootSpec,
};
use std::{fs, io::Cursor, path::PathBuf};

const OLD: [u8; 32] = [0xaa; 32];

/// A root image of a few blocks, and the words that open it.
fn image(seed: u8) -> (Vec<u8>, RootSpec) {
    let data = vec![seed; 40 * verity::BLOCK as usize];
    let mut image = Cursor::new(data.clone());
    let spec = verity::build(&mut data.as_slice(), 40, [seed; 32], &mut image).unwrap();
    (image.into_inner(), spec)
}

/// The smallest file that reads as a UKI.
fn uki(root: &RootSpec, version: &str) -> Vec<u8> {
    let line = cmdline(root);
    let names = format!("ID=keelson\nIMAGE_VERSION={version}\n");
    let sections = [(".cmdline", line.as_bytes()), (".osrel", names.as_bytes())];
    let mut bytes = vec![0; 512];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[60] = 64;
    bytes[64..68].copy_from_slice(b"PE\0\0");
    bytes[70] = 2;
    for (n, (name, content)) in sections.iter().enumerate() {
        let offset = u32::try_from(bytes.len()).unwrap();
        let header = &mut bytes[88 + n * 40..128 + n * 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let length = u32::try_from(content.len()).unwrap();
        header[8..12].copy_from_slice(&length.to_le_bytes());
        header[16..20].copy_from_slice(&512u32.to_le_bytes());
        header[20..24].copy_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(offset as usize + 512, 0);
    }
    bytes
}

fn cmdline(root: &RootSpec) -> String {
    keelson_disk::cmdline::Options {
        root: *root,
        debug: false,
        watchdog: true,
    }
    .to_string()
}

/// A machine that runs 0.1.0 out of slot A.
struct Bench {
    _folder: tempfile::TempDir,
    disk: Disk,
    entries: PathBuf,
    key: SigningKey,
    memory: Memory,
    running: Running,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let bytes = Layout::Compact.image_bytes(true);
        let mut file = File::create_new(&path).unwrap();
        file.set_len(bytes).unwrap();
        let table = Layout::Compact
            .table(Geometry::of_image(bytes), b"seed", &OLD, true)
            .unwrap();
        table.write_backup(&mut file).unwrap();
        table.write_primary(&mut file).unwrap();
        let entries = folder.path().join("EFI/Linux");
        fs::create_dir_all(&entries).unwrap();
        let old = RootSpec {
            root_hash: OLD,
            data_blocks: 1,
            salt: [0; 32],
        };
        fs::write(entries.join("keelson-0.1.0.efi"), uki(&old, "0.1.0")).unwrap();
        let disk = Disk::of_files(&path, folder.path());
        let (memory, problem) = Memory::load(disk.clone()).unwrap();
        assert_eq!(problem, None);
        Bench {
            disk,
            entries,
            key: SigningKey::from_pem(&SigningKey::generate().unwrap()).unwrap(),
            memory,
            running: Running {
                version: "0.1.0".into(),
                arch: "amd64".into(),
                variant: "cloud".into(),
                root_hash: OLD,
            },
            _folder: folder,
        }
    }

    fn bundle(&self, version: &str, seed: u8, change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
        let (image, root) = image(seed);
        self.bundle_of(version, &image, root, uki(&root, version), change)
    }

    fn bundle_of(
        &self,
        version: &str,
        image: &[u8],
        root: RootSpec,
        uki: Vec<u8>,
        change: impl FnOnce(&mut Manifest),
    ) -> Vec<u8> {
        let mut packed = Vec::new();
        let packing = bundle::pack(&mut &*image, 1, &mut packed).unwrap();
        let mut manifest = Manifest {
            format_version: bundle::FORMAT,
            version: version.parse().unwrap(),
            arch: "amd64".into(),
            variant: "cloud".into(),
            root,
            uki: bundle::digest(&mut uki.as_slice()).unwrap(),
            image: packing,
            orchestrator: Some(Orchestrator {
                name: "k3s".into(),
                version: "v1.36.4+k3s1".into(),
            }),
            security_floor: "0.1.0".parse().unwrap(),
            build_time: 1_790_000_000,
        };
        change(&mut manifest);
        let mut bytes = Vec::new();
        bundle::write(
            &manifest,
            std::slice::from_ref(&self.key),
            &mut uki.as_slice(),
            &mut packed.as_slice(),
            &mut bytes,
        )
        .unwrap();
        bytes
    }

    fn stage(&self, bytes: &[u8]) -> anyhow::Result<Release> {
        self.stage_until(bytes, &AtomicBool::new(false))
    }

    fn stage_until(&self, bytes: &[u8], cancelled: &AtomicBool) -> anyhow::Result<Release> {
        let keys: Keys = [self.key.public()].into_iter().collect();
        let progress = watch::Sender::new(None);
        stage(
            bytes,
            &Ground {
                disk: &self.disk,
                running: &self.running,
                keys: &keys,
                memory: &self.memory,
                force: false,
                waits: false,
                url: None,
                boot: "boot".into(),
                progress: &progress,
                cancelled,
            },
        )
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.entries)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What the slots are named for, and the record as it is on the disk.
    fn disk(&self) -> (Vec<bool>, Record) {
        let mut file = File::open(self.entries.join("../../disk")).unwrap();
        let bytes = Layout::Compact.image_bytes(true);
        let (table, _) = Table::read(&mut file, Geometry::of_image(bytes)).unwrap();
        let named = [Role::RootA, Role::RootB]
            .map(|role| table.entry(role.number()).unwrap().uuid != layout::EMPTY_SLOT);
        let log = self.disk.log().unwrap();
        let record = log.latest().map(|it| Record::parse(&it.payload).unwrap());
        (named.to_vec(), record.unwrap_or_default())
    }
}

#[test]
fn a_good_bundle_is_written_named_and_tried_next() {
    let bench = Bench::new();
    let release = bench.stage(&bench.bundle("0.2.0", 7, |_| {})).unwrap();
    assert_eq!(release.version, "0.2.0");
    assert_eq!(bench.names(), ["keelson-0.1.0.efi", "keelson-0.2.0+3.efi"]);
    let (named, record) = bench.disk();
    assert_eq!(named, [true, true]);
    assert_eq!(record.state, State::Staged { release });
    let slot = bench.disk.find(&image(7).1.root_hash).unwrap().unwrap();
    bench.disk.verify(slot, &image(7).1).unwrap();
}

#[test]
fn a_second_release_takes_the_place_of_what_is_only_staged() {
    let bench = Bench::new();
    bench.stage(&bench.bundle("0.2.0", 7, |_| {})).unwrap();
    bench.stage(&bench.bundle("0.3.0", 8, |_| {})).unwrap();
    assert_eq!(bench.names(), ["keelson-0.1.0.efi", "keelson-0.3.0+3.efi"]);
    assert!(bench.disk.find(&image(7).1.root_hash).unwrap().is_none());
}

#[test]
fn what_is_in_the_slot_already_is_not_written_again() {
    let bench = Bench::new();
    let bytes = bench.bundle("0.2.0", 7, |_| {});
    bench.stage(&bytes).unwrap();
    // Only the head and the UKI are read; the root image need not come at all.
    let head = bytes.len() - 100;
    bench.stage(&bytes[..head]).unwrap();
    assert_eq!(bench.names(), ["keelson-0.1.0.efi", "keelson-0.2.0+3.efi"]);
}

#[test]
fn whatever_goes_wrong_leaves_nothing_that_boots_but_what_runs() {
    let good = |bench: &Bench| bench.bundle("0.2.0", 7, |_| {});
    let cut = |bench: &Bench| {
        let bytes = good(bench);
        bytes[..bytes.len() - 30].to_vec()
    };
    let trailing = |bench: &Bench| [good(bench), vec![0]].concat();
    let flipped = |bench: &Bench| {
        let mut bytes = good(bench);
        let last = bytes.len() - 30;
        bytes[last] ^= 1;
        bytes
    };
    let other_root = |bench: &Bench| {
        let (bytes, root) = image(7);
        bench.bundle_of("0.2.0", &bytes, root, uki(&image(8).1, "0.2.0"), |_| {})
    };
    let other_name = |bench: &Bench| {
        let (bytes, root) = image(7);
        bench.bundle_of("0.2.0", &bytes, root, uki(&root, "0.3.0"), |_| {})
    };
    let other_image = |bench: &Bench| {
        let root = image(7).1;
        bench.bundle_of("0.2.0", &image(8).0, root, uki(&root, "0.2.0"), |_| {})
    };
    let cases: [(&str, &dyn Fn(&Bench) -> Vec<u8>, &str); 6] = [
        ("it is cut off", &cut, "cut off"),
        ("something follows it", &trailing, ""),
        ("a byte of the root is wrong", &flipped, ""),
        ("the UKI opens another root", &other_root, "another root"),
        ("the UKI has another version", &other_name, "IMAGE_VERSION"),
        ("the slot would not open", &other_image, "reading back"),
    ];
    for (what, bytes, why) in cases {
        let bench = Bench::new();
        let error = format!("{:#}", bench.stage(&bytes(&bench)).unwrap_err());
        assert!(error.contains(why), "{what}: {error}");
        assert_eq!(bench.names(), ["keelson-0.1.0.efi"], "{what}");
        let (named, record) = bench.disk();
        assert_eq!(named, [true, false], "{what}");
        assert_eq!(record.state, State::Idle, "{what}");
        let last = record.last.unwrap();
        assert_eq!(
            (last.end, last.version.as_str()),
            (End::Failed, "0.2.0"),
            "{what}"
        );
    }
}

#[test]
fn what_is_refused_changes_nothing_at_all() {
    let bench = Bench::new();
    let mut bytes = bench.bundle("0.2.0", 7, |_| {});
    bytes[40] ^= 1;
    bench.stage(&bytes).unwrap_err();
    let arm = bench.bundle("0.2.0", 7, |manifest| manifest.arch = "arm64".into());
    bench.stage(&arm).unwrap_err();
    let stop = AtomicBool::new(true);
    let good = bench.bundle("0.2.0", 7, |_| {});
    bench.stage_until(&good, &stop).unwrap_err();
    assert_eq!(bench.disk(), (vec![true, false], Record::default()));
    assert_eq!(bench.names(), ["keelson-0.1.0.efi"]);
}

#[test]
fn the_release_before_is_kept_until_the_running_one_is_good() {
    let bench = Bench::new();
    bench.stage(&bench.bundle("0.2.0", 7, |_| {})).unwrap();
    let counted = bench.entries.join("keelson-0.1.0+2-1.efi");
    fs::rename(bench.entries.join("keelson-0.1.0.efi"), counted).unwrap();
    let before = bench.disk();
    let error = bench.stage(&bench.bundle("0.3.0", 8, |_| {})).unwrap_err();
    assert!(
        format!("{error:#}").contains("not marked good"),
        "{error:#}"
    );
    assert_eq!(
        bench.names(),
        ["keelson-0.1.0+2-1.efi", "keelson-0.2.0+3.efi"]
    );
    // Nor is its slot touched, or what the record says of it.
    assert_eq!(bench.disk(), before);
    let slot = bench.disk.find(&image(7).1.root_hash).unwrap().unwrap();
    bench.disk.verify(slot, &image(7).1).unwrap();
}

#[test]
fn each_reason_to_refuse() {
    let bench = Bench::new();
    let manifest = |version: &str, seed: u8| {
        let bytes = bench.bundle(version, seed, |_| {});
        let keys: Keys = [bench.key.public()].into_iter().collect();
        Bundle::open(bytes.as_slice(), &keys)
            .unwrap()
            .manifest()
            .clone()
    };
    let new = manifest("0.2.0", 7);
    let with = |change: fn(&mut Manifest)| {
        let mut changed = new.clone();
        change(&mut changed);
        changed
    };
    let bad = Record {
        bad: vec![Bad {
            version: "0.2.0".into(),
            root_hash: verity::hex(&new.root.root_hash),
            reason: "it hung".into(),
            at: 0,
        }],
        ..Record::default()
    };
    let trying = Record {
        state: State::Trying {
            release: Release::default(),
            boots: 1,
            boot: String::new(),
            reason: None,
            log: Vec::new(),
        },
        ..Record::default()
    };
    let floor = Record {
        floor: "0.3.0".into(),
        ..Record::default()
    };
    let none = Record::default();
    let large = 1 << 30;
    let cases: [(&str, Manifest, &Record, u64, bool, Option<&str>); 13] = [
        ("a good one", new.clone(), &none, large, false, None),
        (
            "arch",
            with(|it| it.arch = "arm64".into()),
            &none,
            large,
            true,
            Some("arm64"),
        ),
        (
            "variant",
            with(|it| it.variant = "metal".into()),
            &none,
            large,
            true,
            Some("metal"),
        ),
        (
            "on trial",
            new.clone(),
            &trying,
            large,
            true,
            Some("on trial"),
        ),
        (
            "floor",
            new.clone(),
            &floor,
            large,
            true,
            Some("security floor 0.3.0"),
        ),
        (
            "runs",
            with(|it| it.root.root_hash = OLD),
            &none,
            large,
            true,
            Some("runs already"),
        ),
        (
            "same version",
            manifest("0.1.0", 7),
            &none,
            large,
            true,
            Some("another build"),
        ),
        (
            "older",
            manifest("0.0.9", 7),
            &none,
            large,
            true,
            Some("osctl rollback"),
        ),
        (
            "a candidate is older",
            manifest("0.1.0-rc.1", 7),
            &none,
            large,
            true,
            Some("older"),
        ),
        ("bad", new.clone(), &bad, large, false, Some("it hung")),
        ("bad, and forced", new.clone(), &bad, large, true, None),
        (
            "another build of a bad one",
            manifest("0.2.0", 9),
            &bad,
            large,
            false,
            None,
        ),
        (
            "too large",
            new.clone(),
            &none,
            40 * verity::BLOCK,
            true,
            Some("a slot of this machine"),
        ),
    ];
    for (what, manifest, record, slot, force, want) in cases {
        let found = refusal(&manifest, &bench.running, record, slot, force);
        match want {
            None => assert_eq!(found, None, "{what}"),
            Some(text) => assert!(
                found.as_deref().is_some_and(|found| found.contains(text)),
                "{what}: {found:?}"
            ),
        }
    }
}
