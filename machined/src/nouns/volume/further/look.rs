//! Looks at the disks that the config chooses, their tables, and what is mounted. Changes
//! nothing.

use super::{
    super::{
        content::Content,
        mounts::{self, Mount},
        observe::head,
    },
    Ground, MOUNTS, folder,
    judge::{self, Layout, partition_name},
};
use crate::nouns::disk::{self, Disk};
use anyhow::Context as _;
use keelson_config::{DiskSelector, Volume};
use keelson_disk::gpt::{Error, Geometry, Table};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One further volume, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its name.
    pub name: String,
    /// As the config has it; `None` where it does not want it any more.
    pub wanted: Option<Volume>,
    /// Its partition, or why there is none.
    pub stand: Stand,
    /// What is at its mount point.
    pub mounted: Mounted,
    /// Where nothing is mounted: its folder is there, and nobody can write into it.
    pub closed: bool,
}

/// How a volume's partition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// No disk matches, and what there is; one may come.
    Absent(String),
    /// Nothing is done, and why and what to do.
    Refused(String),
    /// It can be made on this disk.
    Room(String),
    /// It is there.
    There(Place),
    /// Nobody asks.
    Unwanted,
}

/// A volume's partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The disk's node.
    pub disk: String,
    /// Its number in the table.
    pub number: u32,
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Its node; `None` where the kernel does not know it.
    pub device: Option<PathBuf>,
    /// The disk's first table was being written when power was cut.
    pub torn: bool,
    /// What it holds.
    pub content: Content,
}

impl Place {
    /// What it is called for a person.
    pub(crate) fn called(&self) -> String {
        match &self.device {
            Some(device) => device.display().to_string(),
            None => format!("partition {} of {}", self.number, self.disk),
        }
    }
}

/// What is at a volume's mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mounted {
    /// Nothing.
    No,
    /// The volume.
    Here(Space),
    /// Something else: its source.
    Other(String),
}

/// A mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// What is mounted below it is seen everywhere.
    pub shared: bool,
    /// The kernel found an error in it and lets nobody write any more.
    pub read_only: bool,
    /// Bytes in all, without the file system's own.
    pub total: u64,
    /// Bytes that can still be used.
    pub available: u64,
}

/// Why no disk is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unchosen {
    /// None matches.
    None(String),
    /// More than one matches.
    Several(String),
}

/// The one disk that a selector means.
pub(crate) fn choose<'d>(
    selector: &DiskSelector,
    disks: &'d [Disk],
    system: &str,
) -> Result<&'d Disk, Unchosen> {
    let is = |disk: &&Disk| {
        let DiskSelector {
            model,
            serial,
            wwid,
            transport,
            size,
        } = selector;
        let texts = [
            (model, &disk.model),
            (serial, &disk.serial),
            (wwid, &disk.wwid),
        ];
        texts.iter().all(|(wanted, found)| match (wanted, found) {
            (None, _) => true,
            (Some(wanted), Some(found)) => wanted.matches(found),
            (Some(_), None) => false,
        }) && transport.is_none_or(|wanted| wanted == disk.transport)
            && size.is_none_or(|size| size.holds(disk.size))
    };
    let (others, own): (Vec<&Disk>, Vec<&Disk>) =
        disks.iter().partition(|disk| disk.name != system);
    let found: Vec<&Disk> = others.iter().copied().filter(is).collect();
    let list = |disks: &[&Disk]| {
        let all: Vec<String> = disks.iter().map(|disk| disk.described()).collect();
        all.join(", ")
    };
    match found.as_slice() {
        [disk] => Ok(disk),
        [] => {
            let matching = own.iter().any(is);
            let holds = match matching {
                true => format!("; {system} matches, but it holds the system and is never taken"),
                false => String::new(),
            };
            Err(Unchosen::None(match others.is_empty() {
                true => format!("no disk matches: there is none beside the system's{holds}"),
                false => format!("no disk matches{holds}; there are {}", list(&others)),
            }))
        }
        several => Err(Unchosen::Several(format!(
            "{} disks match, and it must be one: {}; say more of it, such as its serial",
            several.len(),
            list(several)
        ))),
    }
}

