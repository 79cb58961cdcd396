//! The disk that holds the running root, as an upgrade sees it: the slots, META, and
//! the boot partition. Everything but the boot partition is reached through the whole
//! disk's node: a slot is written, flushed, and read back from the disk itself.

use super::loader::{self, SystemdBoot};
use anyhow::{Context as _, bail, ensure};
use keelson_disk::{
    Window, fat,
    gpt::{Entry, Geometry, Table},
    layout::{self, EMPTY_SLOT, Role},
    meta,
    verity::{self, RootSpec},
};
use rustix::{
    fs::Advice,
    mount::{MountFlags, UnmountFlags},
};
use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Where the boot partition is mounted while it is needed.
const MOUNT_POINT: &str = "/run/keelson/esp";

/// How much is written before it is flushed, so that a slow disk is not met all at once.
const FLUSH_EVERY: u64 = 32 << 20;

/// Of the partition table there is one, and two who change it: a change is a read, and a
/// write of all of it.
static TABLE: Mutex<()> = Mutex::new(());

/// Nobody else changes the partition table until the answer is dropped.
pub(crate) fn table_lock() -> std::sync::MutexGuard<'static, ()> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// The size of a block, in bytes.
    block: u64,
    /// A folder that stands for the boot partition, where the disk is a file.
    boot: Option<PathBuf>,
    /// The boot partition has one mount point: whoever holds this uses it.
    mount: Arc<Mutex<()>>,
}

/// A slot: a partition's number and where it lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its number.
    pub number: u32,
    start: u64,
    /// How much fits.
    pub bytes: u64,
}

impl Disk {
    /// The disk with this node.
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        let name = path
            .file_name()
            .with_context(|| format!("{} is not a disk", path.display()))?;
        let file = Path::new("/sys/class/block")
            .join(name)
            .join("queue/logical_block_size");
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        match text.trim().parse() {
            Ok(block @ 512..) => Ok(Disk {
                path: path.to_owned(),
                block,
                boot: None,
                mount: Arc::default(),
            }),
            _ => bail!("{} holds {text:?}, not a block size", file.display()),
        }
    }

    /// A file that stands for a disk, and a folder for its boot partition.
    #[cfg(test)]
    pub(crate) fn of_files(path: &Path, boot: &Path) -> Self {
        Disk {
            path: path.to_owned(),
            block: 512,
            boot: Some(boot.to_owned()),
            mount: Arc::default(),
        }
    }

    fn open(&self) -> anyhow::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .with_context(|| format!("opening {} to write", self.path.display()))
    }

    fn table(&self, file: &mut File) -> anyhow::Result<Table> {
        let bytes = file.seek(SeekFrom::End(0))?;
        let geometry = Geometry {
            block: self.block,
            blocks: bytes / self.block,
        };
        let (table, _) = Table::read(file, geometry)
            .with_context(|| format!("reading the partition table of {}", self.path.display()))?;
        Ok(table)
    }

    fn slot(&self, entry: &Entry) -> Slot {
        Slot {
            number: entry.number,
            start: entry.first.saturating_mul(self.block),
            bytes: entry.blocks().saturating_mul(self.block),
        }
    }

    /// The slot that holds this root.
    pub(crate) fn find(&self, root_hash: &[u8; 32]) -> anyhow::Result<Option<Slot>> {
        let table = self.table(&mut self.open()?)?;
        Ok(layout::find_slot(&table, root_hash).map(|entry| self.slot(entry)))
    }

    /// The slot that does not hold the running root: the only one that may be written.
    pub(crate) fn other(&self, running: &[u8; 32]) -> anyhow::Result<Slot> {
        let table = self.table(&mut self.open()?)?;
        let kept = layout::find_slot(&table, running).with_context(|| {
            format!(
                "no slot of {} is named for the running root: nothing is written",
                self.path.display()
            )
        })?;
        let mut others = layout::slots(&table).filter(|entry| entry.number != kept.number);
        match (others.next(), others.next()) {
            (Some(other), None) => Ok(self.slot(other)),
            (None, _) => bail!("{} has one slot only", self.path.display()),
            (Some(_), Some(_)) => bail!("{} has more than two slots", self.path.display()),
        }
    }

    /// The root hash's first half that a slot is named for; nothing if it is empty.
    pub(crate) fn held(&self, slot: Slot) -> anyhow::Result<Option<keelson_disk::Uuid>> {
        let table = self.table(&mut self.open()?)?;
        let uuid = table.entry(slot.number).map(|entry| entry.uuid);
        Ok(uuid.filter(|uuid| *uuid != EMPTY_SLOT))
    }

    /// Takes a slot's name away: from now on nothing boots it.
    pub(crate) fn empty(&self, slot: Slot) -> anyhow::Result<()> {
        self.rename(slot, EMPTY_SLOT)
    }

    /// Names a slot for the root that it holds.
    pub(crate) fn name(&self, slot: Slot, root_hash: &[u8; 32]) -> anyhow::Result<()> {
        self.rename(slot, layout::slot_uuid(root_hash))
    }

    fn rename(&self, slot: Slot, uuid: keelson_disk::Uuid) -> anyhow::Result<()> {
        let _held = table_lock();
        let mut file = self.open()?;
        let mut table = self.table(&mut file)?;
        let entry = table
            .entry_mut(slot.number)
            .with_context(|| format!("there is no partition {}", slot.number))?;
        if entry.uuid == uuid {
            return Ok(());
        }
        entry.uuid = uuid;
        // Each copy is whole on the disk before the other changes.
        table.write_backup(&mut file)?;
        file.sync_all()?;
        table.write_primary(&mut file)?;
        file.sync_all()?;
        Ok(())
    }

    /// Writes into a slot from its start; what is written is on the disk after `finish`.
    pub(crate) fn writer(&self, slot: Slot) -> anyhow::Result<SlotWriter> {
        let mut file = self.open()?;
        file.seek(SeekFrom::Start(slot.start))?;
        Ok(SlotWriter {
            file,
            left: slot.bytes,
            dirty: 0,
        })
    }

    /// Reads a slot from the disk, not from memory, and proves that it holds this root.
    pub(crate) fn verify(&self, slot: Slot, root: &RootSpec) -> anyhow::Result<()> {
        let mut file = self.open()?;
        let length = root.image_blocks().saturating_mul(verity::BLOCK);
        ensure!(length <= slot.bytes, "the root is larger than its slot");
        forget(&file, slot.start, length)?;
        verity::verify(&mut Window::new(&mut file, slot.start, slot.bytes), root)
            .with_context(|| format!("reading back partition {}", slot.number))
    }

    /// Reads META's log.
    pub(crate) fn log(&self) -> anyhow::Result<meta::Log> {
        let mut file = self.open()?;
        let (start, bytes) = self.meta(&mut file)?;
        Ok(meta::Log::read(&mut Window::new(&mut file, start, bytes))?)
    }

    /// Adds a record to META; it is on the disk when this returns.
    pub(crate) fn append(&self, payload: &[u8]) -> anyhow::Result<()> {
        let mut file = self.open()?;
        let (start, bytes) = self.meta(&mut file)?;
        let mut window = Window::new(&mut file, start, bytes);
        let mut log = meta::Log::read(&mut window)?;
        log.append(&mut window, payload)?;
        file.sync_all().context("flushing META")
    }

    fn meta(&self, file: &mut File) -> anyhow::Result<(u64, u64)> {
        let table = self.table(file)?;
        let entry = layout::find(&table, Role::Meta)
            .with_context(|| format!("{} has no META partition", self.path.display()))?;
        let slot = self.slot(entry);
        Ok((slot.start, slot.bytes))
    }

    /// The node of the boot partition.
    fn boot_partition(&self) -> anyhow::Result<PathBuf> {
        let table = self.table(&mut self.open()?)?;
        let entry = layout::find(&table, Role::Esp)
            .with_context(|| format!("{} has no boot partition", self.path.display()))?;
        crate::nouns::volume::partition_node(&self.path, entry.number)
    }

    /// Does something with the boot loader's partition mounted; it is unmounted after.
    pub(crate) fn with_loader<T>(
        &self,
        work: impl FnOnce(&SystemdBoot) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let _held = self.mount.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &self.boot {
            return work(&SystemdBoot::new(folder));
        }
        let device = self.boot_partition()?;
        let point = Path::new(MOUNT_POINT);
        fs::create_dir_all(point).with_context(|| format!("making {}", point.display()))?;
        if crate::mounted::is_mount_point(point)? {
            // A machined before this one did not get to unmount it.
            unmount(point)?;
        }
        mend(&device)?;
        // Changes of folders are written in their order: see `loader.rs` on renames.
        let flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::DIRSYNC;
        rustix::mount::mount(&device, point, "vfat", flags, c"umask=0077")
            .with_context(|| format!("mounting the boot partition {}", device.display()))?;
        let outcome = work(&SystemdBoot::new(point));
        let gone = unmount(point);
        let value = outcome?;
        gone?;
        Ok(value)
    }
}

