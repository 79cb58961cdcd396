//! Kernel modules: those that a Kubernetes host needs, by role, the drivers of the
//! devices that are there, and those of the config with their parameters. Nothing is
//! unloaded. What the image does not carry is waited for, not tried again and again;
//! other modules are loaded by the kernel itself when they are asked for.
//!
//! A pass waits only for the drivers of network cards, since the next nouns need them.
//! All others are loaded beside the passes; what is refused there is tried once more
//! in a pass, which tells.

mod loader;
mod parameter;

pub(crate) use loader::Loading;
pub(crate) use parameter::{SYS_MODULE, after_reboot};

use crate::{
    engine::Wake,
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use keelson_config::{Machine, Role};
use keelson_sys::module::{Error, Index, Parameters, loaded, modaliases, normalize, words};
use loader::{Loader, Told};
use parameter::{GIVEN, Stand, Table};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
    sync::Arc,
};

/// The modules of a machine that runs pods. They were found to be enough with the
/// kernel's own loading switched off, but for the last lines, which are for services
/// with several endpoints, host ports and the flannel network.
const FOR_PODS: &[(&str, &str)] = &[
    ("overlay", "the images of containers"),
    ("veth", "the links of pods"),
    ("bridge", "the network of pods"),
    ("br_netfilter", "services work between pods of one bridge"),
    ("nf_conntrack", "services"),
    ("nf_nat", "services"),
    ("nf_tables", "iptables"),
    ("nft_compat", "iptables"),
    ("nft_chain_nat", "services"),
    ("xt_tcpudp", "services"),
    ("xt_addrtype", "host ports"),
    ("xt_comment", "services"),
    ("xt_conntrack", "services"),
    ("xt_mark", "services"),
    ("xt_nat", "services"),
    ("xt_MASQUERADE", "pods reach the world"),
    ("ipt_REJECT", "services without an endpoint"),
    ("ip6t_REJECT", "services without an endpoint"),
    ("xt_statistic", "services with several endpoints"),
    ("xt_multiport", "host ports and network policies"),
    ("xt_limit", "network policies"),
    ("xt_recent", "session affinity"),
    ("xt_set", "network policies"),
    ("vxlan", "the network between machines"),
];

/// Where the kernel keeps the drivers of network cards.
const NETWORK: &str = "kernel/drivers/net/";

/// The module of swap in memory; what compresses it comes with it.
const FOR_SWAP: &[(&str, &str)] = &[("zram", "swap in memory")];

/// What is wanted of the modules beside those that the config names, by name.
fn wanted(machine: &Machine) -> impl Iterator<Item = (&'static str, &'static str)> {
    let pods = match machine.role {
        Role::Server | Role::Agent => FOR_PODS,
        Role::None => &[],
    };
    let swap = match machine.swap {
        Some(_) => FOR_SWAP,
        None => &[],
    };
    pods.iter().chain(swap).copied()
}

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

/// A driver of a device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Driver {
    /// One of its devices.
    device: String,
    /// Whether loading it was tried, or is about to be.
    tried: bool,
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

