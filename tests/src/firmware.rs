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

/// How long a machine between two runs may say nothing: several times what it needs on a busy host,
/// and longer than its watchdog takes.
const SILENCE: Duration = Duration::from_secs(150);

/// How often the attendant presses reset: not for ever.
const PRESSES: usize = 3;

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

/// Whoever stands beside a guest: presses reset when it hangs between two runs, from the kernel's
/// last word to the first of the next PID 1, and says where it hung. That was seen, rarely, after a
/// panic, and is not explained: the emulator, the firmware, the boot loader, or the stubs of the
/// UKI may be to blame. Who reads that it happened should look at the place, for the reset hides it
/// from the test.
pub(crate) struct Attendant(Arc<AtomicBool>);

impl Attendant {
    pub(crate) fn begin(name: &str, console: &Console, monitor: &Monitor) -> Attendant {
        let over = Arc::new(AtomicBool::new(false));
        let (name, console, monitor) = (name.to_owned(), console.clone(), monitor.clone());
        let ends = Arc::clone(&over);
        thread::spawn(move || {
            let mut since = (console.position(), Instant::now());
            let mut presses = 0;
            while presses < PRESSES && !ends.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(500));
                let position = console.position();
                if position != since.0 {
                    since = (position, Instant::now());
                } else if since.1.elapsed() > SILENCE && is_between_runs(&console.text()) {
                    let end = console.end();
                    let reset = monitor.execute("system_reset", json!({}));
                    eprintln!("{name}: hangs between two runs and is reset ({reset:?}); {end}");
                    presses += 1;
                    since = (console.position(), Instant::now());
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

/// Whether the machine has ended a run and its PID 1 has not spoken in the next one, by the last
/// line of the console that tells. PID 1 says why it ends a run: that is still in it.
fn is_between_runs(console: &str) -> bool {
    let telling = |line: &str| {
        let between = ["BdsDxe: ", "EFI stub: ", "Kernel panic", "Rebooting in "]
            .iter()
            .chain(&["reboot: Restarting", "reboot: machine restart"])
            .any(|word| line.contains(word));
        match between {
            true => Some(true),
            false => line.contains("keelson: ").then_some(false),
        }
    };
    console.lines().rev().find_map(telling).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_runs_is_who_has_said_the_last_word_and_not_the_first() {
        let loads = "BdsDxe: loading Boot0001\r\nBdsDxe: starting Boot0001\r\n";
        let runs = "EFI stub: Loaded initrd\r\n\r\nkeelson: node-1 (server)\r\n";
        let ends = "keelson: rebooting: reboot, asked for\r\n";
        let gone = "[   30.1] reboot: Restarting system\r\n";
        let panics = "[ 1.7] Kernel panic - not syncing: VFS\r\n[ 1.7] Call Trace:\r\n";
        for (console, want) in [
            (String::new(), true),
            ("\x1b[2J\x1b[01;01H".into(), true),
            (loads.into(), true),
            (format!("{loads}EFI stub: Loaded initrd\r\n"), true),
            (format!("{loads}{runs}"), false),
            (
                format!("{loads}{runs}[ 9.1] a word of the kernel\r\n"),
                false,
            ),
            (format!("{loads}{runs}{ends}"), false),
            (format!("{loads}{runs}{ends}{gone}"), true),
            (format!("{loads}{runs}{ends}{gone}\x1b[2J"), true),
            (format!("{loads}{runs}{panics}"), true),
            (format!("{loads}{runs}{panics}{loads}{runs}"), false),
        ] {
            assert_eq!(is_between_runs(&console), want, "{console:?}");
        }
    }
}
