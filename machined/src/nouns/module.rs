//! Kernel modules: those that a Kubernetes host needs, by role, and the drivers of
//! the devices that are there. Nothing is unloaded. What the image does not carry
//! is waited for, not tried again and again; other modules are loaded by the kernel
//! itself when they are asked for.
//!
//! A pass waits only for the drivers of network cards, since the next nouns need them.
//! All others are loaded beside the passes; what is refused there is tried once more
//! in a pass, which tells.

mod loader;

pub(crate) use loader::Loading;

use crate::{
    engine::Wake,
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use keelson_config::{Machine, Role};
use keelson_sys::module::{Error, Index, loaded, modaliases, normalize};
use loader::Loader;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
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

/// What is wanted of the modules, by name.
fn wanted(role: Role) -> &'static [(&'static str, &'static str)] {
    match role {
        Role::Server | Role::Agent => FOR_PODS,
        Role::None => &[],
    }
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
    /// The modules that the role wants.
    fixed: BTreeMap<String, Status>,
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
    /// Load a module that the role wants.
    Load(String),
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
            Step::Load(module) => write!(f, "load the module {module}"),
            Step::Drive { module, device, .. } => {
                write!(f, "load the driver {module} for {device}")
            }
        }
    }
}

/// What is missing, in the order to load it: network cards, other devices, the rest.
pub(crate) fn plan(have: &Have) -> Vec<Step> {
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
    drivers(true)
        .chain(drivers(false))
        .chain(fixed.map(|(module, _)| Step::Load(module.clone())))
        .collect()
}

