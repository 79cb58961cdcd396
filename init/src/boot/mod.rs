//! The first role: from the initramfs to the verified root. In order: mounts, command
//! line, the watchdog, a place for crash logs, modules, the root's partition, dm-verity,
//! EROFS, the boot record, and then this program again, out of the root. It never writes
//! to a disk.
//!
//! The watchdog is fed only between two looks for the root: whatever hangs here, a disk
//! that never answers for example, ends in a reset.

mod loader;
mod modules;
mod root;
mod switch;

use crate::{clock, console, crash, mount, watchdog::Guard};
use keelson_disk::{cmdline, verity};
use keelson_sys::dm;
use modules::{Modules, Which};
use root::{Candidate, Search};
use rustix::mount::MountFlags;
use std::{collections::BTreeSet, convert::Infallible, fs, io, path::Path, thread, time::Duration};
use thiserror::Error;

/// Where the root is mounted before it becomes the root.
const NEW_ROOT: &str = "/sysroot";

/// The program that becomes PID 1 in the root.
const PROGRAM: &str = "/usr/bin/init";

/// How long disks may take to appear.
const PATIENCE: clock::Ms = 60_000;

/// How long the search sleeps between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the machine does not boot.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel's own filesystems are missing.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// The command line could not be read.
    #[error("cannot read /proc/cmdline")]
    ReadCommandLine(#[source] io::Error),
    /// The command line does not say which root.
    #[error(transparent)]
    CommandLine(#[from] cmdline::Error),
    /// No disk holds the root.
    #[error("no disk holds the root partition {uuid} (disks seen: {disks})")]
    NoRoot {
        /// The partition's UUID.
        uuid: String,
        /// What was looked at.
        disks: String,
    },
    /// dm-verity refused.
    #[error("cannot open the root {device} through dm-verity")]
    Verity {
        /// The partition.
        device: String,
        /// Why.
        source: dm::Error,
    },
    /// The root could not be mounted.
    #[error("cannot mount the root {device}")]
    Root {
        /// The mapped device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The root could not be entered.
    #[error("cannot {what}")]
    Switch {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Mount(_) | Self::ReadCommandLine(_) => "the kernel lacks what this image needs",
            Self::CommandLine(_) => "boot an unchanged Keelson image",
            Self::NoRoot { .. } => {
                "check that the disk is attached and that the image has its driver"
            }
            Self::Verity { .. } | Self::Root { .. } => "if this stays, install again",
            Self::Switch { .. } => "the image is incomplete; install another",
        }
    }
}

/// Boots; it comes back only to say why not.
pub fn run() -> Result<Infallible, Error> {
    mount::first()?;
    let text = fs::read_to_string("/proc/cmdline").map_err(Error::ReadCommandLine)?;
    let index = modules::index();
    let index = index.as_ref();
    let mut watchdog = match cmdline::watchdog(&text) {
        true => Guard::arm(index),
        false => Guard::none(),
    };
    crash::prepare(index);
    let options = cmdline::Options::parse(&text)?;
    // What opens the root is loaded beside the drivers of the disks: each takes as long.
    let found = thread::scope(|scope| {
        if let Some(index) = index {
            scope.spawn(|| modules::load_fixed(index));
        }
        if Path::new("/sys/firmware/efi").exists() {
            if let Some(index) = index {
                modules::load_efivarfs(index);
            }
            mount::efivars()?;
        }
        let modules = Modules::new(index, cmdline::debug(&text));
        search(&options, modules, &mut watchdog)
    })?;
    let device = found.node.to_string_lossy().into_owned();
    let target = dm::Target {
        sectors: options.root.sectors(),
        kind: "verity".into(),
        params: options.root.table(&device),
    };
    let mapped = dm::create_read_only("keelson-root", &target).map_err(|source| Error::Verity {
        device: device.clone(),
        source,
    })?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    fs::create_dir_all(NEW_ROOT)
        .and_then(|()| {
            Ok(rustix::mount::mount(
                &mapped, NEW_ROOT, "erofs", flags, None,
            )?)
        })
        .map_err(|source| Error::Root {
            device: mapped.display().to_string(),
            source,
        })?;
    let hash = verity::hex(&options.root.root_hash);
    console::log(
        console::Level::Info,
        &format!("root {hash} on {device} is open after {} ms", clock::now()),
    );
    record(&found, &hash, &mapped).map_err(|source| Error::Switch {
        what: "write the boot record",
        source,
    })?;
    switch::run(NEW_ROOT, PROGRAM, watchdog)
}

/// Waits for the root's partition, loading modules for what appears meanwhile.
fn search(
    options: &cmdline::Options,
    mut modules: Modules<'_>,
    watchdog: &mut Guard,
) -> Result<Candidate, Error> {
    let mut search = Search::new(options.root.root_hash, loader::partition());
    let deadline = clock::now() + PATIENCE;
    loop {
        for which in [Which::Quick, Which::All] {
            watchdog.feed();
            modules.load_for_devices(which);
            if let Some(found) = search.look(clock::now()) {
                return Ok(found);
            }
        }
        if clock::now() >= deadline {
            return Err(Error::NoRoot {
                uuid: search.uuid().to_string(),
                disks: search.seen(),
            });
        }
        thread::sleep(PAUSE);
    }
}

/// Tells the second role and machined what was booted from.
fn record(found: &Candidate, hash: &str, mapped: &Path) -> io::Result<()> {
    fs::create_dir_all("/run/keelson")?;
    // Those that no config has a say in.
    let modules = keelson_sys::module::loaded()?;
    fs::write(
        "/run/keelson/boot.json",
        boot_json(&found.disk, &found.node, hash, mapped, &modules),
    )
}

/// The boot record. Device paths and names of modules hold nothing that JSON would want
/// escaped; what did would be shown as a question mark.
fn boot_json(
    disk: &Path,
    slot: &Path,
    hash: &str,
    mapped: &Path,
    modules: &BTreeSet<String>,
) -> String {
    let plain = |text: &str| text.replace(['"', '\\'], "?");
    let path = |path: &Path| plain(&path.to_string_lossy());
    let modules: Vec<String> = modules
        .iter()
        .map(|name| format!("\"{}\"", plain(name)))
        .collect();
    format!(
        "{{\"disk\":\"{}\",\"slot\":\"{}\",\"rootHash\":\"{hash}\",\"dm\":\"{}\",\"modules\":[{}]}}\n",
        path(disk),
        path(slot),
        path(mapped),
        modules.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_record_is_one_line_of_json() {
        let text = boot_json(
            Path::new("/dev/vda"),
            Path::new("/dev/vda3"),
            "00ff",
            Path::new("/dev/dm-0"),
            &BTreeSet::from(["erofs".to_owned(), "virtio_blk".to_owned()]),
        );
        assert_eq!(
            text,
            "{\"disk\":\"/dev/vda\",\"slot\":\"/dev/vda3\",\"rootHash\":\"00ff\",\"dm\":\"/dev/dm-0\",\
             \"modules\":[\"erofs\",\"virtio_blk\"]}\n"
        );
    }
}
