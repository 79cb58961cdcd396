//! Upgrades made by hand on a small disk, in the right order and in wrong ones: the judge has to
//! let the right one pass and to catch each of the others.
//!
//! The ESP is written as Linux does it: a rename puts down a new entry without clusters, fills it
//! in, and removes the old one; each sector reaches the disk when it likes until the next flush.

use super::{
    Options, Recording, Report,
    judge::{Finding, Version},
    log::Recorder,
    replay::Number,
    try_states,
};
use keelson_disk::{
    Window,
    fat::{self, END_OF_CHAIN, ENTRY, FREE, Volume},
    gpt::{Geometry, Table},
    layout::{EMPTY_SLOT, Layout, Role, slot_uuid},
    meta,
    verity::{self, BLOCK, RootSpec},
};
use std::{
    fs::{self, File},
    io::{Cursor, Seek, SeekFrom, Write},
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    sync::OnceLock,
};

const SECTOR: u64 = 512;
const OLD: &str = "keelson-1.0.0.efi";
const NEW: &str = "keelson-1.1.0+3.efi";

/// What makes a version.
struct Release {
    root: Vec<u8>,
    spec: RootSpec,
    uki: Vec<u8>,
}

fn release(version: &str) -> Release {
    let blocks = 40;
    let salt = [version.len() as u8; 32];
    let mut root: Vec<u8> = (0..blocks * BLOCK)
        .map(|n| (n % 251) as u8 ^ version.as_bytes()[2])
        .collect();
    let data = root.clone();
    let spec = verity::build(
        &mut data.as_slice(),
        blocks,
        salt,
        &mut Cursor::new(&mut root),
    )
    .unwrap();
    let line = keelson_disk::cmdline::Options {
        root: spec,
        debug: false,
        watchdog: true,
    };
    let os_release = format!("ID=keelson\nVERSION_ID={version}\n");
    let kernel: Vec<u8> = (0..60_000u32)
        .map(|n| (n % 241) as u8 ^ version.as_bytes()[2])
        .collect();
    let uki = program(&[
        (".osrel", os_release.as_bytes()),
        (".cmdline", line.to_string().as_bytes()),
        (".linux", &kernel),
    ]);
    Release { root, spec, uki }
}

/// The smallest program that has sections.
fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[60] = 64;
    bytes[64..68].copy_from_slice(b"PE\0\0");
    bytes[70] = sections.len() as u8;
    for (n, (name, content)) in sections.iter().enumerate() {
        let offset = bytes.len() as u32;
        let stored = content.len().next_multiple_of(512);
        let header = &mut bytes[88 + n * 40..88 + (n + 1) * 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[8..12].copy_from_slice(&(content.len() as u32).to_le_bytes());
        header[16..20].copy_from_slice(&(stored as u32).to_le_bytes());
        header[20..24].copy_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(offset as usize + stored, 0);
    }
    bytes
}

/// A disk with the old version in slot A, made once.
fn base() -> &'static (tempfile::TempDir, Table) {
    static BASE: OnceLock<(tempfile::TempDir, Table)> = OnceLock::new();
    BASE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join("disk"))
            .unwrap();
        let layout = Layout::Compact;
        let bytes = layout.image_bytes(false);
        disk.set_len(bytes).unwrap();
        let old = release("1.0.0");
        let hash = &old.spec.root_hash;
        let table = layout
            .table(Geometry::of_image(bytes), b"seed", hash, false)
            .unwrap();
        table.write_backup(&mut disk).unwrap();
        table.write_primary(&mut disk).unwrap();
        let at = |role: Role| table.entry(role.number()).unwrap().first * SECTOR;
        disk.write_all_at(&old.root, at(Role::RootA)).unwrap();
        disk.write_all_at(&[0x53, 0xef], at(Role::State) + 1080)
            .unwrap();
        let mut esp = tempfile::tempfile().unwrap();
        esp.set_len(layout.size(Role::Esp)).unwrap();
        let options = fatfs::FormatVolumeOptions::new()
            .bytes_per_cluster(4096)
            .fat_type(fatfs::FatType::Fat32);
        fatfs::format_volume(&mut esp, options).unwrap();
        let system = fatfs::FileSystem::new(&mut esp, fatfs::FsOptions::new()).unwrap();
        let root = system.root_dir();
        for folder in ["EFI", "EFI/BOOT", "EFI/Linux", "loader"] {
            root.create_dir(folder).unwrap();
        }
        for (name, content) in [
            ("EFI/BOOT/BOOTX64.EFI", &b"the loader"[..]),
            ("loader/loader.conf", b"timeout 0\n"),
            (&format!("EFI/Linux/{OLD}"), &old.uki),
        ] {
            let mut file = root.create_file(name).unwrap();
            file.write_all(content).unwrap();
        }
        drop(root);
        system.unmount().unwrap();
        let mut start = vec![0; 8 << 20];
        esp.read_exact_at(&mut start, 0).unwrap();
        disk.write_all_at(&start, at(Role::Esp)).unwrap();
        (folder, table)
    })
}

