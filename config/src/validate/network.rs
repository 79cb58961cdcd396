//! The rules of `network`: which link an entry means, and that its addresses,
//! routes and gateways fit each other.

mod bond;
mod lease;
mod made;
pub(super) mod rules;
pub(super) mod wireguard;

use super::{checked, firewall, first_of, items};
use crate::{
    Cidr, Link, LinkSelector, MAIN_TABLE, Network, Route, VirtualAddress,
    document::{LinkSection, NetworkSection, RouteSection, SelectSection, VirtualAddressSection},
    read::{Entries, Given, Located, Reader},
    tree::NodeId,
    value::{self, Wrong},
};
use made::Stack;
use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

/// The metric that the kernel gives IPv6 routes: IP6_RT_PRIO_USER in include/net/ip6_route.h.
const DEFAULT_METRIC: u32 = 1024;
/// resolv.conf(5), MAXNS.
const MAX_NAMESERVERS: usize = 3;
/// resolv.conf(5): what the C library took before version 2.26.
const MAX_SEARCH_DOMAINS: usize = 6;
/// The least that IPv6 works with (RFC 8200, section 5) to the largest IPv4 packet.
const MTU: RangeInclusive<u32> = 1280..=65535;

pub(super) fn network(reader: &mut Reader<'_>, network: &Given<NetworkSection>) -> Option<Network> {
    let any = || vec![Link::any_dhcp()];
    let Some(network) = network.is() else {
        return network.is_absent().then(|| Network {
            links: any(),
            ..Network::default()
        });
    };
    let nameservers = nameservers(reader, &network.value.nameservers);
    let search_domains = search_domains(reader, &network.value.search_domains);
    let hosts = hosts(reader, &network.value.hosts);
    let virtual_address = virtual_address(reader, &network.value.virtual_address);
    let firewall = firewall::firewall(reader, &network.value.firewall);
    let rules = rules::rules(reader, &network.value.rules);
    let links = match &network.value.links {
        Given::Absent => any(),
        Given::Bad => return None,
        Given::Is(links) => {
            if links.value.is_empty() && reader.is_empty(links.at) {
                let hint = "remove the key for DHCP on every Ethernet link";
                reader.error(
                    links.at,
                    "without any link the machine cannot be reached",
                    hint,
                );
            }
            let mut seen = Seen::default();
            let stack = Stack::of(&links.value);
            let read: Vec<Link> = links
                .value
                .iter()
                .filter_map(|written| link(reader, written, &stack, &mut seen))
                .collect();
            made::check(reader, &links.value, &stack);
            let reached = read
                .iter()
                .any(|link| link.dhcp_v4 || link.dhcp_v6 || !link.addresses.is_empty());
            if !reached && !read.is_empty() && !reader.problems.has_errors() {
                let message = "no link has an address: the machine cannot be reached";
                let hint = "add `dhcp: {v4: true}`, or `addresses`, to one of them";
                reader.error(links.at, message, hint);
            }
            read
        }
    };
    Some(Network {
        links,
        nameservers,
        search_domains,
        hosts,
        virtual_address,
        firewall,
        rules,
    })
}

fn virtual_address(
    reader: &mut Reader<'_>,
    written: &Given<VirtualAddressSection>,
) -> Option<VirtualAddress> {
    let VirtualAddressSection { address, link } = &written.is()?.value;
    let link = match link.is() {
        Some(link) => Some(checked(reader, link, |text| value::link_name(text))?),
        None => None,
    };
    let address = checked(reader, address.is()?, |text| {
        let address = value::address(text)?;
        let shared = match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        match shared {
            true => Ok(address),
            false => Err(Wrong::new(format!(
                "{address} is an address that machines cannot share"
            ))
            .hint("take one of the network that the servers are in")),
        }
    })?;
    Some(VirtualAddress { address, link })
}

/// What must not be there twice in one machine, and where it was seen first.
#[derive(Default)]
struct Seen {
    links: BTreeMap<LinkSelector, String>,
    addresses: BTreeMap<IpAddr, String>,
    routes: BTreeMap<(u32, Cidr, u32), String>,
    metrics: BTreeMap<u32, String>,
}

fn nameservers(reader: &mut Reader<'_>, written: &Given<Vec<Located<String>>>) -> Vec<IpAddr> {
    let mut seen = BTreeMap::new();
    let mut servers = Vec::new();
    for server in items(written) {
        let Some(addr) = checked(reader, server, |text| value::address(text)) else {
            continue;
        };
        if addr.is_loopback() {
            let hint = "no resolver runs on the machine, and none of a pod would reach it";
            reader.error(server.at, format!("{addr} is the machine itself"), hint);
        } else if first_of(reader, &mut seen, addr, server.at) {
            if servers.len() == MAX_NAMESERVERS {
                reader.warning(
                    server.at,
                    "only the first three resolvers are used",
                    "remove the others",
                );
            }
            servers.push(addr);
        }
    }
    servers
}

