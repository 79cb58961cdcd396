//! The noun route: the routes of the config and of the leases are in their tables.
//! Only routes that carry machined's mark are ever removed. IPv6 routes from router
//! advertisements are the kernel's own work.

use super::{
    address::is_undecided,
    link::{self, Managed, Seen},
};
use crate::{
    dhcp::{Leases, Status},
    netlink::{Mark, Netlink, Route},
    noun::Noun,
    resource::{Phase, Resource},
};
use keelson_config::{Cidr, MAIN_TABLE, Machine, Network};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The metric of a lease's routes, plus the link's rank: just behind what a person wrote
/// without a metric, and different for every link.
const LEASE_METRIC: u32 = 1025;

/// What was observed.
#[derive(Clone, Debug)]
pub(crate) struct Have {
    links: Vec<Seen>,
    routes: Vec<Route>,
    /// Which link has which address.
    addresses: Vec<(u32, IpAddr)>,
    leases: BTreeMap<u32, Status>,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove a route from a link with this name.
    Remove(Route, String),
    /// Add a route to a link with this name.
    Add(Route, String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, route, name) = match self {
            Step::Remove(route, name) => ("remove", route, name),
            Step::Add(route, name) => ("add", route, name),
        };
        write!(f, "{verb} the route to {}", route.to)?;
        if let Some(via) = route.via {
            write!(f, " via {via}")?;
        }
        write!(f, " on {name}")?;
        match route.table {
            MAIN_TABLE => Ok(()),
            table => write!(f, ", in table {table}"),
        }
    }
}

/// The routes that there shall be; those to what is on a link come first, because the
/// gateways of others may be among them.
fn wanted(links: &[Managed<'_>], have: &Have) -> Vec<Route> {
    let mut all: Vec<Route> = Vec::new();
    for managed in links {
        let link = managed.seen.link.index;
        all.extend(managed.want.routes.iter().map(|route| Route {
            link,
            to: network_of(route.to),
            via: route.via,
            source: None,
            metric: route.metric,
            table: route.table,
            mark: Some(Mark::Config),
        }));
        let lease = have.leases.get(&link).and_then(Status::bound);
        let Some(bound) = lease.filter(|bound| {
            // A lease that has just come: its address is set first, by the next pass.
            let set = have.addresses.contains(&(link, bound.lease.address.into()));
            managed.want.dhcp_v4 && set
        }) else {
            continue;
        };
        let metric = match managed.want.lease.route_metric {
            Some(metric) => metric.saturating_add(managed.place(links)),
            None => LEASE_METRIC + managed.rank,
        };
        all.extend(bound.lease.routes.iter().map(|route| Route {
            link,
            to: network_of(Cidr {
                addr: route.to.0.into(),
                prefix: route.to.1,
            }),
            via: route.via.map(IpAddr::V4),
            source: Some(bound.lease.address.into()),
            metric,
            table: MAIN_TABLE,
            mark: Some(Mark::Lease),
        }));
    }
    all.sort_by_key(|route| route.via.is_some());
    let mut seen = Vec::new();
    all.retain(|route| {
        // The kernel tells routes apart by these; of two the first stands.
        let key = (
            route.table,
            route.to,
            route.metric,
            route.to.addr.is_ipv6().then_some(route.link),
        );
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    all
}

/// The network of an address: what the kernel makes of a destination.
fn network_of(cidr: Cidr) -> Cidr {
    let prefix = u32::from(cidr.prefix);
    let addr = match cidr.addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32u32.saturating_sub(prefix))
                .unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128u32.saturating_sub(prefix))
                .unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    };
    Cidr { addr, ..cidr }
}

/// The missing steps. What is removed comes first: two routes to one destination with
/// one metric cannot be.
pub(crate) fn plan(have: &Have, network: &Network) -> Vec<Step> {
    let managed = link::select(&have.links, network);
    let name = |link: u32| {
        let seen = have.links.iter().find(|seen| seen.link.index == link);
        seen.map_or_else(|| format!("link {link}"), |seen| seen.link.name.clone())
    };
    let wanted = wanted(&managed, have);
    let mut steps = Vec::new();
    for there in have.routes.iter().filter(|there| there.mark.is_some()) {
        let undecided = there.mark == Some(Mark::Lease)
            && managed
                .iter()
                .any(|m| m.want.dhcp_v4 && m.seen.link.index == there.link)
            && is_undecided(have.leases.get(&there.link));
        if !wanted.contains(there) && !undecided {
            steps.push(Step::Remove(*there, name(there.link)));
        }
    }
    for route in wanted {
        // Somebody else's that leads the same way is as good.
        let there = have.routes.iter().any(|there| {
            *there == route
                || (there.mark.is_none()
                    && Route {
                        mark: route.mark,
                        ..*there
                    } == route)
        });
        if !there {
            steps.push(Step::Add(route, name(route.link)));
        }
    }
    steps
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Routes {
    leases: Leases,
}

impl Routes {
    /// The noun; leases bring routes.
    pub(crate) fn new(leases: Leases) -> Routes {
        Routes { leases }
    }
}

impl Noun for Routes {
    const KIND: &'static str = "route";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        let netlink = Netlink::connect()?;
        Ok(Have {
            links: link::look(&netlink).await?,
            routes: netlink.routes().await?,
            addresses: (netlink.addresses().await?.iter())
                .map(|address| (address.link, address.cidr.addr))
                .collect(),
            leases: self.leases.all(),
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, &want.network)
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let netlink = Netlink::connect()?;
        match step {
            Step::Remove(route, _) => netlink.remove_route(route).await,
            Step::Add(route, _) => netlink.add_route(route).await,
        }
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        publish(have, &want.network)
    }
}

/// The routes of the selected links, whoever added them.
fn publish(have: &Have, network: &Network) -> Vec<Resource> {
    let managed = link::select(&have.links, network);
    let mut resources = Vec::new();
    for route in &have.routes {
        let Some(managed) = managed.iter().find(|m| m.seen.link.index == route.link) else {
            continue;
        };
        let link = managed.seen.link.name.as_str();
        let source = match route.mark {
            Some(Mark::Config) => "config",
            Some(Mark::Lease) => "dhcp",
            Some(Mark::Shared) => "shared",
            None => "kernel",
        };
        let mut name = format!("{link}/{}/{}", route.to, route.metric);
        if route.table != MAIN_TABLE {
            name += &format!("/{}", route.table);
        }
        let mut resource = Resource::new(Routes::KIND, name, Phase::Ready)
            .field("link", link)
            .field("to", route.to.to_string())
            .field("metric", route.metric)
            .field("table", route.table)
            .field("source", source);
        if let Some(via) = route.via {
            resource = resource.field("via", via.to_string());
        }
        resources.push(resource);
    }
    resources
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