/// Looks at every volume that is wanted, and at those that are mounted and are not, or whose
/// folder is still there.
pub(super) fn look(ground: &Ground, wanted: &[Volume]) -> anyhow::Result<Vec<Found>> {
    let mounts = ground.mounts()?;
    let mut all = Vec::new();
    if !wanted.is_empty() {
        let disks = disk::identities(&ground.block).context("listing the disks")?;
        all.extend(
            wanted
                .iter()
                .map(|volume| one(ground, volume, &disks, &mounts)),
        );
    }
    let top = ground.root.join(MOUNTS.trim_start_matches('/'));
    for mount in &mounts {
        let point = Path::new(&mount.point);
        let name = point.file_name().and_then(|name| name.to_str());
        if let (Some(name), Some(parent)) = (name, point.parent())
            && parent == top
            && !all.iter().any(|found: &Found| found.name == name)
            && is_partition_of(ground, &mount.device, name)
        {
            all.push(Found {
                name: name.to_owned(),
                wanted: None,
                stand: Stand::Unwanted,
                mounted: space(point, mount.shared),
                closed: false,
            });
        }
    }
    let folders = fs::read_dir(&top).into_iter().flatten().flatten();
    let named = folders.filter_map(|folder| folder.file_name().into_string().ok());
    for name in named {
        let known = all.iter().any(|found| found.name == name);
        if !known && folder::is_closed(&top.join(&name)) {
            all.push(Found {
                name,
                wanted: None,
                stand: Stand::Unwanted,
                mounted: Mounted::No,
                closed: true,
            });
        }
    }
    Ok(all)
}

/// Looks at one volume that is wanted.
pub(super) fn again(ground: &Ground, volume: &Volume) -> anyhow::Result<Found> {
    let disks = disk::identities(&ground.block).context("listing the disks")?;
    Ok(one(ground, volume, &disks, &ground.mounts()?))
}

fn one(ground: &Ground, volume: &Volume, disks: &[Disk], mounts: &[Mount]) -> Found {
    let stand = match stand(ground, volume, disks, mounts) {
        Ok(stand) => stand,
        Err(error) => Stand::Refused(format!("{error:#}")),
    };
    let point = ground.point(&volume.name);
    let at = mounts
        .iter()
        .rev()
        .find(|mount| Path::new(&mount.point) == point);
    let mounted = match (at, &stand) {
        (None, _) => Mounted::No,
        (Some(mount), Stand::There(place)) if is_device(ground, place, &mount.device) => {
            space(&point, mount.shared)
        }
        (Some(mount), _) => Mounted::Other(mount.source.clone()),
    };
    Found {
        name: volume.name.clone(),
        wanted: Some(volume.clone()),
        closed: mounted == Mounted::No && folder::is_closed(&point),
        stand,
        mounted,
    }
}

fn is_device(ground: &Ground, place: &Place, number: &str) -> bool {
    let Some(directory) = ground.partition(&place.disk, place.number) else {
        return false;
    };
    text(&directory.join("dev")).as_deref() == Some(number)
}

fn space(point: &Path, shared: bool) -> Mounted {
    let nothing = Space {
        shared,
        read_only: false,
        total: 0,
        available: 0,
    };
    Mounted::Here(match rustix::fs::statvfs(point) {
        Ok(space) => Space {
            read_only: space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
            total: space.f_blocks.saturating_mul(space.f_frsize),
            available: space.f_bavail.saturating_mul(space.f_frsize),
            ..nothing
        },
        Err(_) => nothing,
    })
}

fn stand(
    ground: &Ground,
    volume: &Volume,
    disks: &[Disk],
    mounts: &[Mount],
) -> anyhow::Result<Stand> {
    let Some(system) = ground.system() else {
        return Ok(Stand::Refused(
            "it is not known which disk holds the running root, so no other is written to; \
             restart the machine"
                .into(),
        ));
    };
    let disk = match choose(&volume.disk, disks, &system) {
        Ok(disk) => disk,
        Err(Unchosen::None(text)) => return Ok(Stand::Absent(text)),
        Err(Unchosen::Several(text)) => return Ok(Stand::Refused(text)),
    };
    let node = ground.node(&disk.name);
    let shown = node.display().to_string();
    let advice = "choose another disk, or empty this one elsewhere";
    let refuse = |why: String| Ok(Stand::Refused(format!("{shown} {why}; {advice}")));
    let geometry = ground.geometry(disk)?;
    let mut file = fs::File::open(&node).with_context(|| format!("opening {shown}"))?;
    let layout = match judge::layout(&mut file, geometry, uuid::Uuid::nil()) {
        Ok(layout) => layout,
        Err(error) => return refuse(format!("{error:#}")),
    };
    if let Some(place) = place(ground, &shown, &layout, &volume.name, &mut file)? {
        // Where it is mounted at its own place, all is well.
        let point = ground.point(&volume.name);
        let here = |mount: &&Mount| Path::new(&mount.point) == point;
        let directory = ground.partition(&shown, place.number);
        let mounted = mounts.iter().rev().find(here);
        if mounted.is_none_or(|mount| !is_device(ground, &place, &mount.device))
            && let Some(directory) = directory
            && let Some(used) = used(ground, &directory, mounts)
        {
            return Ok(Stand::Refused(format!("{} is {used}", place.called())));
        }
        return Ok(Stand::There(place));
    }
    if disk.read_only {
        return refuse("is read-only".into());
    }
    if let Some(used) = in_use(ground, disk, &layout.table, mounts) {
        return refuse(format!("is in use: {used}"));
    }
    if let Some(other) = elsewhere(ground, &volume.name, disks, &disk.name, &system) {
        return Ok(Stand::Refused(format!(
            "its partition is on {other} already, and the config means {shown}; no second one is \
             made: choose that disk, or give the volume another name"
        )));
    }
    match judge::room(&mut file, &layout, volume.size) {
        Ok(_) => Ok(Stand::Room(shown)),
        Err(error) => refuse(format!("{error:#}")),
    }
}

