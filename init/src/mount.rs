//! Which filesystems PID 1 mounts before anybody else runs, and with what flags. Disks
//! are not among them: those are machined's.

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use std::{ffi::CString, io, path::Path};
use thiserror::Error;

/// A mount that failed.
#[derive(Debug, Error)]
#[error("cannot mount {kind} on {target}")]
pub struct Error {
    kind: &'static str,
    target: String,
    source: io::Error,
}

/// What a mount is to the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Without it nothing goes on.
    Must,
    /// The kernel may lack it, or the machine.
    May,
}

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static str,
    need: Need,
}

const PLAIN: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const fn must(
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static str,
) -> Mount {
    Mount {
        kind,
        target,
        flags,
        options,
        need: Need::Must,
    }
}

const fn may(
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static str,
) -> Mount {
    Mount {
        kind,
        target,
        flags,
        options,
        need: Need::May,
    }
}

/// What the initramfs needs; it is moved into the root afterwards.
const FIRST: [Mount; 4] = [
    must("proc", "/proc", PLAIN, ""),
    must("sysfs", "/sys", PLAIN, ""),
    must(
        "devtmpfs",
        "/dev",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "mode=0755",
    ),
    must("tmpfs", "/run", PLAIN, "mode=0755"),
];

/// Which disk the loader came from.
const EFIVARS: Mount = may(
    "efivarfs",
    "/sys/firmware/efi/efivars",
    PLAIN.union(MountFlags::RDONLY),
    "",
);

/// What is added in the root.
const SECOND: [Mount; 8] = [
    must(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "gid=5,mode=0620,ptmxmode=0666",
    ),
    must("tmpfs", "/dev/shm", PLAIN, "mode=1777"),
    may("mqueue", "/dev/mqueue", PLAIN, ""),
    must(
        "cgroup2",
        "/sys/fs/cgroup",
        PLAIN,
        "nsdelegate,memory_recursiveprot",
    ),
    may("bpf", "/sys/fs/bpf", PLAIN, "mode=0700"),
    may("securityfs", "/sys/kernel/security", PLAIN, ""),
    EFIVARS,
    must("tmpfs", "/tmp", PLAIN, "mode=1777"),
];

/// Mounts what the initramfs needs.
pub fn first() -> Result<(), Error> {
    FIRST.iter().try_for_each(perform)
}

/// Mounts the EFI variables, if there are any, once their module is loaded.
pub fn efivars() -> Result<(), Error> {
    perform(&EFIVARS)
}

/// Mounts what the root needs and makes every mount shared, as containers expect it.
/// Without an initramfs what that would have mounted comes first.
pub fn second() -> Result<(), Error> {
    if !Path::new("/proc/self").exists() {
        first()?;
    }
    SECOND.iter().try_for_each(perform)?;
    mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )
    .map_err(|errno| Error {
        kind: "shared",
        target: "/".into(),
        source: errno.into(),
    })
}

fn perform(entry: &Mount) -> Result<(), Error> {
    match attempt(entry) {
        Err(_) if entry.need == Need::May => Ok(()),
        // Mounted already, by the initramfs.
        Err(rustix::io::Errno::BUSY) => Ok(()),
        result => result.map_err(|errno| Error {
            kind: entry.kind,
            target: entry.target.to_owned(),
            source: errno.into(),
        }),
    }
}

fn attempt(entry: &Mount) -> rustix::io::Result<()> {
    match rustix::fs::mkdir(entry.target, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        // sysfs and a read-only root have the directory or do not; the mount tells.
        Err(_) => {}
    }
    let options = CString::new(entry.options).map_err(|_| rustix::io::Errno::INVAL)?;
    mount(
        entry.kind,
        entry.target,
        entry.kind,
        entry.flags,
        Some(options.as_c_str()),
    )
}
