//! The machine's power button, and what a hypervisor presses in its place: key events of input
//! devices (the kernel's Documentation/input/input.rst). It only says that the key was pressed.
//!
//! Devices come and go, and their driver is a module that is loaded after init has started, so the
//! kernel's events are heard, and with each of an input device all of them are looked at again.

use crate::console::{self, Level};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
    },
};
use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The kernel's own multicast group of events about devices.
const KERNEL: u32 = 1;

/// `struct input_event` where a long has 64 bits: two longs of time, type, code, value.
const EVENT: usize = 24;

/// Where the type stands in an event; what follows are code and value.
const TYPE: usize = 16;

/// EV_KEY.
const KEY: u16 = 1;

/// KEY_POWER.
const POWER: u16 = 116;

/// The value of a key that goes down; 0 is up, 2 is held.
const DOWN: i32 = 1;

/// How many messages are read before others get their turn.
const BATCH: usize = 64;

/// The power buttons of a machine.
pub struct Buttons {
    /// Where input devices are described.
    class: PathBuf,
    /// Where they are opened.
    nodes: PathBuf,
    /// The kernel's events about devices; gone where they cannot be heard.
    events: Option<OwnedFd>,
    devices: Vec<Device>,
}

struct Device {
    name: String,
    fd: OwnedFd,
}

impl Buttons {
    /// Those of this machine.
    pub fn of_machine() -> Buttons {
        let mut buttons = Buttons::new("/sys/class/input".into(), "/dev/input".into());
        match hear_devices() {
            Ok(events) => buttons.events = Some(events),
            Err(errno) => console::log(
                Level::Warning,
                &format!("a power button that appears later is not noticed: {errno}"),
            ),
        }
        buttons.look();
        buttons
    }

    /// None; for a supervisor that is not a machine's.
    pub fn none() -> Buttons {
        Buttons::new(PathBuf::new(), PathBuf::new())
    }

    fn new(class: PathBuf, nodes: PathBuf) -> Buttons {
        Buttons {
            class,
            nodes,
            events: None,
            devices: Vec::new(),
        }
    }

    /// What to wait for input on.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let devices = self.devices.iter().map(|device| device.fd.as_fd());
        self.events.iter().map(|fd| fd.as_fd()).chain(devices)
    }

    /// Reads what came; whether the power button was pressed.
    pub fn read(&mut self) -> bool {
        if self.has_news() {
            self.look();
        }
        let mut pressed = false;
        self.devices.retain(|device| match device.read() {
            Ok(down) => {
                pressed |= down;
                true
            }
            // It is gone; should it come back, an event says so.
            Err(_) => false,
        });
        pressed
    }

    /// Whether the kernel told of an input device, or of more than was read.
    fn has_news(&self) -> bool {
        let Some(events) = &self.events else {
            return false;
        };
        let mut news = false;
        let mut buffer = [0; 4096];
        for _ in 0..BATCH {
            match rustix::net::recv(events, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    let mut fields = buffer[..length.min(buffer.len())].split(|byte| *byte == 0);
                    news |= fields.any(|field| field == b"SUBSYSTEM=input");
                }
                Err(Errno::NOBUFS) => news = true,
                Err(_) => return news,
            }
        }
        news
    }

    /// Opens the devices with a power key that are not open yet.
    fn look(&mut self) {
        // No input device at all: no folder.
        let Ok(entries) = fs::read_dir(&self.class) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let open = self.devices.iter().any(|device| device.name == name);
            if open || !name.starts_with("event") || !has_power_key(&entry.path()) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::open(self.nodes.join(&name), flags, Mode::empty()) {
                Ok(fd) => self.devices.push(Device { name, fd }),
                Err(errno) => console::log(
                    Level::Warning,
                    &format!("the power button of {name} cannot be read: {errno}"),
                ),
            }
        }
    }
}

impl Device {
    /// Reads what there is; whether the power key went down. An error says that the device is
    /// gone.
    fn read(&self) -> io::Result<bool> {
        let mut pressed = false;
        let mut buffer = [0; EVENT * BATCH];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => pressed |= buffer[..length].chunks_exact(EVENT).any(is_power),
                Err(Errno::AGAIN) => return Ok(pressed),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Listens for the kernel's events about devices.
fn hear_devices() -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
    Ok(socket)
}

/// Whether an event says that the power key went down.
fn is_power(event: &[u8]) -> bool {
    let word = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = [TYPE + 4, TYPE + 5, TYPE + 6, TYPE + 7].map(|at| event[at]);
    word(TYPE) == KEY && word(TYPE + 2) == POWER && i32::from_ne_bytes(value) == DOWN
}

/// Whether a device has a power key.
fn has_power_key(device: &Path) -> bool {
    fs::read_to_string(device.join("device/capabilities/key"))
        .is_ok_and(|bitmap| has_bit(&bitmap, POWER.into()))
}

/// Whether a bit is set in a bitmap as sysfs prints it: words of 64 bits in hexadecimal, the
/// highest first.
fn has_bit(bitmap: &str, bit: usize) -> bool {
    let word = bitmap.split_whitespace().rev().nth(bit / 64);
    word.and_then(|word| u64::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0; TYPE];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    /// What the kernel says of: an ACPI power button, a PS/2 keyboard, a mouse, a lid switch.
    #[test]
    fn a_power_key_is_seen_in_the_bitmap() {
        let cases = [
            ("10000000000000 0\n", true),
            (
                "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe\n",
                true,
            ),
            ("70000 0 0 0 0\n", false),
            ("0\n", false),
            ("", false),
            ("nonsense 0\n", false),
        ];
        for (bitmap, wanted) in cases {
            assert_eq!(has_bit(bitmap, POWER.into()), wanted, "{bitmap:?}");
        }
    }

    #[test]
    fn only_the_power_key_going_down_counts() {
        let cases = [
            ((KEY, POWER, DOWN), true),
            ((KEY, POWER, 0), false),
            ((KEY, POWER, 2), false),
            ((KEY, 30, DOWN), false),
            ((0, POWER, DOWN), false),
        ];
        for ((kind, code, value), wanted) in cases {
            assert_eq!(is_power(&event(kind, code, value)), wanted);
        }
    }

    #[test]
    fn a_button_that_appears_is_read_and_one_that_goes_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let (class, nodes) = (folder.path().join("class"), folder.path().join("nodes"));
        fs::create_dir(&nodes).unwrap();
        let mut buttons = Buttons::new(class.clone(), nodes.clone());
        buttons.look();
        assert_eq!(buttons.fds().count(), 0);
        for (name, bitmap) in [("event0", "10000000000000 0"), ("event1", "70000 0 0 0 0")] {
            let capabilities = class.join(name).join("device/capabilities");
            fs::create_dir_all(&capabilities).unwrap();
            fs::write(capabilities.join("key"), bitmap).unwrap();
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&nodes.join(name), mode).unwrap();
        }
        let both = |name| {
            let mut options = fs::OpenOptions::new();
            options
                .read(true)
                .write(true)
                .open(nodes.join(name))
                .unwrap()
        };
        let mut pressing = both("event0");
        buttons.look();
        buttons.look();
        assert_eq!(buttons.fds().count(), 1);
        assert!(!buttons.read());
        pressing.write_all(&event(KEY, 30, DOWN)).unwrap();
        pressing.write_all(&event(KEY, POWER, DOWN)).unwrap();
        assert!(buttons.read());
        assert!(!buttons.read());
        drop(pressing);
        assert!(!buttons.read());
        assert_eq!(buttons.fds().count(), 0);
    }
}