/// The partition of a volume on a disk.
pub(super) fn place(
    ground: &Ground,
    disk: &str,
    layout: &Layout,
    name: &str,
    file: &mut fs::File,
) -> anyhow::Result<Option<Place>> {
    let label = partition_name(name);
    let mut named = layout.table.entries.iter().filter(|e| e.name == label);
    let Some(entry) = named.next() else {
        return Ok(None);
    };
    if named.next().is_some() {
        anyhow::bail!("{disk} has two partitions named {label}; choose another disk");
    }
    let block = layout.table.geometry.block;
    let (start, size) = (entry.first * block, entry.blocks() * block);
    let directory = ground.partition(disk, entry.number);
    let device = directory
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| ground.dev.join(name));
    if let Some(directory) = &directory {
        // Sysfs counts in 512 bytes, whatever the disk's own blocks are.
        let known = |file: &str| text(&directory.join(file))?.parse::<u64>().ok();
        let bytes = |file| known(file).map(|sectors| sectors.saturating_mul(512));
        if (bytes("start"), bytes("size")) != (Some(start), Some(size)) {
            anyhow::bail!(
                "the kernel has another partition {} of {disk} than its table; restart the machine",
                entry.number
            );
        }
    }
    let content = match &device {
        // Through its own node: the disk's has pages of its own, which may be older.
        Some(device) => head(device).with_context(|| format!("reading {}", device.display()))?,
        None => judge::content_at(file, start, start + size)?,
    };
    Ok(Some(Place {
        disk: disk.to_owned(),
        number: entry.number,
        start,
        size,
        device,
        torn: layout.torn,
        content,
    }))
}

/// What a disk is used for by others than volumes, in words.
pub(super) fn in_use(
    ground: &Ground,
    disk: &Disk,
    table: &Table,
    mounts: &[Mount],
) -> Option<String> {
    let node = ground.node(&disk.name);
    if let Some(used) = used(ground, &ground.block.join(&disk.name), mounts) {
        return Some(used);
    }
    ground
        .partitions(&node.to_string_lossy())
        .into_iter()
        .filter(|(number, _)| {
            let entry = table.entry(*number);
            entry.is_none_or(|entry| !judge::is_a_volume(&entry.name))
        })
        .find_map(|(_, directory)| {
            let used = used(ground, &directory, mounts)?;
            let name = directory.file_name()?.to_string_lossy().into_owned();
            Some(format!("{name} is {used}"))
        })
}

/// Whether a volume that is on a disk is mounted.
pub(super) fn has_mounted_partition(ground: &Ground, disk: &Disk, mounts: &[Mount]) -> bool {
    let node = ground.node(&disk.name);
    ground
        .partitions(&node.to_string_lossy())
        .iter()
        .filter_map(|(_, directory)| text(&directory.join("dev")))
        .any(|number| mounts.iter().any(|mount| mount.device == number))
}

/// What one block device is used for, in words. What cannot be told counts as a use.
fn used(ground: &Ground, directory: &Path, mounts: &[Mount]) -> Option<String> {
    use_of(ground, directory, mounts)
        .unwrap_or_else(|error| Some(format!("used for what cannot be told ({error:#})")))
}

fn use_of(ground: &Ground, directory: &Path, mounts: &[Mount]) -> anyhow::Result<Option<String>> {
    let reading = |path: &Path| format!("reading {}", path.display());
    let path = directory.join("dev");
    let number = fs::read_to_string(&path).with_context(|| reading(&path))?;
    if let Some(mount) = mounts.iter().find(|mount| mount.device == number.trim()) {
        return Ok(Some(format!("mounted at {}", mount.point)));
    }
    let path = directory.join("holders");
    let mut holders = fs::read_dir(&path).with_context(|| reading(&path))?;
    if let Some(holder) = holders.next().transpose().with_context(|| reading(&path))? {
        let name = holder.file_name();
        return Ok(Some(format!("part of {}", name.to_string_lossy())));
    }
    let swaps = match fs::read_to_string(&ground.swaps) {
        Ok(swaps) => swaps,
        // A kernel that cannot swap has no list of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| reading(&ground.swaps)),
    };
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let node = ground.node(&name);
    let swap = |line: &str| line.split_whitespace().next().map(Path::new) == Some(&node);
    Ok(swaps.lines().any(swap).then(|| "swapped to".to_owned()))
}

