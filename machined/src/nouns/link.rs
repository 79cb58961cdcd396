//! The noun link: which of the machine's links the config selects, that they and the
//! loopback are switched on, and their MTU where the config or a lease gives one; and the
//! links that the config makes (`made.rs`). A link that the orchestrator made is never
//! touched, and never shown.

mod made;
mod publish;
mod select;

pub(crate) use select::{Managed, select};

use crate::{
    dhcp::{Leases, Status},
    netlink::{self, Netlink},
    noun::Noun,
    resource::Resource,
    wireguard,
};
use anyhow::Context as _;
use keelson_config::{Machine, Made, Network, PublicKey};
use made::Stack;
use publish::publish;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::SocketAddr,
    path::Path,
};

/// A link, with what sysfs knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What netlink says.
    pub link: netlink::Link,
    /// A device is behind it: it is not made of software.
    pub physical: bool,
    /// The driver that serves it.
    pub driver: Option<String>,
    /// The keys and peers of a tunnel of machined's own; only this noun looks at them.
    pub tunnel: Option<wireguard::Device>,
}

/// Looks at the links.
pub(crate) async fn look(netlink: &Netlink) -> anyhow::Result<Vec<Seen>> {
    let links = netlink.links().await?;
    Ok(links
        .into_iter()
        .map(|link| with_device(Path::new("/sys/class/net"), link))
        .collect())
}

fn with_device(sysfs: &Path, link: netlink::Link) -> Seen {
    // Most links of a machine that runs pods were made by software: sysfs is not asked.
    if link.kind.is_some() || !link.ethernet {
        return Seen {
            link,
            ..Seen::default()
        };
    }
    let device = sysfs.join(&link.name).join("device");
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    Seen {
        physical: device.exists(),
        driver,
        link,
        tunnel: None,
    }
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove a link that machined made: its number and name.
    Remove(u32, String),
    /// Take a link out of another: its number and name, and the other's name.
    Release(u32, String, String),
    /// Make a link of this name.
    Make(String, Made),
    /// Change a link that was made.
    Configure(u32, String, Made),
    /// Set up a tunnel, which a step before this one may make.
    Tunnel(String, wireguard::Change),
    /// Make a link part of another. Either may be one that a step before this one makes.
    Join {
        /// Its name.
        link: String,
        /// The other's.
        of: String,
        /// The other is a bond.
        bond: bool,
    },
    /// Switch a link on: its number and name.
    SetUp(u32, String),
    /// Set a link's MTU.
    SetMtu(u32, String, u32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Remove(_, name) => write!(f, "remove {name}"),
            Step::Release(_, name, of) => write!(f, "take {name} out of {of}"),
            Step::Make(name, made) => f.write_str(&made::words(name, made)),
            Step::Configure(_, name, made) => f.write_str(&made::change(name, made)),
            Step::Tunnel(name, change) => write!(f, "set up {name}: {change}"),
            Step::Join { link, of, .. } => write!(f, "make {link} a part of {of}"),
            Step::SetUp(_, name) => write!(f, "switch {name} on"),
            Step::SetMtu(_, name, mtu) => write!(f, "set the MTU of {name} to {mtu}"),
        }
    }
}

