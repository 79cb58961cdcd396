//! Looks at the machine from inside, as root: what can be written, and whether
//! orphans are reaped.

use anyhow::Result;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Must all be refused.
const CLOSED: [&str; 7] = [
    "/new",
    "/usr/bin/new",
    "/usr/bin/machined",
    "/etc/passwd",
    "/etc/new",
    "/usr/lib/orchestrator/new",
    "/var/mnt/refused/new",
];

/// How many orphans are made.
const ORPHANS: u32 = 300;

/// Tries it all and writes a line for each.
pub(crate) fn run() {
    for path in CLOSED {
        // As a kubelet does for a path of the host that is not there.
        let folder = Path::new(path).parent().map_or(Ok(()), fs::create_dir_all);
        let mut options = fs::OpenOptions::new();
        match folder.and_then(|()| options.append(true).create(true).open(path)) {
            Ok(_) => println!("probe: wrote {path}"),
            Err(error) => println!("probe: refused {path}: {error}"),
        }
    }
    for shell in [
        "/bin/sh",
        "/bin/bash",
        "/bin/busybox",
        "/usr/bin/python3",
        "/usr/bin/perl",
    ] {
        println!(
            "probe: {} {shell}",
            if fs::exists(shell).unwrap_or(true) {
                "found"
            } else {
                "no"
            }
        );
    }
    let made = (0..ORPHANS).filter(|_| make_orphan().is_ok()).count();
    thread::sleep(Duration::from_secs(3));
    println!("probe: {made} orphans made, {} zombies left", zombies());
    println!("probe: done");
}

/// A child that ends at once and leaves a child of its own behind.
fn make_orphan() -> Result<()> {
    Command::new(std::env::current_exe()?)
        .arg("orphan")
        .stdout(Stdio::null())
        .status()?;
    Ok(())
}

/// What that child does.
pub(crate) fn orphan() -> Result<()> {
    Command::new(std::env::current_exe()?)
        .arg("--version")
        .stdout(Stdio::null())
        .spawn()?;
    Ok(())
}

/// Processes that have ended and that nobody has waited for.
fn zombies() -> usize {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('Z'))
        })
        .count()
}
