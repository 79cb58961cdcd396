//! One table of cases, and what every plan keeps to.

use super::{
    super::{
        super::content::Ext4,
        look::{Place, Space},
    },
    *,
};
use keelson_config::DiskSelector;

const MIB: u64 = 1 << 20;

fn volume() -> Volume {
    Volume {
        name: "longhorn".into(),
        disk: DiskSelector::default(),
        size: None,
    }
}

fn ext4(state: Left) -> Content {
    Content::Ext4(Ext4 {
        label: "another".into(),
        block_size: 4096,
        blocks: 100,
        state,
    })
}

fn there(content: Content) -> Stand {
    Stand::There(Place {
        disk: "/dev/vdb".into(),
        number: 1,
        start: MIB,
        size: 100 * MIB,
        device: Some("/dev/vdb1".into()),
        torn: false,
        content,
    })
}

fn but(stand: Stand, change: impl Fn(&mut Place)) -> Stand {
    let Stand::There(mut place) = stand else {
        panic!("no partition");
    };
    change(&mut place);
    Stand::There(place)
}

fn here(shared: bool, read_only: bool) -> Mounted {
    Mounted::Here(Space {
        shared,
        read_only,
        total: 100 * MIB,
        available: 90 * MIB,
    })
}

fn found(stand: Stand, mounted: Mounted) -> Found {
    Found {
        name: "longhorn".into(),
        wanted: Some(volume()),
        stand,
        mounted,
        closed: true,
    }
}

fn open(found: Found) -> Found {
    Found {
        closed: false,
        ..found
    }
}

/// Shows: storage.volumes, storage.volumes.name, storage.volumes.disk
#[test]
fn each_case_has_its_steps() {
    let (format, check) = (Step::Format(volume()), Step::Check(volume()));
    let (mount, share) = (Step::Mount(volume()), Step::Share(volume()));
    let close = Step::Close(volume());
    let partition = Step::Partition(volume(), "/dev/vdb".into());
    let clean = || there(ext4(Left::Clean));
    let luks = || there(Content::Other("a LUKS container".into()));
    let no = || Mounted::No;
    let cases: Vec<(&str, Found, Vec<&Step>)> = vec![
        (
            "a disk with room",
            found(Stand::Room("/dev/vdb".into()), no()),
            vec![&partition, &format, &mount],
        ),
        (
            "the first time",
            open(found(Stand::Room("/dev/vdb".into()), no())),
            vec![&close, &partition, &format, &mount],
        ),
        (
            "power was cut before it was formatted",
            found(there(Content::Empty), no()),
            vec![&format, &mount],
        ),
        (
            "power was cut while the table was written",
            found(but(there(Content::Empty), |place| place.torn = true), no()),
            vec![&partition, &format, &mount],
        ),
        (
            "the kernel does not know it",
            found(but(clean(), |place| place.device = None), no()),
            vec![&partition, &mount],
        ),
        (
            "a later boot, or another's disk",
            found(clean(), no()),
            vec![&mount],
        ),
        (
            "after a power cut",
            found(there(ext4(Left::Dirty)), no()),
            vec![&check, &mount],
        ),
        (
            "with errors",
            found(there(ext4(Left::Broken)), no()),
            vec![&check, &mount],
        ),
        (
            "all as wanted",
            found(there(ext4(Left::Dirty)), here(true, false)),
            vec![],
        ),
        (
            "not shared",
            found(clean(), here(false, false)),
            vec![&share],
        ),
        (
            "read-only after an error",
            found(clean(), here(false, true)),
            vec![],
        ),
        ("unknown data", found(luks(), no()), vec![]),
        (
            "no such disk",
            found(Stand::Absent("none".into()), no()),
            vec![],
        ),
        (
            "no such disk yet, and anybody could write in its place",
            open(found(Stand::Absent("none".into()), no())),
            vec![&close],
        ),
        (
            "refused, the first time",
            open(found(luks(), no())),
            vec![&close],
        ),
        (
            "mounted: what is below is not seen",
            open(found(clean(), here(true, false))),
            vec![],
        ),
        (
            "refused",
            found(Stand::Refused("in use".into()), no()),
            vec![],
        ),
        (
            "the place is taken",
            found(clean(), Mounted::Other("tmpfs".into())),
            vec![],
        ),
        (
            "its disk is pulled out while it is mounted",
            found(
                Stand::Absent("none".into()),
                Mounted::Other("/dev/vdb1".into()),
            ),
            vec![],
        ),
    ];
    for (rule, found, want) in cases {
        assert_eq!(plan(&[found]).iter().collect::<Vec<_>>(), want, "{rule}");
    }
    let removed = |mounted| Found {
        wanted: None,
        ..found(Stand::Unwanted, mounted)
    };
    let unmount = Step::Unmount("longhorn".into());
    assert_eq!(
        plan(&[removed(here(true, false))]),
        [unmount],
        "removed from the config"
    );
    assert_eq!(
        plan(&[removed(Mounted::No)]),
        [Step::Remove("longhorn".into())],
        "it was never mounted"
    );
    assert_eq!(
        plan(&[open(removed(Mounted::No))]),
        [],
        "and unmounted: its partition stays"
    );
}

#[test]
fn who_is_refused_is_told_why_and_what_to_do() {
    let luks = found(
        there(Content::Other("a LUKS container".into())),
        Mounted::No,
    );
    let text = refused(&luks).unwrap();
    assert!(
        text.starts_with("/dev/vdb1 is the partition KEELSON-longhorn and holds a LUKS"),
        "{text}"
    );
    assert!(
        text.contains("zeros") && text.contains("choose another disk"),
        "{text}"
    );
    let taken = found(there(ext4(Left::Clean)), Mounted::Other("tmpfs".into()));
    assert!(
        refused(&taken)
            .unwrap()
            .contains("/var/mnt/longhorn is taken by tmpfs")
    );
    let moved = Stand::Refused("its partition is on /dev/vdc already".into());
    let moved = found(moved, Mounted::Other("/dev/vdc1".into()));
    assert!(
        refused(&moved)
            .unwrap()
            .starts_with("its partition is on /dev/vdc")
    );
    assert_eq!(refused(&found(there(Content::Empty), Mounted::No)), None);
}
