//! Looks at the disk, its table, its partitions and what is mounted. Changes nothing.

use super::{
    Form, Places, Which,
    content::{self, Content},
    mounts::{self, Mount},
    table,
};
use anyhow::{Context as _, anyhow, bail};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// One volume, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Which volume it is.
    pub which: Which,
    /// Its device node.
    pub device: PathBuf,
    /// Its number in the table.
    pub number: u32,
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// Its length in bytes, as the kernel has it.
    pub size: u64,
    /// The bytes behind it that it could grow into.
    pub room: u64,
    /// What it holds.
    pub content: Content,
    /// Where it is mounted.
    pub mounted: Mounted,
}

/// What is at a volume's mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mounted {
    /// Nothing.
    No,
    /// The volume.
    Here {
        /// What is mounted below it is seen everywhere.
        shared: bool,
        /// The kernel found an error in it and lets nobody write any more.
        read_only: bool,
        /// A directory that others expect is missing.
        missing: bool,
        /// Bytes in all, without the file system's own.
        total: u64,
        /// Bytes that can still be used.
        available: u64,
    },
    /// Something else: its source.
    Other(String),
}

/// Looks at everything.
pub(crate) fn observe(places: &Places) -> anyhow::Result<Vec<Found>> {
    let disk = places.disk.as_deref().context(
        "the boot record /run/keelson/boot.json does not say which disk holds the running root; \
         restart the machine",
    )?;
    let entries = table::read(disk)?;
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")
        .context("reading /proc/thread-self/mountinfo")?;
    let mounts = mounts::parse(&mounts);
    let mut all = Vec::new();
    for which in Which::ALL {
        let mut named = entries.iter().filter(|entry| entry.name == which.label());
        let Some(entry) = named.next() else { continue };
        if named.next().is_some() {
            bail!(
                "the disk {} has two partitions named {}",
                disk.display(),
                which.label()
            );
        }
        all.push(look(places, disk, which, entry, &mounts)?);
    }
    Ok(all)
}

fn look(
    places: &Places,
    disk: &Path,
    which: Which,
    entry: &table::Entry,
    mounts: &[Mount],
) -> anyhow::Result<Found> {
    let directory = partition(disk, entry.number)?;
    let name = directory
        .file_name()
        .context("a partition without a name")?;
    let device = Path::new("/dev").join(name);
    // Sysfs counts in 512 bytes, whatever the disk's own blocks are.
    let size = number(&directory.join("size"))?.saturating_mul(512);
    let point = places.mount_point(which);
    let mounted = match mounts
        .iter()
        .rev()
        .find(|mount| Path::new(&mount.point) == point)
    {
        None => Mounted::No,
        Some(mount) if mount.device == text(&directory.join("dev"))? => {
            here(&point, which, mount.shared)?
        }
        Some(mount) => Mounted::Other(mount.source.clone()),
    };
    let content = head(&device).with_context(|| format!("reading {}", device.display()))?;
    Ok(Found {
        which,
        device,
        number: entry.number,
        start: entry.start,
        size,
        room: entry.limit.saturating_sub(entry.start).saturating_sub(size),
        content,
        mounted,
    })
}

fn here(point: &Path, which: Which, shared: bool) -> anyhow::Result<Mounted> {
    let space = rustix::fs::statvfs(point)
        .with_context(|| format!("reading the free space of {}", point.display()))?;
    Ok(Mounted::Here {
        shared,
        read_only: space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        missing: missing(point, which),
        total: space.f_blocks.saturating_mul(space.f_frsize),
        available: space.f_bavail.saturating_mul(space.f_frsize),
    })
}

/// Whether a directory or link that others expect is not there. Modes that somebody
/// changed later are theirs.
fn missing(point: &Path, which: Which) -> bool {
    which.directories().iter().any(|directory| {
        let path = point.join(directory.path);
        match directory.form {
            Form::Directory(_) => !path.is_dir(),
            Form::Link(_) => path.symlink_metadata().is_err(),
        }
    })
}

/// The node of a partition of a disk.
pub(crate) fn partition_node(disk: &Path, number: u32) -> anyhow::Result<PathBuf> {
    let directory = partition(disk, number)?;
    let name = directory
        .file_name()
        .context("a partition without a name")?;
    Ok(Path::new("/dev").join(name))
}

/// A partition's directory in sysfs. Its name follows from the disk's in more than one
/// way (`vda7`, `nvme0n1p7`), so the kernel is asked.
fn partition(disk: &Path, wanted: u32) -> anyhow::Result<PathBuf> {
    let name = disk
        .file_name()
        .with_context(|| format!("{} is not a disk", disk.display()))?;
    let directory = Path::new("/sys/class/block").join(name);
    let entries =
        fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("listing {}", directory.display()))?
            .path();
        if path.join("partition").is_file() && number(&path.join("partition"))? == u64::from(wanted)
        {
            return Ok(path);
        }
    }
    Err(anyhow!(
        "the kernel does not know partition {wanted} of {}",
        disk.display()
    ))
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn number(path: &Path) -> anyhow::Result<u64> {
    let text = text(path)?;
    text.parse()
        .with_context(|| format!("{} holds {text:?}, not a number", path.display()))
}

/// What a partition holds, from its first MiB.
pub(crate) fn head(device: &Path) -> std::io::Result<Content> {
    let mut head = Vec::with_capacity(content::LOOKED_AT);
    fs::File::open(device)?
        .take(content::LOOKED_AT as u64)
        .read_to_end(&mut head)?;
    if head.is_empty() {
        return Err(std::io::Error::other("it has no bytes at all"));
    }
    Ok(content::probe(&head))
}
