//! The modules of the boot path: a fixed few by name, and for every device that shows
//! up the ones that its modalias stands for, as far as they are in the initramfs.

use crate::console::{self, Level};
use keelson_sys::module::{self, Index};
use std::{collections::BTreeSet, path::Path};

/// What no device asks for. `crypto-sha256` stands for the fastest way to hash that
/// this processor has; the kernel cannot ask for it itself before the root is there.
const FIXED: [&str; 5] = [
    "dm-verity",
    "erofs",
    "crypto-sha256",
    "crypto-crc32c",
    "efivarfs",
];

/// Where the kernel keeps the drivers of controllers behind which disks take seconds to
/// appear. They are many modules, too: a machine that has its root elsewhere gets them
/// later, from the root.
const SLOW: [&str; 5] = [
    "kernel/drivers/ata/",
    "kernel/drivers/message/",
    "kernel/drivers/mmc/",
    "kernel/drivers/scsi/",
    "kernel/drivers/usb/",
];

/// For which devices drivers are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those whose disks are there at once, and what is no disk.
    Quick,
    /// All.
    All,
}

/// The modules in the initramfs, and what was tried already.
pub(super) struct Modules {
    index: Option<Index>,
    tried: BTreeSet<String>,
    debug: bool,
}

impl Modules {
    /// Without an index everything is taken to be built in.
    pub(super) fn open(debug: bool) -> Self {
        let index = match Index::open_running() {
            Ok(index) => Some(index),
            Err(error) => {
                console::log(Level::Warning, &console::chain(&error));
                None
            }
        };
        Self {
            index,
            tried: BTreeSet::new(),
            debug,
        }
    }

    /// The index, if there is one.
    pub(super) fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Loads what no device asks for. One that is built in or not needed is no error
    /// here: what is really missing shows at its use.
    pub(super) fn load_fixed(&mut self) {
        let Some(index) = &self.index else { return };
        for name in FIXED {
            let efi = Path::new("/sys/firmware/efi").exists();
            if name == "efivarfs" && !efi {
                continue;
            }
            match index.load_any(name, "") {
                Err(module::Error::Unknown(_)) | Ok(_) => {}
                Err(error) => console::log(Level::Warning, &console::chain(&error)),
            }
        }
    }

    /// Loads modules for devices that were not tried before. A driver brings new
    /// devices, so this is called again and again.
    pub(super) fn load_for_devices(&mut self, which: Which) {
        let Some(index) = &self.index else { return };
        for modalias in module::modaliases() {
            if self.tried.contains(&modalias) {
                continue;
            }
            let names = index.resolve(&modalias);
            if which == Which::Quick && names.iter().any(|name| is_slow(index.path(name))) {
                continue;
            }
            if self.debug {
                console::log(Level::Debug, &format!("{modalias}: {names:?}"));
            }
            if let Err(error) = index.load_alias(&modalias) {
                console::log(Level::Warning, &console::chain(&error));
            }
            self.tried.insert(modalias);
        }
    }
}

/// Whether a module's file is in one of the places of slow drivers.
fn is_slow(path: Option<&str>) -> bool {
    path.is_some_and(|path| SLOW.iter().any(|place| path.starts_with(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_controllers_wait_for_the_others() {
        for (path, slow) in [
            (Some("kernel/drivers/block/virtio_blk.ko"), false),
            (Some("kernel/drivers/nvme/host/nvme.ko"), false),
            (Some("kernel/drivers/watchdog/i6300esb.ko"), false),
            (Some("kernel/drivers/ata/ahci.ko"), true),
            (Some("kernel/drivers/usb/host/xhci-pci.ko"), true),
            (None, false),
        ] {
            assert_eq!(is_slow(path), slow, "{path:?}");
        }
    }
}
