//! Rules across the parts of a config: what is right by itself and wrong beside
//! something else. They are asked once every part is valid.

use super::{
    items, network,
    orchestrator::{CLUSTER_CIDRS, SERVICE_CIDRS},
};
use crate::{
    Cidr, Machine, Role,
    document::{Document, OrchestratorSection},
    read::{Any, Given, Located, Reader, nearest},
    tree::{NodeId, quote},
    value,
};
use serde_json::Value as Json;
use std::{collections::BTreeSet, net::IpAddr};

/// What K3s takes where its config says nothing: `k3s server --help`.
const PODS: &str = "10.42.0.0/16";
const SERVICES: &str = "10.43.0.0/16";

/// An address of a link, where it stands, and which link's it is.
struct Address {
    cidr: Cidr,
    at: NodeId,
    link: usize,
}

/// Reports what does not go together.
pub(super) fn check(reader: &mut Reader<'_>, document: &Document, machine: &Machine) {
    let addresses = addresses(document);
    let own: BTreeSet<IpAddr> = addresses.iter().map(|it| it.cidr.addr).collect();
    one_network_for_one_link(reader, &addresses);
    others_are_not_this_machine(reader, document, machine, &own);
    virtual_address(reader, document, machine, &addresses);
    if let Some(section) = document.network.is() {
        network::wireguard::together(reader, &section.value, &machine.network);
        network::rules::together(reader, &section.value, &machine.network);
    }
    if let Some(section) = document.orchestrator.is() {
        joins_another(reader, &section.value, machine, &own);
        // What the keys of another orchestrator mean is not known.
        if machine
            .orchestrator
            .as_ref()
            .is_some_and(|it| it.name == "k3s")
        {
            let settings = Settings::of(&section.value);
            networks(reader, machine, &settings, &addresses);
            node_ip(reader, machine, &settings, &own);
            agent_token(reader, &settings);
        }
    }
}

fn addresses(document: &Document) -> Vec<Address> {
    let mut found = Vec::new();
    let links = document.network.is().map(|it| items(&it.value.links));
    for (link, section) in links.unwrap_or_default().iter().enumerate() {
        for written in items(&section.value.addresses) {
            if let Ok(cidr) = value::host_address(&written.value) {
                let at = written.at;
                found.push(Address { cidr, at, link });
            }
        }
    }
    found
}

fn overlap(one: Cidr, two: Cidr) -> bool {
    one.contains(two.addr) || two.contains(one.addr)
}

/// With the same network on two links the kernel sends through one of them and
/// answers for both: packets come back by the wrong way, or not at all.
fn one_network_for_one_link(reader: &mut Reader<'_>, addresses: &[Address]) {
    let host = |cidr: Cidr| cidr.prefix == if cidr.addr.is_ipv4() { 32 } else { 128 };
    let mut networks: Vec<(Cidr, &Address)> = addresses
        .iter()
        .filter(|address| !host(address.cidr))
        .map(|address| (address.cidr.network(), address))
        .collect();
    // Networks lie within one another or apart. In this order one that holds others
    // stands before them.
    networks.sort_by_key(|(network, _)| (network.addr, network.prefix));
    let mut widest: Option<(Cidr, &Address)> = None;
    for (network, address) in networks {
        match widest {
            Some((wide, other)) if wide.contains(network.addr) => {
                if other.link != address.link {
                    let message = format!(
                        "{} is in the network of {} too, which is on another link",
                        address.cidr,
                        reader.path(other.at)
                    );
                    let hint = "one network is on one link: give both addresses to it, or make the prefixes longer";
                    reader.error(address.at, message, hint);
                }
            }
            _ => widest = Some((network, address)),
        }
    }
}

