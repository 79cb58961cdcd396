//! The folder that a volume is mounted at. While nothing is mounted there it is closed, to root
//! as well (`FS_IMMUTABLE_FL`, see ioctl_iflags(2)): what a pod writes for the volume must not
//! land in DATA, fill it, and be hidden once the volume comes.

use super::{Ground, MOUNTS};
use anyhow::{Context as _, bail};
use rustix::fs::{IFlags, Mode, OFlags};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::Path,
};

/// Whether the folder is there and closed.
pub(super) fn is_closed(point: &Path) -> bool {
    open(point)
        .and_then(|folder| rustix::fs::ioctl_getflags(&folder))
        .is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
}

/// Makes a volume's folder, if there is none, and closes it.
pub(super) fn close(ground: &Ground, name: &str) -> anyhow::Result<()> {
    let data = ground.root.join("var");
    let mounts = ground.mounts()?;
    if !mounts.iter().any(|mount| Path::new(&mount.point) == data) {
        bail!("the data volume is not mounted");
    }
    make(&ground.root.join(MOUNTS.trim_start_matches('/')), 0o755)?;
    let point = ground.point(name);
    make(&point, 0)?;
    let closed = || {
        let folder = open(&point)?;
        let flags = rustix::fs::ioctl_getflags(&folder)?;
        if flags.contains(IFlags::IMMUTABLE) {
            return Ok(());
        }
        rustix::fs::fchmod(&folder, Mode::empty())?;
        rustix::fs::ioctl_setflags(&folder, flags | IFlags::IMMUTABLE)
    };
    closed().with_context(|| format!("closing {}", point.display()))
}

/// Removes the folder of a volume that nobody wants any more.
pub(super) fn remove(point: &Path) -> anyhow::Result<()> {
    let opened = || {
        let folder = open(point)?;
        let flags = rustix::fs::ioctl_getflags(&folder)?;
        rustix::fs::ioctl_setflags(&folder, flags - IFlags::IMMUTABLE)
    };
    let context = || format!("removing {}", point.display());
    opened().with_context(context)?;
    fs::remove_dir(point).with_context(context)
}

fn open(point: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(point, flags, Mode::empty())
}

fn make(path: &Path, mode: u32) -> anyhow::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("making {}", path.display())),
    }
}
