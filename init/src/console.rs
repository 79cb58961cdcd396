//! Words to the person at the machine, and to the kernel's log. Nothing here waits for
//! a terminal that does not take them, and nothing here can fail: there is nobody
//! further down to tell.

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{fs, path::Path};

/// How many times a terminal that is full is given 50 ms to drain.
const PATIENCE: u32 = 10;

/// Severity in the kernel's log (syslog(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It failed.
    Error = 3,
    /// It may matter.
    Warning = 4,
    /// It is normal.
    Info = 6,
    /// For the record; with usual settings the kernel shows it on no console.
    Debug = 7,
}

/// Writes one line to every console, and to the kernel's log.
pub fn say(line: &str) {
    let text = format!("\r\nkeelson: {}\r\n", one_line(line));
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut written = 0;
    for name in active.split_whitespace() {
        written += usize::from(write(&Path::new("/dev").join(name), text.as_bytes()));
    }
    if written == 0 {
        write(Path::new("/dev/console"), text.as_bytes());
    }
    // The kernel would show anything graver a second time.
    log(Level::Debug, line);
}

/// Writes one line to the kernel's log, where `osctl dmesg` finds it.
pub fn log(level: Level, line: &str) {
    let text = format!("<{}>init: {}\n", 8 * 3 + level as u32, one_line(line));
    write(Path::new("/dev/kmsg"), text.as_bytes());
}

/// The line without characters that would break it or steer a terminal.
fn one_line(line: &str) -> String {
    line.chars()
        .take(900)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Whether the terminal or log took all bytes.
fn write(path: &Path, mut bytes: &[u8]) -> bool {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    let mut patience = PATIENCE;
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return false,
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(_) => return false,
        }
    }
    true
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc"), "a b [2Jc");
        assert_eq!(one_line(&"x".repeat(2000)).len(), 900);
    }
}