/// Another disk that has a volume's partition.
fn elsewhere(
    ground: &Ground,
    name: &str,
    disks: &[Disk],
    chosen: &str,
    system: &str,
) -> Option<String> {
    let label = partition_name(name);
    let others = disks
        .iter()
        .filter(|disk| disk.name != chosen && disk.name != system);
    for disk in others {
        let node = ground.node(&disk.name);
        let (Ok(mut file), Ok(geometry)) = (fs::File::open(&node), ground.geometry(disk)) else {
            continue;
        };
        match Table::read(&mut file, geometry) {
            Ok((table, _)) if table.entries.iter().any(|entry| entry.name == label) => {
                return Some(node.display().to_string());
            }
            Ok(_) | Err(Error::None { .. }) => {}
            Err(error) => tracing::debug!("{}: {error}", node.display()),
        }
    }
    None
}

/// Whether a mounted device is the partition of the volume of this name.
fn is_partition_of(ground: &Ground, device: &str, name: &str) -> bool {
    let label = partition_name(name);
    let Ok(disks) = disk::identities(&ground.block) else {
        return false;
    };
    disks.iter().any(|disk| {
        let node = ground.node(&disk.name);
        let parts = ground.partitions(&node.to_string_lossy());
        let mut mounted = parts
            .iter()
            .filter(|(_, directory)| text(&directory.join("dev")).as_deref() == Some(device));
        let Some((number, _)) = mounted.next() else {
            return false;
        };
        let (Ok(mut file), Ok(geometry)) = (fs::File::open(&node), ground.geometry(disk)) else {
            return false;
        };
        Table::read(&mut file, geometry).is_ok_and(|(table, _)| {
            table
                .entry(*number)
                .is_some_and(|entry| entry.name == label)
        })
    })
}

impl Ground {
    /// The name of the disk that holds the running root.
    pub(super) fn system(&self) -> Option<String> {
        let system = self.system.as_deref()?;
        let real = fs::canonicalize(system).unwrap_or_else(|_| system.to_owned());
        let name = real.strip_prefix(&self.dev).ok()?.to_str()?;
        (!name.is_empty()).then(|| name.replace('/', "!"))
    }

    /// The node of a disk; the kernel writes `!` in its names where nodes have a `/`.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        self.dev.join(name.replace('!', "/"))
    }

    /// Where a volume is mounted.
    pub(super) fn point(&self, name: &str) -> PathBuf {
        self.root.join(MOUNTS.trim_start_matches('/')).join(name)
    }

    /// What is mounted in this thread's namespace.
    pub(super) fn mounts(&self) -> anyhow::Result<Vec<Mount>> {
        let table = fs::read_to_string(&self.mounts)
            .with_context(|| format!("reading {}", self.mounts.display()))?;
        Ok(mounts::parse(&table))
    }

    pub(super) fn geometry(&self, disk: &Disk) -> anyhow::Result<Geometry> {
        let path = self.block.join(&disk.name).join("queue/logical_block_size");
        let block = text(&path).and_then(|text| text.parse().ok());
        match block {
            Some(block @ 512..) => Ok(Geometry {
                block,
                blocks: disk.size / block,
            }),
            _ => anyhow::bail!("{} holds no size of a block", path.display()),
        }
    }

    /// The directory in sysfs of a partition of a disk.
    pub(super) fn partition(&self, disk: &str, number: u32) -> Option<PathBuf> {
        let mut all = self.partitions(disk).into_iter();
        all.find(|(found, _)| *found == number)
            .map(|(_, directory)| directory)
    }

    /// The partitions of a disk that the kernel knows.
    fn partitions(&self, disk: &str) -> Vec<(u32, PathBuf)> {
        let name = Path::new(disk).strip_prefix(&self.dev).ok();
        let name = name.and_then(Path::to_str).unwrap_or_default();
        let Ok(entries) = fs::read_dir(self.block.join(name.replace('/', "!"))) else {
            return Vec::new();
        };
        let numbered = |entry: fs::DirEntry| {
            let number = text(&entry.path().join("partition"))?.parse().ok()?;
            Some((number, entry.path()))
        };
        entries.flatten().filter_map(numbered).collect()
    }
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}
