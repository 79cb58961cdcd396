//! What a server lends: an address and what goes with it, checked. Pure.

use super::message::{Association, Lent, Message, status};
use crate::dhcp::domain;
use keelson_config::LeaseUse;
use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

/// A lease. Every value in it is safe to use. Its network and its routes are not in it:
/// those are the routers' to tell (RFC 8415, section 1; RFC 4861).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The machine's address.
    pub address: Ipv6Addr,
    /// The server that lends it: its DUID.
    pub server: Vec<u8>,
    /// Where its message came from: the server, or a relay of its.
    pub from: Ipv6Addr,
    /// Resolvers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to look short names up in.
    pub search: Vec<String>,
    /// How long new connections may come from it; `None` is for ever.
    pub preferred: Option<Duration>,
    /// How long it is lent; `None` is for ever.
    pub valid: Option<Duration>,
    /// When to ask the server to go on lending it (T1); `None` is never.
    pub renew: Option<Duration>,
    /// When to ask any server (T2); `None` is never.
    pub rebind: Option<Duration>,
}

/// A lease and since when it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The lease.
    pub lease: Lease,
    /// When it was asked for: the server counts from later.
    pub since: Instant,
}

impl Bound {
    /// When it must not be used any more; `None` is never.
    pub(crate) fn expires(&self) -> Option<Instant> {
        Some(self.since + self.lease.valid?)
    }

    /// When to ask its server again; `None` is never.
    pub(crate) fn renews(&self) -> Option<Instant> {
        Some(self.since + self.lease.renew?)
    }

    /// When to ask any server; `None` is never.
    pub(crate) fn rebinds(&self) -> Option<Instant> {
        Some(self.since + self.lease.rebind?)
    }

    /// How long new connections may come from it yet; `None` is for ever.
    pub(crate) fn preferred(&self, now: Instant) -> Option<Duration> {
        Some((self.since + self.lease.preferred?).saturating_duration_since(now))
    }
}

/// Why a message lends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It says nothing that could be acted on: as good as no message.
    Senseless,
    /// The server has no address for this client.
    NoAddress,
    /// The server does not know of the lease.
    NoBinding,
    /// The address does not belong to this network, or is taken back.
    Withdrawn,
}

/// For ever (RFC 8415, section 7.7).
const FOREVER: u32 = u32::MAX;
/// No lease is treated as shorter: a server that lends for a second would have the
/// machine do nothing else than ask.
const SHORTEST: Duration = Duration::from_secs(60);
/// A year. What is longer is as good as that, and fits into every clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// More of anything than this is not taken from a server.
const MOST: usize = 64;

impl Lease {
    /// Leaves of it only what the config takes.
    pub(crate) fn take(&mut self, only: LeaseUse) {
        if !only.nameservers {
            self.dns.clear();
            self.search.clear();
        }
    }

    /// Reads what a message lends under this number; the address that is held is the
    /// first choice among several.
    pub(super) fn read(
        message: &Message,
        id: u32,
        from: Ipv6Addr,
        held: Option<Ipv6Addr>,
    ) -> Result<Lease, Refusal> {
        refused(message.status)?;
        let mut associations = message.associations.iter().filter(|it| it.id == id);
        let association = associations.next().ok_or(Refusal::Senseless)?;
        refused(association.status)?;
        let Association { renew, rebind, .. } = *association;
        // RFC 8415, section 21.4: then the association is as good as not there.
        if message.server.is_empty() || (renew > rebind && rebind > 0) {
            return Err(Refusal::Senseless);
        }
        let usable = |lent: &&Lent| {
            lent.valid > 0
                && lent.preferred <= lent.valid
                && lent.status == status::SUCCESS
                && is_host(lent.address)
        };
        let all = || association.addresses.iter().filter(usable);
        let lent = all()
            .find(|lent| Some(lent.address) == held)
            .or_else(|| all().next());
        let Some(lent) = lent else {
            let back = association.addresses.iter();
            let back = back.filter(|lent| Some(lent.address) == held && lent.valid == 0);
            return Err(match back.count() {
                0 if association.addresses.is_empty() => Refusal::NoAddress,
                0 => Refusal::Senseless,
                _ => Refusal::Withdrawn,
            });
        };
        let valid = lasting(lent.valid).map(|time| time.clamp(SHORTEST, LONGEST));
        let preferred = lasting(lent.preferred).map(|time| time.min(LONGEST));
        let (renew, rebind) = timers(preferred, valid, renew, rebind);
        let mut search: Vec<String> = Vec::new();
        for name in message.search.iter().filter_map(|name| domain(name)) {
            if search.len() < MOST && !search.contains(&name) {
                search.push(name);
            }
        }
        let mut dns: Vec<Ipv6Addr> = Vec::new();
        for &server in message.dns.iter().filter(|&&server| is_host(server)) {
            if dns.len() < MOST && !dns.contains(&server) {
                dns.push(server);
            }
        }
        Ok(Lease {
            address: lent.address,
            server: message.server.clone(),
            from,
            dns,
            search,
            preferred,
            valid,
            renew,
            rebind,
        })
    }
}

