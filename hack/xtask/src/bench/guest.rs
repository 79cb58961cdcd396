//! The virtual hardware, the same for both.

use anyhow::{Context, Result};
use keelson_tests::{Accel, Guest, Image, Vm, accel, overlay};
use std::{fs, path::Path, time::Duration};

/// The port of the SSH server.
pub(super) const SSH: u16 = 22;
/// A port that nobody serves: the echo of RFC 862 has long gone.
pub(super) const CLOSED: u16 = 7;
/// The disk of every machine.
pub(super) const DISK_GIB: u32 = 12;
/// How long an orderly end may take.
pub(super) const SHUTDOWN: Duration = Duration::from_secs(120);

/// How guests run here. The image is the one whose kernel is tried.
pub(super) fn accelerator(image: &Image) -> String {
    match accel(&image.dir().join("vmlinuz")) {
        Accel::Kvm => "KVM",
        Accel::Tcg => "TCG",
    }
    .to_owned()
}

/// The harness's guest, with the ports of both, and with a balloon: its driver tells from outside
/// what the memory is used for.
pub(super) fn hardware(image: &Image) -> Guest {
    Guest::new(image)
        .has_the_host()
        .balloon()
        .forward(SSH)
        .forward(CLOSED)
}

/// Boots an installed disk; what it writes goes into a layer that is thrown away.
pub(super) fn boot(name: &str, image: &Image, installed: &Path) -> Result<Vm> {
    let layer = installed.with_extension("run.qcow2");
    fresh(&layer)?;
    overlay(installed, &layer, DISK_GIB)?;
    hardware(image).start_on(name, &layer)
}

/// Makes room for a file: an earlier one is removed.
pub(super) fn fresh(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
