//! The disk image: partition table, ESP and slot A; the rest is empty. Written the same way into
//! a raw file with holes and into a qcow2 file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Context;
use keelson_disk::Window;
use keelson_disk::gpt::{Geometry, Table};
use keelson_disk::layout::{self, Layout, Role};
use keelson_disk::verity::RootSpec;

use super::esp;
use super::qcow2::Qcow2;
use crate::arch::Arch;

const SECTOR: u64 = 512;

/// What goes onto the disk.
pub(super) struct Contents<'a> {
    pub(super) layout: Layout,
    pub(super) arch: Arch,
    pub(super) version: &'a str,
    pub(super) build_time: u64,
    pub(super) spec: RootSpec,
    /// EROFS and hash tree.
    pub(super) root: &'a Path,
    pub(super) uki: &'a Path,
    pub(super) boot_loader: &'a Path,
}

impl Contents<'_> {
    fn bytes(&self) -> u64 {
        self.layout.image_bytes(self.bios())
    }

    fn bios(&self) -> bool {
        self.arch == Arch::Amd64
    }

    /// The UUIDs follow from the root: the same image has the same, another one others.
    fn table(&self) -> anyhow::Result<Table> {
        let hash = &self.spec.root_hash;
        let geometry = Geometry::of_image(self.bytes());
        Ok(self.layout.table(geometry, hash, hash, self.bios())?)
    }
}

/// Writes the disk into an empty file, with holes where there is nothing.
pub(super) fn write_raw(contents: &Contents<'_>, file: &mut File) -> anyhow::Result<()> {
    file.set_len(contents.bytes())
        .context("cannot make a file with holes")?;
    write(contents, file)
}

/// Writes the disk as qcow2 into an empty file.
pub(super) fn write_qcow2(contents: &Contents<'_>, file: &mut File) -> anyhow::Result<()> {
    let mut disk = Qcow2::new(file, contents.bytes());
    write(contents, &mut disk)?;
    disk.finish()
        .context("cannot write the tables of the image")?;
    Ok(())
}

fn write(contents: &Contents<'_>, disk: &mut (impl Read + Write + Seek)) -> anyhow::Result<()> {
    let table = contents.table()?;
    table.write_backup(disk)?;
    table.write_primary(disk)?;
    let place = |role: Role| {
        let entry = table
            .entry(role.number())
            .with_context(|| format!("the layout has no {}", role.label()))?;
        anyhow::Ok((entry.first * SECTOR, entry.blocks() * SECTOR))
    };
    let (start, length) = place(Role::Esp)?;
    let [a, b, c, d, ..] = contents.spec.root_hash;
    let esp = esp::Contents {
        arch: contents.arch,
        version: contents.version,
        build_time: contents.build_time,
        boot_loader: contents.boot_loader,
        uki: contents.uki,
        serial: u32::from_be_bytes([a, b, c, d]),
    };
    esp::write(&esp, &mut Window::new(disk, start, length), length)?;
    let (start, length) = place(Role::RootA)?;
    let mut root = File::open(contents.root)
        .with_context(|| format!("cannot read {}", contents.root.display()))?;
    disk.seek(SeekFrom::Start(start))?;
    let mut slot = Window::new(disk, start, length);
    let copied = copy(&mut root, &mut slot).context("cannot write the root into its slot")?;
    debug_assert!(
        copied <= length,
        "the root image was checked against the slot"
    );
    Ok(())
}

/// As `std::io::copy`, in pieces that suit a disk.
fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(copied),
            n => {
                to.write_all(&buffer[..n])?;
                copied += n as u64;
            }
        }
    }
}

/// The place and size in bytes of the ESP of a disk.
pub(crate) fn esp_range(table: &Table) -> Option<(u64, u64)> {
    let entry = layout::find(table, Role::Esp)?;
    Some((
        entry.first * table.geometry.block,
        entry.blocks() * table.geometry.block,
    ))
}