/// The missing steps. What goes, goes first; what is made is made from the ground up. Its
/// MTU is set in the next pass: the kernel tells of a new link at once.
pub(crate) fn plan(seen: &[Seen], network: &Network, leases: &BTreeMap<u32, Status>) -> Vec<Step> {
    let stack = Stack::new(seen, network);
    let mut steps = stack.clear();
    let mut on = BTreeSet::new();
    let loopbacks = seen.iter().filter(|seen| seen.link.loopback);
    let mut managed = select(seen, network);
    managed.retain(|managed| !stack.goes(managed.seen));
    // No packet of a VLAN is larger than its parent's.
    managed.sort_by_key(|managed| stack.height(&managed.seen.link.name));
    let found = managed.iter().filter(|managed| managed.want.made.is_none());
    for seen in loopbacks.chain(found.map(|managed| managed.seen)) {
        if !stack.waits_for_bond(seen) {
            steps.extend(stack.switch_on(seen, &mut on));
        }
    }
    steps.extend(stack.build(&mut on));
    for Managed {
        seen: Seen { link, .. },
        want,
        ..
    } in managed
    {
        let lease = leases
            .get(&link.index)
            .and_then(Status::bound)
            .filter(|_| want.dhcp_v4);
        // One that the config wants and the link cannot have is an error of the step's.
        let leased = lease
            .and_then(|bound| bound.lease.mtu)
            .filter(|&mtu| link.largest_mtu == 0 || mtu <= link.largest_mtu);
        let Some(mtu) = want.mtu.or(leased) else {
            continue;
        };
        if mtu != link.mtu {
            steps.push(Step::SetMtu(link.index, link.name.clone(), mtu));
        }
    }
    steps
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Links {
    leases: Leases,
    /// Where the peers of each tunnel are, as was said last.
    told: BTreeMap<(String, PublicKey), SocketAddr>,
}

impl Links {
    /// The noun; leases may bring an MTU.
    pub(crate) fn new(leases: Leases) -> Links {
        Links {
            leases,
            told: BTreeMap::new(),
        }
    }
}

impl Noun for Links {
    const KIND: &'static str = "link";
    type Have = Vec<Seen>;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Vec<Seen>> {
        let mut seen = look(&Netlink::connect()?).await?;
        let wanted = made::endpoints(&want.network);
        for Seen { link, tunnel, .. } in &mut seen {
            if !link.ours || link.kind != Some(netlink::Kind::Wireguard) {
                continue;
            }
            *tunnel = wireguard::read(link.index).await?;
            for (key, peer) in tunnel.iter_mut().flat_map(|it| &mut it.peers) {
                let key = (link.name.clone(), *key);
                // What is there was said by a machined before this one.
                if let Some(endpoint) = wanted.get(&key) {
                    self.told.entry(key.clone()).or_insert(*endpoint);
                }
                peer.told = self.told.get(&key).copied();
            }
        }
        Ok(seen)
    }

    fn plan(&self, seen: &Vec<Seen>, want: &Machine) -> Vec<Step> {
        plan(seen, &want.network, &self.leases.all())
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let netlink = Netlink::connect()?;
        match step {
            Step::Remove(link, _) => netlink.remove_link(*link).await,
            Step::Release(link, ..) => netlink.release(*link).await,
            Step::Make(name, made) => {
                let parent = match made {
                    Made::Vlan { parent, .. } => Some(number(&netlink, parent).await?),
                    _ => None,
                };
                netlink.make(name, made, parent).await
            }
            Step::Configure(link, _, made) => netlink.configure(*link, made).await,
            Step::Tunnel(name, change) => {
                wireguard::set(number(&netlink, name).await?, change).await?;
                let told = change.endpoints();
                self.told
                    .extend(told.map(|(key, at)| ((name.clone(), key), at)));
                Ok(())
            }
            Step::Join { link, of, bond } => {
                let (link, of) = (number(&netlink, link).await?, number(&netlink, of).await?);
                netlink.join(link, of, *bond).await
            }
            Step::SetUp(link, _) => netlink.set_up(*link).await,
            Step::SetMtu(link, _, mtu) => netlink.set_mtu(*link, *mtu).await,
        }
    }

    fn publish(&self, seen: &Vec<Seen>, want: &Machine) -> Vec<Resource> {
        publish(seen, &want.network)
    }
}

/// The number of a link.
async fn number(netlink: &Netlink, name: &str) -> anyhow::Result<u32> {
    let links = netlink.links().await?;
    let link = links.iter().find(|link| link.name == name);
    Ok(link.with_context(|| format!("{name} is not there"))?.index)
}

#[cfg(test)]
pub(crate) mod tests;
