//! Kills the machine's own daemons as nothing else on a machine without a shell
//! can: to show that nobody else notices.

use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};
use std::{collections::BTreeMap, fs, thread, time::Duration};

/// How often each is killed.
const TIMES: u32 = 10;

/// Kills machined and apid ten times each, each time a moment after it has come back.
pub(crate) fn kill_ten_times() {
    let mut killed = BTreeMap::from([("machined", 0), ("apid", 0)]);
    let mut last = BTreeMap::new();
    while killed.values().any(|times| *times < TIMES) {
        thread::sleep(Duration::from_secs(1));
        for (name, times) in killed.iter_mut().filter(|(_, times)| **times < TIMES) {
            let Some(pid) = find(name) else { continue };
            // Seen once before: it has lived for a second.
            if last.insert(*name, pid) != Some(pid) {
                continue;
            }
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) => {
                    *times += 1;
                    println!("killed {name} {times} (pid {pid})");
                }
                Err(error) => println!("could not kill {name} (pid {pid}): {error}"),
            }
        }
    }
    println!("killed all");
}

/// Waits for one of these signals, kills machined, and ends some time later.
pub(crate) fn kill_machined_after(signals: SigSet) {
    let told = signals.wait();
    let killed = find("machined").map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
    println!("told to end by {told:?}, killed machined: {killed:?}");
    thread::sleep(Duration::from_secs(3));
    std::process::exit(0);
}

/// The process of this name.
pub(crate) fn find(name: &str) -> Option<i32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim() == name).then_some(pid)
    })
}
