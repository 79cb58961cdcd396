//! The guest's UEFI firmware: its files, and who presses reset when it hangs.

use crate::{Console, monitor::Monitor};
use anyhow::{Result, ensure};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The last that firmware says before it runs the boot loader; the kernel's stub is the next to
/// say something.
const STARTS: &str = "BdsDxe: starting ";

/// How long the boot loader and the kernel's stub may say nothing: ten times what they need
/// on a busy host.
const SILENCE: Duration = Duration::from_secs(150);

/// The firmware's code and the template of its variables (package ovmf).
pub(crate) fn files() -> Result<(PathBuf, PathBuf)> {
    let dir = Path::new("/usr/share/OVMF");
    let pair = (dir.join("OVMF_CODE_4M.fd"), dir.join("OVMF_VARS_4M.fd"));
    ensure!(
        pair.0.exists() && pair.1.exists(),
        "no UEFI firmware in {}: install the package ovmf",
        dir.display()
    );
    Ok(pair)
}

/// Whoever stands beside a guest: presses reset, once, when it hangs before its kernel has
/// said anything, and says so with the place where it hung. That was seen once, after a panic, and
/// is not explained: the firmware, the boot loader, or the stubs of the UKI may be to blame. Who
/// reads that it happened should look at the place, for the reset hides it from the test.
pub(crate) struct Attendant(Arc<AtomicBool>);

impl Attendant {
    pub(crate) fn begin(name: &str, console: &Console, monitor: &Monitor) -> Attendant {
        let over = Arc::new(AtomicBool::new(false));
        let (name, console, monitor) = (name.to_owned(), console.clone(), monitor.clone());
        let ends = Arc::clone(&over);
        thread::spawn(move || {
            let mut since = (console.position(), Instant::now());
            while !ends.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(500));
                let position = console.position();
                if position != since.0 || !hangs(&console.text()) {
                    since = (position, Instant::now());
                } else if since.1.elapsed() > SILENCE {
                    let place = monitor.place();
                    let reset = monitor.execute("system_reset", json!({}));
                    eprintln!("{name}: hangs before its kernel and is reset ({reset:?}); {place}");
                    return;
                }
            }
        });
        Attendant(over)
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the console ends where the boot loader was started.
fn hangs(console: &str) -> bool {
    let last = console.lines().rev().find(|line| !line.trim().is_empty());
    last.is_some_and(|line| line.starts_with(STARTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_started_the_boot_loader_and_said_nothing_since_hangs() {
        let starts =
            "BdsDxe: loading Boot0001 \"x\"\r\nBdsDxe: starting Boot0001 \"x\" from Pci\r\n";
        assert!(hangs(starts));
        assert!(hangs(&format!("keelson: node-1\n{starts}\r\n")));
        assert!(!hangs(&format!("{starts}EFI stub: Loaded initrd\r\n")));
        assert!(!hangs("BdsDxe: loading Boot0001\r\n"));
        assert!(!hangs(""));
    }
}