/// The address that servers share: they alone, in a network of theirs, and nobody's own.
fn virtual_address(
    reader: &mut Reader<'_>,
    document: &Document,
    machine: &Machine,
    addresses: &[Address],
) {
    let network = &machine.network;
    let Some(shared) = &network.virtual_address else {
        return;
    };
    let Some(section) = document
        .network
        .is()
        .and_then(|it| it.value.virtual_address.is())
    else {
        return;
    };
    if machine.role != Role::Server {
        let hint = "remove it; what joins the cluster names it in orchestrator.server";
        reader.key_error(section.at, "only servers share an address", hint);
        return;
    }
    let (Some(address), link) = (section.value.address.is(), section.value.link.is()) else {
        return;
    };
    if let Some(own) = addresses.iter().find(|it| it.cidr.addr == shared.address) {
        let message = format!(
            "{} is this machine's own address at {}",
            shared.address,
            reader.path(own.at)
        );
        let hint = "take one that no machine has";
        return reader.error(address.at, message, hint);
    }
    let named = |it: &&crate::Link| it.select.name == shared.link;
    let entry = network.links.iter().find(named);
    if let (Some(link), None) = (link, entry) {
        // A name that a selector may mean is nobody's mistake.
        let selected = network.links.iter().any(|it| it.select.name.is_none());
        if !selected {
            let names = network
                .links
                .iter()
                .filter_map(|it| it.select.name.as_deref());
            let hint = match nearest(&link.value, names) {
                Some(name) => format!("did you mean {name}?"),
                None => "add it to network.links".to_owned(),
            };
            let message = format!("no link of the config is named {}", quote(&link.value));
            return reader.error(link.at, message, &hint);
        }
    }
    // A lease may bring the network, and a router an IPv6 one.
    let candidates = || {
        entry
            .into_iter()
            .chain(network.links.iter().filter(|_| entry.is_none()))
    };
    let unknown = candidates().any(|it| it.dhcp_v4) || shared.address.is_ipv6();
    let near: Vec<Cidr> = candidates()
        .flat_map(|it| it.addresses.iter().map(Cidr::network))
        .filter(|it| it.addr.is_ipv4() == shared.address.is_ipv4())
        .collect();
    if !unknown && !near.iter().any(|it| it.contains(shared.address)) {
        let message = format!("{} is in no network of this machine", shared.address);
        let shown: Vec<String> = near.iter().map(ToString::to_string).collect();
        let hint = match shown.is_empty() {
            true => String::new(),
            false => format!("those are {}", shown.join(", ")),
        };
        reader.error(address.at, message, &hint);
    }
}

/// Nobody on this machine answers as a resolver or a time server.
fn others_are_not_this_machine(
    reader: &mut Reader<'_>,
    document: &Document,
    machine: &Machine,
    own: &BTreeSet<IpAddr>,
) {
    let own = |text: &str| {
        let addr: Option<IpAddr> = text.parse().ok();
        addr.is_some_and(|addr| own.contains(&addr))
            || machine
                .hostname
                .as_ref()
                .is_some_and(|it| it.as_str() == text)
    };
    let nameservers = document.network.is().map(|it| items(&it.value.nameservers));
    for server in nameservers.unwrap_or_default() {
        if own(&server.value) {
            let message = format!("{} is the machine itself", server.value);
            reader.error(server.at, message, "no resolver runs on the machine");
        }
    }
    let section = document.machine.is();
    let time = section.and_then(|section| section.value.time.is());
    for server in time.map(|it| items(&it.value.servers)).unwrap_or_default() {
        if own(&server.value) {
            let message = format!("{} is the machine itself", server.value);
            reader.error(server.at, message, "no time server runs on the machine");
        }
    }
}

/// The orchestrator's own keys.
struct Settings<'d> {
    written: Vec<&'d Located<Any>>,
    /// The lists that stand for keys.
    lists: [(&'static str, &'d Given<Vec<Located<String>>>); 2],
}

