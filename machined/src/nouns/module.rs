//! Kernel modules: those that a Kubernetes host needs, by role, the drivers of the
//! devices that are there, and those of the config with their parameters. Nothing is
//! unloaded. What the image does not carry is waited for, not tried again and again;
//! other modules are loaded by the kernel itself when they are asked for.
//!
//! A pass waits only for the drivers of network cards, since the next nouns need them.
//! All others are loaded beside the passes; what is refused there is tried once more
//! in a pass, which tells.

mod device;
mod loader;
mod needed;
mod parameter;
mod publish;

pub(crate) use device::{coldplug, events};
pub(crate) use loader::Loading;
pub(crate) use parameter::{SYS_MODULE, after_reboot};

use crate::{engine::Wake, noun::Noun, resource::Resource};
use anyhow::Context as _;
use device::{Driver, NETWORK, New};
use keelson_config::Machine;
use keelson_sys::module::{Index, Parameters, loaded, normalize, words};
use loader::{Loader, Told};
use needed::needed;
use parameter::{GIVEN, Stand, Table};
use publish::publish;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
};

/// The noun.
pub(crate) struct Modules {
    loader: Loader,
    index: Option<Arc<Index>>,
    /// The kernel's count of device events at the last look at the devices.
    seen: Option<u64>,
    /// The device aliases that were dealt with.
    known: BTreeSet<String>,
    /// The drivers of devices, and what came of them.
    drivers: BTreeMap<String, Driver>,
    /// The modules that the kernel refused, and why.
    refused: BTreeMap<String, String>,
    /// What modules are given, as the config that was looked at last has it.
    given: Arc<Parameters>,
    /// Where their parameters stand.
    table: Table,
    /// What was loaded before there was a root.
    early: BTreeSet<String>,
}

/// Where a module stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Loaded, or a part of the kernel.
    There,
    /// About to be loaded.
    Loading,
    /// In the image.
    InImage,
    /// Not in the image.
    Nowhere,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Have {
    /// The modules that the role or the config wants.
    fixed: BTreeMap<String, Status>,
    /// Where the parameters of those that are there stand: by module, by name.
    stands: BTreeMap<String, BTreeMap<String, Stand>>,
    /// Those of the config that are a part of the kernel.
    built_in: BTreeSet<String>,
    /// Those that are loaded before a config is read.
    early: BTreeSet<String>,
    /// For those that are nowhere: the one whose name is nearest.
    nearest: BTreeMap<String, String>,
    /// The drivers of new devices that are not loaded.
    new: BTreeMap<String, New>,
    /// What is being loaded.
    loading: BTreeSet<String>,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Load a module that the role or the config wants.
    Load {
        /// The module.
        module: String,
        /// What it is loaded with, in words.
        parameters: String,
    },
    /// Change a parameter of a module that is there.
    Set {
        /// The module.
        module: String,
        /// The parameter.
        key: String,
        /// Its new value.
        value: String,
    },
    /// Load the driver of a device.
    Drive {
        /// The module.
        module: String,
        /// The device's alias.
        device: String,
        /// Whether it is a network card's.
        network: bool,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Load { module, parameters } if parameters.is_empty() => {
                write!(f, "load the module {module}")
            }
            Step::Load { module, parameters } => {
                write!(f, "load the module {module} with {parameters}")
            }
            Step::Set { module, key, value } => {
                write!(f, "set {key} of the module {module} to {value}")
            }
            Step::Drive { module, device, .. } => {
                write!(f, "load the driver {module} for {device}")
            }
        }
    }
}

/// What is missing, in the order to load it: network cards, other devices, the rest.
pub(crate) fn plan(have: &Have, given: &Parameters) -> Vec<Step> {
    let drivers = |wanted: bool| {
        have.new
            .iter()
            .filter(move |(_, new)| new.network == wanted)
            .map(|(module, new)| Step::Drive {
                module: module.clone(),
                device: new.device.clone(),
                network: new.network,
            })
    };
    let fixed = have
        .fixed
        .iter()
        .filter(|(_, status)| **status == Status::InImage);
    let load = |module: &String| Step::Load {
        module: module.clone(),
        parameters: given.get(module).map(words).unwrap_or_default(),
    };
    let set = have.stands.iter().flat_map(|(module, stands)| {
        let other = stands
            .iter()
            .filter(|(_, stand)| matches!(stand, Stand::Changeable(_)));
        other.filter_map(|(key, _)| {
            Some(Step::Set {
                module: module.clone(),
                key: key.clone(),
                value: given.get(module)?.get(key)?.clone(),
            })
        })
    });
    drivers(true)
        .chain(drivers(false))
        .chain(fixed.map(|(module, _)| load(module)))
        .chain(set)
        .collect()
}

impl Modules {
    /// The noun; `early` are the modules that were loaded before there was a root.
    pub(crate) fn new(wake: Wake, early: BTreeSet<String>) -> Self {
        Modules {
            early,
            loader: Loader::start(wake),
            index: None,
            seen: None,
            known: BTreeSet::new(),
            drivers: BTreeMap::new(),
            refused: BTreeMap::new(),
            given: Arc::default(),
            table: Table::new(Path::new(SYS_MODULE), Path::new(GIVEN)),
        }
    }

