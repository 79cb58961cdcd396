//! The watchdog: a timer that resets the machine unless it is fed (kernel:
//! watchdog/watchdog-api). When to feed it, and for how long, is not decided here.

use rustix::{
    fs::{Mode, OFlags},
    io::FdFlags,
};
use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    path::Path,
};

/// `WDIOC_GETSUPPORT` of linux/watchdog.h, `_IOR('W', 0, struct watchdog_info)`.
const GET_SUPPORT: libc::Ioctl = 0x8028_5700;
/// `WDIOC_GETBOOTSTATUS` of linux/watchdog.h, `_IOR('W', 2, int)`.
const GET_BOOT_STATUS: libc::Ioctl = 0x8004_5702;
/// `WDIOC_KEEPALIVE` of linux/watchdog.h, `_IOR('W', 5, int)`.
const KEEP_ALIVE: libc::Ioctl = 0x8004_5705;
/// `WDIOC_SETTIMEOUT` of linux/watchdog.h, `_IOWR('W', 6, int)`.
const SET_TIMEOUT: libc::Ioctl = 0xc004_5706;
/// `WDIOC_GETTIMEOUT` of linux/watchdog.h, `_IOR('W', 7, int)`.
const GET_TIMEOUT: libc::Ioctl = 0x8004_5707;
/// `WDIOC_SETPRETIMEOUT` of linux/watchdog.h, `_IOWR('W', 8, int)`.
const SET_PRETIMEOUT: libc::Ioctl = 0xc004_5708;
/// `WDIOC_GETPRETIMEOUT` of linux/watchdog.h, `_IOR('W', 9, int)`.
const GET_PRETIMEOUT: libc::Ioctl = 0x8004_5709;

/// `WDIOF_CARDRESET` of linux/watchdog.h: the watchdog has caused the last reset.
const CARD_RESET: c_int = 0x20;

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// An armed watchdog. Dropping it leaves it armed, and unfed: the machine is reset
/// when its time is over. Only [`Watchdog::disarm`] stops it.
#[derive(Debug)]
pub struct Watchdog(OwnedFd);

impl Watchdog {
    /// Opens the device, which arms it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Takes over one that the program before left open; see [`Watchdog::hand_over`].
    pub fn inherit(number: RawFd) -> io::Result<Self> {
        crate::inherit::take(number).map(Self)
    }

    /// Leaves it open for the program that takes this one's place; its number there.
    pub fn hand_over(&self) -> io::Result<RawFd> {
        rustix::io::fcntl_setfd(&self.0, FdFlags::empty())?;
        Ok(self.0.as_raw_fd())
    }

    /// What it calls itself.
    pub fn identity(&self) -> io::Result<String> {
        let mut info = Info {
            options: 0,
            firmware_version: 0,
            identity: [0; 32],
        };
        // SAFETY: the descriptor is open for the call; WDIOC_GETSUPPORT writes one
        // watchdog_info, laid out as the kernel has it, which lives on this stack until the
        // call returns and is valid whatever its bytes.
        unsafe { self.ioctl(GET_SUPPORT, (&raw mut info).cast()) }?;
        let text = String::from_utf8_lossy(&info.identity);
        Ok(text.trim_end_matches('\0').trim().to_owned())
    }

    /// Whether it says that it has reset the machine the last time.
    pub fn has_reset(&self) -> io::Result<bool> {
        Ok(self.number(GET_BOOT_STATUS, 0)? & CARD_RESET != 0)
    }

    /// Sets the seconds that it waits for food; those that it took.
    pub fn set_timeout(&self, seconds: u16) -> io::Result<u64> {
        let taken = self.number(SET_TIMEOUT, seconds.into())?;
        Ok(u64::from(taken.unsigned_abs()))
    }

    /// The seconds that it waits for food.
    pub fn timeout(&self) -> io::Result<u64> {
        let seconds = self.number(GET_TIMEOUT, 0)?;
        Ok(u64::from(seconds.unsigned_abs()))
    }

    /// Sets how many seconds before the reset the kernel is told. It holds from the next
    /// feeding on.
    pub fn set_pretimeout(&self, seconds: u16) -> io::Result<()> {
        self.number(SET_PRETIMEOUT, seconds.into()).map(drop)
    }

    /// How many seconds before the reset the kernel is told; 0 where it is not.
    pub fn pretimeout(&self) -> io::Result<u64> {
        let seconds = self.number(GET_PRETIMEOUT, 0)?;
        Ok(u64::from(seconds.unsigned_abs()))
    }

    /// Feeds it: its time begins again.
    pub fn feed(&self) -> io::Result<()> {
        self.number(KEEP_ALIVE, 0).map(drop)
    }

    /// Stops it, for the end of the machine's run: the letter that says that the close
    /// is meant, and the close. A driver may be built to ignore it.
    pub fn disarm(self) -> io::Result<()> {
        match rustix::io::write(&self.0, b"V")? {
            1 => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// One of the requests that take an integer, give one back, or neither.
    fn number(&self, request: libc::Ioctl, value: c_int) -> io::Result<c_int> {
        let mut value = value;
        // SAFETY: the descriptor is open for the call; each of these requests reads or
        // writes at most one int, which lives on this stack until the call returns.
        unsafe { self.ioctl(request, (&raw mut value).cast()) }?;
        Ok(value)
    }

    /// # Safety
    /// `argument` must point to what the request reads and writes.
    unsafe fn ioctl(&self, request: libc::Ioctl, argument: *mut c_void) -> io::Result<()> {
        // SAFETY: the descriptor is open; the caller answers for the argument.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> (tempfile::TempDir, Watchdog) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        (dir, Watchdog::open(&path).unwrap())
    }

    #[test]
    fn what_is_no_watchdog_says_so() {
        let (_dir, other) = other();
        let errors = [
            other.identity().unwrap_err(),
            other.has_reset().unwrap_err(),
            other.set_timeout(60).unwrap_err(),
            other.timeout().unwrap_err(),
            other.set_pretimeout(15).unwrap_err(),
            other.pretimeout().unwrap_err(),
            other.feed().unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        }
    }

    #[test]
    fn only_disarming_writes_the_letter() {
        let (dir, dog) = other();
        let read = || std::fs::read(dir.path().join("file")).unwrap();
        drop(dog);
        assert_eq!(read(), b"");
        let dog = Watchdog::open(&dir.path().join("file")).unwrap();
        dog.disarm().unwrap();
        assert_eq!(read(), b"V");
    }

    #[test]
    fn it_stays_open_only_when_handed_over() {
        let (_dir, dog) = other();
        let flags = || rustix::io::fcntl_getfd(&dog.0).unwrap();
        assert!(flags().contains(FdFlags::CLOEXEC));
        let number = dog.hand_over().unwrap();
        assert!(!flags().contains(FdFlags::CLOEXEC));
        assert_eq!(number, dog.0.as_raw_fd());
    }

    #[test]
    fn the_requests_carry_the_sizes_that_the_kernel_expects() {
        // _IOC: direction, size, type, number (asm-generic/ioctl.h).
        let size = |request: libc::Ioctl| (request >> 16) & 0x3fff;
        assert_eq!(size(GET_SUPPORT) as usize, size_of::<Info>());
        for request in [
            GET_BOOT_STATUS,
            KEEP_ALIVE,
            SET_TIMEOUT,
            GET_TIMEOUT,
            SET_PRETIMEOUT,
            GET_PRETIMEOUT,
        ] {
            assert_eq!(size(request) as usize, size_of::<c_int>());
            assert_eq!((request >> 8) & 0xff, libc::Ioctl::from(b'W'));
        }
    }
}
