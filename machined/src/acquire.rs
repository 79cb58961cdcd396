//! Finds a first config where the platform offers one: a volume labelled cidata,
//! QEMU's fw_cfg, the SMBIOS tables. The stored config is `store.rs`'s; whether a
//! found one is valid, and what becomes of it, is the engine's.

mod cidata;
mod smbios;

use crate::store::LARGEST;
use std::{collections::BTreeSet, fs, io, io::Read as _, path::Path};

/// Where QEMU's `-fw_cfg name=opt/org.keelson/config,file=…` shows up.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.keelson/config/raw";

/// Where the firmware's SMBIOS tables show up.
const DMI: &str = "/sys/firmware/dmi/tables/DMI";

/// A config as the platform offers it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// As it was found; not validated. Secret.
    pub bytes: Vec<u8>,
    /// Where, in words: "the volume cidata on /dev/vdb".
    pub source: String,
}

/// What the platform offers. Devices appear one by one: look again.
#[derive(Debug, Default)]
pub(crate) struct Platform {
    /// The block devices that have been looked at.
    seen: BTreeSet<String>,
    /// Whether the firmware's places have been read.
    firmware: BTreeSet<&'static str>,
}

impl Platform {
    /// Looks at what was not there before: the configs that were found, the most
    /// wanted first, and in words what could not be read. Blocks.
    pub(crate) fn look(&mut self) -> (Vec<Found>, Vec<String>) {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        match cidata::look(&mut self.seen) {
            Ok(volumes) => {
                for volume in volumes {
                    match volume {
                        Ok(config) => found.push(config),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Err(error) => problems.push(format!("listing the block devices: {error}")),
        }
        if let Some(bytes) = self.firmware(FW_CFG, &mut problems) {
            found.push(Found {
                bytes,
                source: "QEMU fw_cfg".into(),
            });
        }
        if let Some(tables) = self.firmware(DMI, &mut problems) {
            match smbios::config(&tables) {
                Ok(Some(bytes)) => found.push(Found {
                    bytes,
                    source: "SMBIOS".into(),
                }),
                Ok(None) => {}
                Err(error) => problems.push(format!("the config in the SMBIOS tables: {error}")),
            }
        }
        (found, problems)
    }

    /// Reads a file of the firmware, once.
    fn firmware(&mut self, path: &'static str, problems: &mut Vec<String>) -> Option<Vec<u8>> {
        if self.firmware.contains(path) {
            return None;
        }
        match read_bounded(Path::new(path)) {
            Ok(bytes) => {
                self.firmware.insert(path);
                Some(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.firmware.insert(path);
                problems.push(format!("reading {path}: {error}"));
                None
            }
        }
    }
}

/// A whole file, if it is not larger than a config may be.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    bounded(fs::File::open(path)?)
}

fn bounded(file: fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {LARGEST} bytes"),
        ));
    }
    Ok(bytes)
}