impl Modules {
    /// The noun.
    pub(crate) fn new(wake: Wake) -> Self {
        Modules {
            loader: Loader::start(wake),
            index: None,
            seen: None,
            known: BTreeSet::new(),
            drivers: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// What is being loaded beside the passes.
    pub(crate) fn loading(&self) -> Loading {
        self.loader.loading()
    }

    /// Hears what was refused beside the passes: it is tried once more in one.
    fn hear(&mut self) {
        for (name, why) in self.loader.refusals() {
            if let Some(driver) = self.drivers.get_mut(&name) {
                driver.tried = false;
            }
            self.refused.insert(name, why);
        }
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
fn events() -> Option<u64> {
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

impl Noun for Modules {
    const KIND: &'static str = "module";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Have> {
        let index = self.index().await?;
        self.look_at_devices(&index).await?;
        // In this order: one that is loaded meanwhile is in one of them.
        let loading = self.loading().borrow().clone();
        self.hear();
        let running = loaded().context("reading the loaded kernel modules")?;
        let status = |name: &str| status(name, &running, &loading, &index);
        let fixed = wanted(want.role)
            .iter()
            .map(|(name, _)| (normalize(name), status(name)))
            .collect();
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
            new,
            loading,
        })
    }

    fn plan(&self, have: &Have, _: &Machine) -> Vec<Step> {
        plan(have)
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let index = self.index().await?;
        let (Step::Load(name) | Step::Drive { module: name, .. }) = step;
        // Once for each device: a driver that finds no fault with itself, but with its
        // device, would be refused again and again.
        if let (Step::Drive { .. }, Some(driver)) = (step, self.drivers.get_mut(name)) {
            driver.tried = true;
        }
        let waited_for = matches!(step, Step::Drive { network: true, .. });
        if !waited_for && !self.refused.contains_key(name) {
            return self.loader.load(index, name);
        }
        let module = name.clone();
        let result = tokio::task::spawn_blocking(move || index.load(&module, "")).await?;
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
        let reasons: BTreeMap<String, &str> = wanted(want.role)
            .iter()
            .map(|(name, why)| (normalize(name), *why))
            .collect();
        let fixed = have.fixed.iter().map(|(name, status)| {
            let why = reasons.get(name).copied().unwrap_or_default();
            let (phase, message) = match (status, self.refused.get(name)) {
                (Status::There, _) => (Phase::Ready, why.to_owned()),
                (Status::Loading, _) => (Phase::Pending, "is being loaded".to_owned()),
                (Status::Nowhere, _) => (
                    Phase::Pending,
                    format!("is not in the image; it is for {why}"),
                ),
                (Status::InImage, Some(error)) => (Phase::Failed, error.clone()),
                (Status::InImage, None) => (Phase::Pending, why.to_owned()),
            };
            Resource::new(Self::KIND, name, phase)
                .message(message)
                .field("for", "role")
                .field("loading", *status == Status::Loading)
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
mod tests {
    use super::*;

    fn have(fixed: &[(&str, Status)], new: &[(&str, &str, bool)]) -> Have {
        let named = |name: &str| name.to_owned();
        Have {
            fixed: fixed
                .iter()
                .map(|(name, status)| (named(name), *status))
                .collect(),
            new: new
                .iter()
                .map(|(name, device, network)| {
                    let new = New {
                        device: named(device),
                        network: *network,
                    };
                    (named(name), new)
                })
                .collect(),
            loading: BTreeSet::new(),
        }
    }

    #[test]
    fn plans() {
        let load = |name: &str| Step::Load(name.to_owned());
        let drive = |module: &str, device: &str, network: bool| Step::Drive {
            module: module.to_owned(),
            device: device.to_owned(),
            network,
        };
        let (card, key) = ("virtio:d1v2", "acpi:QEMU0002:");
        let cases = [
            ("nothing wanted", have(&[], &[]), vec![]),
            ("there", have(&[("overlay", Status::There)], &[]), vec![]),
            (
                "in the image",
                have(&[("overlay", Status::InImage)], &[]),
                vec![load("overlay")],
            ),
            (
                "nowhere: no step, no failure",
                have(&[("overlay", Status::Nowhere)], &[]),
                vec![],
            ),
            (
                "being loaded",
                have(&[("overlay", Status::Loading)], &[]),
                vec![],
            ),
            (
                "network cards first, then other devices",
                have(
                    &[("bridge", Status::InImage)],
                    &[("qemu_fw_cfg", key, false), ("virtio_net", card, true)],
                ),
                vec![
                    drive("virtio_net", card, true),
                    drive("qemu_fw_cfg", key, false),
                    load("bridge"),
                ],
            ),
        ];
        for (name, have, want) in cases {
            assert_eq!(plan(&have), want, "{name}");
        }
    }

    #[test]
    fn where_a_module_stands() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("modules.dep"),
            "kernel/net/xt_MASQUERADE.ko:\nkernel/fs/overlay.ko:\n",
        )
        .unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/net/bridge.ko\n").unwrap();
        let index = Index::open(dir.path()).unwrap();
        let running = BTreeSet::from(["overlay".to_owned()]);
        let loading = BTreeSet::from(["overlay".to_owned(), "veth".to_owned()]);
        let cases = [
            ("overlay", Status::There),
            ("veth", Status::Loading),
            ("bridge", Status::There),
            ("xt_MASQUERADE", Status::InImage),
            ("xt-MASQUERADE", Status::InImage),
            ("vxlan", Status::Nowhere),
        ];
        for (name, want) in cases {
            assert_eq!(status(name, &running, &loading, &index), want, "{name}");
        }
    }

    #[test]
    fn an_empty_machine_wants_no_modules() {
        assert!(wanted(Role::None).is_empty());
        assert_eq!(wanted(Role::Server), wanted(Role::Agent));
    }

    #[tokio::test]
    async fn published() {
        let mut noun = Modules::new(Wake::default());
        noun.refused
            .insert("bridge".to_owned(), "the kernel refused it".to_owned());
        let driver = Driver {
            device: "virtio:d1v2".to_owned(),
            tried: true,
        };
        noun.drivers.insert("virtio_net".to_owned(), driver);
        let mut machine = Machine::maintenance();
        machine.role = Role::Server;
        let have = have(
            &[
                ("overlay", Status::There),
                ("bridge", Status::InImage),
                ("veth", Status::Loading),
                ("vxlan", Status::Nowhere),
            ],
            &[],
        );
        let published = noun.publish(&have, &machine);
        let phase = |name: &str| {
            published
                .iter()
                .find(|resource| resource.name == name)
                .unwrap()
                .phase
        };
        assert_eq!(phase("overlay"), Phase::Ready);
        assert_eq!(phase("bridge"), Phase::Failed);
        assert_eq!(phase("veth"), Phase::Pending);
        assert_eq!(phase("vxlan"), Phase::Pending);
        assert_eq!(phase("virtio_net"), Phase::Ready);
    }
}
