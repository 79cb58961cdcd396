//! Addresses: of hardware, of links, of other machines, and of networks.

use super::Wrong;
use crate::{Cidr, MacAddr, tree::quote};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Six pairs of hexadecimal digits with colons (or dashes) between them.
impl FromStr for MacAddr {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let malformed = || {
            Wrong::new(format!("{} is not a hardware address", quote(text)))
                .hint("it looks like 52:54:00:12:34:56")
        };
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs
                .next()
                .filter(|pair| pair.len() == 2)
                .ok_or_else(malformed)?;
            if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
        }
        if pairs.next().is_some() {
            return Err(malformed());
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(Wrong::new(format!(
                "{} is not the address of a single link",
                quote(text)
            )));
        }
        Ok(MacAddr(bytes))
    }
}

/// An address and the length of its network's prefix: `10.1.0.5/24`.
impl FromStr for Cidr {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let Some((addr, prefix)) = text.split_once('/') else {
            let wrong = Wrong::new(format!("{} has no prefix length", quote(text)));
            return Err(match text.parse() {
                Ok(IpAddr::V4(_)) => wrong.hint(format!(
                    "write {text}/24, or whatever the network's prefix is"
                )),
                Ok(IpAddr::V6(_)) => wrong.hint(format!(
                    "write {text}/64, or whatever the network's prefix is"
                )),
                Err(_) => Wrong::new(format!("{} is not an address", quote(text)))
                    .hint("it looks like 10.1.0.5/24"),
            });
        };
        let addr: IpAddr = addr
            .parse()
            .map_err(|_| Wrong::new(format!("{} is not an address", quote(addr))))?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        if addr.is_ipv4() && prefix.parse::<Ipv4Addr>().is_ok() {
            let mask = prefix
                .parse::<Ipv4Addr>()
                .map(u32::from)
                .unwrap_or_default();
            return Err(Wrong::new("the network's prefix is given as a mask")
                .hint(format!("write {addr}/{}", mask.leading_ones())));
        }
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix
            .parse()
            .ok()
            .filter(|prefix| digits && *prefix <= most)
            .ok_or_else(|| {
                Wrong::new(format!(
                    "the prefix length {} is not between 0 and {most}",
                    quote(prefix)
                ))
            })?;
        Ok(Cidr { addr, prefix })
    }
}

impl Cidr {
    /// The network that the address is in: the same with its host part zero.
    pub fn network(&self) -> Cidr {
        let prefix = u32::from(self.prefix);
        let addr = match self.addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(addr) & mask))
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(addr) & mask))
            }
        };
        Cidr {
            addr,
            prefix: self.prefix,
        }
    }

    /// Whether an address is in this network.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4()
            && Cidr {
                addr,
                prefix: self.prefix,
            }
            .network()
            .addr
                == self.network().addr
    }
}

/// An address that a link can have.
pub(crate) fn host_address(text: &str) -> Result<Cidr, Wrong> {
    let cidr: Cidr = text.parse()?;
    let Cidr { addr, prefix } = cidr;
    if prefix == 0 {
        return Err(Wrong::new(
            "an address with the prefix length 0 would be in the same network as all others",
        ));
    }
    if addr.is_unspecified()
        || addr.is_multicast()
        || addr.is_loopback()
        || addr == Ipv4Addr::BROADCAST
    {
        return Err(Wrong::new(format!(
            "{addr} cannot be the address of a link"
        )));
    }
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    if prefix < bits - 1 && addr == cidr.network().addr {
        return Err(Wrong::new(format!(
            "{cidr} is the network itself, not an address in it"
        ))
        .hint("the part behind the prefix must not be zero"));
    }
    if let IpAddr::V4(v4) = addr
        && prefix < 31
        && u32::from(v4) | (u32::MAX >> prefix) == u32::from(v4)
    {
        return Err(Wrong::new(format!(
            "{addr} is the broadcast address of its network"
        )));
    }
    Ok(cidr)
}

/// A network, as the destination of a route.
pub(crate) fn network(text: &str) -> Result<Cidr, Wrong> {
    if text == "default" {
        return Err(Wrong::new("\"default\" does not say of which protocol")
            .hint("write 0.0.0.0/0, or ::/0"));
    }
    let cidr: Cidr = text.parse()?;
    if cidr.network() != cidr {
        return Err(Wrong::new(format!(
            "{cidr} is an address within a network, not a network"
        ))
        .hint(format!("write {}", cidr.network())));
    }
    if cidr.addr.is_multicast() || cidr.addr.is_loopback() {
        return Err(Wrong::new(format!(
            "{cidr} cannot be the destination of a route"
        )));
    }
    Ok(cidr)
}

/// An address of another machine.
pub(crate) fn address(text: &str) -> Result<IpAddr, Wrong> {
    let addr: IpAddr = text.parse().map_err(|_| {
        let wrong = Wrong::new(format!("{} is not an address", quote(text)));
        if text.contains('/') {
            wrong.hint("here it is written without a prefix length")
        } else {
            wrong
        }
    })?;
    if addr.is_unspecified() || addr.is_multicast() || addr == Ipv4Addr::BROADCAST {
        return Err(Wrong::new(format!(
            "{addr} cannot be the address of a machine"
        )));
    }
    Ok(addr)
}
