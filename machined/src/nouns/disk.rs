//! The machine's disks, as a person looks for them: model, serial number, size, how they
//! are connected, and what they are used for. Only looked at; nothing is ever written.
//!
//! Without udev there is nobody who has put all this together: it is read from sysfs
//! (kernel: ABI/stable/sysfs-block, ABI/testing/sysfs-block) where each kind of disk has
//! it.

use crate::{
    noun::Noun,
    nouns::{
        module,
        volume::{Content, Mount, head, mounts},
    },
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use keelson_config::Machine;
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinHandle, time::timeout};

/// How often it is looked who has mounted what: no event tells.
const EVERY: Duration = Duration::from_secs(60);

/// How long a pass waits for the disks. One that does not answer holds up a thread, and no pass.
const PATIENCE: Duration = Duration::from_secs(5);

/// What begins the names of devices that are no disks: made by software, or drives for
/// discs and floppies.
const NO_DISKS: [&str; 10] = [
    "loop", "ram", "zram", "dm-", "md", "nbd", "rbd", "drbd", "sr", "fd",
];

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The kernel's name: "sda".
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What its maker calls it.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its World Wide Identifier.
    pub wwid: Option<String>,
    /// How it is connected: "nvme", "sata", "usb" …
    pub transport: &'static str,
    /// It can be taken out.
    pub removable: bool,
    /// Nothing can be written to it.
    pub read_only: bool,
    /// What it is used for, or what is on it, in words.
    pub used: String,
}

impl Disk {
    /// What it is told from others by, in words.
    pub(crate) fn described(&self) -> String {
        let mut words = vec![self.transport.to_owned(), size(self.size)];
        for (what, text) in [
            ("model", &self.model),
            ("serial", &self.serial),
            ("wwid", &self.wwid),
        ] {
            words.extend(text.as_ref().map(|text| format!("{what} {text:?}")));
        }
        format!("{} ({})", self.name, words.join(", "))
    }
}

/// Where things are; other than on a machine only in tests.
#[derive(Debug)]
struct Places {
    block: PathBuf,
    dev: PathBuf,
    mounts: PathBuf,
    /// The disk that holds the running root.
    system: PathBuf,
}

/// The noun.
pub(crate) struct Disks {
    places: Arc<Places>,
    /// What the last look hung on, and what it saw: nothing is read while nothing happens, so
    /// that disks may sleep.
    last: Option<(Hangs, Vec<Disk>)>,
    /// A look that has not ended yet; there is never a second one beside it.
    looking: Option<(Hangs, JoinHandle<anyhow::Result<Vec<Disk>>>)>,
    look_again: Option<Instant>,
}

/// What a look hangs on: the kernel's count of device events, and its table of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Hangs {
    events: Option<u64>,
    mounts: String,
}

/// Disks need no steps.
pub(crate) enum Step {}

impl fmt::Display for Step {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl Disks {
    /// The noun. `system` is the disk that holds the running root.
    pub(crate) fn new(system: &Path) -> Self {
        Disks {
            places: Arc::new(Places {
                block: "/sys/block".into(),
                dev: "/dev".into(),
                mounts: "/proc/self/mountinfo".into(),
                system: system.to_owned(),
            }),
            last: None,
            looking: None,
            look_again: None,
        }
    }
}

impl Noun for Disks {
    const KIND: &'static str = "disk";
    type Have = Vec<Disk>;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Vec<Disk>> {
        self.look_again = Some(Instant::now() + EVERY);
        let mounts = fs::read_to_string(&self.places.mounts)
            .with_context(|| format!("reading {}", self.places.mounts.display()))?;
        let hangs = Hangs {
            events: module::events(),
            mounts,
        };
        if let Some((before, disks)) = &self.last
            && hangs.events.is_some()
            && *before == hangs
        {
            return Ok(disks.clone());
        }
        let (hangs, mut look) = match self.looking.take() {
            Some(begun) => begun,
            None => {
                let (places, mounts) = (self.places.clone(), hangs.mounts.clone());
                let look = tokio::task::spawn_blocking(move || disks(&places, &mounts));
                (hangs, look)
            }
        };
        match timeout(PATIENCE, &mut look).await {
            Ok(seen) => {
                let disks = seen??;
                self.last = Some((hangs, disks.clone()));
                Ok(disks)
            }
            Err(_) => {
                tracing::warn!("a disk has not answered for {} s", PATIENCE.as_secs());
                self.looking = Some((hangs, look));
                let last = self.last.as_ref();
                Ok(last.map(|(_, disks)| disks.clone()).unwrap_or_default())
            }
        }
    }

    fn plan(&self, _: &Vec<Disk>, _: &Machine) -> Vec<Step> {
        Vec::new()
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match *step {}
    }

