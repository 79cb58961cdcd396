//! What is in the image, and that a changed one never runs.

use anyhow::{Context, Result, ensure};
use keelson_tests::{BOOT, Flavor, Guest, Image, image_builder, run};
use std::{fs::File, os::unix::fs::FileExt as _, path::Path, process::Command};

#[test]
fn the_image_holds_nothing_that_it_may_not() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for flavor in [Flavor::Standin, Flavor::Kubernetes] {
        let image = Image::find(flavor)?;
        let mut check = Command::new(image_builder());
        run(check
            .arg("check")
            .arg(image.dir())
            .arg("--source")
            .arg(&workspace))?;
    }
    Ok(())
}

#[test]
fn a_flipped_byte_never_runs() -> Result<()> {
    let image = Image::find(Flavor::Standin)?;
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk.raw");
    convert(&image.disk(), &disk)?;
    let root = File::open(image.root())?;
    let mut head = vec![0; 4096];
    root.read_exact_at(&mut head, 0)?;
    let disk_file = File::options().read(true).write(true).open(&disk)?;
    let offset = find(&disk_file, &head)?;
    // The EROFS superblock begins at byte 1024: this is in the first block that is read.
    let mut byte = [0];
    disk_file.read_exact_at(&mut byte, offset + 1024)?;
    disk_file.write_all_at(&[byte[0] ^ 1], offset + 1024)?;
    drop(disk_file);

    let broken = folder.path().join("disk.qcow2");
    convert_to(&disk, &broken)?;
    let vm = Guest::new(&image).start_on("flipped", &broken)?;
    // The kernel restarts on corruption: the firmware is seen a second time.
    let text = vm
        .console()
        .wait_for("corrupt", BOOT)
        .or_else(|_| vm.console().wait_for("keelson: ", BOOT))?;
    std::thread::sleep(std::time::Duration::from_secs(20));
    let all = vm.console().text();
    ensure!(
        !all.contains("--cert-fingerprint"),
        "a root with a flipped byte ran: {text}\n{all}"
    );
    Ok(())
}

/// Where this block is on the disk.
fn find(disk: &File, block: &[u8]) -> Result<u64> {
    let mut buffer = vec![0; block.len()];
    let mib = 1 << 20;
    (0..disk.metadata()?.len() / mib)
        .map(|at| at * mib)
        .find(|at| disk.read_exact_at(&mut buffer, *at).is_ok() && buffer == block)
        .context("the root image is not on the disk")
}

fn convert(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(from)
        .arg(to))
}

fn convert_to(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(from)
        .arg(to))
}
