//! The EFI system partition: FAT32 with the boot loader and one UKI.
//!
//! The UKI's name carries no try counter: it is the known good entry of a fresh disk, and the
//! known good one never has a counter.

use std::io::{Seek, Write};
use std::path::Path;

use anyhow::Context;

use super::fat::{Node, Volume};
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
    pub(super) serial: u32,
}

/// The file name of a version's UKI in `EFI/Linux`.
pub fn uki_name(version: &str) -> String {
    format!("keelson-{version}.efi")
}

/// Fills `partition`, which is all zeros and has `bytes` bytes.
pub(super) fn write(
    contents: &Contents<'_>,
    partition: &mut (impl Write + Seek),
    bytes: u64,
) -> anyhow::Result<()> {
    let efi = contents.arch.efi();
    let fallback = format!("BOOT{}.EFI", efi.to_uppercase());
    let loader = format!("systemd-boot{efi}.efi");
    let uki = uki_name(contents.version);
    let folder = Node::folder;
    let nodes = [
        folder(
            "EFI",
            vec![
                folder("BOOT", vec![Node::file(&fallback, contents.boot_loader)?]),
                folder("systemd", vec![Node::file(&loader, contents.boot_loader)?]),
                folder("Linux", vec![Node::file(&uki, contents.uki)?]),
            ],
        ),
        folder(
            "loader",
            vec![Node::bytes("loader.conf", LOADER_CONF.as_bytes())],
        ),
    ];
    let volume = Volume {
        bytes,
        serial: contents.serial,
        label: *b"KEELSON-ESP",
        time: contents.build_time,
    };
    volume
        .write(&nodes, partition)
        .context("cannot write the ESP")
}
