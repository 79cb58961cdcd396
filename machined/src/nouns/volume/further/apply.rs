//! Takes the steps. Each looks again before it writes.

use super::{
    super::{
        apply::{e2fsck, mke2fs, share},
        content::{Content, Left},
    },
    Ground, folder,
    judge::{self, partition_name},
    look::{self, Found, Mounted, Place, Stand},
    plan::Step,
};
use crate::nouns::disk;
use anyhow::{Context as _, bail};
use keelson_config::Volume;
use keelson_disk::{
    gpt::{Entry, Geometry},
    layout::KIND_LINUX,
};
use keelson_sys::partition;
use rustix::mount::{MountFlags, UnmountFlags};
use std::{fs, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc};

/// Takes one step.
pub(super) async fn apply(ground: &Arc<Ground>, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Close(volume) => {
            let (ground, name) = (ground.clone(), volume.name.clone());
            tokio::task::spawn_blocking(move || folder::close(&ground, &name)).await?
        }
        Step::Format(volume) => {
            let (_, place, device) = there(ground, volume).await?;
            if place.content != Content::Empty {
                bail!("{} is not empty any more", place.called());
            }
            mke2fs(Path::new(&device), &volume.name).await
        }
        Step::Check(volume) => {
            let (_, _, device) = there(ground, volume).await?;
            e2fsck(Path::new(&device)).await
        }
        Step::Mount(volume) => {
            let (_, place, device) = there(ground, volume).await?;
            let (ground, name) = (ground.clone(), volume.name.clone());
            tokio::task::spawn_blocking(move || mount(&ground, &name, &place, &device)).await?
        }
        Step::Partition(volume, _) => {
            let (ground, volume) = (ground.clone(), volume.clone());
            tokio::task::spawn_blocking(move || make_partition(&ground, &volume)).await?
        }
        Step::Share(volume) => share(&ground.point(&volume.name)),
        Step::Unmount(name) => {
            let point = ground.point(name);
            tokio::task::spawn_blocking(move || unmount(&point)).await?
        }
        Step::Remove(name) => {
            let point = ground.point(name);
            tokio::task::spawn_blocking(move || folder::remove(&point)).await?
        }
    }
}

/// Looks at a volume's partition, which is not mounted.
async fn there(
    ground: &Arc<Ground>,
    volume: &Volume,
) -> anyhow::Result<(Found, Place, std::path::PathBuf)> {
    let (ground, wanted) = (ground.clone(), volume.clone());
    let found = tokio::task::spawn_blocking(move || look::again(&ground, &wanted)).await??;
    match (&found.stand, &found.mounted) {
        (Stand::There(place), Mounted::No) => {
            let device = place.device.clone();
            let device =
                device.with_context(|| format!("the kernel does not know {}", place.called()))?;
            let place = place.clone();
            Ok((found, place, device))
        }
        (Stand::Absent(why) | Stand::Refused(why), _) => bail!("{why}"),
        (_, Mounted::Here(_) | Mounted::Other(_)) => bail!("something is mounted there"),
        _ => bail!("the partition {} is gone", partition_name(&volume.name)),
    }
}

/// Makes a volume's partition, and tells the kernel.
fn make_partition(ground: &Ground, volume: &Volume) -> anyhow::Result<()> {
    // Nobody else changes a table meanwhile; what was planned is looked at again.
    let _held = crate::upgrade::table_lock();
    let found = look::again(ground, volume)?;
    let node = match &found.stand {
        Stand::Room(disk) => disk.clone(),
        Stand::There(place) => place.disk.clone(),
        Stand::Absent(why) | Stand::Refused(why) => bail!("{why}"),
        Stand::Unwanted => bail!("nobody wants it"),
    };
    let disks = disk::identities(&ground.block).context("listing the disks")?;
    let disk = disks
        .iter()
        .find(|disk| ground.node(&disk.name) == Path::new(&node))
        .with_context(|| format!("{node} is gone"))?;
    if ground.system().is_none_or(|system| system == disk.name) {
        bail!("{node} may hold the running root");
    }
    let geometry = ground.geometry(disk)?;
    let mut file = open(ground, disk, Path::new(&node))?;
    let entry = write(&mut file, geometry, volume)
        .with_context(|| format!("writing the partition table of {node}"))?;
    if ground.partition(&node, entry.number).is_none() {
        let (start, length) = (
            entry.first * geometry.block,
            entry.blocks() * geometry.block,
        );
        partition::add_partition(&file, entry.number, start, length).with_context(|| {
            format!("telling the kernel of partition {} of {node}", entry.number)
        })?;
    }
    tracing::info!("{node} has the partition {}", entry.name);
    Ok(())
}

/// Opens a disk to write, so that nobody else begins to use it meanwhile. Where another of its
/// partitions is mounted, a volume, the kernel refuses that; what else is in use was looked at.
fn open(ground: &Ground, disk: &disk::Disk, node: &Path) -> anyhow::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true);
    let excl = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap_or(0);
    let alone = options.clone().custom_flags(excl).open(node);
    let busy = rustix::io::Errno::BUSY.raw_os_error();
    let opened = match alone {
        Err(error) if error.raw_os_error() == Some(busy) => {
            let mounts = ground.mounts()?;
            if !look::has_mounted_partition(ground, disk, &mounts) {
                bail!("{} is in use, by what cannot be told", node.display());
            }
            options.open(node)
        }
        opened => opened,
    };
    opened.with_context(|| format!("opening {} to write", node.display()))
}

/// Writes a table with a volume's partition, if it is not there yet, or not whole. The backup is
/// whole before the first copy changes.
pub(super) fn write(
    file: &mut fs::File,
    geometry: Geometry,
    volume: &Volume,
) -> anyhow::Result<Entry> {
    let name = partition_name(&volume.name);
    let mut layout = judge::layout(file, geometry, random()?)?;
    let there = layout.table.entries.iter().find(|entry| entry.name == name);
    let (number, changed) = match there {
        Some(entry) => (entry.number, false),
        None => {
            let at = judge::room(file, &layout, volume.size)?;
            let number = layout.table.add(KIND_LINUX, random()?, at, &name)?;
            (number, true)
        }
    };
    if changed || layout.torn {
        // The disk may have grown since its table was made; the backup is looked for at its end.
        layout.table.geometry = geometry;
        layout.table.write_backup(file)?;
        file.sync_all()?;
        layout.table.write_primary(file)?;
        file.sync_all()?;
    }
    let entry = layout.table.entry(number);
    entry.cloned().context("the partition is gone")
}

fn random() -> anyhow::Result<uuid::Uuid> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

fn mount(ground: &Ground, name: &str, place: &Place, device: &Path) -> anyhow::Result<()> {
    match &place.content {
        Content::Ext4(ext4) if ext4.state == Left::Broken => bail!(
            "{} has errors that are not repaired; check it with another system",
            device.display()
        ),
        Content::Ext4(_) => {}
        _ => bail!("{} has no file system", device.display()),
    }
    let point = ground.point(name);
    // Programs in a volume must run, as in DATA. But a disk may come from elsewhere: device
    // nodes and set-uid programs that are on it would be the machine's.
    let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount(device, &point, "ext4", flags, None)
        .with_context(|| format!("mounting {} at {}", device.display(), point.display()))?;
    share(&point)
}

fn unmount(point: &Path) -> anyhow::Result<()> {
    match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::BUSY) => {
            bail!("it is in use: stop the pods that use it; it is tried again")
        }
        result => result.with_context(|| format!("unmounting {}", point.display()))?,
    }
    folder::remove(point)
}
