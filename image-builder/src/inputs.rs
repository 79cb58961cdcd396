//! What an image is made from: the choices of the person who builds it, and the trees that the
//! choices become. These types are the border between the two halves of the builder: `rootfs`
//! (packages, orchestrator, static files → [`RootTree`]) and the image pipeline
//! ([`RootTree`] → EROFS, verity, UKI, disk). Nothing here does any work.

use std::ffi::OsString;
use std::path::PathBuf;

use keelson_disk::bundle::PublicKey;
use keelson_disk::version::Version;
use serde::{Deserialize, Serialize};

/// What the person who builds an image chose; the input of [`crate::rootfs::assemble`].
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The source tree: holds the data folders `rootfs/` and `kernel/`.
    pub source: PathBuf,
    /// The folder that holds our own built programs `init`, `machined` and `apid`.
    pub programs: PathBuf,
    /// The kernel flavour and what goes with it.
    pub variant: Variant,
    /// The image's version, such as `0.1.0`; ends in os-release, the UKI's name and release.json.
    pub version: Version,
    /// The one clock of the build, Unix seconds: every time stamp in the image is this.
    pub build_time: u64,
    /// The keys whose bundles the image takes as upgrades.
    pub trust: Vec<PublicKey>,
    /// The lowest version that may still be installed once this one is known to be good.
    pub security_floor: Version,
    /// Which orchestrator the image carries.
    pub orchestrator: Orchestrator,
    /// Where downloads are kept between builds.
    pub cache: PathBuf,
    /// Use only what `cache` holds; a download that would be needed is an error.
    pub offline: bool,
}

/// The kernel flavour of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Virtual machines and clouds: the small kernel, virtio and the clouds' own devices.
    #[default]
    Cloud,
    /// Bare metal: the generic kernel with drivers for real disks and network cards.
    Metal,
}

impl Variant {
    /// The name as written on the command line and in release.json.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Cloud => "cloud",
            Variant::Metal => "metal",
        }
    }
}

/// Which orchestrator goes into the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Orchestrator {
    /// The pinned K3s release, downloaded and checked against its locked digest.
    K3s,
    /// A K3s executable that was given as a file; its digest is recorded in the image.
    Executable(PathBuf),
    /// A finished payload folder that holds an `orchestrator.json`.
    Payload(PathBuf),
    /// No orchestrator: the node runs, and has nothing to start.
    None,
}

/// What an image says of itself, in `/usr/lib/keelson/release.json`; machined reads it, and a
/// bundle's manifest repeats it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The image's version.
    pub version: Version,
    /// Debian's name of the architecture.
    pub arch: String,
    /// The kernel flavour.
    pub variant: Variant,
    /// The one clock of the build, Unix seconds.
    pub build_time: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The orchestrator in the image.
    pub orchestrator: Option<Carried>,
    /// The lowest version that may still be installed once this one is known to be good.
    pub security_floor: Version,
}

/// The orchestrator that an image carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its name, as the config must say it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of what it was unpacked from, hex.
    pub sha256: String,
}

/// Everything the image pipeline needs: the output of [`crate::rootfs::assemble`].
///
/// Owners and times of the files do not matter (all become root's and
/// [`build_time`](Self::build_time)), their modes do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootTree {
    /// The tree that becomes the EROFS root image.
    pub root: PathBuf,
    /// The tree that becomes the initramfs: `/init`, `/lib/modules/<release>/…`.
    pub initramfs: PathBuf,
    /// The kernel image (bzImage or arm64 Image).
    pub kernel: PathBuf,
    /// The kernel's release, such as `6.12.107+deb13-cloud-amd64`.
    pub kernel_release: String,
    /// systemd's EFI stub (`linuxx64.efi.stub`).
    pub stub: PathBuf,
    /// systemd-boot (`systemd-bootx64.efi`).
    pub boot_loader: PathBuf,
    /// The words that run an `mkfs.erofs` with zstd (≥ 1.8), such as
    /// `[…/ld-linux-x86-64.so.2, --library-path, …, …/mkfs.erofs]`. The pipeline adds the options.
    pub mkfs_erofs: Vec<OsString>,
    /// The text of os-release; it names the boot entry, so it must hold `VERSION_ID`.
    pub os_release: String,
    /// Kernel options of this image beyond the `keelson.*` ones, such as `console=ttyS0`.
    pub kernel_options: String,
    /// The image's version.
    pub version: String,
    /// The one clock of the build, Unix seconds.
    pub build_time: u64,
    /// Files that are handed out beside the image as they are (lock, SBOM).
    pub papers: Vec<PathBuf>,
}
