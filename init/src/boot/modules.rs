//! The modules of the boot path: a fixed few by name, and for every device that shows
//! up the ones that its modalias stands for, as far as they are in the initramfs.

use crate::console::{self, Level};
use keelson_sys::module::{self, Index};
use std::collections::BTreeSet;

/// What no device asks for: what opens the root, once its disk is there. `crypto-sha256`
/// stands for the fastest way to hash that this processor has; the kernel cannot ask for it
/// itself before the root is there.
const FIXED: [&str; 4] = ["dm-verity", "erofs", "crypto-sha256", "crypto-crc32c"];

/// The EFI variables, which say what disk the boot loader came from.
const EFIVARFS: &str = "efivarfs";

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
pub(super) struct Modules<'a> {
    index: Option<&'a Index>,
    tried: BTreeSet<String>,
    debug: bool,
}

/// The index. Without one everything is taken to be built in.
pub(super) fn index() -> Option<Index> {
    Index::open_running()
        .inspect_err(|error| console::log(Level::Warning, &console::chain(error)))
        .ok()
}

/// Loads what opens the root.
pub(super) fn load_fixed(index: &Index) {
    for name in FIXED {
        load(index, name);
    }
}

/// Loads what shows the EFI variables.
pub(super) fn load_efivarfs(index: &Index) {
    load(index, EFIVARFS);
}

/// One that is built in or not needed is no error here: what is really missing shows at its
/// use.
fn load(index: &Index, name: &str) {
    match index.load_any(name, "") {
        Err(module::Error::Unknown(_)) | Ok(_) => {}
        Err(error) => console::log(Level::Warning, &console::chain(&error)),
    }
}

impl<'a> Modules<'a> {
    /// Nothing was tried yet.
    pub(super) fn new(index: Option<&'a Index>, debug: bool) -> Self {
        Self {
            index,
            tried: BTreeSet::new(),
            debug,
        }
    }

    /// Loads modules for devices that were not tried before. A driver brings new
    /// devices, so this is called again and again.
    pub(super) fn load_for_devices(&mut self, which: Which) {
        let Some(index) = self.index else { return };
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
