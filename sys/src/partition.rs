//! Partitions of disks in use: tells the kernel that there is one more, or that one has a
//! new length, and lets a mounted ext4 fill its device. Writing the partition table
//! and deciding that something should grow are not done here.

use std::{
    ffi::{c_char, c_int, c_longlong, c_void},
    io,
    os::fd::{AsFd, AsRawFd},
};

/// `BLKPG` of linux/fs.h, `_IO(0x12, 105)`.
const BLKPG: libc::Ioctl = 0x1269;
/// `BLKPG_ADD_PARTITION` of linux/blkpg.h.
const BLKPG_ADD_PARTITION: c_int = 1;
/// `BLKPG_RESIZE_PARTITION` of linux/blkpg.h.
const BLKPG_RESIZE_PARTITION: c_int = 3;
/// `EXT4_IOC_RESIZE_FS` of the kernel's ext4.h, `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgArgument {
    op: c_int,
    flags: c_int,
    data_length: c_int,
    data: *mut c_void,
}

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    device_name: [c_char; 64],
    volume_name: [c_char; 64],
}

/// Tells the kernel the new length of partition `number`; the partition may be
/// mounted. `start` and `length` are bytes; `start` must be what the kernel has.
pub fn resize_partition(disk: impl AsFd, number: u32, start: u64, length: u64) -> io::Result<()> {
    blkpg(disk, BLKPG_RESIZE_PARTITION, number, start, length)
}

/// Tells the kernel of a partition that it does not know yet; others of the disk may be
/// mounted. `start` and `length` are bytes. One that is there already, or overlaps another, is
/// an error, `EBUSY`.
pub fn add_partition(disk: impl AsFd, number: u32, start: u64, length: u64) -> io::Result<()> {
    blkpg(disk, BLKPG_ADD_PARTITION, number, start, length)
}

fn blkpg(disk: impl AsFd, op: c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(invalid)?,
        length: length.try_into().map_err(invalid)?,
        number: number.try_into().map_err(invalid)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let mut argument = BlkpgArgument {
        op,
        flags: 0,
        data_length: size_of::<BlkpgPartition>() as c_int,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: the descriptor is open for the call; BLKPG reads one blkpg_ioctl_arg, and
    // through it one blkpg_partition of the length given. Both are laid out as the kernel
    // has them, live on this stack until the call returns, and are not kept.
    let result = unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKPG, &raw mut argument) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Grows the mounted ext4 that holds `file` to `blocks` of its own blocks. The kernel
/// may stop a few blocks short, where the last group would be too small to use.
pub fn resize_ext4(file: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call; EXT4_IOC_RESIZE_FS reads one u64, which
    // lives on this stack until the call returns.
    let result = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            EXT4_IOC_RESIZE_FS,
            &raw const blocks,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_disk_is_refused() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let error = resize_partition(&file, 1, 1 << 20, 1 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        let error = add_partition(&file, 1, 1 << 20, 1 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        let error = resize_ext4(&file, 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn a_length_that_the_kernel_cannot_hold_is_refused() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let error = resize_partition(&file, 1, 0, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<BlkpgArgument>(), 24);
        assert_eq!(size_of::<BlkpgPartition>(), 152);
    }
}
