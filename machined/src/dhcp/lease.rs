//! What a server lends: an address and what goes with it, checked. Pure.

use super::message::{Kind, Reply};
use keelson_config::LeaseUse;
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// A lease. Every value in it is safe to use: no address that cannot be one, no name
/// that could be anything but a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The machine's address.
    pub address: Ipv4Addr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// The server that lends it.
    pub server: Ipv4Addr,
    /// Routes that go with it, a default route too, in the order they came.
    pub routes: Vec<Route>,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
    /// The domain that the machine is in.
    pub domain: Option<String>,
    /// The name that the server has for the machine: its first label, in lower case.
    pub hostname: Option<String>,
    /// The link's largest packet.
    pub mtu: Option<u32>,
    /// How long it is lent; `None` is for ever.
    pub duration: Option<Duration>,
    /// When to ask the server to go on lending it (T1).
    pub renew: Duration,
    /// When to ask any server (T2).
    pub rebind: Duration,
}

/// A route that a server gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    /// The destination network.
    pub to: (Ipv4Addr, u8),
    /// The gateway; `None` means that the destination is on the link.
    pub via: Option<Ipv4Addr>,
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
        Some(self.since + self.lease.duration?)
    }

    /// When to ask its server again; `None` is never.
    pub(crate) fn renews(&self) -> Option<Instant> {
        self.lease.duration?;
        Some(self.since + self.lease.renew)
    }

    /// When to ask any server; `None` is never.
    pub(crate) fn rebinds(&self) -> Option<Instant> {
        self.lease.duration?;
        Some(self.since + self.lease.rebind)
    }
}

/// No lease is treated as shorter: a server that lends for a second would have the
/// machine do nothing else than ask.
const SHORTEST: Duration = Duration::from_secs(60);
/// A year. What is longer is as good as that, and fits into every clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// A smaller MTU would turn IPv6 off (RFC 8200, section 5).
const LEAST_MTU: u16 = 1280;
/// More of anything than this is not taken from a server.
const MOST: usize = 64;

impl Lease {
    /// Leaves of it only what the config takes.
    pub(crate) fn take(&mut self, only: LeaseUse) {
        if !only.routes {
            self.routes.clear();
        }
        if !only.nameservers {
            self.dns.clear();
            self.domain = None;
        }
        if !only.hostname {
            self.hostname = None;
        }
    }

    /// Reads the lease in an offer or an acknowledgement; `None` where it cannot be used.
    pub(crate) fn read(reply: &Reply) -> Option<Lease> {
        if !matches!(reply.kind, Kind::Offer | Kind::Ack) {
            return None;
        }
        let address = reply.address.filter(|&address| is_host(address))?;
        let server = reply.server.filter(|&server| is_host(server))?;
        let prefix = match reply.mask {
            Some(mask) => prefix(mask)?,
            None => class(address),
        };
        let seconds = reply.lease?;
        let duration = (seconds != u32::MAX)
            .then(|| Duration::from_secs(seconds.into()).clamp(SHORTEST, LONGEST));
        let (renew, rebind) = timers(duration.unwrap_or(LONGEST), reply.renew, reply.rebind);
        Some(Lease {
            address,
            prefix,
            server,
            routes: routes(reply, address, prefix),
            dns: addresses(&reply.dns),
            domain: reply.domain.as_deref().and_then(domain),
            hostname: reply.hostname.as_deref().and_then(hostname),
            mtu: reply.mtu.filter(|&mtu| mtu >= LEAST_MTU).map(u32::from),
            duration,
            renew,
            rebind,
        })
    }
}

/// T1 and T2 (RFC 2131, section 4.4.5): the server's, where they are in order.
fn timers(duration: Duration, renew: Option<u32>, rebind: Option<u32>) -> (Duration, Duration) {
    let given = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let rebind = given(rebind).filter(|&t| t < duration && t >= SHORTEST / 2);
    let rebind = rebind.unwrap_or(duration / 8 * 7);
    let renew = given(renew).filter(|&t| t < rebind && t >= SHORTEST / 4);
    let renew = renew.unwrap_or(duration / 2);
    // The server's T2 may lie before our half.
    (renew.min(rebind), rebind)
}

/// Whether one machine can have this address.
fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !(first == 0 || address.is_loopback() || first >= 224)
}

fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (bits.count_ones() == ones && ones > 0).then_some(ones as u8)
}