/// A rename that a power cut ended half way leaves two names for the same clusters. To remove
/// one of them would take the clusters from the other, so the one that counts less is taken out
/// of the folder alone, while nothing is mounted.
fn mend(device: &Path) -> anyhow::Result<()> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| format!("opening {} to write", device.display()))?;
    let mut volume = fat::Volume::open(&mut file)?;
    let Some(folder) = volume.find("EFI/Linux")? else {
        bail!("{} has no folder EFI/Linux", device.display());
    };
    let doomed = doomed(volume.placed(&folder)?);
    for name in &doomed {
        tracing::warn!(
            "{}: {} is a second name for the same file, and is erased",
            device.display(),
            name.entry.name
        );
        fat::erase(&mut file, name)?;
    }
    if !doomed.is_empty() {
        file.sync_all()?;
    }
    Ok(())
}

/// Of the names for one chain of clusters, all but the one that counts most.
fn doomed(mut names: Vec<fat::Placed>) -> Vec<fat::Placed> {
    names.retain(|name| name.entry.cluster != 0 && !name.entry.folder);
    names.sort_by_key(|name| (name.entry.cluster, loader::rank(&name.entry.name)));
    let kept = |names: &[fat::Placed], n: usize| {
        n == 0 || names[n - 1].entry.cluster != names[n].entry.cluster
    };
    let doomed = (0..names.len()).filter(|n| !kept(&names, *n));
    doomed.map(|n| names[n].clone()).collect()
}

fn unmount(point: &Path) -> anyhow::Result<()> {
    rustix::mount::unmount(point, UnmountFlags::NOFOLLOW)
        .with_context(|| format!("unmounting {}", point.display()))
}

/// Has the kernel drop what it keeps in memory of a file, so that it is read again.
pub(crate) fn forget(file: &File, start: u64, length: u64) -> std::io::Result<()> {
    file.sync_all()?;
    let length = std::num::NonZeroU64::new(length);
    Ok(rustix::fs::fadvise(file, start, length, Advice::DontNeed)?)
}

/// Writes into one slot and never past its end.
pub(crate) struct SlotWriter {
    file: File,
    left: u64,
    dirty: u64,
}

impl Write for SlotWriter {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        let taken = self.file.write(&buffer[..buffer.len().min(room)])?;
        self.left -= taken as u64;
        self.dirty += taken as u64;
        if self.dirty >= FLUSH_EVERY {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.dirty = 0;
        self.file.sync_data()
    }
}
