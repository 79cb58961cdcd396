//! The noun address: every selected link has the addresses that the config and its DHCP
//! lease say, and a DHCP client where it shall have one. Only addresses that carry
//! machined's mark are ever removed; nothing is done to links that are not selected, but
//! to take back what was added while they were.
//!
//! An address from a lease gets the lease's time in the kernel: should machined be gone,
//! it goes when it must. While a client has not heard from a server yet, such an address
//! of an earlier machined stays.

use super::link::{self, Managed, Seen};
use crate::{
    dhcp::{Clients, Leases, Settings, Status},
    netlink::{self, Mark, Netlink},
    noun::Noun,
    resource::{Phase, Resource},
};
use keelson_config::{Cidr, LeaseUse, Machine, Network};
use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

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
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask for an address on a link; whether the link has carrier.
    StartDhcp(Settings, bool),
    /// Stop asking on a link: its number and name.
    StopDhcp(u32, String),
    /// Remove an address from a link with this name.
    Remove(netlink::Address, String),
    /// Add an address to a link with this name, or give it another time or mark.
    Add(netlink::Address, String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::StartDhcp(settings, _) => write!(f, "ask for an address on {}", settings.name),
            Step::StopDhcp(_, name) => write!(f, "stop asking for an address on {name}"),
            Step::Remove(address, name) => write!(f, "remove {} from {name}", address.cidr),
            Step::Add(address, name) => write!(f, "set {} on {name}", address.cidr),
        }
    }
}

/// The lifetimes of kernel and lease are read one after the other, and whole seconds.
const CLOSE: Duration = Duration::from_secs(5);

/// The addresses that there shall be.
fn wanted(
    now: Instant,
    managed: &[Managed<'_>],
    leases: &BTreeMap<u32, Status>,
) -> Vec<netlink::Address> {
    let mut all: Vec<netlink::Address> = Vec::new();
    for managed in managed {
        let link = managed.seen.link.index;
        for &cidr in &managed.want.addresses {
            all.push(netlink::Address {
                link,
                cidr,
                lifetime: None,
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
                    mark: Some(Mark::Lease),
                });
            }
        }
    }
    all
}

/// The client that a link shall have.
fn client(managed: &Managed<'_>, hostname: &str) -> Option<Settings> {
    let link = &managed.seen.link;
    managed.want.dhcp_v4.then_some(())?;
    Some(Settings {
        link: link.index,
        name: link.name.clone(),
        mac: link.mac?,
        hostname: hostname.to_owned(),
        lease: LeaseUse {
            // Its routes are the noun route's.
            route_metric: None,
            ..managed.want.lease
        },
    })
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
        .filter_map(|m| Some((m, client(m, hostname)?)))
        .collect();
    let wanted = wanted(have.now, &managed, &have.leases);
    let mut steps = Vec::new();
    for running in &have.clients {
        if !clients
            .iter()
            .any(|(_, settings)| settings.link == running.link)
        {
            steps.push(Step::StopDhcp(running.link, running.name.clone()));
        }
    }
    for (managed, settings) in &clients {
        if !have.clients.contains(settings) {
            steps.push(Step::StartDhcp(settings.clone(), managed.seen.link.carrier));
        }
    }
    let ours = |there: &&netlink::Address| matches!(there.mark, Some(Mark::Config | Mark::Lease));
    for there in have.addresses.iter().filter(ours) {
        let undecided = there.mark == Some(Mark::Lease)
            && clients
                .iter()
                .any(|(_, settings)| settings.link == there.link)
            && is_undecided(have.leases.get(&there.link));
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
            Some(there) => there.mark == wanted.mark && is_close(there.lifetime, wanted.lifetime),
        };
        if !right {
            let name = name(wanted.link);
            steps.push(Step::Add(wanted, name));
        }
    }
    steps
}

/// Whether a client does not know yet if what it was lent before still holds.
pub(crate) fn is_undecided(status: Option<&Status>) -> bool {
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
}

