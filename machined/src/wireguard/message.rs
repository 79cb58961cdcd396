//! The messages of the family "wireguard", include/uapi/linux/wireguard.h: from a change to
//! bytes, and from bytes to what a link is.

use super::{Change, Device, PeerChange, What};
use keelson_config::{Cidr, PublicKey, SecretKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use zeroize::Zeroizing;

/// WG_GENL_NAME.
pub(super) const FAMILY: &str = "wireguard";
/// WG_CMD_GET_DEVICE.
pub(super) const GET_DEVICE: u8 = 0;
/// WG_CMD_SET_DEVICE.
pub(super) const SET_DEVICE: u8 = 1;

/// enum wgdevice_attribute.
mod device {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const PRIVATE_KEY: u16 = 3;
    pub(super) const PUBLIC_KEY: u16 = 4;
    pub(super) const LISTEN_PORT: u16 = 6;
    pub(super) const FWMARK: u16 = 7;
    pub(super) const PEERS: u16 = 8;
}

/// enum wgpeer_attribute and enum wgpeer_flag.
mod peer {
    pub(super) const PUBLIC_KEY: u16 = 1;
    pub(super) const PRESHARED_KEY: u16 = 2;
    pub(super) const FLAGS: u16 = 3;
    pub(super) const ENDPOINT: u16 = 4;
    pub(super) const PERSISTENT_KEEPALIVE_INTERVAL: u16 = 5;
    pub(super) const LAST_HANDSHAKE_TIME: u16 = 6;
    pub(super) const ALLOWEDIPS: u16 = 9;

    pub(super) const REMOVE_ME: u32 = 1;
    pub(super) const REPLACE_ALLOWEDIPS: u32 = 2;
    pub(super) const UPDATE_ONLY: u32 = 4;
}

/// enum wgallowedip_attribute.
mod allowed {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const IPADDR: u16 = 2;
    pub(super) const CIDR_MASK: u16 = 3;
}

/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// NLA_TYPE_MASK.
const KIND: u16 = 0x3fff;
/// An attribute is at most 64 KiB long: so many networks fit with room to spare.
const NETWORKS_AT_ONCE: usize = 512;
/// sin_family of struct sockaddr_in and sockaddr_in6.
const INET: u16 = nix::libc::AF_INET as u16;
const INET6: u16 = nix::libc::AF_INET6 as u16;

type Bytes = Zeroizing<Vec<u8>>;

/// Appends an attribute.
pub(super) fn put(to: &mut Bytes, kind: u16, value: &[u8]) {
    to.extend(((4 + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend_from_slice(value);
    let padded = to.len().next_multiple_of(4);
    to.resize(padded, 0);
}

fn nest(to: &mut Bytes, kind: u16, fill: impl FnOnce(&mut Bytes)) {
    let mut inner = Bytes::default();
    fill(&mut inner);
    put(to, kind | NESTED, &inner);
}

/// The attributes of a message or a nest, as far as they are whole.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & KIND, value))
    })
}

/// Asks what a link is.
pub(super) fn get(link: u32) -> Bytes {
    let mut bytes = Bytes::default();
    put(&mut bytes, device::IFINDEX, &link.to_ne_bytes());
    bytes
}

/// A change, in messages of a size that the kernel takes.
pub(super) fn set(link: u32, change: &Change) -> Vec<Bytes> {
    let Change {
        private_key,
        listen_port,
        fw_mark,
        peers,
    } = change;
    let mut first = get(link);
    let alone = first.len();
    if let Some(key) = private_key {
        put(&mut first, device::PRIVATE_KEY, key.reveal());
    }
    if let Some(port) = listen_port {
        put(&mut first, device::LISTEN_PORT, &port.to_ne_bytes());
    }
    if let Some(mark) = fw_mark {
        put(&mut first, device::FWMARK, &mark.to_ne_bytes());
    }
    let mut messages = Vec::new();
    if first.len() > alone {
        messages.push(first);
    }
    for change in peers {
        for part in self::peer(change) {
            let mut message = get(link);
            nest(&mut message, device::PEERS, |peers| {
                put(peers, NESTED, &part);
            });
            messages.push(message);
        }
    }
    messages
}

/// A peer, once for each lot of its networks.
fn peer(change: &PeerChange) -> Vec<Bytes> {
    let begin = |flags: u32| {
        let mut bytes = Bytes::default();
        put(&mut bytes, peer::PUBLIC_KEY, &change.key.0);
        put(&mut bytes, peer::FLAGS, &flags.to_ne_bytes());
        bytes
    };
    let What::Set {
        new,
        preshared_key,
        endpoint,
        allowed_ips,
        persistent_keepalive,
    } = &change.what
    else {
        return vec![begin(peer::REMOVE_ME)];
    };
    let mut flags = if *new { 0 } else { peer::UPDATE_ONLY };
    if allowed_ips.is_some() {
        flags |= peer::REPLACE_ALLOWEDIPS;
    }
    let mut bytes = begin(flags);
    if let Some(key) = preshared_key {
        // Zeros take it away.
        let none = SecretKey::new([0; keelson_config::KEY]);
        let key = key.as_ref().unwrap_or(&none);
        put(&mut bytes, peer::PRESHARED_KEY, key.reveal());
    }
    if let Some(endpoint) = endpoint {
        put(&mut bytes, peer::ENDPOINT, &socket_address(*endpoint));
    }
    if let Some(every) = persistent_keepalive {
        let kind = peer::PERSISTENT_KEEPALIVE_INTERVAL;
        put(&mut bytes, kind, &every.to_ne_bytes());
    }
    let networks: Vec<Cidr> = allowed_ips.iter().flatten().copied().collect();
    let mut lots = networks.chunks(NETWORKS_AT_ONCE);
    let mut parts = vec![with_networks(bytes, lots.next().unwrap_or_default())];
    parts.extend(lots.map(|lot| with_networks(begin(peer::UPDATE_ONLY), lot)));
    parts
}

fn with_networks(mut bytes: Bytes, networks: &[Cidr]) -> Bytes {
    if networks.is_empty() {
        return bytes;
    }
    nest(&mut bytes, peer::ALLOWEDIPS, |list| {
        for network in networks {
            nest(list, 0, |item| {
                let (family, addr) = match network.addr {
                    IpAddr::V4(addr) => (INET, addr.octets().to_vec()),
                    IpAddr::V6(addr) => (INET6, addr.octets().to_vec()),
                };
                put(item, allowed::FAMILY, &family.to_ne_bytes());
                put(item, allowed::IPADDR, &addr);
                put(item, allowed::CIDR_MASK, &[network.prefix]);
            });
        }
    });
    bytes
}

/// struct sockaddr_in or sockaddr_in6.
fn socket_address(endpoint: SocketAddr) -> Vec<u8> {
    match endpoint {
        SocketAddr::V4(v4) => [
            &INET.to_ne_bytes()[..],
            &v4.port().to_be_bytes(),
            &v4.ip().octets(),
            &[0; 8],
        ]
        .concat(),
        SocketAddr::V6(v6) => [
            &INET6.to_ne_bytes()[..],
            &v6.port().to_be_bytes(),
            &v6.flowinfo().to_be_bytes(),
            &v6.ip().octets(),
            &v6.scope_id().to_ne_bytes(),
        ]
        .concat(),
    }
}

fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match family {
        INET => {
            let addr: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(addr), port).into())
        }
        INET6 => {
            // What a packet's label was says nothing of where the peer is.
            let addr: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(addr), port, 0, scope).into())
        }
        _ => None,
    }
}

