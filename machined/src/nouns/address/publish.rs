//! What is shown of addresses, and of the clients that ask for them.

use super::{Addresses, Have, told};
use crate::{
    dhcp::{Family, Status},
    netlink::{self, Mark},
    noun::Noun as _,
    nouns::link::{self, Managed, Seen},
    resource::{Phase, Resource},
};
use keelson_config::Network;
use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

/// The addresses of the selected links and the loopback, whoever added them, and where the
/// clients stand.
pub(super) fn publish(have: &Have, network: &Network) -> Vec<Resource> {
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
            resources.push(shown(seen, address, have));
        }
        if let Some(managed) = managed.filter(|managed| managed.want.dhcp_v4) {
            resources.push(client_shown(managed, have));
        }
        if let Some(managed) = managed.filter(|managed| managed.want.dhcp_v6) {
            resources.push(client6_shown(managed, have));
        }
    }
    resources
}

fn shown(seen: &Seen, address: &netlink::Address, have: &Have) -> Resource {
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
    let link = seen.link.index;
    let expires = match (
        address.cidr.addr,
        have.leases.get(&link),
        have.leases6.get(&link),
    ) {
        (IpAddr::V4(v4), Some(Status::Bound { bound, expires }), _)
            if v4 == bound.lease.address =>
        {
            *expires
        }
        (IpAddr::V6(v6), _, Some(Status::Bound { bound, expires }))
            if v6 == bound.lease.address =>
        {
            *expires
        }
        _ => None,
    };
    if let Some(expires) = expires.filter(|_| address.mark == Some(Mark::Lease)) {
        resource = resource.field("expires", seconds(expires));
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

/// The same, of its client of DHCPv6. A network without such a server holds nothing up, as
/// long as the link, or another that nobody named either, has an address.
fn client6_shown(managed: &Managed<'_>, have: &Have) -> Resource {
    let link = &managed.seen.link;
    let another = || {
        let mut v4 = have.leases.iter();
        let mut v6 = have.leases6.iter();
        v4.any(|(other, status)| *other != link.index && status.bound().is_some())
            || v6.any(|(other, status)| *other != link.index && status.bound().is_some())
    };
    let v4 = have.leases.get(&link.index).and_then(Status::bound);
    let optional = !managed.want.addresses.is_empty()
        || (managed.want.dhcp_v4 && v4.is_some())
        || (!managed.named() && another());
    let lenient = |phase| if optional { Phase::Ready } else { phase };
    let status = have.leases6.get(&link.index);
    let bound = status.and_then(Status::bound);
    let (phase, message) = match status {
        _ if !link.carrier && !managed.named() => (Phase::Ready, "no carrier"),
        _ if !link.carrier => (Phase::Pending, "no carrier: is a cable in?"),
        Some(Status::Bound { .. }) => (Phase::Ready, ""),
        _ if !told(have, link, Family::V6).up => {
            let message = "the link has no link-local address that it can be asked from";
            (lenient(Phase::Pending), message)
        }
        None | Some(Status::Asking) => (lenient(Phase::Pending), "waiting for a DHCPv6 server"),
        Some(Status::Unanswered) => (lenient(Phase::Failed), "no DHCPv6 server answers"),
        Some(Status::Lost(reason)) => (lenient(Phase::Failed), *reason),
    };
    let mut resource = Resource::new(Addresses::KIND, format!("{}/dhcpv6", link.name), phase)
        .message(message)
        .field("link", link.name.as_str());
    if let Some(bound) = bound {
        resource = resource.field("server", bound.lease.from.to_string());
        if let Some(lent) = bound.lease.valid {
            resource = resource.field("leaseSeconds", lent.as_secs());
        }
    }
    resource
}
