//! The drivers of the devices that are there.

use super::Modules;
use keelson_sys::module::{Error, Index, modaliases, normalize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

/// A driver of a device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Driver {
    /// One of its devices.
    pub device: String,
    /// Whether loading it was tried, or is about to be.
    pub tried: bool,
}

/// The driver of a new device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct New {
    /// The device.
    pub device: String,
    /// Whether it is a network card's.
    pub network: bool,
}

/// Where the kernel keeps the drivers of network cards.
pub(super) const NETWORK: &str = "kernel/drivers/net/";

impl Modules {
    /// Looks at the devices, if there was an event since the last look.
    pub(super) async fn look_at_devices(&mut self, index: &Arc<Index>) -> anyhow::Result<()> {
        let count = events();
        if count.is_some() && count == self.seen {
            return Ok(());
        }
        let (index, known) = (index.clone(), std::mem::take(&mut self.known));
        // Some hundred small files, and for each new one a search of the index.
        let found = tokio::task::spawn_blocking(move || {
            let all = modaliases();
            let mut drivers = BTreeMap::new();
            for alias in all.difference(&known) {
                for module in index.resolve(alias) {
                    drivers
                        .entry(normalize(module))
                        .or_insert_with(|| alias.clone());
                }
            }
            (all, drivers)
        });
        let (all, drivers) = found.await?;
        self.known = all;
        self.seen = count;
        for (module, device) in drivers {
            // A device that came again may need what was refused before.
            let driver = self.drivers.entry(module).or_insert(Driver {
                device,
                tried: false,
            });
            driver.tried = false;
        }
        Ok(())
    }
}

/// Loads the drivers of all devices, and of those that these bring, and waits for them:
/// before a machine without a config looks for one, which any device may hold. What
/// fails is left to the noun, which tries again and tells.
pub(crate) async fn coldplug() {
    let plugged = tokio::task::spawn_blocking(|| {
        let index = Index::open_running()?;
        let mut known = BTreeSet::new();
        loop {
            let new: Vec<String> = modaliases().difference(&known).cloned().collect();
            if new.is_empty() {
                return Ok::<(), Error>(());
            }
            for alias in &new {
                if let Err(error) = index.load_alias(alias) {
                    tracing::debug!("a driver for {alias}: {:#}", anyhow::Error::from(error));
                }
            }
            known.extend(new);
        }
    });
    match plugged.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("loading drivers: {:#}", anyhow::Error::from(error)),
        Err(error) => tracing::warn!("loading drivers: {error}"),
    }
}

/// How many events of devices there have been: `/sys/kernel/uevent_seqnum`.
pub(crate) fn events() -> Option<u64> {
    fs::read_to_string("/sys/kernel/uevent_seqnum")
        .ok()?
        .trim()
        .parse()
        .ok()
}