impl Addresses {
    /// The noun. Its clients write the leases, and remember their last address in those of
    /// the directories that are there.
    pub(crate) fn new(leases: Leases, memory: Vec<PathBuf>) -> Addresses {
        Addresses {
            clients: Clients::new(leases.clone(), memory),
            leases,
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
        for seen in &links {
            self.clients.carrier(seen.link.index, seen.link.carrier);
        }
        Ok(Have {
            now: Instant::now(),
            addresses: netlink.addresses().await?,
            links,
            clients: self.clients.settings(),
            leases: self.leases.all(),
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, &want.network, hostname(want))
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::StartDhcp(settings, carrier) => self.clients.start(settings.clone(), *carrier),
            Step::StopDhcp(link, _) => self.clients.stop(*link),
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

fn publish(have: &Have, network: &Network) -> Vec<Resource> {
    let managed = link::select(&have.links, network);
    let mut resources = Vec::new();
    for seen in &have.links {
        let managed = managed
            .iter()
            .find(|managed| managed.seen.link.index == seen.link.index);
        if managed.is_none() && !seen.link.loopback {
            continue;
        }
        let of_link = have.addresses.iter().filter(|a| a.link == seen.link.index);
        for address in of_link {
            resources.push(shown(seen, address, have.leases.get(&seen.link.index)));
        }
        if let Some(managed) = managed.filter(|managed| managed.want.dhcp_v4) {
            resources.push(client_shown(managed, have));
        }
    }
    resources
}

fn shown(seen: &Seen, address: &netlink::Address, status: Option<&Status>) -> Resource {
    let source = match address.mark {
        Some(Mark::Config) => "config",
        Some(Mark::Lease) => "dhcp",
        Some(Mark::Shared) => "shared",
        None => "kernel",
    };
    let name = format!("{}/{}", seen.link.name, address.cidr);
    let mut resource = Resource::new(Addresses::KIND, name, Phase::Ready)
        .field("link", seen.link.name.as_str())
        .field("address", address.cidr.to_string())
        .field("source", source);
    if let (
        Some(Mark::Lease),
        Some(Status::Bound {
            expires: Some(expires),
            bound,
        }),
    ) = (address.mark, status)
        && address.cidr.addr == IpAddr::V4(bound.lease.address)
    {
        resource = resource.field("expires", seconds(*expires));
    }
    resource
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The state of a link's client. What nobody named in the config may stay without an
/// answer, as long as another link has one.
fn client_shown(managed: &Managed<'_>, have: &Have) -> Resource {
    let link = &managed.seen.link;
    let another = have
        .leases
        .iter()
        .any(|(other, status)| *other != link.index && status.bound().is_some());
    let optional = !managed.named() && another;
    let lenient = |phase| if optional { Phase::Ready } else { phase };
    let (phase, message) = match have.leases.get(&link.index) {
        _ if !link.carrier && !managed.named() => (Phase::Ready, "no carrier"),
        _ if !link.carrier => (Phase::Pending, "no carrier: is a cable in?"),
        None | Some(Status::Asking) => (Phase::Pending, "waiting for a DHCP server"),
        Some(Status::Unanswered) => (lenient(Phase::Failed), "no DHCP server answers"),
        Some(Status::Lost(reason)) => (lenient(Phase::Failed), *reason),
        Some(Status::Bound { .. }) => (Phase::Ready, ""),
    };
    let mut resource = Resource::new(Addresses::KIND, format!("{}/dhcp", link.name), phase)
        .message(message)
        .field("link", link.name.as_str());
    if let Some(bound) = have.leases.get(&link.index).and_then(Status::bound) {
        resource = resource.field("server", bound.lease.server.to_string());
        if let Some(lent) = bound.lease.duration {
            resource = resource.field("leaseSeconds", lent.as_secs());
        }
    }
    resource
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "kernel_tests.rs"]
pub(crate) mod kernel_tests;
