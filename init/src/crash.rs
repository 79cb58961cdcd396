//! The log of a run that ends badly, kept where the next boot finds it: the kernel's
//! pstore (kernel: admin-guide/ramoops, ABI/testing/pstore). machined reads it there and
//! puts it on a disk.
//!
//! The kernel writes its log by itself when it panics; a reboot that PID 1 chooses because
//! something failed has to ask for it.

use crate::console::{self, Level};
use keelson_sys::module::Index;
use std::{
    fs,
    io::{self, Read as _, Seek as _},
    path::Path,
};

/// What keeps the log; `(null)` while nothing does.
const BACKEND: &str = "/sys/module/pstore/parameters/backend";

/// Whether the kernel writes its log at every end, and not only when it panics.
const ALWAYS: &str = "/sys/module/printk/parameters/always_kmsg_dump";

/// How much of a service's log is quoted: pstore keeps little more than this.
const QUOTED_LINES: usize = 20;
const QUOTED_BYTES: u64 = 4096;

/// The places, the best first, each with its module's parameters.
///
/// EFI variables survive everything. Memory survives as long as neither the firmware nor
/// the next kernel writes over it; it is the region that `reserve_mem=` on the command
/// line has set aside. With `max_reason=0` it, too, obeys `always_kmsg_dump`.
const PLACES: [(&str, &str); 2] = [
    ("efi_pstore", ""),
    (
        "ramoops",
        "mem_name=keelson max_reason=0 record_size=65536 console_size=0 ftrace_size=0 pmsg_size=0",
    ),
];

/// Finds a place for the log. A machine without one boots all the same.
pub fn prepare(index: Option<&Index>) {
    let efi = Path::new("/sys/firmware/efi").exists();
    for (module, parameters) in PLACES {
        let Some(index) = index.filter(|index| backend().is_none() && index.contains(module))
        else {
            continue;
        };
        if module == "efi_pstore" && !efi {
            continue;
        }
        if let Err(error) = index.load(module, parameters) {
            console::log(Level::Warning, &console::chain(&error));
        }
    }
    match backend() {
        Some(name) => console::log(Level::Info, &format!("crash logs are kept by {name}")),
        None => console::log(Level::Warning, "this machine keeps no crash logs"),
    }
}

fn backend() -> Option<String> {
    parse(&fs::read_to_string(BACKEND).ok()?)
}

fn parse(backend: &str) -> Option<String> {
    Some(backend.trim())
        .filter(|name| !name.is_empty() && *name != "(null)")
        .map(str::to_owned)
}

/// Has the kernel write its log when it reboots. For a run that ends badly: an ordinary
/// reboot leaves nothing behind.
pub fn keep_log() {
    // Without it the machine reboots all the same, and says less.
    if let Err(error) = fs::write(ALWAYS, "Y") {
        console::log(
            Level::Warning,
            &format!("the log will not be kept: {error}"),
        );
    }
}

/// Puts the end of a service's log into the kernel's, which is the one that is kept.
pub fn quote(service: &str, log: &Path) {
    let tail = read_tail(log).unwrap_or_else(|error| format!("its log cannot be read: {error}"));
    for line in last_lines(&tail) {
        console::log(Level::Info, &format!("{service}: {line}"));
    }
}

/// The last bytes of a file, more than what is quoted of it.
fn read_tail(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(QUOTED_BYTES)))?;
    let mut bytes = vec![];
    file.take(QUOTED_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, text).unwrap();
        let tail = read_tail(&path).unwrap();
        let lines = last_lines(&tail);
        assert_eq!(lines.len(), QUOTED_LINES);
        assert_eq!(lines.last(), Some(&"line 4999"));
        assert!(last_lines("").is_empty());
        assert!(read_tail(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_backend_has_a_name() {
        assert_eq!(parse("ramoops\n"), Some("ramoops".to_owned()));
        assert_eq!(parse("(null)\n"), None);
        assert_eq!(parse(""), None);
    }
}
