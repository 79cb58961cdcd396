//! Disks in a folder that looks like sysfs, and the words of real ones.

use super::*;
use std::os::unix::fs::symlink;

const MOUNTS: &str = "\
47 22 253:7 / /var rw,noatime shared:12 - ext4 /dev/vda7 rw
48 22 8:17 / /mnt/data rw,noatime - ext4 /dev/sdb1 rw
";

/// A disk in sysfs, with these files, at this place among the devices.
fn put(root: &Path, name: &str, place: &str, files: &[(&str, &[u8])]) {
    let directory = root
        .join("sys/devices")
        .join(place)
        .join("block")
        .join(name);
    fs::create_dir_all(&directory).unwrap();
    for (file, content) in files {
        let path = directory.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::create_dir_all(root.join("sys/block")).unwrap();
    symlink(&directory, root.join("sys/block").join(name)).unwrap();
    fs::create_dir_all(root.join("dev")).unwrap();
    fs::write(root.join("dev").join(name), vec![0; 4096]).unwrap();
}

fn machine() -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(
        root,
        "vda",
        "pci0000:00/0000:00:02.0/virtio1",
        &[
            ("size", b"25165824\n"),
            ("dev", b"253:0\n"),
            ("vda7/partition", b"7\n"),
        ],
    );
    put(
        root,
        "vdb",
        "pci0000:00/0000:00:03.0/virtio2",
        &[
            ("size", b"2097152\n"),
            ("serial", b"spare-1"),
            ("removable", b"0\n"),
        ],
    );
    put(
        root,
        "nvme0n1",
        "pci0000:00/0000:00:04.0/nvme/nvme0",
        &[
            ("size", b"1000215216\n"),
            ("wwid", b"eui.0025385b71b0c0a1\n"),
            (
                "device/model",
                b"Samsung SSD 970 EVO Plus 500GB          \n",
            ),
            ("device/serial", b"S4EVNF0M123456      \n"),
            ("hidden", b"0\n"),
            ("holders/dm-1", b""),
        ],
    );
    put(
        root,
        "sdb",
        "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0",
        &[
            ("size", b"60088320\n"),
            ("removable", b"1\n"),
            ("ro", b"1\n"),
            ("device/model", b"Ultra Fit\n"),
            ("device/vpd_pg80", b"\0\x80\0\x084C530001"),
            ("device/wwid", b"t10.SanDisk Ultra Fit\n"),
            ("sdb1/partition", b"1\n"),
            ("sdb1/dev", b"8:17\n"),
        ],
    );
    for (name, size) in [("sr0", "2048"), ("zram0", "2048"), ("sdc", "0")] {
        put(root, name, "virtual", &[("size", size.as_bytes())]);
    }
    put(
        root,
        "nvme0c0n1",
        "virtual/nvme",
        &[("size", b"8"), ("hidden", b"1\n")],
    );
    let places = Places {
        block: root.join("sys/block"),
        dev: root.join("dev"),
        mounts: root.join("mountinfo"),
        system: root.join("dev/vda"),
    };
    (dir, places)
}

#[test]
fn a_person_can_tell_the_disks_apart() {
    let (_dir, places) = machine();
    let found = disks(&places, MOUNTS).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let wanted = [
        Disk {
            name: "nvme0n1".into(),
            size: 1_000_215_216 * 512,
            model: some("Samsung SSD 970 EVO Plus 500GB"),
            serial: some("S4EVNF0M123456"),
            wwid: some("eui.0025385b71b0c0a1"),
            transport: "nvme",
            used: "part of dm-1".into(),
            ..Disk::default()
        },
        Disk {
            name: "sdb".into(),
            size: 60_088_320 * 512,
            model: some("Ultra Fit"),
            serial: some("4C530001"),
            wwid: some("t10.SanDisk Ultra Fit"),
            transport: "usb",
            removable: true,
            read_only: true,
            used: "mounted at /mnt/data".into(),
        },
        Disk {
            name: "vda".into(),
            size: 12 << 30,
            transport: "virtio",
            used: "the system".into(),
            ..Disk::default()
        },
        Disk {
            name: "vdb".into(),
            size: 1 << 30,
            serial: some("spare-1"),
            transport: "virtio",
            used: "empty".into(),
            ..Disk::default()
        },
    ];
    assert_eq!(found, wanted);
}