fn search_domains(reader: &mut Reader<'_>, written: &Given<Vec<Located<String>>>) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut domains = Vec::new();
    for domain in items(written) {
        let Some(name) = checked(reader, domain, |text| value::host_name(text)) else {
            continue;
        };
        let name = name.trim_end_matches('.').to_owned();
        if first_of(reader, &mut seen, name.clone(), domain.at) {
            if domains.len() == MAX_SEARCH_DOMAINS {
                let message = "some programs only use the first six domains";
                reader.warning(domain.at, message, "remove the others");
            }
            domains.push(name);
        }
    }
    domains
}

fn hosts(
    reader: &mut Reader<'_>,
    written: &Given<Entries<Vec<Located<String>>>>,
) -> BTreeMap<IpAddr, Vec<String>> {
    let mut seen = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    for entry in written.is().map_or(&[][..], |it| &it.value.0) {
        let key = reader.key(entry.at).to_owned();
        let addr = match value::address(&key) {
            Ok(addr) => addr,
            Err(wrong) => {
                let hint = "the address stands before its names: {10.0.0.1: [name]}";
                reader.key_error(entry.at, wrong.message, hint);
                continue;
            }
        };
        if !first_of(reader, &mut seen, addr, entry.at) {
            continue;
        }
        let mut names = Vec::new();
        let mut known = BTreeMap::new();
        for name in &entry.value {
            let Some(text) = checked(reader, name, |text| value::host_name(text)) else {
                continue;
            };
            if text.eq_ignore_ascii_case("localhost") {
                reader.error(name.at, "localhost is the machine itself", "remove it");
            } else if first_of(reader, &mut known, text.clone(), name.at) {
                names.push(text);
            }
        }
        if names.is_empty() && reader.is_empty(entry.at) {
            reader.error(entry.at, "the address has no name", "name it, or remove it");
        }
        hosts.insert(addr, names);
    }
    hosts
}

fn link(
    reader: &mut Reader<'_>,
    written: &Located<LinkSection>,
    stack: &Stack<'_>,
    seen: &mut Seen,
) -> Option<Link> {
    let section = &written.value;
    let made = made::made(reader, written);
    let select = selector(reader, written);
    if let Some(select) = &select {
        match seen.links.get(select) {
            Some(first) => {
                let message = format!("this link is already configured at {first}");
                reader.error(
                    written.at,
                    message,
                    "put all that belongs to a link into one entry",
                );
            }
            None => {
                seen.links.insert(select.clone(), reader.path(written.at));
            }
        }
    }
    let asks = |given: &Given<bool>| given.is().is_some_and(|given| given.value);
    let dhcp = section.dhcp.is().map(|dhcp| &dhcp.value);
    let dhcp_v4 = dhcp.is_some_and(|dhcp| asks(&dhcp.v4));
    let dhcp_v6 = dhcp.is_some_and(|dhcp| asks(&dhcp.v6));
    let lease = lease::taken(reader, &section.dhcp, &mut seen.metrics);
    let mut addresses = Vec::new();
    for address in items(&section.addresses) {
        if let Some(cidr) = checked(reader, address, |text| value::host_address(text))
            && first_of(reader, &mut seen.addresses, cidr.addr, address.at)
        {
            addresses.push(cidr);
        }
    }
    let tried = matches!(section.dhcp, Given::Bad)
        || dhcp
            .is_some_and(|dhcp| matches!((&dhcp.v4, &dhcp.v6), (Given::Bad, _) | (_, Given::Bad)))
        || matches!(section.addresses, Given::Bad)
        || section
            .addresses
            .is()
            .is_some_and(|list| !reader.is_empty(list.at));
    // What others stand on, or may, needs none.
    let needless = made::is_made(section) || stack.carries(section);
    if !dhcp_v4 && !dhcp_v6 && addresses.is_empty() && !tried && !needless {
        let hint = "add `dhcp: {v4: true}`, or `addresses`";
        reader.error(written.at, "the link would have no address", hint);
    }
    let mtu = section.mtu.is().and_then(|mtu| {
        checked(reader, mtu, |&mtu| {
            if MTU.contains(&mtu) {
                return Ok(mtu);
            }
            let message = format!("a link's MTU is {} to {}", MTU.start(), MTU.end());
            Err(Wrong::new(message).hint("1500 is usual, 9000 where all of the network has it"))
        })
    });
    let routes = routes(reader, section, &addresses, (dhcp_v4, dhcp_v6), seen);
    Some(Link {
        select: select?,
        made: made?,
        dhcp_v4,
        dhcp_v6,
        lease,
        addresses,
        mtu,
        routes,
    })
}

