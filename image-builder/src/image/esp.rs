//! The EFI system partition: FAT32 with the boot loader and one UKI.
//!
//! The UKI's name carries no try counter: it is the known good entry of a fresh disk, and the
//! known good one never has a counter.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::Context;
use fatfs::{Date, DateTime, Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time};

use crate::arch::Arch;

/// The loader boots at once and lets nobody edit the command line.
const LOADER_CONF: &str = "timeout 0\neditor no\n";

/// What goes onto the partition.
pub(super) struct Contents<'a> {
    pub(super) arch: Arch,
    pub(super) version: &'a str,
    pub(super) build_time: u64,
    pub(super) boot_loader: &'a Path,
    pub(super) uki: &'a Path,
    /// The volume's serial number.
    pub(super) volume: u32,
}

/// The path of a version's UKI on the partition.
pub fn uki_path(version: &str) -> String {
    format!("EFI/Linux/keelson-{version}.efi")
}

/// Formats `partition` and fills it.
pub(super) fn write(
    contents: &Contents<'_>,
    partition: &mut (impl Read + Write + Seek),
    bytes: u64,
) -> anyhow::Result<()> {
    let sectors = u32::try_from(bytes / 512).context("the ESP is larger than FAT32 can be")?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .total_sectors(sectors)
        .volume_id(contents.volume)
        .volume_label(*b"KEELSON-ESP");
    fatfs::format_volume(&mut *partition, options).context("cannot format the ESP")?;
    partition.rewind()?;
    // The file system wants a clock that lives for ever; one is made for each image.
    let clock: &'static Clock = Box::leak(Box::new(Clock::new(contents.build_time)?));
    let system = FileSystem::new(partition, FsOptions::new().time_provider(clock))
        .context("cannot open the new ESP")?;
    let efi = contents.arch.efi();
    let fallback = format!("EFI/BOOT/BOOT{}.EFI", efi.to_uppercase());
    let loader = format!("EFI/systemd/systemd-boot{efi}.efi");
    let root = system.root_dir();
    for folder in ["EFI", "EFI/BOOT", "EFI/systemd", "EFI/Linux", "loader"] {
        root.create_dir(folder)
            .with_context(|| format!("cannot make the folder {folder} on the ESP"))?;
    }
    copy(&root, &fallback, contents.boot_loader)?;
    copy(&root, &loader, contents.boot_loader)?;
    put(&root, "loader/loader.conf", LOADER_CONF.as_bytes())?;
    copy(&root, &uki_path(contents.version), contents.uki)?;
    drop(root);
    system.unmount().context("cannot finish the ESP")
}

fn copy<T: Read + Write + Seek>(root: &Dir<'_, T>, to: &str, from: &Path) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    File::open(from)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", from.display()))?;
    put(root, to, &bytes)
}

fn put<T: Read + Write + Seek>(root: &Dir<'_, T>, to: &str, bytes: &[u8]) -> anyhow::Result<()> {
    root.create_file(to)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.flush()
        })
        .with_context(|| format!("cannot write {to} on the ESP"))
}

/// A clock that stands still.
#[derive(Debug)]
struct Clock(DateTime);

impl Clock {
    fn new(unix: u64) -> anyhow::Result<Clock> {
        let time = i64::try_from(unix)
            .ok()
            .and_then(|unix| time::OffsetDateTime::from_unix_timestamp(unix).ok())
            .with_context(|| format!("{unix} is not a time"))?;
        // FAT counts the years from 1980 in seven bits.
        let year = u16::try_from(time.year()).unwrap_or(0).clamp(1980, 2107);
        Ok(Clock(DateTime {
            date: Date {
                year,
                month: u16::from(u8::from(time.month())),
                day: u16::from(time.day()),
            },
            time: Time {
                hour: u16::from(time.hour()),
                min: u16::from(time.minute()),
                sec: u16::from(time.second()),
                millis: 0,
            },
        }))
    }
}

impl fatfs::TimeProvider for Clock {
    fn get_current_date(&self) -> Date {
        self.0.date
    }

    fn get_current_date_time(&self) -> DateTime {
        self.0
    }
}