    /// What is being loaded beside the passes.
    pub(crate) fn loading(&self) -> Loading {
        self.loader.loading()
    }

    /// Hears what came of the loading beside the passes: what was refused is tried once
    /// more in one.
    fn hear(&mut self) -> anyhow::Result<()> {
        for told in self.loader.told() {
            match told {
                Told::Refused(name, why) => {
                    if let Some(driver) = self.drivers.get_mut(&name) {
                        driver.tried = false;
                    }
                    self.refused.insert(name, why);
                }
                Told::Loaded(name, given) => self.table.loaded(&name, &given)?,
            }
        }
        Ok(())
    }

    /// The modules of the running kernel, read once.
    async fn index(&mut self) -> anyhow::Result<Arc<Index>> {
        if let Some(index) = &self.index {
            return Ok(index.clone());
        }
        let index = tokio::task::spawn_blocking(Index::open_running).await?;
        let index = Arc::new(index.context("reading the index of kernel modules")?);
        self.index = Some(index.clone());
        Ok(index)
    }
}

/// Where a module stands. `running` are the names of the loaded ones.
fn status(
    name: &str,
    running: &BTreeSet<String>,
    loading: &BTreeSet<String>,
    index: &Index,
) -> Status {
    let name = normalize(name);
    if running.contains(&name) || index.is_builtin(&name) {
        Status::There
    } else if loading.contains(&name) {
        Status::Loading
    } else if index.contains(&name) {
        Status::InImage
    } else {
        Status::Nowhere
    }
}

impl Noun for Modules {
    const KIND: &'static str = "module";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Have> {
        let index = self.index().await?;
        self.look_at_devices(&index).await?;
        // In this order: one that is loaded meanwhile is in one of them.
        let loading = self.loading().borrow().clone();
        self.hear()?;
        self.given = Arc::new(parameter::wanted(want));
        let running = loaded().context("reading the loaded kernel modules")?;
        let status = |name: &str| status(name, &running, &loading, &index);
        let configured = || want.modules.iter().map(|module| module.name.as_str());
        let fixed: BTreeMap<String, Status> = needed(want)
            .map(|(name, _)| name)
            .chain(configured())
            .map(|name| (normalize(name), status(name)))
            .collect();
        let there = |name: &&String| fixed.get(*name) == Some(&Status::There);
        let stands = self.given.keys().filter(there).map(|module| {
            let keys = self.given.get(module).into_iter().flatten();
            let stands =
                keys.map(|(key, value)| (key.clone(), self.table.stand(module, key, value)));
            (module.clone(), stands.collect())
        });
        let built_in = configured().filter(|name| index.is_builtin(name));
        let nearest = configured().filter(|name| fixed.get(*name) == Some(&Status::Nowhere));
        let nearest = nearest.filter_map(|name| {
            let near = keelson_config::nearest(name, index.names())?;
            Some((name.to_owned(), near.to_owned()))
        });
        let (stands, built_in, nearest) = (
            stands.collect(),
            built_in.map(str::to_owned).collect(),
            nearest.collect(),
        );
        let waiting = self.drivers.iter().filter(|(_, driver)| !driver.tried);
        let new = waiting
            .filter(|(name, _)| status(name) == Status::InImage)
            .map(|(name, driver)| {
                let new = New {
                    device: driver.device.clone(),
                    network: index.path(name).is_some_and(|p| p.starts_with(NETWORK)),
                };
                (name.clone(), new)
            })
            .collect();
        Ok(Have {
            fixed,
            stands,
            built_in,
            early: self.early.clone(),
            nearest,
            new,
            loading,
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, &parameter::wanted(want))
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let index = self.index().await?;
        let name = match step {
            Step::Load { module, .. } | Step::Drive { module, .. } => module,
            Step::Set { module, key, value } => return self.table.set(module, key, value),
        };
        // Once for each device: a driver that finds no fault with itself, but with its
        // device, would be refused again and again.
        if let (Step::Drive { .. }, Some(driver)) = (step, self.drivers.get_mut(name)) {
            driver.tried = true;
        }
        let given = self.given.clone();
        let waited_for = matches!(step, Step::Drive { network: true, .. });
        if !waited_for && !self.refused.contains_key(name) {
            return self.loader.load(index, name, given);
        }
        let (module, with) = (name.clone(), given.clone());
        let work = move || {
            let mut inserted = Vec::new();
            let result = index.load_with(&module, &with, &mut inserted);
            (result, inserted)
        };
        let (result, inserted) = tokio::task::spawn_blocking(work).await?;
        for module in inserted {
            self.table.loaded(&module, &given)?;
        }
        match result {
            Ok(_) => {
                self.refused.remove(name);
                Ok(())
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                self.refused.insert(name.clone(), format!("{error:#}"));
                Err(error)
            }
        }
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        publish(self, have, want)
    }
}

#[cfg(test)]
mod tests;