#[test]
fn what_is_on_a_disk_is_said() {
    let (dir, places) = machine();
    let device = dir.path().join("dev/vdb");
    let used = |places: &Places| disks(places, MOUNTS).unwrap()[3].used.clone();
    let mut bytes = vec![0; 4096];
    bytes[0x200..0x208].copy_from_slice(b"EFI PART");
    fs::write(&device, &bytes).unwrap();
    assert_eq!(used(&places), "a partition table");
    fs::remove_file(&device).unwrap();
    assert!(
        used(&places).starts_with("cannot be read"),
        "{}",
        used(&places)
    );
}

#[test]
fn published_as_configs_have_it() {
    let (_dir, places) = machine();
    let found = disks(&places, MOUNTS).unwrap();
    let published: Vec<Resource> = found.iter().map(resource).collect();
    assert_eq!(published[0].spec["size"], "476Gi");
    assert_eq!(published[1].message, "it can be taken out; it is read-only");
    assert_eq!(published[3].spec["size"], "1024Mi");
    assert!(!published[3].spec.contains_key("model"));
}

#[test]
fn how_a_disk_is_connected() {
    for (place, word) in [
        (
            "/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
            "sata",
        ),
        (
            "/sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/block/sdb",
            "usb",
        ),
        (
            "/sys/devices/platform/emmc2bus/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0",
            "mmc",
        ),
        (
            "/sys/devices/pci0000:00/0000:00:05.0/virtio3/host2/target2:0:0/2:0:0:1/block/sda",
            "virtio",
        ),
        (
            "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
            "nvme",
        ),
        (
            "/sys/devices/pci0000:00/0000:03:00.0/host0/port-0:0/end_device-0:0/block/sda",
            "sas",
        ),
        (
            "/sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda",
            "iscsi",
        ),
        ("/sys/devices/vbd-51712/block/xvda", "xen"),
        (
            "/sys/devices/pci0000:00/0000:00:10.0/host2/target2:0:0/2:0:0:0/block/sda",
            "scsi",
        ),
    ] {
        assert_eq!(transport(place), word, "{place}");
    }
}

#[test]
fn a_page_that_is_cut_has_no_serial_number() {
    assert_eq!(serial_of_page(b"\0\x80\0\x04 A1 rest"), Some("A1".into()));
    for page in [
        &b""[..],
        b"\0\x80\0",
        b"\0\x80\0\x05A1",
        b"\0\x83\0\x02A1",
        b"\0\x80\0\0",
    ] {
        assert_eq!(serial_of_page(page), None, "{page:?}");
    }
}

#[tokio::test]
async fn nothing_is_read_while_nothing_happens() {
    let (dir, places) = machine();
    fs::write(&places.mounts, MOUNTS).unwrap();
    let mut noun = Disks {
        places: Arc::new(places),
        ..Disks::new(Path::new("/dev/vda"))
    };
    let machine = Machine::maintenance();
    let first = noun.observe(&machine).await.unwrap();
    assert_eq!(first.len(), 4);
    // As if no event had come since; the tests' own machine may have had some.
    fs::remove_dir_all(dir.path().join("sys/block")).unwrap();
    fs::create_dir_all(dir.path().join("sys/block")).unwrap();
    if let Some((before, _)) = &mut noun.last {
        before.events = module::events();
    }
    if module::events().is_some() {
        assert_eq!(noun.observe(&machine).await.unwrap(), first);
    }
    fs::write(dir.path().join("mountinfo"), "").unwrap();
    assert_eq!(noun.observe(&machine).await.unwrap(), [], "another mount");
}
