//! The noun address: every selected link has the addresses that the config and its DHCP
//! lease say, and a DHCP client where it shall have one. Only addresses that carry
//! machined's mark are ever removed; nothing is done to links that are not selected, but
//! to take back what was added while they were.
//!
//! An address from a lease gets the lease's time in the kernel: should machined be gone,
//! it goes when it must. While a client has not heard from a server yet, such an address
//! of an earlier machined stays.
//!
//! Of IPv6 a lease has an address and no network: its prefix is 128, and the rest is the
//! routers' to tell and the kernel's to hear. What the kernel makes of that, addresses and
//! routes, has no mark and is nothing that this noun knows of.

mod publish;
mod unique;

use super::link::{self, Managed, Seen};
use crate::{
    dhcp::{Clients, Family, Leases, Leases6, Settings, Status, Told},
    netlink::{self, Mark, Netlink, Unique},
    noun::Noun,
    resource::Resource,
};
use keelson_config::{Cidr, LeaseUse, MacAddr, Machine, Network};
use publish::publish;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    time::{Duration, Instant},
};
use unique::Detection;

/// What was observed.
#[derive(Clone, Debug)]
pub(crate) struct Have {
    /// When.
    now: Instant,
    links: Vec<Seen>,
    addresses: Vec<netlink::Address>,
    /// What the DHCP clients were started with.
    clients: Vec<Settings>,
    /// Where they stand.
    leases: BTreeMap<u32, Status>,
    /// Where those of DHCPv6 stand.
    leases6: Leases6,
    /// The leased addresses that other machines have, by link.
    duplicates: BTreeMap<u32, Ipv6Addr>,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask for an address on a link, which is like this.
    StartDhcp(Settings, Told),
    /// Stop asking on a link: its number and name.
    StopDhcp(u32, Family, String),
    /// Remove an address from a link with this name.
    Remove(netlink::Address, String),
    /// Add an address to a link with this name, or give it another time or mark.
    Add(netlink::Address, String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::StartDhcp(settings, _) => {
                write!(
                    f,
                    "ask for an {} on {}",
                    kind(settings.family),
                    settings.name
                )
            }
            Step::StopDhcp(_, family, name) => {
                write!(f, "stop asking for an {} on {name}", kind(*family))
            }
            Step::Remove(address, name) => write!(f, "remove {} from {name}", address.cidr),
            Step::Add(address, name) => write!(f, "set {} on {name}", address.cidr),
        }
    }
}

/// What is asked for.
fn kind(family: Family) -> &'static str {
    match family {
        Family::V4 => "address",
        Family::V6 => "IPv6 address",
    }
}

/// The lifetimes of kernel and lease are read one after the other, and whole seconds.
const CLOSE: Duration = Duration::from_secs(5);