/// What a status says of the lease. That a server failed, or would rather be asked by
/// multicast, as it is, says nothing of it: it is asked again by the client's own clock.
fn refused(code: u16) -> Result<(), Refusal> {
    match code {
        status::SUCCESS => Ok(()),
        status::NO_ADDRESSES => Err(Refusal::NoAddress),
        status::NO_BINDING => Err(Refusal::NoBinding),
        status::NOT_ON_LINK => Err(Refusal::Withdrawn),
        _ => Err(Refusal::Senseless),
    }
}

fn lasting(seconds: u32) -> Option<Duration> {
    (seconds != FOREVER).then(|| Duration::from_secs(seconds.into()))
}

/// T1 and T2 (RFC 8415, sections 14.2 and 21.4): the server's where it gives them, else
/// half and four fifths of the time that the address is preferred.
fn timers(
    preferred: Option<Duration>,
    valid: Option<Duration>,
    renew: u32,
    rebind: u32,
) -> (Option<Duration>, Option<Duration>) {
    let base = preferred.filter(|time| *time >= SHORTEST).or(valid);
    let or = |given: u32, own: Option<Duration>, least: Duration| match given {
        0 => own,
        FOREVER => None,
        seconds => Some(Duration::from_secs(seconds.into()).clamp(least, LONGEST)),
    };
    // Within the life of the lease, whatever the server says.
    let bounded = |time: Option<Duration>, all: Option<Duration>| match (time, all) {
        (Some(time), Some(all)) => Some(time.min(all)),
        (time, _) => time,
    };
    let rebind = or(rebind, base.map(|time| time / 5 * 4), SHORTEST / 2);
    let rebind = bounded(rebind, valid.map(|time| time / 8 * 7));
    let renew = or(renew, base.map(|time| time / 2), SHORTEST / 4);
    (bounded(renew, rebind), rebind)
}

