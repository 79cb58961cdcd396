//! The devices of zram: read, made and given up through sysfs (kernel:
//! admin-guide/blockdev/zram). Which of them, is decided in `plan.rs`.

use super::plan::{OURS, Wish};
use anyhow::{Context as _, bail};
use keelson_disk::{Uuid, swap};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// A device that this noun has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// The kernel's name: "zram0".
    pub name: String,
    /// The label of its swap header.
    pub label: String,
    /// Its size, before anything is compressed.
    pub size: u64,
    /// What compresses it.
    pub algorithm: String,
    /// The bytes that are swapped out to it; `None` where it is not in use.
    pub used: Option<u64>,
    /// The memory that it takes for them.
    pub memory: u64,
}

/// Where things are; other than on a machine only in tests.
#[derive(Debug)]
pub(super) struct Places {
    block: PathBuf,
    control: PathBuf,
    dev: PathBuf,
    swaps: PathBuf,
    pub(super) meminfo: PathBuf,
}

impl Places {
    pub(super) fn below(root: &Path) -> Self {
        Places {
            block: root.join("sys/block"),
            control: root.join("sys/class/zram-control"),
            dev: root.join("dev"),
            swaps: root.join("proc/swaps"),
            meminfo: root.join("proc/meminfo"),
        }
    }

    fn attribute(&self, name: &str, attribute: &str) -> PathBuf {
        self.block.join(name).join(attribute)
    }

    fn read(&self, name: &str, attribute: &str) -> anyhow::Result<String> {
        let path = self.attribute(name, attribute);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    fn write(&self, name: &str, attribute: &str, value: &str) -> anyhow::Result<()> {
        let path = self.attribute(name, attribute);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .with_context(|| format!("the kernel refuses {value} for {}", path.display()))
    }

    /// The devices of zram, in order.
    fn all(&self) -> anyhow::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.block) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("listing /sys/block"),
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.context("listing /sys/block")?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("zram"));
            if let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) {
                all.push(number);
            }
        }
        all.sort_unstable();
        Ok(all.iter().map(|number| format!("zram{number}")).collect())
    }

    /// A device that nobody uses: one that is there, or a new one.
    fn spare(&self) -> anyhow::Result<String> {
        for name in self.all()? {
            if self.read(&name, "disksize")? == "0" {
                return Ok(name);
            }
        }
        let path = self.control.join("hot_add");
        match fs::read_to_string(&path) {
            Ok(number) => Ok(format!("zram{}", number.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("the kernel's module zram is not loaded; `osctl get module zram` says why")
            }
            Err(error) => Err(error).context("asking the kernel for a device of zram"),
        }
    }

    /// Makes a device and begins to swap to it. One that could not be made whole is given up.
    pub(super) fn make(&self, wish: &Wish) -> anyhow::Result<()> {
        let name = self.spare()?;
        let made = self.set_up(&name, wish).and_then(|()| self.swap_on(&name));
        if made.is_err()
            && let Err(error) = self.reset(&name)
        {
            tracing::warn!("giving up {name}: {error:#}");
        }
        made
    }

    /// Gives a device its algorithm, size and header. In this order: the size makes it.
    pub(super) fn set_up(&self, name: &str, wish: &Wish) -> anyhow::Result<()> {
        self.write(name, "comp_algorithm", wish.algorithm)?;
        self.write(name, "disksize", &wish.bytes.to_string())?;
        let mut uuid = [0; 16];
        rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty())?;
        let uuid = Uuid::from_bytes(uuid);
        let header = swap::header(rustix::param::page_size(), wish.bytes, uuid, &wish.label)
            .with_context(|| format!("{} bytes are no size for swap", wish.bytes))?;
        let path = self.dev.join(name);
        let mut device = OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        device
            .write_all(&header)
            .and_then(|()| device.sync_all())
            .with_context(|| format!("writing to {}", path.display()))
    }

    /// Begins to swap to a device.
    pub(super) fn swap_on(&self, name: &str) -> anyhow::Result<()> {
        keelson_sys::swap::on(&self.dev.join(name))
            .with_context(|| format!("the kernel does not swap to {name}"))
    }

    /// Reads back what is swapped out to a device.
    pub(super) fn swap_off(&self, name: &str) -> anyhow::Result<()> {
        keelson_sys::swap::off(&self.dev.join(name)).with_context(|| {
            format!("the kernel could not read back all that is swapped out to {name}; it stays")
        })
    }

    /// Gives a device up: its memory is free, and it has no size any more.
    pub(super) fn reset(&self, name: &str) -> anyhow::Result<()> {
        self.write(name, "reset", "1")
    }
}

/// The devices that this noun has made.
pub(super) fn ours(places: &Places) -> anyhow::Result<Vec<Device>> {
    let mut ours = Vec::new();
    for name in places.all()? {
        let size = number(&places.read(&name, "disksize")?)?;
        if size == 0 {
            continue;
        }
        let path = places.dev.join(&name);
        let mut page = Vec::new();
        File::open(&path)
            .and_then(|file| {
                file.take(rustix::param::page_size() as u64)
                    .read_to_end(&mut page)
            })
            .with_context(|| format!("reading {}", path.display()))?;
        let Some(label) = swap::label(&page).filter(|label| label.starts_with(OURS)) else {
            continue;
        };
        let swaps = match fs::read_to_string(&places.swaps) {
            Ok(swaps) => swaps,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context("reading /proc/swaps"),
        };
        ours.push(Device {
            label: label.to_owned(),
            size,
            algorithm: chosen(&places.read(&name, "comp_algorithm")?).to_owned(),
            used: used(&swaps, &name),
            memory: taken(&places.read(&name, "mm_stat")?).unwrap_or(0),
            name,
        });
    }
    Ok(ours)
}

fn number(text: &str) -> anyhow::Result<u64> {
    text.parse()
        .with_context(|| format!("{text:?} is not a number"))
}

/// The word in brackets: `lzo [zstd] lz4`.
fn chosen(algorithms: &str) -> &str {
    let after = algorithms
        .split_once('[')
        .map_or(algorithms, |(_, rest)| rest);
    after.split(']').next().unwrap_or(after)
}

/// The bytes that are swapped out to a device, by the table of /proc/swaps (proc_swaps(5));
/// `None` where it is not in it.
fn used(swaps: &str, name: &str) -> Option<u64> {
    swaps.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let path = fields.next()?;
        (Path::new(path).file_name()?.to_str()? == name).then_some(())?;
        fields.nth(2)?.parse::<u64>().ok()?.checked_mul(1024)
    })
}

/// The memory that a device takes: the third number of `mm_stat`.
fn taken(mm_stat: &str) -> Option<u64> {
    mm_stat.split_whitespace().nth(2)?.parse().ok()
}

/// The memory that programs could be given, in bytes (proc_meminfo(5)).
pub(super) fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(chosen("lz4hc [lz4] zstd deflate "), "lz4");
        assert_eq!(chosen("[zstd]"), "zstd");
        let swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/zram0                              partition\t131068\t\t512\t\t-2\n";
        assert_eq!(used(swaps, "zram0"), Some(512 << 10));
        assert_eq!(used(swaps, "zram1"), None);
        assert_eq!(used("", "zram0"), None);
        let stat = "  4096       74    12288        0    12288        0        0        0        0";
        assert_eq!(taken(stat), Some(12288));
        let meminfo = "MemTotal:        1000000 kB\nMemAvailable:     500000 kB\n";
        assert_eq!(available(meminfo), Some(500_000 << 10));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }
}
