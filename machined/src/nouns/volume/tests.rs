//! The volumes of a real disk: a loop device with a partition table, in a mount
//! namespace of its own. Needs root and loop devices; says so where it has neither.

use super::*;
use crate::{noun::Reconcile as _, resource::Store};
use keelson_disk::{
    gpt::{Entry, Geometry, Table},
    layout::{EMPTY_SLOT, KIND_LINUX, derived_uuid},
};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

const MIB: u64 = 1 << 20;

/// A disk with STATE (32 MiB) and DATA (64 MiB), in a file.
struct Disk {
    directory: tempfile::TempDir,
    device: PathBuf,
}

impl Disk {
    /// A new disk, or a copy of one as it stands.
    fn with(copied: Option<&Path>) -> Option<Disk> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk");
        match copied {
            Some(other) => drop(fs::copy(other, &image).unwrap()),
            None => Disk::create(&image),
        }
        let losetup = Command::new("losetup")
            .args(["-P", "-f", "--show"])
            .arg(&image)
            .output()
            .ok()?;
        let device = String::from_utf8(losetup.stdout).unwrap().trim().to_owned();
        if !losetup.status.success() || device.is_empty() {
            return None;
        }
        let disk = Disk {
            directory,
            device: device.into(),
        };
        fs::create_dir_all(disk.root().join("system/state")).unwrap();
        fs::create_dir_all(disk.root().join("var")).unwrap();
        if !disk.partition(7).exists() {
            // A kernel that cannot read a GPT can still be told of its partitions.
            drop(Command::new("partx").arg("-a").arg(&disk.device).status());
        }
        [6, 7]
            .into_iter()
            .all(|number| disk.partition(number).exists())
            .then_some(disk)
    }

    fn create(image: &Path) {
        let mut file = fs::File::create(image).unwrap();
        file.set_len(98 * MIB).unwrap();
        let entry = |number: u32, name: &str, first: u64, size: u64| Entry {
            number,
            kind: KIND_LINUX,
            uuid: if number == 1 {
                EMPTY_SLOT
            } else {
                derived_uuid(b"test", name)
            },
            first: first * MIB / 512,
            last: (first + size) * MIB / 512 - 1,
            attributes: 0,
            name: name.into(),
        };
        let table = Table {
            disk: derived_uuid(b"test", "disk"),
            geometry: Geometry::of_image(98 * MIB),
            entries: vec![
                entry(6, "KEELSON-STATE", 1, 32),
                entry(7, "KEELSON-DATA", 33, 64),
            ],
        };
        table.write_backup(&mut file).unwrap();
        table.write_primary(&mut file).unwrap();
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn partition(&self, number: u32) -> PathBuf {
        format!("{}p{number}", self.device.display()).into()
    }

    fn volume(&self) -> Volume {
        Volume::with(Some(&self.device), &self.root())
    }

    fn grow(&self, bytes: u64) {
        let image = self.directory.path().join("disk");
        fs::OpenOptions::new()
            .write(true)
            .open(image)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        assert!(
            Command::new("losetup")
                .arg("-c")
                .arg(&self.device)
                .status()
                .unwrap()
                .success()
        );
    }

    fn unmount(&self) {
        for point in ["system/state", "var"] {
            unmount(self.root().join(point), UnmountFlags::empty()).unwrap();
        }
    }

    fn write(&self, number: u32, offset: u64, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(self.partition(number))
            .unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for point in ["system/state", "var"] {
            // It may not be mounted.
            unmount(self.root().join(point), UnmountFlags::DETACH).unwrap_or_default();
        }
        drop(Command::new("losetup").arg("-d").arg(&self.device).status());
    }
}

/// Runs a test in a mount namespace of its own, on a disk of its own.
fn with_disk(test: impl AsyncFnOnce(&Disk) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            eprintln!("skipped: this test mounts, which is not permitted here: {error}");
            return;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        let Some(disk) = Disk::with(None) else {
            eprintln!("skipped: there are no loop devices with partitions here");
            return;
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(&disk));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whether this process has CAP_SYS_RESOURCE, which is bit 24.
fn may_resize() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() & (1 << 24) != 0
}

async fn pass(volume: &mut Volume) -> (Vec<String>, Vec<String>, Store) {
    let store = Store::new();
    let pass = volume.reconcile(&Machine::maintenance(), &store).await;
    let failed = pass
        .failed
        .into_iter()
        .map(|(step, error)| format!("{step}: {error:#}"));
    (pass.taken, failed.collect(), store)
}

