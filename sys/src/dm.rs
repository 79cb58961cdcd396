//! Device-mapper: makes a mapped device out of one table line and starts it. Source:
//! the kernel's `include/uapi/linux/dm-ioctl.h`. It knows nothing of what is mapped.

use rustix::{
    fs::{Mode, OFlags},
    ioctl::{Opcode, Updater, opcode},
};
use std::{io, os::fd::OwnedFd, path::PathBuf};
use thiserror::Error;

const HEADER: usize = 312;
const TARGET: usize = 40;
const BUFFER: usize = 4096;
const READ_ONLY: u32 = 1;

const DEV_CREATE: Opcode = opcode::read_write::<[u8; HEADER]>(0xfd, 3);
const DEV_REMOVE: Opcode = opcode::read_write::<[u8; HEADER]>(0xfd, 4);
const DEV_SUSPEND: Opcode = opcode::read_write::<[u8; HEADER]>(0xfd, 6);
const TABLE_LOAD: Opcode = opcode::read_write::<[u8; HEADER]>(0xfd, 9);

/// The one target of a read-only mapped device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its length in sectors of 512 bytes; it begins at 0.
    pub sectors: u64,
    /// The target's type, for example `verity`.
    pub kind: String,
    /// Its parameters, as the kernel's documentation of the type has them.
    pub params: String,
}

/// Why a device was not mapped.
#[derive(Debug, Error)]
pub enum Error {
    /// Device-mapper is not there.
    #[error("cannot open /dev/mapper/control")]
    Control(#[source] io::Error),
    /// The name, the type or the parameters are too long.
    #[error("the device-mapper table of {0} is too long")]
    TooLong(String),
    /// The kernel refused a step; dmesg says more.
    #[error("device-mapper cannot {step} {name}")]
    Refused {
        /// The step.
        step: &'static str,
        /// The mapped device.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The mapped device has no node in `/dev`.
    #[error("the mapped device {name} has no node")]
    Node {
        /// The mapped device.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A request as the kernel lays it out: a header, then what belongs to it.
#[repr(C, align(8))]
struct Request([u8; BUFFER]);

impl Request {
    fn new(name: &str, flags: u32) -> Result<Self, Error> {
        // Room for the terminating zero; the name also becomes the uuid, with a prefix.
        if name.is_empty() || name.len() > 100 {
            return Err(Error::TooLong(name.to_owned()));
        }
        let mut request = Self([0; BUFFER]);
        request.put(0, &4u32.to_ne_bytes());
        request.put(12, &(BUFFER as u32).to_ne_bytes());
        request.put(16, &(HEADER as u32).to_ne_bytes());
        request.put(28, &flags.to_ne_bytes());
        request.put(48, name.as_bytes());
        Ok(request)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn with_uuid(mut self, name: &str) -> Self {
        self.put(176, b"KEELSON-");
        self.put(184, name.as_bytes());
        self
    }

    fn with_target(mut self, name: &str, target: &Target) -> Result<Self, Error> {
        let end = HEADER + TARGET + target.params.len() + 1;
        if target.kind.len() > 15 || end > BUFFER {
            return Err(Error::TooLong(name.to_owned()));
        }
        self.put(20, &1u32.to_ne_bytes());
        self.put(HEADER + 8, &target.sectors.to_ne_bytes());
        self.put(
            HEADER + 20,
            &((TARGET + target.params.len() + 1) as u32).to_ne_bytes(),
        );
        self.put(HEADER + 24, target.kind.as_bytes());
        self.put(HEADER + TARGET, target.params.as_bytes());
        Ok(self)
    }

    /// Major and minor number of the device that the kernel answered with.
    fn device(&self) -> (u64, u64) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[40..48]);
        let number = u64::from_ne_bytes(bytes);
        (
            (number >> 8) & 0xfff,
            (number & 0xff) | ((number >> 12) & 0xf_ff00),
        )
    }

    fn call<const OPCODE: Opcode>(
        &mut self,
        control: &OwnedFd,
        step: &'static str,
        name: &str,
    ) -> Result<(), Error> {
        // SAFETY: the opcodes above take a struct dm_ioctl, whose data_size says how
        // long the whole buffer is: the kernel reads and writes inside of it only.
        let updater = unsafe { Updater::<OPCODE, Self>::new(self) };
        // SAFETY: as above; the request is laid out as the header file says.
        unsafe { rustix::ioctl::ioctl(control, updater) }.map_err(|errno| Error::Refused {
            step,
            name: name.to_owned(),
            source: errno.into(),
        })
    }
}

/// Maps a read-only device under the name and starts it. Returns its node, such as
/// `/dev/dm-0`. A device that could not be set up is removed again.
pub fn create_read_only(name: &str, target: &Target) -> Result<PathBuf, Error> {
    let control = rustix::fs::open(
        "/dev/mapper/control",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| Error::Control(errno.into()))?;
    let mut created = Request::new(name, 0)?.with_uuid(name);
    let mut load = Request::new(name, READ_ONLY)?.with_target(name, target)?;
    created.call::<DEV_CREATE>(&control, "create", name)?;
    let started = load
        .call::<TABLE_LOAD>(&control, "load the table of", name)
        // Suspend without the suspend flag is resume: the table becomes live.
        .and_then(|()| Request::new(name, 0)?.call::<DEV_SUSPEND>(&control, "start", name));
    if let Err(error) = started {
        // The first error is the one to tell.
        return match Request::new(name, 0)?.call::<DEV_REMOVE>(&control, "remove", name) {
            Ok(()) | Err(_) => Err(error),
        };
    }
    node(created.device()).map_err(|source| Error::Node {
        name: name.to_owned(),
        source,
    })
}

/// The node of a block device, made if devtmpfs did not.
fn node((major, minor): (u64, u64)) -> io::Result<PathBuf> {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"))?;
    let name = link.file_name().ok_or(io::ErrorKind::NotFound)?;
    let path = PathBuf::from("/dev").join(name);
    if !path.exists() {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::BlockDevice,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(major as u32, minor as u32),
        )?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        let target = Target {
            sectors: 80,
            kind: "verity".into(),
            params: "1 a b".into(),
        };
        let request = Request::new("root", READ_ONLY)
            .unwrap()
            .with_target("root", &target)
            .unwrap();
        assert_eq!(&request.0[48..53], b"root\0");
        assert_eq!(request.0[28], 1);
        assert_eq!(request.0[HEADER + 8], 80);
        assert_eq!(&request.0[HEADER + 24..HEADER + 31], b"verity\0");
        assert_eq!(&request.0[HEADER + 40..HEADER + 46], b"1 a b\0");
        // _IOWR(0xfd, 3, struct dm_ioctl)
        assert_eq!(DEV_CREATE, 0xc138_fd03);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Request::new("", 0).is_err());
        assert!(Request::new(&"x".repeat(101), 0).is_err());
        let target = Target {
            sectors: 1,
            kind: "verity".into(),
            params: "x".repeat(4000),
        };
        assert!(
            Request::new("a", 0)
                .unwrap()
                .with_target("a", &target)
                .is_err()
        );
    }

    #[test]
    fn device_numbers_are_split_as_the_kernel_joins_them() {
        let mut request = Request::new("a", 0).unwrap();
        request.put(40, &((254u64 << 8) | 0x12 | (0x345 << 20)).to_ne_bytes());
        assert_eq!(request.device(), (254, 0x34512));
    }
}
