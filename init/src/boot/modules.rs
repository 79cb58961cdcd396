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

    /// Loads modules for devices that were not there at the last call. A driver brings
    /// new devices, so this is called again and again.
    pub(super) fn load_for_devices(&mut self) {
        let Some(index) = &self.index else { return };
        for modalias in module::modaliases() {
            if self.tried.contains(&modalias) {
                continue;
            }
            if self.debug {
                console::log(
                    Level::Debug,
                    &format!("{modalias}: {:?}", index.resolve(&modalias)),
                );
            }
            if let Err(error) = index.load_alias(&modalias) {
                console::log(Level::Warning, &console::chain(&error));
            }
            self.tried.insert(modalias);
        }
    }
}