/// A machine that is being upgraded, and whose writes are recorded.
struct Machine {
    disk: Recorder<File>,
    table: Table,
    new: Release,
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let (from, table) = base();
        let folder = tempfile::tempdir().unwrap();
        let copy = |name: &str| copy(&from.path().join("disk"), &folder.path().join(name));
        copy("base.raw");
        let disk = copy("disk");
        fs::write(folder.path().join("marks"), "0 all of it\n").unwrap();
        let log = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join("writes.log"))
            .unwrap();
        Machine {
            disk: Recorder::new(disk, log),
            table: table.clone(),
            new: release("1.1.0"),
            folder,
        }
    }

    fn at(&self, role: Role) -> u64 {
        self.table.entry(role.number()).unwrap().first * SECTOR
    }

    fn flush(&mut self) {
        self.disk.flush().unwrap();
    }

    /// Writes the new root into a slot, in pieces.
    fn write_slot(&mut self, role: Role) {
        let at = self.at(role);
        for (n, piece) in self.new.root.clone().chunks(64 << 10).enumerate() {
            self.disk.put(at + (n as u64) * (64 << 10), piece).unwrap();
        }
    }

    /// Names slot B, for the new root or for nothing.
    fn name_slot(&mut self, named: bool) {
        let uuid = match named {
            true => slot_uuid(&self.new.spec.root_hash),
            false => EMPTY_SLOT,
        };
        self.table.entry_mut(Role::RootB.number()).unwrap().uuid = uuid;
        self.table.write_backup(&mut self.disk).unwrap();
        self.table.write_primary(&mut self.disk).unwrap();
    }

    fn note(&mut self, what: &[u8]) {
        let (start, length) = (self.at(Role::Meta), meta::BYTES);
        let mut part = Window::new(&mut self.disk, start, length);
        let mut log = meta::Log::read(&mut part).unwrap();
        log.append(&mut part, what).unwrap();
    }

    fn esp(&mut self) -> Esp<'_> {
        let start = self.at(Role::Esp);
        Esp {
            disk: &mut self.disk,
            start,
        }
    }

    /// The new UKI under a name that the loader does not show, and on the disk for good.
    fn stage(&mut self) {
        let uki = self.new.uki.clone();
        self.esp().create("keelson.tmp", &uki);
        self.flush();
    }

    /// Judges every state.
    fn report(self) -> Report {
        self.report_since("all of it")
    }

    /// Judges the states from a mark on.
    fn report_since(mut self, mark: &str) -> Report {
        self.flush();
        drop(self.disk);
        let recording = Recording::open(self.folder.path()).unwrap();
        let options = Options {
            cuts: 200,
            seed: 1,
            since: Some(mark.to_owned()),
            only: None,
        };
        let new = Version::read(&self.new.uki).unwrap();
        let report = try_states(&recording, std::slice::from_ref(&new), &options).unwrap();
        // What is said of the first bad state is said of it alone, too.
        if let Some((number, why)) = report.bad.first() {
            let only = Options {
                only: Some(*number),
                ..options
            };
            let again = try_states(&recording, &[new], &only).unwrap();
            // What it fell back from is not known to who looks at one state.
            let alone = again.bad == [(*number, why.clone())];
            assert!(alone || why.contains("fell back"), "{again}");
        }
        println!("{report}");
        report
    }
}

fn copy(from: &Path, to: &Path) -> File {
    let done = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([from, to])
        .status();
    assert!(done.unwrap().success());
    File::options().read(true).write(true).open(to).unwrap()
}

/// `EFI/Linux` on the ESP, written as Linux writes it.
struct Esp<'a> {
    disk: &'a mut Recorder<File>,
    start: u64,
}

