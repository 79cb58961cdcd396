//! The noun virtualaddress: the address that the cluster's servers share is on the link
//! that the config says, or whose network it is in, while this machine holds it
//! (`cluster/share.rs` says when), and on none otherwise. It carries a mark of its own.
//!
//! It is set as deprecated, so that nothing which this machine begins comes from it, and
//! with the longest prefix, so that it brings no route.

use super::link::{self, Managed};
use crate::{
    cluster::share::{Holder, Shared},
    netlink::{self, Mark, Netlink, Unique},
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use keelson_config::{Cidr, MacAddr, Machine, Network};
use std::{fmt, fs, net::IpAddr, path::Path, time::Duration};
use tokio::time::sleep;

/// When it is told to the link that the address is here: at once, and again for those that
/// were not listening.
const TOLD_AFTER: [u64; 3] = [0, 1, 4];

/// What was observed.
#[derive(Clone, Debug)]
pub(crate) struct Have {
    links: Vec<link::Seen>,
    addresses: Vec<netlink::Address>,
    holder: Holder,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take the address from a link of this name.
    Remove(netlink::Address, String),
    /// Put it on a link of this name and hardware address, and tell everybody there.
    Add(netlink::Address, String, Option<MacAddr>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Remove(address, name) => write!(f, "take {} from {name}", address.cidr.addr),
            Step::Add(address, name, _) => write!(f, "answer to {} on {name}", address.cidr.addr),
        }
    }
}

/// The link that the address is for.
fn place<'a>(have: &'a Have, network: &'a Network) -> Option<Managed<'a>> {
    let shared = network.virtual_address.as_ref()?;
    let mut managed = link::select(&have.links, network);
    managed.retain(|managed| match &shared.link {
        Some(name) => managed.seen.link.name == *name,
        None => have.addresses.iter().any(|there| {
            there.link == managed.seen.link.index
                && there.mark != Some(Mark::Shared)
                && there.cidr.contains(shared.address)
        }),
    });
    managed.into_iter().next()
}

/// The address as it is on a link.
fn wanted(address: IpAddr, link: u32) -> netlink::Address {
    netlink::Address {
        link,
        cidr: Cidr {
            addr: address,
            prefix: if address.is_ipv4() { 32 } else { 128 },
        },
        lifetime: None,
        preferred: None,
        unique: Unique::Yes,
        mark: Some(Mark::Shared),
    }
}

/// The missing steps.
fn plan(have: &Have, network: &Network) -> Vec<Step> {
    let place = place(have, network);
    let shared = network.virtual_address.as_ref();
    let wanted = shared
        .zip(place)
        .filter(|_| matches!(have.holder, Holder::Here | Holder::Unknown))
        .map(|(shared, place)| (wanted(shared.address, place.seen.link.index), place));
    let name = |index: u32| {
        let seen = have.links.iter().find(|seen| seen.link.index == index);
        seen.map_or_else(|| format!("link {index}"), |seen| seen.link.name.clone())
    };
    let is_wanted = |there: &netlink::Address| {
        let same = |(wanted, _): &(netlink::Address, Managed<'_>)| {
            (wanted.link, wanted.cidr) == (there.link, there.cidr)
        };
        wanted.as_ref().is_some_and(same)
    };
    let ours = have
        .addresses
        .iter()
        .filter(|there| there.mark == Some(Mark::Shared));
    let mut steps: Vec<Step> = ours
        .filter(|there| !is_wanted(there))
        .map(|there| Step::Remove(there.clone(), name(there.link)))
        .collect();
    let there = have.addresses.iter().any(is_wanted);
    if let Some((wanted, place)) = wanted
        && have.holder == Holder::Here
        && !there
    {
        let link = &place.seen.link;
        steps.push(Step::Add(wanted, link.name.clone(), link.mac));
    }
    steps
}

/// The noun.
#[derive(Debug)]
pub(crate) struct VirtualAddresses {
    shared: Shared,
}

impl VirtualAddresses {
    /// The noun.
    pub(crate) fn new(shared: Shared) -> VirtualAddresses {
        VirtualAddresses { shared }
    }
}

impl Noun for VirtualAddresses {
    const KIND: &'static str = "virtualaddress";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Have> {
        let netlink = Netlink::connect()?;
        let have = Have {
            holder: self.shared.holder(),
            links: link::look(&netlink).await?,
            addresses: netlink.addresses().await?,
        };
        let ours = |there: &netlink::Address| there.mark == Some(Mark::Shared);
        self.shared
            .saw(&have.holder, have.addresses.iter().any(ours));
        self.shared
            .offer_place(place(&have, &want.network).is_some());
        Ok(have)
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, &want.network)
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Remove(address, _) => {
                let netlink = Netlink::connect()?;
                netlink.remove_address(address.link, address.cidr).await
            }
            Step::Add(address, name, mac) => add(address, name, *mac).await,
        }
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        publish(have, &want.network).into_iter().collect()
    }
}

async fn add(address: &netlink::Address, name: &str, mac: Option<MacAddr>) -> anyhow::Result<()> {
    if address.cidr.addr.is_ipv6() {
        // Then the kernel tells the link's neighbours itself: net/ipv6/addrconf.c.
        let path = Path::new("/proc/sys/net/ipv6/conf")
            .join(name)
            .join("ndisc_notify");
        fs::write(&path, "1").with_context(|| format!("writing {}", path.display()))?;
    }
    Netlink::connect()?.add_address(address).await?;
    if let (IpAddr::V4(v4), Some(mac)) = (address.cidr.addr, mac) {
        let link = address.link;
        tokio::spawn(async move {
            for seconds in TOLD_AFTER {
                sleep(Duration::from_secs(seconds)).await;
                if let Err(error) = keelson_sys::ethernet::announce(link, mac.0, v4) {
                    tracing::warn!("telling the link that {v4} is here: {error}");
                }
            }
        });
    }
    Ok(())
}

fn publish(have: &Have, network: &Network) -> Option<Resource> {
    let shared = network.virtual_address.as_ref()?;
    let place = place(have, network);
    let (phase, message, holder) = match &have.holder {
        _ if place.is_none() => (
            Phase::Pending,
            "no link of the config is in its network",
            "",
        ),
        Holder::Unknown => (Phase::Pending, "nobody has asked the cluster yet", ""),
        Holder::Nobody(why) => (Phase::Pending, *why, ""),
        Holder::Here => (Phase::Ready, "", "this machine"),
        Holder::Other(name) => (Phase::Ready, "", name.as_str()),
    };
    let address = shared.address.to_string();
    let mut resource = Resource::new(VirtualAddresses::KIND, address, phase)
        .message(message)
        .field("here", have.holder == Holder::Here)
        .field("holder", holder);
    if let Some(place) = place {
        resource = resource.field("link", place.seen.link.name.as_str());
    }
    Some(resource)
}

#[cfg(test)]
mod tests;