impl<'d> Settings<'d> {
    fn of(section: &'d OrchestratorSection) -> Settings<'d> {
        let settings = section.settings.is();
        Settings {
            written: settings.map_or_else(Vec::new, |it| it.value.0.iter().collect()),
            lists: [
                (CLUSTER_CIDRS, &section.cluster_cidrs),
                (SERVICE_CIDRS, &section.service_cidrs),
            ],
        }
    }

    /// The values of a key: K3s takes one, a list, and some with commas between them.
    fn values(&self, reader: &Reader<'_>, key: &str) -> Vec<(NodeId, String)> {
        let mut found = Vec::new();
        for (_, list) in self.lists.iter().filter(|(name, _)| *name == key) {
            found.extend(items(list).iter().map(|it| (it.at, it.value.clone())));
        }
        let mut add = |at: NodeId, value: &Json| {
            if let Json::String(text) = value {
                let parts = text.split(',').map(|it| (at, it.trim().to_owned()));
                found.extend(parts);
            }
        };
        for it in &self.written {
            if reader.key(it.at).trim_end_matches('+') == key {
                match &it.value.0 {
                    Json::Array(values) => values.iter().for_each(|value| add(it.at, value)),
                    value => add(it.at, value),
                }
            }
        }
        found
    }

    /// The networks of a key.
    fn networks(&self, reader: &mut Reader<'_>, key: &str) -> Option<Vec<(NodeId, Cidr)>> {
        let mut found = Vec::new();
        for (at, text) in self.values(reader, key) {
            match value::network(&text) {
                Ok(cidr) => found.push((at, cidr)),
                Err(wrong) => {
                    reader.error(at, wrong.message, &wrong.hint);
                    return None;
                }
            }
        }
        Some(found)
    }
}

/// The networks of pods, of services and of the machine are apart.
fn networks(
    reader: &mut Reader<'_>,
    machine: &Machine,
    settings: &Settings<'_>,
    addresses: &[Address],
) {
    let (Some(pods), Some(services)) = (
        settings.networks(reader, CLUSTER_CIDRS),
        settings.networks(reader, SERVICE_CIDRS),
    ) else {
        return;
    };
    for given in [&pods, &services] {
        if let Some((at, _)) = given.get(2) {
            let hint = "one is IPv4, the other IPv6";
            reader.error(
                *at,
                format!("expected two networks at most, found {}", given.len()),
                hint,
            );
            return;
        }
    }
    // Agents are told by their server.
    if machine.role != Role::Server {
        return;
    }
    let mut known: Vec<(&str, Option<NodeId>, Cidr)> = Vec::new();
    for (what, given, default) in [("pods", &pods, PODS), ("services", &services, SERVICES)] {
        known.extend(given.iter().map(|&(at, cidr)| (what, Some(at), cidr)));
        if given.is_empty() {
            known.extend(value::network(default).map(|cidr| (what, None, cidr)));
        }
    }
    for (index, &(what, at, cidr)) in known.iter().enumerate() {
        for &(other, other_at, there) in &known[..index] {
            if let Some(at) = at.or(other_at)
                && overlap(cidr, there)
            {
                let message = if what == other {
                    format!("{there} and {cidr} overlap")
                } else {
                    format!(
                        "the network of the {other}, {there}, and that of the {what}, {cidr}, overlap"
                    )
                };
                reader.error(at, message, "give each a network of its own");
            }
        }
        for address in addresses {
            if overlap(cidr, address.cidr.network()) {
                let key = if what == "pods" {
                    "clusterCIDRs"
                } else {
                    "serviceCIDRs"
                };
                let message = format!("{} is in the network of the {what}, {cidr}", address.cidr);
                let hint = format!("set orchestrator.{key} to a network that is nowhere else");
                reader.error(address.at, message, &hint);
            }
        }
    }
    for (at, text) in settings.values(reader, "cluster-dns") {
        let services: Vec<Cidr> = known
            .iter()
            .filter(|(what, ..)| *what == "services")
            .map(|&(_, _, cidr)| cidr)
            .collect();
        match text.parse::<IpAddr>() {
            Err(_) => reader.error(at, format!("{} is not an address", quote(&text)), ""),
            Ok(addr) if services.iter().any(|it| it.contains(addr)) => {}
            Ok(addr) => {
                let shown: Vec<_> = services.iter().map(ToString::to_string).collect();
                let message = format!("{addr} is not in the network of the services");
                reader.error(at, message, &format!("that is {}", shown.join(", ")));
            }
        }
    }
}

/// A machine that joins itself waits for ever.
fn joins_another(
    reader: &mut Reader<'_>,
    section: &OrchestratorSection,
    machine: &Machine,
    own: &BTreeSet<IpAddr>,
) {
    let Some(server) = section.server.is() else {
        return;
    };
    let rest = server.value.strip_prefix("https://").unwrap_or_default();
    let host = match rest.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None => rest.split([':', '/']).next().unwrap_or_default(),
    };
    let addr: Option<IpAddr> = host.parse().ok();
    let own = addr.is_some_and(|addr| addr.is_loopback() || own.contains(&addr))
        || host == "localhost"
        || machine
            .hostname
            .as_ref()
            .is_some_and(|it| it.as_str() == host);
    if own {
        let hint = match machine.role {
            Role::Server => "the first server of a cluster joins none: remove the key",
            _ => "name another machine, one with the role server",
        };
        reader.error(server.at, format!("{host} is the machine itself"), hint);
    }
}

/// The node's address is one that the machine has.
fn node_ip(
    reader: &mut Reader<'_>,
    machine: &Machine,
    settings: &Settings<'_>,
    own: &BTreeSet<IpAddr>,
) {
    let leased = machine.network.links.iter().any(|link| link.dhcp_v4);
    for (at, text) in settings.values(reader, "node-ip") {
        match text.parse::<IpAddr>() {
            Err(_) => {
                let hint = "here it is written without a prefix length";
                let hint = if text.contains('/') { hint } else { "" };
                reader.error(at, format!("{} is not an address", quote(&text)), hint);
            }
            // A lease may bring it, and a router an IPv6 one.
            Ok(addr) if leased || addr.is_ipv6() => {}
            Ok(addr) if own.contains(&addr) => {}
            Ok(addr) => {
                let message = format!("no link has the address {addr}");
                reader.error(at, message, "it is one of network.links[].addresses");
            }
        }
    }
}

/// What joins agents is as good as what joins servers.
fn agent_token(reader: &mut Reader<'_>, settings: &Settings<'_>) {
    for it in &settings.written {
        if reader.key(it.at) != "agent-token" {
            continue;
        }
        if let Json::String(text) = &it.value.0
            && let Err(wrong) = value::token(text)
        {
            reader.error(it.at, wrong.message, &wrong.hint);
        }
    }
}