#[test]
fn a_disk_from_its_first_boot_on() {
    with_disk(async |disk| {
        let mut volume = disk.volume();
        let (taken, failed, store) = pass(&mut volume).await;
        assert_eq!(failed, Vec::<String>::new());
        assert_eq!(
            taken,
            [
                "format the empty partition KEELSON-STATE",
                "mount KEELSON-STATE at /system/state",
                "make the directories of /system/state",
                "format the empty partition KEELSON-DATA",
                "mount KEELSON-DATA at /var",
                "make the directories of /var",
            ]
        );
        let mounted = Volumes {
            state: Availability::Mounted,
            data: Availability::Mounted,
        };
        assert_eq!(*volume.volumes().borrow(), mounted);
        let data = store.get("volume", "data").unwrap();
        assert_eq!(data.phase, Phase::Ready, "{data:?}");
        assert_eq!(data.spec["size"], 64 * MIB);
        let mode = |path: &str| {
            fs::metadata(disk.root().join(path))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };
        assert_eq!(mode("system/state"), 0o700);
        assert_eq!(mode("var/tmp"), 0o1777);
        assert_eq!(mode("var/lib/rancher"), 0o755);
        assert_eq!(
            fs::read_link(disk.root().join("var/run")).unwrap(),
            Path::new("/run")
        );
        let (taken, failed, _) = pass(&mut volume).await;
        assert_eq!(
            (taken, failed),
            (vec![], vec![]),
            "a second pass does nothing"
        );

        // A boot on a larger disk: nothing is formatted, DATA grows, its files stay.
        fs::write(disk.root().join("var/lib/kept"), "kept").unwrap();
        disk.unmount();
        disk.grow(400 * MIB);
        let mut volume = disk.volume();
        let (taken, failed, store) = pass(&mut volume).await;
        assert!(
            taken.contains(&"grow the partition KEELSON-DATA".into()),
            "{taken:?}"
        );
        assert!(
            !taken.iter().any(|step| step.starts_with("format")),
            "{taken:?}"
        );
        assert_eq!(fs::read(disk.root().join("var/lib/kept")).unwrap(), b"kept");
        let data = store.get("volume", "data").unwrap();
        assert_eq!(data.spec["size"], 366 * MIB);
        if !may_resize() {
            eprintln!("skipped in part: growing a mounted ext4 needs CAP_SYS_RESOURCE");
            assert_eq!(data.phase, Phase::Failed, "the failed step shows");
            assert!(
                data.message.contains("could not grow the file system"),
                "{}",
                data.message
            );
            return;
        }
        assert_eq!(failed, Vec::<String>::new());
        assert!(
            taken.contains(&"grow the file system KEELSON-DATA".into()),
            "{taken:?}"
        );
        assert!(data.spec["freeMib"].as_u64().unwrap() > 300, "{data:?}");
        let (taken, failed, _) = pass(&mut volume).await;
        assert_eq!((taken, failed), (vec![], vec![]), "grown once");

        // And while the machine runs.
        disk.grow(700 * MIB);
        let (taken, failed, store) = pass(&mut volume).await;
        assert_eq!(failed, Vec::<String>::new());
        assert_eq!(
            taken,
            [
                "grow the partition KEELSON-DATA",
                "grow the file system KEELSON-DATA"
            ]
        );
        let data = store.get("volume", "data").unwrap();
        assert!(data.spec["freeMib"].as_u64().unwrap() > 580, "{data:?}");
    });
}

#[test]
fn unknown_content_is_never_touched() {
    with_disk(async |disk| {
        disk.write(7, 0, b"LUKS\xba\xbe and what is in it");
        let mut volume = disk.volume();
        let (taken, _, store) = pass(&mut volume).await;
        assert!(!taken.iter().any(|step| step.contains("DATA")), "{taken:?}");
        let data = store.get("volume", "data").unwrap();
        assert_eq!(data.phase, Phase::Failed);
        assert!(
            data.message.contains("a LUKS container"),
            "{}",
            data.message
        );
        assert_eq!(volume.volumes().borrow().state, Availability::Mounted);
        assert!(matches!(
            volume.volumes().borrow().data,
            Availability::Unavailable(_)
        ));
        let mut head = [0; 6];
        fs::File::open(disk.partition(7))
            .unwrap()
            .read_exact(&mut head)
            .unwrap();
        assert_eq!(&head, b"LUKS\xba\xbe");
        let step = Step::Format(Which::Data);
        assert!(
            apply::apply(&volume.places, &step).await.is_err(),
            "not even when it is asked for"
        );
    });
}

#[test]
fn after_a_power_cut_the_file_system_is_checked_before_it_is_mounted() {
    with_disk(async |disk| {
        pass(&mut disk.volume()).await;
        fs::write(disk.root().join("system/state/config"), "kept").unwrap();
        rustix::fs::sync();
        let cut = Disk::with(Some(&disk.directory.path().join("disk"))).unwrap();
        let (taken, failed, _) = pass(&mut cut.volume()).await;
        assert_eq!(failed, Vec::<String>::new());
        assert_eq!(
            taken[..2],
            [
                "check the file system KEELSON-STATE",
                "mount KEELSON-STATE at /system/state"
            ]
        );
        assert_eq!(
            fs::read(cut.root().join("system/state/config")).unwrap(),
            b"kept"
        );
    });
}
