//! The rules of WireGuard links: what the kernel would take silently and nobody meant.

use super::super::{checked, first_of, items};
use crate::{
    Cidr, Firewall, Link, Made, Network, Peer, PublicKey, Secret, SecretKey, Wireguard,
    document::{LinkSection, NetworkSection, PeerSection, RouteSection, WireguardSection},
    read::{Given, Located, Reader},
    tree::{NodeId, quote},
    value::{self, Wrong},
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// What an entry makes. `None` if it was refused.
pub(super) fn made(reader: &mut Reader<'_>, link: &LinkSection) -> Option<Made> {
    let WireguardSection {
        private_key,
        listen_port,
        fw_mark,
        peers,
    } = &link.wireguard.is()?.value;
    let private_key = private_key.is().and_then(|key| secret(reader, key));
    let port = optional(reader, listen_port, |&port| self::port(port));
    let mut known = BTreeMap::new();
    let mut networks = BTreeMap::new();
    let peers: Vec<Peer> = items(peers)
        .iter()
        .filter_map(|peer| self::peer(reader, peer, &mut known, &mut networks))
        .collect();
    let dhcp = link.dhcp.is().map(|dhcp| [&dhcp.value.v4, &dhcp.value.v6]);
    for asks in dhcp.into_iter().flatten().filter_map(Given::is) {
        if asks.value {
            let message = "a WireGuard link has no DHCP: it carries IP alone";
            reader.key_error(asks.at, message, "give it `addresses`");
        }
    }
    Some(Made::Wireguard(Wireguard {
        private_key: private_key?,
        listen_port: port?,
        fw_mark: optional(reader, fw_mark, |&mark| Ok(mark))?.unwrap_or_default(),
        peers,
    }))
}

/// A value that need not be there: `None` if it is and is wrong.
fn optional<S, T>(
    reader: &mut Reader<'_>,
    written: &Given<S>,
    parse: impl Fn(&S) -> Result<T, Wrong>,
) -> Option<Option<T>> {
    match written {
        Given::Is(written) => checked(reader, written, parse).map(Some),
        Given::Absent => Some(None),
        Given::Bad => None,
    }
}

fn secret(reader: &mut Reader<'_>, written: &Located<Secret>) -> Option<SecretKey> {
    checked(reader, written, |key| key.reveal().parse())
}

fn port(port: u32) -> Result<u16, Wrong> {
    let fits = u16::try_from(port).ok().filter(|port| *port > 0);
    fits.ok_or_else(|| Wrong::new("a port is 1 to 65535"))
}

fn peer(
    reader: &mut Reader<'_>,
    written: &Located<PeerSection>,
    known: &mut BTreeMap<PublicKey, String>,
    networks: &mut BTreeMap<Cidr, String>,
) -> Option<Peer> {
    let PeerSection {
        public_key,
        preshared_key,
        endpoint,
        allowed_ips,
        persistent_keepalive,
    } = &written.value;
    let key = public_key.is().and_then(|at| {
        let key: PublicKey = checked(reader, at, |text| text.parse())?;
        first_of(reader, known, key, at.at).then_some(key)
    });
    let preshared = match preshared_key {
        Given::Is(key) => secret(reader, key).map(Some),
        Given::Absent => Some(None),
        Given::Bad => None,
    };
    let endpoint = optional(reader, endpoint, |text| self::endpoint(text));
    if let Some(list) = allowed_ips.is()
        && reader.is_empty(list.at)
    {
        let hint = "name its own address in the tunnel, for example [10.8.0.2/32]";
        reader.error(list.at, "nothing would be sent to this peer", hint);
    }
    let mut allowed = Vec::new();
    for item in items(allowed_ips) {
        let Some(network) = checked(reader, item, |text| self::network(text)) else {
            continue;
        };
        match networks.get(&network) {
            Some(first) => {
                let message = format!("{network} is behind another peer already, see {first}");
                let hint = "the kernel sends to one peer: keep it at the right one";
                reader.error(item.at, message, hint);
            }
            None => {
                networks.insert(network, reader.path(item.at));
                allowed.push(network);
            }
        }
    }
    allowed.sort();
    let keepalive = optional(reader, persistent_keepalive, |&every| {
        let fits = u16::try_from(every).ok().filter(|every| *every > 0);
        fits.ok_or_else(|| {
            Wrong::new("it is 1 to 65535 seconds").hint("25 is usual; remove the key for never")
        })
    });
    Some(Peer {
        public_key: key?,
        preshared_key: preshared?,
        endpoint: endpoint?,
        allowed_ips: allowed,
        persistent_keepalive: keepalive?.unwrap_or_default(),
    })
}

/// An address and a port. Names are not taken: what they mean may change at any time, and
/// whoever answers for them may be behind the tunnel.
fn endpoint(text: &str) -> Result<SocketAddr, Wrong> {
    const FORM: &str = "it looks like 192.0.2.7:51820 or [2001:db8::7]:51820";
    let Ok(endpoint) = text.parse::<SocketAddr>() else {
        let wrong = Wrong::new(format!("{} is not an address and a port", quote(text)));
        let named = (text.rsplit_once(':'))
            .filter(|(name, _)| name.parse::<IpAddr>().is_err())
            .is_some_and(|(name, _)| value::host(name).is_ok());
        if named {
            return Err(wrong.hint("write the address: names of peers are not looked up"));
        }
        return Err(wrong.hint(FORM));
    };
    port(endpoint.port().into()).map_err(|wrong| wrong.hint(FORM))?;
    let addr = value::address(&endpoint.ip().to_string())?;
    let near = matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if addr.is_loopback() || near {
        let message = format!("{addr} cannot be the address of a peer");
        let hint = "it is one that can be reached by a route";
        return Err(Wrong::new(message).hint(hint));
    }
    Ok(endpoint)
}

/// A network behind a peer; one of multicast may be, for routing daemons.
fn network(text: &str) -> Result<Cidr, Wrong> {
    if let Ok(addr) = text.parse::<IpAddr>() {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let wrong = Wrong::new(format!("{} has no prefix length", quote(text)));
        return Err(wrong.hint(format!("write {text}/{bits} for this address alone")));
    }
    let cidr: Cidr = text.parse()?;
    let network = cidr.network();
    if network != cidr {
        let bits = if cidr.addr.is_ipv4() { 32 } else { 128 };
        let message = format!("{cidr} is an address within a network, not a network");
        let hint = format!(
            "write {network}, or {}/{bits} for the address alone",
            cidr.addr
        );
        return Err(Wrong::new(message).hint(hint));
    }
    Ok(cidr)
}

/// What goes wrong between the links; asked once each is right by itself.
pub(in crate::validate) fn together(
    reader: &mut Reader<'_>,
    section: &NetworkSection,
    network: &Network,
) {
    let mut ports: BTreeMap<u16, String> = BTreeMap::new();
    for (index, written) in items(&section.links).iter().enumerate() {
        let (Some(link), Some(tunnel)) = (network.links.get(index), written.value.wireguard.is())
        else {
            continue;
        };
        let Some(Made::Wireguard(wireguard)) = &link.made else {
            continue;
        };
        if let (Some(port), Some(at)) = (wireguard.listen_port, tunnel.value.listen_port.is()) {
            match ports.get(&port) {
                Some(first) => {
                    let message = format!("port {port} is that of another link, see {first}");
                    reader.error(at.at, message, "each hears its peers on a port of its own");
                }
                None => {
                    ports.insert(port, reader.path(at.at));
                }
            }
            let shut = network.firewall.as_ref().is_some_and(|it| shuts(it, port));
            if shut {
                let message = format!("the firewall lets in nothing that is sent to port {port}");
                let hint = format!(
                    "add a rule such as {{name: wireguard, ports: [{port}], protocol: udp}}"
                );
                reader.warning(at.at, message, &hint);
            }
        }
        let routes = items(&written.value.routes);
        ways(reader, network, index, &tunnel.value, routes);
    }
}

fn shuts(firewall: &Firewall, port: u16) -> bool {
    let meant = |(first, last): &(u16, u16)| (*first..=*last).contains(&port);
    let mut rules = firewall.rules.iter();
    match rules.find(|rule| rule.udp && rule.ports.iter().any(meant)) {
        Some(rule) => rule.block && rule.from.is_empty(),
        None => firewall.block && firewall.nodes.is_empty(),
    }
}

/// What leads into the tunnel leads to a peer, and the other way round; the tunnel itself
/// does not go through itself.
fn ways(
    reader: &mut Reader<'_>,
    network: &Network,
    index: usize,
    section: &WireguardSection,
    routes: &[Located<RouteSection>],
) {
    let link = &network.links[index];
    let Some(Made::Wireguard(wireguard)) = &link.made else {
        return;
    };
    let inside: Vec<Cidr> = (link.addresses.iter().map(Cidr::network))
        .chain(link.routes.iter().map(|route| route.to))
        .collect();
    let overlap = |one: &Cidr, two: &Cidr| one.contains(two.addr) || two.contains(one.addr);
    for (peer, written) in wireguard.peers.iter().zip(items(&section.peers)) {
        for (item, allowed) in written_networks(&written.value) {
            if !inside.iter().any(|it| overlap(it, &allowed)) {
                let message = format!("no route of the link leads to {allowed}");
                let hint = format!("add {{to: {allowed}}} to its `routes`");
                reader.warning(item, message, &hint);
            }
        }
        let (Some(endpoint), Some(at)) = (peer.endpoint, written.value.endpoint.is()) else {
            continue;
        };
        // With a mark, rules may lead it elsewhere.
        let outer = endpoint.ip();
        let others = network.links.iter().enumerate();
        let others = others.filter(|(other, _)| *other != index);
        let others = others.filter_map(|(_, other)| way(other, outer)).max();
        let own = way(link, outer);
        if wireguard.fw_mark == 0 && own.is_some() && own >= others {
            let message = format!("the way to {outer} would lead through this tunnel itself");
            let bits = if outer.is_ipv4() { 32 } else { 128 };
            let hint = format!("give another link a route to {outer}/{bits}");
            reader.warning(at.at, message, &hint);
        }
    }
    for (route, written) in link.routes.iter().zip(routes) {
        let mut allowed = wireguard.peers.iter().flat_map(|peer| &peer.allowed_ips);
        if let Some(to) = written.value.to.is()
            && !allowed.any(|it| overlap(it, &route.to))
        {
            let message = format!("no peer of the link has {} behind it", route.to);
            let hint = "add it to the `allowedIPs` of one";
            reader.warning(to.at, message, hint);
        }
    }
}

/// How closely a link leads to an address: the narrowest network that it is in, and of two
/// the one with the lower metric.
fn way(link: &Link, to: IpAddr) -> Option<(u8, Reverse<u32>)> {
    let near = link.addresses.iter().map(|address| (address.network(), 0));
    let far = link.routes.iter().map(|route| (route.to, route.metric));
    near.chain(far)
        .filter(|(network, _)| network.contains(to))
        .map(|(network, metric)| (network.prefix, Reverse(metric)))
        .max()
}

/// The networks of a peer, and where they stand.
fn written_networks(peer: &PeerSection) -> Vec<(NodeId, Cidr)> {
    let items = items(&peer.allowed_ips).iter();
    items
        .filter_map(|item| Some((item.at, network(&item.value).ok()?)))
        .collect()
}
