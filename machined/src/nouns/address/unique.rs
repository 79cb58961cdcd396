//! Which addresses of DHCPv6 leases other machines have. The kernel finds that out (RFC 4862,
//! section 5.4), and of an address that ends at some time it says it by taking the address
//! away (addrconf_dad_stop in net/ipv6/addrconf.c): so it is one that was there, was being
//! found out about, and is there no more, on a link that was not switched off. Pure.

use super::super::link::Seen;
use crate::{
    dhcp::{Leases6, Status},
    netlink::{Address, Unique},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

/// What was seen of the addresses so far.
#[derive(Debug, Default)]
pub(super) struct Detection {
    /// Seen while it was being found out about them.
    underway: BTreeSet<(u32, Ipv6Addr)>,
    /// Others have these.
    duplicates: BTreeMap<u32, Ipv6Addr>,
}

impl Detection {
    /// Looks at the leased addresses once more; those that others have, by link, until the
    /// lease is another.
    pub(super) fn look(
        &mut self,
        links: &[Seen],
        addresses: &[Address],
        leases: &Leases6,
    ) -> BTreeMap<u32, Ipv6Addr> {
        let leased: BTreeMap<u32, Ipv6Addr> = leases
            .iter()
            .filter_map(|(link, status)| Some((*link, Status::bound(status)?.lease.address)))
            .collect();
        let is_leased = |link: &u32, address: &Ipv6Addr| leased.get(link) == Some(address);
        self.underway
            .retain(|(link, address)| is_leased(link, address));
        self.duplicates
            .retain(|link, address| is_leased(link, address));
        for (&link, &leased) in &leased {
            let up = links
                .iter()
                .any(|seen| seen.link.index == link && seen.link.up);
            let there = addresses
                .iter()
                .find(|it| (it.link, it.cidr.addr) == (link, IpAddr::V6(leased)));
            match there.map(|address| address.unique) {
                Some(Unique::Unknown) => {
                    self.underway.insert((link, leased));
                }
                Some(Unique::No) => {
                    self.duplicates.insert(link, leased);
                }
                Some(Unique::Yes) => {
                    self.underway.remove(&(link, leased));
                }
                None => {
                    if self.underway.remove(&(link, leased)) && up {
                        self.duplicates.insert(link, leased);
                    }
                }
            }
        }
        self.duplicates.clone()
    }
}
