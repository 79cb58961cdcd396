//! Out of the initramfs: the mounts are moved, its files are deleted to give their
//! memory back, the root becomes `/`, and the program in it takes over.

use super::Error;
use crate::watchdog::Guard;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags},
    mount::mount_move,
};
use std::{
    convert::Infallible,
    ffi::CStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
};

/// The mounts that go along.
const MOVED: [&str; 4] = ["dev", "proc", "sys", "run"];

/// How deep the initramfs may nest.
const MAX_DEPTH: u32 = 32;

pub(super) fn run(root: &str, program: &str, mut watchdog: Guard) -> Result<Infallible, Error> {
    let at = |what: &'static str| {
        move |errno: rustix::io::Errno| Error::Switch {
            what,
            source: errno.into(),
        }
    };
    if !Path::new(root)
        .join(program.trim_start_matches('/'))
        .exists()
    {
        let source = io::ErrorKind::NotFound.into();
        return Err(Error::Switch {
            what: "find /usr/bin/init in the root",
            source,
        });
    }
    for name in MOVED {
        mount_move(Path::new("/").join(name), Path::new(root).join(name))
            .map_err(at("move a mount into the root"))?;
    }
    let old = open_dir(CWD, c"/").map_err(at("open the initramfs"))?;
    rustix::process::chdir(root).map_err(at("enter the root"))?;
    let device = rustix::fs::fstat(&old)
        .map_err(at("look at the initramfs"))?
        .st_dev;
    free(&old, device, 0);
    mount_move(".", "/").map_err(at("move the root to its place"))?;
    rustix::process::chroot(".").map_err(at("change into the root"))?;
    rustix::process::chdir("/").map_err(at("change into the root"))?;
    // The environment holds what stood on the command line and was not understood:
    // none of it is for us.
    let source = Command::new(program)
        .env_clear()
        .envs(watchdog.hand_over())
        .exec();
    Err(Error::Switch {
        what: "execute /usr/bin/init",
        source,
    })
}

fn open_dir(at: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Deletes what is below the directory on the same filesystem. What cannot be deleted
/// costs memory and nothing else.
fn free(dir: &OwnedFd, device: u64, depth: u32) {
    let Ok(entries) = Dir::read_from(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if stat.st_dev != device {
            continue;
        }
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir
            && depth < MAX_DEPTH
            && let Ok(below) = open_dir(dir.as_fd(), name)
        {
            free(&below, device, depth + 1);
        }
        let flags = if is_dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        if rustix::fs::unlinkat(dir, name, flags).is_err() {
            continue;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_is_deleted_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::write(inside.join("a/b/c"), "x").unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("keep"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let old =
            rustix::fs::open(&inside, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        free(&old, rustix::fs::fstat(&old).unwrap().st_dev, 0);
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0);
        assert!(outside.join("keep").exists());
    }
}
