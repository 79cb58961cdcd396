//! Disks in a folder that looks like sysfs; the disks themselves are sparse files.

use super::{look::Unchosen, *};
use keelson_config::{DiskSelector, Pattern, SizeBound};
use keelson_disk::gpt::Geometry;
use std::fs;

const MIB: u64 = 1 << 20;

struct Fake {
    dir: tempfile::TempDir,
    ground: Ground,
}

fn machine(disks: &[(&str, &str)]) -> Fake {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for folder in ["dev", "block"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (n, (name, serial)) in disks.iter().enumerate() {
        let directory = root.join("block").join(name);
        for folder in ["queue", "holders"] {
            fs::create_dir_all(directory.join(folder)).unwrap();
        }
        let number = format!("253:{}", n * 16);
        let sectors = (400 * MIB / 512).to_string();
        let files = [
            ("size", &*sectors),
            ("serial", serial),
            ("dev", &number),
            ("queue/logical_block_size", "512"),
        ];
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
        let file = fs::File::create(root.join("dev").join(name)).unwrap();
        file.set_len(400 * MIB).unwrap();
    }
    fs::write(root.join("mounts"), "").unwrap();
    let ground = Ground {
        system: Some(root.join("dev/vda")),
        block: root.join("block"),
        dev: root.join("dev"),
        mounts: root.join("mounts"),
        swaps: root.join("swaps"),
        root: root.to_owned(),
    };
    Fake { dir, ground }
}

impl Fake {
    fn look(&self, volume: &Volume) -> Stand {
        look::again(&self.ground, volume).unwrap().stand
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a volume's partition to the disk, and tells the folder that looks like sysfs.
    fn make(&self, disk: &str, volume: &Volume) {
        let path = self.dir.path().join("dev").join(disk);
        let mut file = fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let entry = apply::write(&mut file, Geometry::of_image(400 * MIB), volume).unwrap();
        let part = format!("{disk}{}", entry.number);
        for (file, text) in [
            ("partition", entry.number.to_string()),
            ("start", entry.first.to_string()),
            ("size", entry.blocks().to_string()),
            ("dev", format!("253:{}", entry.number)),
        ] {
            self.put(&format!("block/{disk}/{part}/{file}"), &text);
        }
        fs::create_dir(self.dir.path().join(format!("block/{disk}/{part}/holders"))).unwrap();
        let node = fs::File::create(self.dir.path().join("dev").join(part)).unwrap();
        node.set_len(entry.blocks() * 512).unwrap();
    }

    fn refusal(&self, volume: &Volume) -> String {
        match self.look(volume) {
            Stand::Refused(why) => why,
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn volume(name: &str, serial: &str) -> Volume {
    Volume {
        name: name.into(),
        disk: DiskSelector {
            serial: Some(Pattern(serial.into())),
            ..DiskSelector::default()
        },
        size: Some(100 * MIB),
    }
}

/// Shows: storage.volumes.disk.model, storage.volumes.disk.serial, storage.volumes.disk.wwid, storage.volumes.disk.transport, storage.volumes.disk.size
#[test]
fn exactly_one_disk_is_meant() {
    let disk = |name: &str, model: &str, transport, gib: u64| Disk {
        name: name.into(),
        size: gib << 30,
        model: Some(model.into()),
        serial: Some(format!("serial-{name}")),
        wwid: (name != "sdc").then(|| format!("naa.{name}")),
        transport,
        ..Disk::default()
    };
    let disks = [
        disk("nvme0n1", "Fast 980", "nvme", 500),
        disk("sda", "Big 4000", "sata", 4000),
        disk("sdb", "Big 8000", "sata", 8000),
        disk("sdc", "Stick", "usb", 32),
    ];
    let text = |text: &str| Some(Pattern(text.into()));
    let none = DiskSelector::default;
    let transport = |transport| DiskSelector {
        transport: Some(transport),
        ..none()
    };
    let cases = [
        (
            DiskSelector {
                model: text("Big 4*"),
                ..none()
            },
            "sda",
        ),
        (
            DiskSelector {
                serial: text("serial-sdb"),
                ..none()
            },
            "sdb",
        ),
        (
            DiskSelector {
                wwid: text("naa.sda"),
                ..none()
            },
            "sda",
        ),
        (transport("usb"), "sdc"),
        (
            DiskSelector {
                size: Some(SizeBound::AtMost(40 << 30)),
                ..none()
            },
            "sdc",
        ),
        (
            DiskSelector {
                size: Some(SizeBound::AtLeast(5 << 40)),
                ..transport("sata")
            },
            "sdb",
        ),
        (
            DiskSelector {
                model: text("Fast*"),
                ..none()
            },
            "nvme0n1 matches, but it holds the system",
        ),
        (
            transport("mmc"),
            "no disk matches; there are sda (sata, 4000Gi, model \"Big 4000\"",
        ),
        (
            transport("sata"),
            "2 disks match, and it must be one: sda (sata",
        ),
        (
            DiskSelector {
                wwid: text("*"),
                ..none()
            },
            "2 disks match",
        ),
        (
            DiskSelector {
                model: text("big*"),
                ..none()
            },
            "no disk matches",
        ),
    ];
    for (selector, want) in cases {
        let found = match look::choose(&selector, &disks, "nvme0n1") {
            Ok(disk) => disk.name.clone(),
            Err(Unchosen::None(why) | Unchosen::Several(why)) => why,
        };
        assert!(found.contains(want), "{selector:?}: {found}");
    }
}

#[test]
fn the_systems_disk_is_never_taken() {
    let fake = machine(&[("vda", "one"), ("vdb", "two")]);
    let Stand::Absent(why) = fake.look(&volume("longhorn", "one")) else {
        panic!("taken");
    };
    assert!(why.contains("holds the system and is never taken"), "{why}");
    let mut unknown = machine(&[("vdb", "two")]);
    unknown.ground.system = None;
    let why = unknown.refusal(&volume("longhorn", "two"));
    assert!(
        why.contains("not known which disk holds the running root"),
        "{why}"
    );
}

#[test]
fn what_others_use_is_refused() {
    let wanted = volume("longhorn", "two");
    let disks = [("vda", "one"), ("vdb", "two")];
    type Use = fn(&Fake);
    let uses: [(Use, &str); 8] = [
        (|fake| fake.put("block/vdb/holders/md0", ""), "part of md0"),
        (
            |fake| {
                let swap = fake.dir.path().join("dev/vdb");
                fake.put(
                    "swaps",
                    &format!("Filename Type\n{} partition 1 0 -2\n", swap.display()),
                );
            },
            "swapped to",
        ),
        (
            |fake| {
                fake.put("block/vdb/dev", "253:16");
                fake.put("mounts", "40 1 253:16 / /mnt rw - ext4 /dev/vdb rw\n");
            },
            "mounted at /mnt",
        ),
        (
            |fake| {
                fake.put("block/vdb/vdb2/partition", "2");
                fake.put("block/vdb/vdb2/dev", "253:18");
                fake.put("mounts", "40 1 253:18 / /mnt rw - ext4 /dev/vdb2 rw\n");
            },
            "vdb2 is mounted at /mnt",
        ),
        (|fake| fake.put("block/vdb/ro", "1"), "is read-only"),
        (
            |fake| fs::create_dir(fake.dir.path().join("swaps")).unwrap(),
            "used for what cannot be told (reading ",
        ),
        (
            |fake| fs::remove_dir(fake.dir.path().join("block/vdb/holders")).unwrap(),
            "/holders: No such file",
        ),
        (
            |fake| fs::remove_file(fake.dir.path().join("block/vdb/dev")).unwrap(),
            "/dev: No such file",
        ),
    ];
    for (begin, want) in uses {
        let fake = machine(&disks);
        let before = fake.look(&wanted);
        assert!(matches!(before, Stand::Room(_)), "{before:?}");
        begin(&fake);
        let why = fake.refusal(&wanted);
        assert!(
            why.contains(want) && why.contains("choose another disk"),
            "{why}"
        );
        let bytes = fs::read(fake.dir.path().join("dev/vdb")).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

/// Shows: storage.volumes.size
#[test]
fn two_volumes_share_a_disk_and_none_is_made_twice() {
    let fake = machine(&[("vda", "one"), ("vdb", "two"), ("vdc", "three")]);
    let (one, two) = (volume("one", "two"), volume("two", "two"));
    fake.make("vdb", &one);
    // The first is in use by its own mount, which does not hinder the second.
    let point = fake.ground.point("one");
    let line = format!(
        "40 1 253:1 / {} rw shared:1 - ext4 /dev/vdb1 rw\n",
        point.display()
    );
    fake.put("mounts", &line);
    assert!(
        matches!(fake.look(&two), Stand::Room(_)),
        "{:?}",
        fake.look(&two)
    );
    fake.make("vdb", &two);
    let Stand::There(place) = fake.look(&two) else {
        panic!("not there");
    };
    assert_eq!(
        (place.number, place.start, place.size),
        (2, 101 * MIB, 100 * MIB)
    );
    assert_eq!(place.content, Content::Empty);

    let why = fake.refusal(&volume("two", "three"));
    assert!(
        why.contains("its partition is on") && why.contains("no second one"),
        "{why}"
    );
    fake.put("mounts", "40 1 253:2 / /elsewhere rw - ext4 /dev/vdb2 rw\n");
    assert!(fake.refusal(&two).contains("mounted at /elsewhere"));
    fake.put("block/vdb/vdb2/start", "2048");
    assert!(
        fake.refusal(&two).contains("restart the machine"),
        "the kernel knows another"
    );
}

#[test]
fn what_is_waited_for_becomes_a_failure() {
    let found = |stand, mounted| Look {
        name: "longhorn".into(),
        wanted: Some(volume("longhorn", "two")),
        stand,
        mounted,
        closed: true,
    };
    let absent = found(Stand::Absent("no disk matches".into()), Mounted::No);
    let text = "no disk matches".to_owned();
    assert_eq!(judged(&absent, None, true), (Phase::Pending, text.clone()));
    assert_eq!(judged(&absent, None, false), (Phase::Failed, text));
    let room = found(Stand::Room("/dev/vdb".into()), Mounted::No);
    assert_eq!(judged(&room, None, false).0, Phase::Pending);
    let failed = (Phase::Failed, "could not format".to_owned());
    assert_eq!(judged(&room, Some("could not format"), false), failed);
    let refused = found(Stand::Refused("in use".into()), Mounted::No);
    assert_eq!(
        judged(&refused, None, true),
        (Phase::Failed, "in use".to_owned())
    );
    let place = look::Place {
        disk: "/dev/vdb".into(),
        number: 1,
        start: MIB,
        size: 80 * MIB,
        device: None,
        torn: false,
        content: Content::Empty,
    };
    let space = look::Space {
        shared: true,
        read_only: false,
        total: 80 * MIB,
        available: 70 * MIB,
    };
    let smaller = found(Stand::There(place), Mounted::Here(space));
    let (phase, text) = judged(&smaller, None, true);
    assert_eq!(phase, Phase::Ready);
    assert_eq!(
        text,
        "it has 80 MiB, where the config says 100: a partition keeps its size"
    );
    let removed = Look {
        wanted: None,
        ..smaller
    };
    let busy = judged(&removed, Some("could not unmount: it is in use"), true);
    assert_eq!(
        busy,
        (Phase::Pending, "could not unmount: it is in use".to_owned())
    );
}

/// Skips itself where the folder for temporary files, or who tests, cannot close anything.
#[test]
fn a_closed_folder_keeps_root_out_until_it_is_removed() {
    let fake = machine(&[("vda", "one"), ("vdb", "two")]);
    let error = folder::close(&fake.ground, "longhorn").unwrap_err();
    assert_eq!(error.to_string(), "the data volume is not mounted");
    let data = fake.dir.path().join("var");
    fs::create_dir(&data).unwrap();
    let line = format!("40 1 253:9 / {} rw - ext4 /dev/vda9 rw\n", data.display());
    fake.put("mounts", &line);
    if let Err(error) = folder::close(&fake.ground, "longhorn") {
        return eprintln!("skipped: {error:#}");
    }
    let point = fake.ground.point("longhorn");
    folder::close(&fake.ground, "longhorn").unwrap();
    assert!(folder::is_closed(&point));
    assert!(fs::create_dir_all(point.join("data")).is_err());
    assert!(fs::remove_dir(&point).is_err());
    // The disk is not there, and neither is anybody who wants it.
    let left = look::look(&fake.ground, &[]).unwrap();
    assert_eq!(plan::plan(&left), [Step::Remove("longhorn".into())]);
    folder::remove(&point).unwrap();
    assert_eq!(look::look(&fake.ground, &[]).unwrap(), []);
}

#[tokio::test]
async fn a_step_that_failed_is_not_taken_again_at_once() {
    let fake = machine(&[("vda", "one"), ("vdb", "two")]);
    let mut want = Machine::maintenance();
    want.volumes = vec![volume("longhorn", "two")];
    let mut further = Further::new(fake.ground);
    let found = further.observe(&want).await;
    let steps = further.plan(&found);
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(text[0], "close /var/mnt/longhorn until it is mounted");
    assert!(
        text[1].starts_with("make the partition KEELSON-longhorn on "),
        "{text:?}"
    );
    assert_eq!(
        text[2..],
        [
            "format the empty partition KEELSON-longhorn",
            "mount KEELSON-longhorn at /var/mnt/longhorn"
        ]
    );
    // A file is no disk, of which the kernel could be told.
    let error = further.apply(&steps[1]).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("telling the kernel"),
        "{error:#}"
    );
    let error = further.apply(&steps[2]).await.unwrap_err();
    assert_eq!(error.to_string(), "a step before it failed");
    let found = further.observe(&want).await;
    assert_eq!(further.plan(&found), []);
    let shown = &further.publish(&found)[0];
    assert!(
        shown.phase == Phase::Pending && shown.message.contains("telling the kernel"),
        "{shown:?}"
    );
    want.volumes[0].size = None;
    let found = further.observe(&want).await;
    assert_eq!(further.plan(&found).len(), 4, "with another config it is");
}