fn number<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

fn secret(bytes: &[u8]) -> Option<SecretKey> {
    let key: &[u8; keelson_config::KEY] = bytes.try_into().ok()?;
    key.iter()
        .any(|byte| *byte != 0)
        .then(|| SecretKey::new(*key))
}

/// What a link is, of all the messages that say so: a long list of peers is in several, and so
/// may be a peer with many networks.
pub(super) fn device(parts: &[Bytes], now: u64) -> Device {
    let mut found = Device {
        now,
        ..Device::default()
    };
    for (kind, value) in parts.iter().flat_map(|part| attributes(part)) {
        match kind {
            device::PRIVATE_KEY => found.private_key = secret(value),
            device::PUBLIC_KEY => found.public_key = value.try_into().ok().map(PublicKey),
            device::LISTEN_PORT => found.listen_port = u16::from_ne_bytes(number(value)),
            device::FWMARK => found.fw_mark = u32::from_ne_bytes(number(value)),
            device::PEERS => {
                for (_, peer) in attributes(value) {
                    add_peer(&mut found, peer);
                }
            }
            _ => {}
        }
    }
    found
}

fn add_peer(found: &mut Device, bytes: &[u8]) {
    let key = attributes(bytes).find(|(kind, _)| *kind == peer::PUBLIC_KEY);
    let Some(key) = key.and_then(|(_, key)| key.try_into().ok()) else {
        return;
    };
    let seen = found.peers.entry(PublicKey(key)).or_default();
    for (kind, value) in attributes(bytes) {
        match kind {
            peer::PRESHARED_KEY => seen.preshared_key = secret(value),
            peer::ENDPOINT => seen.endpoint = endpoint(value),
            peer::PERSISTENT_KEEPALIVE_INTERVAL => {
                seen.persistent_keepalive = u16::from_ne_bytes(number(value));
            }
            // struct __kernel_timespec: 64-bit seconds first.
            peer::LAST_HANDSHAKE_TIME => {
                let seconds = i64::from_ne_bytes(number(value));
                seen.last_handshake = u64::try_from(seconds).ok().filter(|at| *at > 0);
            }
            peer::ALLOWEDIPS => {
                let networks = attributes(value).filter_map(|(_, item)| network(item));
                seen.allowed_ips.extend(networks);
            }
            _ => {}
        }
    }
}

fn network(bytes: &[u8]) -> Option<Cidr> {
    let get = |wanted| attributes(bytes).find(|(kind, _)| *kind == wanted);
    let addr = get(allowed::IPADDR)?.1;
    let addr = match u16::from_ne_bytes(number(get(allowed::FAMILY)?.1)) {
        INET => IpAddr::from(<[u8; 4]>::try_from(addr).ok()?),
        INET6 => IpAddr::from(<[u8; 16]>::try_from(addr).ok()?),
        _ => return None,
    };
    let [prefix] = number(get(allowed::CIDR_MASK)?.1);
    Some(Cidr { addr, prefix })
}