/// Which link an entry means: by name or by what it is, never both.
fn selector(reader: &mut Reader<'_>, written: &Located<LinkSection>) -> Option<LinkSelector> {
    if made::is_made(&written.value) {
        return made::name(reader, written);
    }
    match (&written.value.name, &written.value.select) {
        (Given::Absent, Given::Absent) => {
            let hint = "add `name: eth0`, or `select: {mac: …}`";
            reader.missing(
                written.at,
                "name",
                "the entry does not say which link it is for",
                hint,
            );
            None
        }
        (Given::Is(_) | Given::Bad, Given::Is(select)) => {
            let hint = "keep `name` or `select`, whichever says best which link it is";
            reader.key_error(select.at, "the link is named and selected at once", hint);
            None
        }
        (Given::Is(name), _) => {
            let name = checked(reader, name, |text| value::link_name(text))?;
            Some(LinkSelector {
                name: Some(name),
                ..LinkSelector::default()
            })
        }
        (_, Given::Is(select)) => {
            let SelectSection { mac, driver } = &select.value;
            if mac.is_absent() && driver.is_absent() {
                reader.error(
                    select.at,
                    "the selector is empty",
                    "give it a `mac` or a `driver`",
                );
                return None;
            }
            let mac = mac
                .is()
                .map(|mac| checked(reader, mac, |text| text.parse()));
            let driver = driver
                .is()
                .map(|driver| checked(reader, driver, |text| value::driver(text)));
            Some(LinkSelector {
                name: None,
                mac: mac.flatten(),
                driver: driver.flatten(),
            })
        }
        _ => None,
    }
}

fn routes(
    reader: &mut Reader<'_>,
    section: &LinkSection,
    addresses: &[Cidr],
    (dhcp_v4, dhcp_v6): (bool, bool),
    seen: &mut Seen,
) -> Vec<Route> {
    let written = items(&section.routes);
    let mut routes: Vec<(Route, Option<NodeId>)> = Vec::new();
    for route in written {
        routes.extend(self::route(reader, route, seen));
    }
    // What can be reached without a gateway: the networks of the addresses, and
    // the networks that a route says are on the link.
    let near: Vec<Cidr> = addresses
        .iter()
        .copied()
        .chain(
            routes
                .iter()
                .filter(|(r, _)| r.via.is_none())
                .map(|(r, _)| r.to),
        )
        .collect();
    let addresses_are_sure = items(&section.addresses).len() == addresses.len()
        && !matches!(section.addresses, Given::Bad);
    for (route, at) in &routes {
        let (Some(via), Some(at)) = (route.via, at) else {
            continue;
        };
        if addresses.iter().any(|address| address.addr == via) {
            reader.error(
                *at,
                format!("the gateway {via} is this machine's own address"),
                "",
            );
            continue;
        }
        let link_local = matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
        // A lease brings the network, or a router that is heard.
        let leased = if via.is_ipv4() { dhcp_v4 } else { dhcp_v6 };
        if !link_local
            && !leased
            && addresses_are_sure
            && !near.iter().any(|near| near.contains(via))
        {
            let message = format!("the gateway {via} is in no network of this link");
            let hint = match addresses
                .iter()
                .find(|address| address.addr.is_ipv4() == via.is_ipv4())
            {
                Some(address) => format!("the link's network is {}", address.network()),
                None => "give the link an address in the gateway's network".to_owned(),
            };
            reader.error(*at, message, &hint);
        }
    }
    routes.into_iter().map(|(route, _)| route).collect()
}

/// One route, and where its gateway stands.
fn route(
    reader: &mut Reader<'_>,
    written: &Located<RouteSection>,
    seen: &mut Seen,
) -> Option<(Route, Option<NodeId>)> {
    let RouteSection {
        to,
        via,
        metric,
        table,
    } = &written.value;
    let network = to
        .is()
        .and_then(|to| checked(reader, to, |text| value::network(text)));
    let gateway = via
        .is()
        .map(|via| checked(reader, via, |text| value::address(text)));
    let number = match metric.is() {
        Some(metric) if metric.value == 0 => {
            reader.error(
                metric.at,
                "the metric is at least 1",
                "lower wins; remove it for 1024",
            );
            return None;
        }
        Some(metric) => metric.value,
        None => DEFAULT_METRIC,
    };
    let table = match table {
        Given::Is(table) => checked(reader, table, |&number| rules::table(number))?,
        Given::Absent => MAIN_TABLE,
        Given::Bad => return None,
    };
    let (network, to) = (network?, to.is()?);
    if matches!(via, Given::Bad) || matches!(gateway, Some(None)) {
        return None;
    }
    let gateway = gateway.flatten();
    if let (Some(gateway), Some(via)) = (gateway, via.is())
        && gateway.is_ipv4() != network.addr.is_ipv4()
    {
        reader.error(
            via.at,
            format!("{gateway} cannot be the gateway to {network}"),
            "one is IPv4, the other IPv6",
        );
        return None;
    }
    if let Some(first) = seen.routes.get(&(table, network, number)) {
        let message =
            format!("a route to {network} with metric {number} is already given at {first}");
        reader.error(
            to.at,
            message,
            "give one of the two another metric: lower wins",
        );
        return None;
    }
    seen.routes
        .insert((table, network, number), reader.path(written.at));
    Some((
        Route {
            to: network,
            via: gateway,
            metric: number,
            table,
        },
        via.is().map(|via| via.at),
    ))
}