/// The driver of a new device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct New {
    /// The device.
    device: String,
    /// Whether it is a network card's.
    network: bool,
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

    /// Looks at the devices, if there was an event since the last look.
    async fn look_at_devices(&mut self, index: &Arc<Index>) -> anyhow::Result<()> {
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

/// Why a module of the config cannot be had, if another one of the image has the name that
/// is nearest.
pub(crate) fn not_carried(nearest: Option<&String>) -> String {
    match nearest {
        Some(near) => format!("is not in the image; did you mean {near}?"),
        None => "is not in the image".to_owned(),
    }
}

/// What is not as wanted of a module's parameters, the worst first.
fn troubles(
    have: &Have,
    module: &str,
    wanted: Option<&BTreeMap<String, String>>,
) -> Option<(Phase, String)> {
    let built_in = have.built_in.contains(module);
    let early = have.early.contains(module);
    let mut never = Vec::new();
    let mut later = Vec::new();
    let mut unseen = Vec::new();
    for (key, stand) in have.stands.get(module)? {
        let value = wanted.and_then(|wanted| wanted.get(key))?;
        match stand {
            Stand::InForce => {}
            Stand::Fixed(now) if built_in => never.push(format!(
                "{key} stays {now}: the module is a part of this kernel, which takes it from the \
                 signed boot image alone"
            )),
            Stand::Unknown if built_in => never.push(format!(
                "{key} cannot be set: the module is a part of this kernel, and shows no such \
                 parameter"
            )),
            Stand::Fixed(now) if early => never.push(format!(
                "{key} stays {now}: the module is loaded from the signed boot image, before a \
                 config is read"
            )),
            Stand::Unknown if early => never.push(format!(
                "{key} cannot be set: the module is loaded from the signed boot image, before a \
                 config is read, and shows no such parameter"
            )),
            Stand::Fixed(now) => later.push(format!(
                "{key} is {now} and waits for a reboot to become {value}"
            )),
            Stand::Unknown => later.push(format!(
                "the module was loaded without {key} and shows no such parameter: it waits for a \
                 reboot to be loaded with it"
            )),
            Stand::Changeable(now) => later.push(format!("{key} is {now}, not {value} yet")),
            Stand::Unseen => unseen.push(format!(
                "it was loaded with {key}={value}, which it does not show; `osctl dmesg` tells if \
                 it knows no such parameter"
            )),
        }
    }
    let phase = if !never.is_empty() {
        Phase::Failed
    } else if !later.is_empty() {
        Phase::Pending
    } else {
        Phase::Ready
    };
    let all: Vec<String> = never.into_iter().chain(later).chain(unseen).collect();
    (!all.is_empty()).then(|| (phase, all.join("; ")))
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
        let fixed: BTreeMap<String, Status> = wanted(want)
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
        let for_swap = |name: &str| FOR_SWAP.iter().any(|(wanted, _)| *wanted == name);
        let reasons: BTreeMap<String, &str> = wanted(want)
            .map(|(name, why)| (normalize(name), why))
            .collect();
        let configured: BTreeMap<&str, &BTreeMap<String, String>> = want
            .modules
            .iter()
            .map(|module| (module.name.as_str(), &module.parameters))
            .collect();
        let fixed = have.fixed.iter().map(|(name, status)| {
            let why = reasons.get(name).copied();
            let mine = configured.get(name.as_str());
            let reason = || why.unwrap_or("wanted by the config").to_owned();
            let (phase, message) = match (status, self.refused.get(name)) {
                (Status::There, _) => {
                    troubles(have, name, mine.copied()).unwrap_or((Phase::Ready, reason()))
                }
                (Status::Loading, _) => (Phase::Pending, "is being loaded".to_owned()),
                (Status::Nowhere, _) if mine.is_some() => {
                    (Phase::Failed, not_carried(have.nearest.get(name)))
                }
                (Status::Nowhere, _) => (
                    Phase::Pending,
                    format!("is not in the image; it is for {}", reason()),
                ),
                (Status::InImage, Some(error)) => (Phase::Failed, error.clone()),
                (Status::InImage, None) => (Phase::Pending, reason()),
            };
            let resource = Resource::new(Self::KIND, name, phase)
                .message(message)
                .field(
                    "for",
                    if why.is_some() && !for_swap(name) {
                        "role"
                    } else {
                        "config"
                    },
                )
                .field("loading", *status == Status::Loading);
            match mine.filter(|parameters| !parameters.is_empty()) {
                Some(parameters) => resource.field("parameters", words(parameters)),
                None => resource,
            }
        });
        let driver = |(name, driver): (&String, &Driver)| {
            let (phase, message) = match self.refused.get(name) {
                Some(error) => (Phase::Failed, error.clone()),
                None if have.loading.contains(name) => {
                    (Phase::Pending, "is being loaded".to_owned())
                }
                None if driver.tried || !have.new.contains_key(name) => {
                    (Phase::Ready, String::new())
                }
                None => (Phase::Pending, String::new()),
            };
            let resource = Resource::new(Self::KIND, name, phase).message(message);
            resource
                .field("for", "device")
                .field("device", driver.device.clone())
        };
        let drivers = self
            .drivers
            .iter()
            .filter(|(name, _)| !have.fixed.contains_key(*name));
        fixed.chain(drivers.map(driver)).collect()
    }
}

#[cfg(test)]
mod tests;