/// The prefix of a server from before there were masks.
fn class(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

fn addresses(given: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let mut all = Vec::new();
    for &address in given.iter().filter(|&&address| is_host(address)).take(MOST) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Classless routes replace the plain router (RFC 3442). A gateway that is not on the
/// network of the address gets a route to itself first: some clouds lend a /32.
fn routes(reply: &Reply, address: Ipv4Addr, prefix: u8) -> Vec<Route> {
    let mut routes = Vec::new();
    if reply.classless.is_empty() {
        let router = reply
            .routers
            .iter()
            .find(|&&router| is_host(router) && router != address);
        routes.extend(router.map(|&via| Route {
            to: (Ipv4Addr::UNSPECIFIED, 0),
            via: Some(via),
        }));
    }
    for &(network, length, via) in reply.classless.iter().take(MOST) {
        let to = (masked(network, length), length);
        if via.is_unspecified() {
            routes.push(Route { to, via: None });
        } else if is_host(via) && via != address {
            routes.push(Route { to, via: Some(via) });
        }
    }
    let reachable = |routes: &[Route], via| {
        within(via, address, prefix)
            || routes
                .iter()
                .any(|r| r.via.is_none() && within(via, r.to.0, r.to.1))
    };
    let gateways: Vec<_> = routes.iter().filter_map(|route| route.via).collect();
    for via in gateways {
        if !reachable(&routes, via) {
            routes.insert(
                0,
                Route {
                    to: (via, 32),
                    via: None,
                },
            );
        }
    }
    let mut seen = Vec::new();
    routes.retain(|route| {
        let new = !seen.contains(&route.to);
        seen.push(route.to);
        new
    });
    routes
}

fn masked(network: Ipv4Addr, length: u8) -> Ipv4Addr {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(length.min(32)))
        .unwrap_or(0);
    Ipv4Addr::from_bits(network.to_bits() & mask)
}

fn within(address: Ipv4Addr, network: Ipv4Addr, length: u8) -> bool {
    masked(address, length) == masked(network, length)
}

/// A domain in lower case, if every label of it is one.
pub(crate) fn domain(text: &str) -> Option<String> {
    let text = text.trim_end_matches(['\0', '.']).to_ascii_lowercase();
    (text.len() <= 253 && text.split('.').all(is_label)).then_some(text)
}

/// The first label of a name: a server may send the whole of it.
fn hostname(text: &str) -> Option<String> {
    let text = text.trim_end_matches('\0');
    let label = text.split('.').next()?.to_ascii_lowercase();
    is_label(&label).then_some(label)
}

/// A label of RFC 1123.
fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

    fn reply() -> Reply {
        Reply {
            kind: Kind::Ack,
            address: Some(ADDRESS),
            server: Some(SERVER),
            mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            routers: vec![SERVER],
            dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
            lease: Some(86400),
            ..Reply::default()
        }
    }

    fn default_via(via: Ipv4Addr) -> Route {
        Route {
            to: (Ipv4Addr::UNSPECIFIED, 0),
            via: Some(via),
        }
    }

    /// Shows: network.links.dhcp.useRoutes, network.links.dhcp.useNameservers
    /// Shows: network.links.dhcp.useHostname
    #[test]
    fn the_config_says_what_is_taken() {
        let all = Lease {
            domain: Some("example.com".into()),
            hostname: Some("leased".into()),
            ..Lease::read(&reply()).unwrap()
        };
        let taken = |change: fn(&mut LeaseUse)| {
            let (mut lease, mut only) = (all.clone(), LeaseUse::default());
            change(&mut only);
            lease.take(only);
            lease
        };
        assert_eq!(taken(|_| ()), all);
        let less = taken(|only| only.routes = false);
        assert_eq!((less.routes.len(), &less.dns), (0, &all.dns));
        let less = taken(|only| only.nameservers = false);
        assert_eq!((less.dns.len(), less.domain), (0, None));
        assert_eq!(
            (less.routes, less.hostname),
            (all.routes.clone(), all.hostname.clone())
        );
        let less = taken(|only| only.hostname = false);
        assert_eq!((less.hostname, &less.domain), (None, &all.domain));
    }

    #[test]
    fn a_lease_as_it_usually_comes() {
        let lease = Lease::read(&reply()).unwrap();
        assert_eq!(
            (lease.address, lease.prefix, lease.server),
            (ADDRESS, 24, SERVER)
        );
        assert_eq!(lease.routes, [default_via(SERVER)]);
        assert_eq!(lease.duration, Some(Duration::from_secs(86400)));
        assert_eq!(lease.renew, Duration::from_secs(43200));
        assert_eq!(lease.rebind, Duration::from_secs(75600));
    }

    #[test]
    fn what_cannot_be_used_is_no_lease() {
        type Change = fn(&mut Reply);
        let cases: [(&str, Change); 8] = [
            ("no server", |r| r.server = None),
            ("a server that is none", |r| {
                r.server = Some(Ipv4Addr::BROADCAST)
            }),
            ("no time", |r| r.lease = None),
            ("no address", |r| r.address = None),
            ("a loopback address", |r| {
                r.address = Some(Ipv4Addr::LOCALHOST)
            }),
            ("a group's address", |r| {
                r.address = Some(Ipv4Addr::new(224, 0, 0, 1))
            }),
            ("a mask with holes", |r| {
                r.mask = Some(Ipv4Addr::new(255, 0, 255, 0))
            }),
            ("a refusal", |r| r.kind = Kind::Nak),
        ];
        for (rule, change) in cases {
            let mut reply = reply();
            change(&mut reply);
            assert_eq!(Lease::read(&reply), None, "{rule}");
        }
    }

    #[test]
    fn timers_are_in_order_whatever_the_server_says() {
        let day = 86400;
        for (lease, renew, rebind, want) in [
            (day, Some(100), Some(200), (100, 200)),
            (day, None, None, (43200, 75600)),
            (day, Some(90000), Some(95000), (43200, 75600)),
            (day, Some(200), Some(100), (100, 100)),
            (day, Some(0), Some(0), (43200, 75600)),
            (1, None, None, (30, 52)),
            (u32::MAX, Some(60), None, (60, LONGEST.as_secs() * 7 / 8)),
        ] {
            let reply = Reply {
                lease: Some(lease),
                renew,
                rebind,
                ..reply()
            };
            let lease = Lease::read(&reply).unwrap();
            assert_eq!(
                (lease.renew.as_secs(), lease.rebind.as_secs()),
                want,
                "{reply:?}"
            );
            assert!(lease.duration.is_none_or(|all| lease.rebind < all));
        }
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let near = Ipv4Addr::new(10, 0, 2, 9);
        let reply = Reply {
            classless: vec![
                (Ipv4Addr::UNSPECIFIED, 0, near),
                (Ipv4Addr::new(172, 16, 3, 1), 12, near),
                (Ipv4Addr::new(192, 168, 0, 0), 16, Ipv4Addr::UNSPECIFIED),
                (Ipv4Addr::new(192, 168, 0, 0), 16, near),
            ],
            ..reply()
        };
        let routes = Lease::read(&reply).unwrap().routes;
        assert_eq!(
            routes,
            [
                default_via(near),
                Route {
                    to: (Ipv4Addr::new(172, 16, 0, 0), 12),
                    via: Some(near)
                },
                Route {
                    to: (Ipv4Addr::new(192, 168, 0, 0), 16),
                    via: None
                },
            ]
        );
    }

    #[test]
    fn a_gateway_beyond_the_network_is_reached_first() {
        let far = Ipv4Addr::new(169, 254, 1, 1);
        let mask = Some(Ipv4Addr::BROADCAST);
        let lone = Reply {
            mask,
            routers: vec![far],
            ..reply()
        };
        assert_eq!(
            Lease::read(&lone).unwrap().routes,
            [
                Route {
                    to: (far, 32),
                    via: None
                },
                default_via(far)
            ]
        );
        let told = Reply {
            mask,
            classless: vec![
                (far, 32, Ipv4Addr::UNSPECIFIED),
                (Ipv4Addr::UNSPECIFIED, 0, far),
            ],
            ..reply()
        };
        assert_eq!(
            Lease::read(&told).unwrap().routes,
            [
                Route {
                    to: (far, 32),
                    via: None
                },
                default_via(far)
            ]
        );
    }

    #[test]
    fn names_are_names_or_nothing() {
        for (given, want) in [
            ("node-1", Some("node-1")),
            ("Node-1.Example.COM", Some("node-1")),
            ("node\0", Some("node")),
            ("-node", None),
            ("", None),
            ("a b", None),
            ("evil\nnameserver 6.6.6.6", None),
        ] {
            let reply = Reply {
                hostname: Some(given.into()),
                ..reply()
            };
            assert_eq!(
                Lease::read(&reply).unwrap().hostname.as_deref(),
                want,
                "{given:?}"
            );
        }
        for (given, want) in [
            ("Example.com.", Some("example.com")),
            ("example.com\noptions x", None),
            ("a..b", None),
            ("", None),
        ] {
            let reply = Reply {
                domain: Some(given.into()),
                ..reply()
            };
            assert_eq!(
                Lease::read(&reply).unwrap().domain.as_deref(),
                want,
                "{given:?}"
            );
        }
    }

    #[test]
    fn a_small_mtu_and_addresses_that_are_none_are_left_out() {
        let reply = Reply {
            mtu: Some(576),
            dns: vec![
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::LOCALHOST,
                SERVER,
                SERVER,
                Ipv4Addr::BROADCAST,
            ],
            ..reply()
        };
        let lease = Lease::read(&reply).unwrap();
        assert_eq!((lease.mtu, lease.dns), (None, vec![SERVER]));
        assert_eq!(
            Lease::read(&Reply {
                mtu: Some(9000),
                ..reply
            })
            .unwrap()
            .mtu,
            Some(9000)
        );
    }
}