/// Whether one machine can have this address, and others can reach it there without
/// being told by which link.
fn is_host(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u32 = 7;
    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x15);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x16);
    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    fn lent(address: Ipv6Addr, preferred: u32, valid: u32) -> Lent {
        Lent {
            address,
            preferred,
            valid,
            status: status::SUCCESS,
        }
    }

    fn message(renew: u32, rebind: u32, addresses: Vec<Lent>) -> Message {
        Message {
            server: vec![0, 3, 0, 1, 2],
            associations: vec![Association {
                id: ID,
                renew,
                rebind,
                addresses,
                status: status::SUCCESS,
            }],
            dns: vec![ROUTER, OTHER, OTHER],
            search: vec!["Example.com".into(), "-".into()],
            ..Message::default()
        }
    }

    fn read(message: &Message) -> Result<Lease, Refusal> {
        Lease::read(message, ID, ROUTER, Some(ADDRESS))
    }

    #[test]
    fn a_lease_as_it_usually_comes() {
        let lease = read(&message(0, 0, vec![lent(ADDRESS, 3600, 7200)])).unwrap();
        let hours = |n: u64| Some(Duration::from_secs(n * 360));
        assert_eq!((lease.address, lease.from), (ADDRESS, ROUTER));
        assert_eq!((lease.preferred, lease.valid), (hours(10), hours(20)));
        assert_eq!((lease.renew, lease.rebind), (hours(5), hours(8)));
        assert_eq!(
            lease.dns,
            [OTHER],
            "a link-local one says not by which link"
        );
        assert_eq!(lease.search, ["example.com"]);
    }

    /// Shows: network.links.dhcp.useNameservers
    #[test]
    fn the_config_says_what_is_taken() {
        let mut lease = read(&message(0, 0, vec![lent(ADDRESS, 3600, 7200)])).unwrap();
        let all = lease.clone();
        lease.take(LeaseUse::default());
        assert_eq!(lease, all);
        lease.take(LeaseUse {
            nameservers: false,
            ..LeaseUse::default()
        });
        assert!(lease.dns.is_empty() && lease.search.is_empty());
    }

    #[test]
    fn of_several_addresses_the_one_that_is_held_stays() {
        let both = vec![lent(OTHER, 3600, 7200), lent(ADDRESS, 3600, 7200)];
        assert_eq!(read(&message(0, 0, both)).unwrap().address, ADDRESS);
        let moved = vec![lent(ADDRESS, 0, 0), lent(OTHER, 3600, 7200)];
        assert_eq!(read(&message(0, 0, moved)).unwrap().address, OTHER);
    }

    #[test]
    fn what_cannot_be_used_is_no_lease() {
        type Case = (&'static str, Refusal, fn(&mut Message));
        let cases: [Case; 12] = [
            ("no server", Refusal::Senseless, |m| m.server.clear()),
            ("another's", Refusal::Senseless, |m| {
                m.associations[0].id += 1
            }),
            ("T1 after T2", Refusal::Senseless, |m| {
                (m.associations[0].renew, m.associations[0].rebind) = (200, 100);
            }),
            ("preferred for longer than valid", Refusal::Senseless, |m| {
                m.associations[0].addresses[0].preferred = 7201;
            }),
            ("a group's address", Refusal::Senseless, |m| {
                m.associations[0].addresses[0].address = "ff02::1".parse().unwrap();
            }),
            ("the server fails", Refusal::Senseless, |m| m.status = 1),
            ("it wants multicast", Refusal::Senseless, |m| m.status = 5),
            ("no address, as a whole", Refusal::NoAddress, |m| {
                m.status = status::NO_ADDRESSES
            }),
            ("no address", Refusal::NoAddress, |m| {
                m.associations[0].status = status::NO_ADDRESSES;
            }),
            ("not one, in no words", Refusal::NoAddress, |m| {
                m.associations[0].addresses.clear();
            }),
            ("not known", Refusal::NoBinding, |m| {
                m.associations[0].status = status::NO_BINDING;
            }),
            ("taken back", Refusal::Withdrawn, |m| {
                let lent = &mut m.associations[0].addresses[0];
                (lent.preferred, lent.valid) = (0, 0);
            }),
        ];
        for (rule, refusal, change) in cases {
            let mut message = message(0, 0, vec![lent(ADDRESS, 3600, 7200)]);
            change(&mut message);
            assert_eq!(read(&message), Err(refusal), "{rule}");
        }
    }

    #[test]
    fn timers_are_in_order_whatever_the_server_says() {
        for (preferred, valid, renew, rebind, want) in [
            (3600, 7200, 100, 200, (Some(100), Some(200))),
            (3600, 7200, 0, 0, (Some(1800), Some(2880))),
            (3600, 7200, 90000, 95000, (Some(6300), Some(6300))),
            (3600, 7200, 5000, 0, (Some(2880), Some(2880))),
            (0, 7200, 0, 0, (Some(3600), Some(5760))),
            (1, 1, 1, 1, (Some(15), Some(30))),
            (FOREVER, FOREVER, 0, 0, (None, None)),
            (FOREVER, FOREVER, 60, 90, (Some(60), Some(90))),
            (3600, 7200, FOREVER, FOREVER, (None, None)),
        ] {
            let message = message(renew, rebind, vec![lent(ADDRESS, preferred, valid)]);
            let lease = read(&message).unwrap();
            let got = [lease.renew, lease.rebind].map(|time| time.map(|time| time.as_secs()));
            assert_eq!((got[0], got[1]), want, "{message:?}");
            assert!(
                lease
                    .valid
                    .is_none_or(|all| lease.rebind.is_none_or(|t| t < all))
            );
        }
    }
}