/// The addresses that there shall be.
fn wanted(have: &Have, managed: &[Managed<'_>]) -> Vec<netlink::Address> {
    let (now, leases) = (have.now, &have.leases);
    let mut all: Vec<netlink::Address> = Vec::new();
    for managed in managed {
        let link = managed.seen.link.index;
        for &cidr in &managed.want.addresses {
            all.push(netlink::Address {
                link,
                cidr,
                lifetime: None,
                preferred: None,
                unique: Unique::Yes,
                mark: Some(Mark::Config),
            });
        }
        let lease = leases
            .get(&link)
            .and_then(Status::bound)
            .filter(|_| managed.want.dhcp_v4);
        if let Some(bound) = lease {
            let cidr = Cidr {
                addr: bound.lease.address.into(),
                prefix: bound.lease.prefix,
            };
            let lifetime = bound.expires().map(|at| at.saturating_duration_since(now));
            let fixed = all
                .iter()
                .any(|other| (other.link, other.cidr) == (link, cidr));
            if !fixed && lifetime != Some(Duration::ZERO) {
                all.push(netlink::Address {
                    link,
                    cidr,
                    lifetime,
                    preferred: None,
                    unique: Unique::Yes,
                    mark: Some(Mark::Lease),
                });
            }
        }
        if let Some(leased) = leased6(have, managed)
            && !all
                .iter()
                .any(|other| (other.link, other.cidr.addr) == (link, leased.cidr.addr))
        {
            all.push(leased);
        }
    }
    all
}

/// The address that a link has of DHCPv6, unless another machine has it.
fn leased6(have: &Have, managed: &Managed<'_>) -> Option<netlink::Address> {
    let link = managed.seen.link.index;
    let status = have.leases6.get(&link).filter(|_| managed.want.dhcp_v6)?;
    let bound = status.bound()?;
    let address = bound.lease.address;
    let lifetime = bound
        .expires()
        .map(|at| at.saturating_duration_since(have.now));
    if lifetime == Some(Duration::ZERO) || have.duplicates.get(&link) == Some(&address) {
        return None;
    }
    let preferred = bound.preferred(have.now);
    Some(netlink::Address {
        link,
        cidr: Cidr {
            addr: address.into(),
            prefix: 128,
        },
        lifetime,
        preferred: preferred.filter(|_| !is_close(preferred, lifetime)),
        unique: Unique::Yes,
        mark: Some(Mark::Lease),
    })
}

/// The client of a family that a link shall have.
fn client(managed: &Managed<'_>, family: Family, hostname: &str) -> Option<Settings> {
    let link = &managed.seen.link;
    let mac = link.mac?;
    let (asks, hostname, association) = match family {
        Family::V4 => (managed.want.dhcp_v4, hostname, 0),
        Family::V6 => (managed.want.dhcp_v6, "", association(managed, mac)),
    };
    asks.then_some(())?;
    Some(Settings {
        family,
        link: link.index,
        name: link.name.clone(),
        mac,
        hostname: hostname.to_owned(),
        association,
        lease: LeaseUse {
            // Its routes are the noun route's, and of IPv6 the kernel's.
            route_metric: None,
            ..managed.want.lease
        },
    })
}

/// The number of what a link asks for (IAID): the same whenever it asks, and another than
/// those of links with the same hardware address. A VLAN has its parent's: what the machine
/// makes is told apart by name (FNV-1a), which for a card may differ from boot to boot.
fn association(managed: &Managed<'_>, MacAddr(mac): MacAddr) -> u32 {
    if managed.want.made.is_none() {
        return u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
    }
    let name = managed.seen.link.name.bytes();
    name.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// How a link is, for a client of it.
fn told(have: &Have, link: &netlink::Link, family: Family) -> Told {
    let local = || {
        have.addresses.iter().any(|address| {
            address.link == link.index
                && address.unique == Unique::Yes
                && matches!(address.cidr.addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
        })
    };
    Told {
        up: link.carrier && (family == Family::V4 || local()),
        duplicate: have
            .duplicates
            .get(&link.index)
            .copied()
            .filter(|_| family == Family::V6),
    }
}

/// The missing steps. What is removed comes first: the kernel takes a network's other
/// addresses along with its first.
pub(crate) fn plan(have: &Have, network: &Network, hostname: &str) -> Vec<Step> {
    let managed = link::select(&have.links, network);
    let name = |link: u32| {
        let seen = have.links.iter().find(|seen| seen.link.index == link);
        seen.map_or_else(|| format!("link {link}"), |seen| seen.link.name.clone())
    };
    let clients: Vec<_> = managed
        .iter()
        .flat_map(|m| [(m, Family::V4), (m, Family::V6)])
        .filter_map(|(m, family)| Some((m, client(m, family, hostname)?)))
        .collect();
    let asks = |link: u32, family: Family| {
        clients
            .iter()
            .any(|(_, it)| (it.link, it.family) == (link, family))
    };
    let wanted = wanted(have, &managed);
    let mut steps = Vec::new();
    for running in &have.clients {
        let Settings { link, family, .. } = *running;
        if !asks(link, family) {
            steps.push(Step::StopDhcp(link, family, running.name.clone()));
        }
    }
    for (managed, settings) in &clients {
        if !have.clients.contains(settings) {
            let told = told(have, &managed.seen.link, settings.family);
            steps.push(Step::StartDhcp(settings.clone(), told));
        }
    }
    let ours = |there: &&netlink::Address| matches!(there.mark, Some(Mark::Config | Mark::Lease));
    for there in have.addresses.iter().filter(ours) {
        let link = there.link;
        let undecided = there.mark == Some(Mark::Lease)
            && match there.cidr.addr {
                IpAddr::V4(_) => asks(link, Family::V4) && is_undecided(have.leases.get(&link)),
                IpAddr::V6(_) => asks(link, Family::V6) && is_undecided(have.leases6.get(&link)),
            };
        let wanted = wanted
            .iter()
            .any(|wanted| (wanted.link, wanted.cidr) == (there.link, there.cidr));
        if !wanted && !undecided {
            steps.push(Step::Remove(there.clone(), name(there.link)));
        }
    }
    for wanted in wanted {
        let there = have
            .addresses
            .iter()
            .find(|a| (a.link, a.cidr) == (wanted.link, wanted.cidr));
        let right = match there {
            None => false,
            // Somebody else's, and the same: it is there, and theirs.
            Some(there) if there.mark.is_none() => true,
            Some(there) => {
                there.mark == wanted.mark
                    && is_close(there.lifetime, wanted.lifetime)
                    && is_close(there.preferred, wanted.preferred)
            }
        };
        if !right {
            let name = name(wanted.link);
            steps.push(Step::Add(wanted, name));
        }
    }
    steps
}

/// Whether a client does not know yet if what it was lent before still holds.
pub(crate) fn is_undecided<B>(status: Option<&Status<B>>) -> bool {
    matches!(status, None | Some(Status::Asking | Status::Unanswered))
}

fn is_close(one: Option<Duration>, other: Option<Duration>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.abs_diff(other) <= CLOSE,
        _ => false,
    }
}

/// The noun. It owns the DHCP clients.
#[derive(Debug)]
pub(crate) struct Addresses {
    leases: Leases,
    clients: Clients,
    /// What was found out about the addresses of DHCPv6.
    detection: Detection,
}

impl Addresses {
    /// The noun. Its clients write the leases, and remember their last address in those of
    /// the directories that are there.
    pub(crate) fn new(leases: Leases, memory: Vec<PathBuf>) -> Addresses {
        Addresses {
            clients: Clients::new(leases.clone(), memory),
            leases,
            detection: Detection::default(),
        }
    }
}

/// The config's name, to tell a DHCP server.
fn hostname(want: &Machine) -> &str {
    want.hostname.as_ref().map_or("", |name| name.as_str())
}

impl Noun for Addresses {
    const KIND: &'static str = "address";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        let netlink = Netlink::connect()?;
        let links = link::look(&netlink).await?;
        self.clients.tidy();
        let addresses = netlink.addresses().await?;
        let leases6 = self.leases.all6();
        let have = Have {
            now: Instant::now(),
            duplicates: self.detection.look(&links, &addresses, &leases6),
            addresses,
            links,
            clients: self.clients.settings(),
            leases: self.leases.all(),
            leases6,
        };
        for Seen { link, .. } in &have.links {
            for family in [Family::V4, Family::V6] {
                self.clients
                    .tell(link.index, family, told(&have, link, family));
            }
        }
        Ok(have)
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, &want.network, hostname(want))
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::StartDhcp(settings, told) => self.clients.start(settings.clone(), *told),
            Step::StopDhcp(link, family, _) => self.clients.stop(*link, *family),
            Step::Remove(address, _) => {
                Netlink::connect()?
                    .remove_address(address.link, address.cidr)
                    .await?;
            }
            Step::Add(address, _) => Netlink::connect()?.add_address(address).await?,
        }
        Ok(())
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        publish(have, &want.network)
    }
}

#[cfg(test)]
mod tests;