impl Esp<'_> {
    fn volume(&mut self) -> Volume<Window<'_, Recorder<File>>> {
        let length = Layout::Compact.size(Role::Esp);
        Volume::open(Window::new(self.disk, self.start, length)).unwrap()
    }

    /// Where the folder is, which has one cluster.
    fn folder(&mut self) -> u64 {
        let mut volume = self.volume();
        let folder = volume.find("EFI/Linux").unwrap().unwrap();
        let offset = volume.offset(folder.cluster);
        self.start + offset
    }

    fn slots(&mut self) -> Vec<u8> {
        let at = self.folder();
        let mut bytes = vec![0; 4096];
        self.disk.get(at, &mut bytes).unwrap();
        bytes
    }

    /// Changes slots of the folder, sector by sector.
    fn change(&mut self, first: usize, slots: &[u8]) {
        let at = self.folder() + (first * ENTRY) as u64;
        let mut done = 0;
        while done < slots.len() {
            let here = at + done as u64;
            let n = ((SECTOR - here % SECTOR) as usize).min(slots.len() - done);
            self.disk.put(here, &slots[done..done + n]).unwrap();
            done += n;
        }
    }

    /// Leaves free slots where the next name lies across two sectors.
    fn crowd(&mut self) {
        let used = self.free(1);
        let mut label = [0; ENTRY];
        label[11] = fat::LABEL;
        label[0] = b'X';
        let full = (used + 3).next_multiple_of(16) - 1;
        let mut slots = label.repeat(full - used);
        let mut gone = [0; ENTRY];
        gone[0] = FREE;
        slots.extend(gone.repeat(4));
        self.change(used, &slots);
    }

    /// The first of so many free slots in a row.
    fn free(&mut self, count: usize) -> usize {
        let slots = self.slots();
        let is_free = |n: usize| matches!(slots[n * ENTRY], 0 | FREE);
        let mut places = 0..slots.len() / ENTRY - count;
        places.find(|n| (*n..n + count).all(is_free)).unwrap()
    }

    /// Puts down an entry where there is room; returns the slot of its short name.
    fn add(&mut self, name: &str, short: &[u8; 11]) -> usize {
        let mut slots: Vec<u8> = fat::long_name(name, fat::checksum(short)).concat();
        let mut entry = [0; ENTRY];
        entry[..11].copy_from_slice(short);
        entry[11] = fat::FILE;
        slots.extend(entry);
        let first = self.free(slots.len() / ENTRY);
        self.change(first, &slots);
        first + slots.len() / ENTRY - 1
    }

    /// Writes cluster and size of an entry, as when its inode is written.
    fn fill_in(&mut self, slot: usize, cluster: u32, size: u32) {
        let mut entry = self.slots()[slot * ENTRY..][..ENTRY].to_vec();
        entry[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
        entry[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
        entry[28..].copy_from_slice(&size.to_le_bytes());
        self.change(slot, &entry);
    }

    fn create(&mut self, name: &str, content: &[u8]) {
        let slot = self.add(name, b"KEELSO~2TMP");
        let cluster = self.store(content);
        self.fill_in(slot, cluster, content.len() as u32);
    }

    /// Writes content into free clusters in a row; returns the first.
    fn store(&mut self, content: &[u8]) -> u32 {
        let count = content.len().div_ceil(4096) as u32;
        let mut volume = self.volume();
        let first =
            (3..).find(|n| volume.next(*n).unwrap() == 0 && volume.next(n + count).unwrap() == 0);
        let first = first.unwrap();
        let at = self.start + self.volume().offset(first);
        for (n, piece) in content.chunks(16 << 10).enumerate() {
            self.disk.put(at + (n as u64) * (16 << 10), piece).unwrap();
        }
        for n in first..first + count {
            let last = n + 1 == first + count;
            self.link(n, if last { END_OF_CHAIN } else { n + 1 });
        }
        first
    }

    /// Changes both copies of the table.
    fn link(&mut self, cluster: u32, next: u32) {
        let mut boot = [0; 512];
        self.disk.get(self.start, &mut boot).unwrap();
        let reserved = u64::from(boot[14]) + u64::from(boot[15]) * 256;
        let size = u64::from(u32::from_le_bytes([boot[36], boot[37], boot[38], boot[39]]));
        for copy in 0..2 {
            let at = self.start + (reserved + copy * size) * SECTOR + u64::from(cluster) * 4;
            self.disk.put(at, &next.to_le_bytes()).unwrap();
        }
    }

    fn find(&mut self, name: &str) -> fat::Entry {
        let mut volume = self.volume();
        let found = volume.find(&format!("EFI/Linux/{name}")).unwrap();
        found.unwrap()
    }

    /// Frees the slots of a name, not its clusters.
    fn remove(&mut self, name: &str) {
        let entry = self.find(name);
        let slots = self.slots();
        let (base, extension) = entry.alias.split_once('.').unwrap();
        let short = format!("{base:<8}{extension:<3}");
        let last = slots
            .chunks(ENTRY)
            .position(|slot| slot[..11] == *short.as_bytes() && slot[11] != fat::LONG_NAME)
            .unwrap();
        let long = entry.name.len().div_ceil(13);
        for slot in last - long..=last {
            let mut gone = slots[slot * ENTRY..][..ENTRY].to_vec();
            gone[0] = FREE;
            self.change(slot, &gone);
        }
    }

    fn rename(&mut self, old: &str, new: &str) {
        let entry = self.find(old);
        let slot = self.add(new, b"KEELSO~3EFI");
        self.fill_in(slot, entry.cluster, entry.size);
        self.remove(old);
    }
}

fn noted(report: &Report, finding: Finding) -> bool {
    report.findings.contains_key(&finding)
}

/// An upgrade as it should be, up to the restart.
fn upgrade(machine: &mut Machine) {
    machine.note(b"writing");
    machine.name_slot(false);
    machine.write_slot(Role::RootB);
    machine.flush();
    machine.name_slot(true);
    machine.stage();
    machine.note(b"staged");
    machine.esp().rename("keelson.tmp", NEW);
    machine.flush();
}

#[test]
fn the_right_order_always_boots() {
    let mut machine = Machine::new();
    upgrade(&mut machine);
    // The loader counts, and the new version is marked good.
    machine.esp().rename(NEW, "keelson-1.1.0+2-1.efi");
    machine.flush();
    machine
        .esp()
        .rename("keelson-1.1.0+2-1.efi", "keelson-1.1.0.efi");
    machine.flush();
    machine.note(b"good");
    let report = machine.report();
    assert!(report.is_good(), "{report}");
    assert_eq!(
        (report.cuts.tried, report.cuts.fell_back),
        (200, 0),
        "{report}"
    );
    assert!(report.flushes.tried > 10, "{report}");
    let both: Vec<_> = report.versions.keys().collect();
    assert_eq!(both, ["1.0.0", "1.1.0"], "{report}");
    assert!(
        noted(&report, Finding::SharedClusters),
        "a rename has two names for a moment"
    );
}

/// Wrong orders, each with what is told of it.
#[test]
fn wrong_orders_are_caught() {
    type History = fn(&mut Machine);
    let cases: &[(&str, History, &str)] = &[
        (
            "the UKI is named before it is flushed",
            |m| {
                m.write_slot(Role::RootB);
                m.flush();
                m.name_slot(true);
                let uki = m.new.uki.clone();
                m.esp().create("keelson.tmp", &uki);
                m.esp().rename("keelson.tmp", NEW);
            },
            "no known version",
        ),
        (
            "without a counter, the slot is not flushed before the UKI",
            |m| {
                m.name_slot(true);
                m.stage();
                m.write_slot(Role::RootB);
                m.esp().rename("keelson.tmp", "keelson-1.1.0.efi");
            },
            "restarts for ever",
        ),
        (
            "the running slot is overwritten",
            |m| m.write_slot(Role::RootA),
            "restarts for ever",
        ),
        (
            "the UKI is overwritten in place",
            |m| {
                m.write_slot(Role::RootB);
                m.flush();
                m.name_slot(true);
                let uki = m.new.uki.clone();
                let mut esp = m.esp();
                let old = esp.find(OLD);
                let at = esp.start + esp.volume().offset(old.cluster);
                esp.disk.put(at, &uki).unwrap();
            },
            "no known version",
        ),
        (
            "the old UKI goes before the new one comes",
            |m| {
                m.write_slot(Role::RootB);
                m.flush();
                m.name_slot(true);
                m.esp().remove(OLD);
                m.flush();
                m.stage();
                m.esp().rename("keelson.tmp", NEW);
            },
            "no entry to start",
        ),
        (
            "both partition tables are written at once",
            |m| {
                let entry = m.table.entry_mut(Role::RootB.number()).unwrap();
                entry.uuid = slot_uuid(&[7; 32]);
                let mut copy = Cursor::new(vec![0; 1 << 20]);
                let mut tail = Tail(&mut copy, m.table.geometry.blocks * SECTOR - (1 << 19));
                m.table.write_backup(&mut tail).unwrap();
                m.table.write_primary(&mut tail).unwrap();
                let bytes = copy.into_inner();
                let (size, end) = (bytes.len(), m.table.geometry.blocks * SECTOR);
                m.disk.put(0, &bytes[..1024]).unwrap();
                m.disk.put(1024, &bytes[1024..34 * 512]).unwrap();
                let array = &bytes[size - 33 * 512..size - 512];
                m.disk.put(end - 33 * 512, array).unwrap();
                m.disk.put(end - 512, &bytes[size - 512..]).unwrap();
            },
            "no valid partition table",
        ),
        (
            "META is written anew in one place",
            |m| {
                m.note(b"one");
                m.note(b"two");
                let at = m.at(Role::Meta);
                m.disk.put(at, &vec![0; meta::BYTES as usize]).unwrap();
                m.note(b"three");
            },
            "META fell back",
        ),
        (
            "STATE is formatted again",
            |m| {
                let at = m.at(Role::State);
                m.disk.put(at, &[0; 4096]).unwrap();
            },
            "STATE has no file system",
        ),
        (
            "the loader is overwritten in place",
            |m| {
                let mut esp = m.esp();
                let mut volume = esp.volume();
                let loader = volume.find("EFI/BOOT/BOOTX64.EFI").unwrap().unwrap();
                let at = volume.offset(loader.cluster);
                let at = esp.start + at;
                esp.disk.put(at, b"the leader").unwrap();
            },
            "BOOTX64.EFI is damaged",
        ),
    ];
    for (name, history, told) in cases {
        let mut machine = Machine::new();
        history(&mut machine);
        let report = machine.report();
        assert!(!report.is_good(), "{name}: {report}");
        let found = report.bad.iter().any(|(_, why)| why.contains(told));
        assert!(found, "{name}: {:?}", report.bad);
    }
}

/// Two copies of a table in one buffer of a MiB: its start, and its end.
struct Tail<'a>(&'a mut Cursor<Vec<u8>>, u64);