    fn publish(&self, have: &Vec<Disk>, _: &Machine) -> Vec<Resource> {
        have.iter().map(resource).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        self.look_again
    }
}

fn resource(disk: &Disk) -> Resource {
    let mut notes = Vec::new();
    if disk.removable {
        notes.push("it can be taken out");
    }
    if disk.read_only {
        notes.push("it is read-only");
    }
    let mut resource = Resource::new(Disks::KIND, &disk.name, Phase::Ready)
        .message(notes.join("; "))
        .field("size", size(disk.size))
        .field("transport", disk.transport)
        .field("used", disk.used.as_str());
    for (key, value) in [
        ("model", &disk.model),
        ("serial", &disk.serial),
        ("wwid", &disk.wwid),
    ] {
        if let Some(value) = value {
            resource = resource.field(key, value.as_str());
        }
    }
    resource
}

/// A size as configs have it, rounded down.
fn size(bytes: u64) -> String {
    match bytes >> 30 {
        0..10 => format!("{}Mi", bytes >> 20),
        gib => format!("{gib}Gi"),
    }
}

/// All disks, in the order of their names, and what they are used for.
fn disks(places: &Places, mountinfo: &str) -> anyhow::Result<Vec<Disk>> {
    let mounts = mounts(mountinfo);
    let mut all = Vec::new();
    for mut disk in identities(&places.block).context("listing the block devices")? {
        match used(places, &disk.name, &mounts) {
            Ok(used) => disk.used = used,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("looking at the disk {}", disk.name));
            }
        }
        all.push(disk);
    }
    Ok(all)
}

/// All disks, in the order of their names, without what they are used for: none is read. One
/// that goes away meanwhile is left out.
pub(crate) fn identities(block: &Path) -> io::Result<Vec<Disk>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(block)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        match identity(block, &name) {
            Ok(Some(disk)) => drop(all.insert(name, disk)),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all.into_values().collect())
}

/// One disk; `None` for what is hidden behind another one, or an empty drive. The disk itself
/// is not read.
fn identity(block: &Path, name: &str) -> io::Result<Option<Disk>> {
    let directory = block.join(name);
    let sectors = text(&directory.join("size")).and_then(|text| text.parse().ok());
    let hidden = text(&directory.join("hidden")).is_some_and(|text| text != "0");
    // Sysfs counts in 512 bytes, whatever the disk's own blocks are.
    let size = sectors.unwrap_or(0u64).saturating_mul(512);
    if size == 0 || hidden {
        return Ok(None);
    }
    let place = fs::canonicalize(&directory)?;
    let first = |paths: &[&str]| paths.iter().find_map(|path| text(&directory.join(path)));
    let serial = first(&["serial", "device/serial"]);
    Ok(Some(Disk {
        name: name.to_owned(),
        size,
        model: first(&["device/model", "device/name"]),
        serial: serial.or_else(|| {
            let page = fs::read(directory.join("device/vpd_pg80")).ok()?;
            serial_of_page(&page)
        }),
        wwid: first(&["wwid", "device/wwid"]),
        transport: transport(&place.to_string_lossy()),
        removable: text(&directory.join("removable")).as_deref() == Some("1"),
        read_only: text(&directory.join("ro")).as_deref() == Some("1"),
        used: String::new(),
    }))
}

/// What a disk is used for, or what is on it.
fn used(places: &Places, name: &str, mounts: &[Mount]) -> io::Result<String> {
    let directory = &places.block.join(name);
    let device = places.dev.join(name.replace('!', "/"));
    if device == places.system {
        return Ok("the system".to_owned());
    }
    // The disk itself and its partitions.
    let mut parts = vec![directory.to_owned()];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.join("partition").is_file() {
            parts.push(path);
        }
    }
    for part in &parts {
        let number = text(&part.join("dev")).unwrap_or_default();
        if let Some(mount) = mounts.iter().find(|mount| mount.device == number) {
            return Ok(format!("mounted at {}", mount.point));
        }
        if let Ok(holders) = fs::read_dir(part.join("holders"))
            && let Some(holder) = holders.flatten().next()
        {
            return Ok(format!("part of {}", holder.file_name().to_string_lossy()));
        }
    }
    Ok(match head(&device) {
        Ok(Content::Empty) => "empty".to_owned(),
        Ok(content) => content.to_string(),
        Err(error) => format!("cannot be read: {error}"),
    })
}

/// How a disk is connected, by its place among the devices.
fn transport(place: &str) -> &'static str {
    // What is nearest to the disk stands last: a USB stick is a SCSI disk on a PCI device.
    const MARKS: [(&str, &str); 9] = [
        ("/usb", "usb"),
        ("/nvme", "nvme"),
        ("/virtio", "virtio"),
        ("/mmc_host/", "mmc"),
        ("/ata", "sata"),
        ("/vbd-", "xen"),
        ("/VMBUS", "hyperv"),
        ("/end_device-", "sas"),
        ("/session", "iscsi"),
    ];
    MARKS
        .iter()
        .find(|(mark, _)| place.contains(mark))
        .map_or("scsi", |(_, word)| word)
}

/// The serial number in a SCSI disk's page of vital product data 0x80 (SPC-4, 7.8.18).
fn serial_of_page(page: &[u8]) -> Option<String> {
    let (header, rest) = page.split_at_checked(4)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[1] != 0x80 {
        return None;
    }
    plain(&String::from_utf8_lossy(rest.get(..length)?))
}

/// What a file of sysfs says; `None` where it is missing or empty.
fn text(path: &Path) -> Option<String> {
    plain(&String::from_utf8_lossy(&fs::read(path).ok()?))
}

/// Words of a maker, with one blank between them and nothing that is not to be shown.
fn plain(text: &str) -> Option<String> {
    let shown: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests;