impl Write for Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Tail<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match to {
            SeekFrom::Start(at) if at >= self.1 => {
                self.0.seek(SeekFrom::Start(at - self.1 + (1 << 19)))
            }
            _ => self.0.seek(to),
        }
    }
}

#[test]
fn a_bad_version_with_a_counter_is_left_again() {
    let mut machine = Machine::new();
    machine.name_slot(true);
    machine.stage();
    machine.write_slot(Role::RootB);
    machine.esp().rename("keelson.tmp", NEW);
    let report = machine.report();
    assert!(report.is_good(), "{report}");
    assert!(report.cuts.fell_back > 0, "{report}");
}

#[test]
fn what_a_rename_may_leave_is_noted() {
    let mut machine = Machine::new();
    machine.write_slot(Role::RootB);
    machine.flush();
    machine.name_slot(true);
    machine.stage();
    machine.esp().crowd();
    machine.flush();
    Recording::mark(machine.folder.path(), "rename").unwrap();
    machine.esp().rename("keelson.tmp", NEW);
    let report = machine.report_since("rename");
    assert!(report.is_good(), "{report}");
    for finding in [
        Finding::SharedClusters,
        Finding::EmptyFile,
        Finding::LongNameLost,
    ] {
        assert!(noted(&report, finding), "{finding:?}: {report}");
    }
}

#[test]
fn a_known_good_entry_that_is_counted_is_noted() {
    let mut machine = Machine::new();
    machine.esp().rename(OLD, "keelson-1.0.0+3.efi");
    machine.flush();
    let report = machine.report();
    assert!(noted(&report, Finding::NothingGood), "{report}");
}

#[test]
fn a_table_that_is_torn_is_read_from_the_other() {
    let mut machine = Machine::new();
    machine.write_slot(Role::RootB);
    machine.flush();
    machine.name_slot(true);
    machine.name_slot(false);
    let report = machine.report();
    assert!(report.is_good(), "{report}");
    let (_, first, _) = &report.findings[&Finding::FirstTable];
    assert!(matches!(first, Number::Cut(_)), "{report}");
    assert!(noted(&report, Finding::SecondTable), "{report}");
}
