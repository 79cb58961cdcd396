//! Routes, of all tables. One that machined added has its mark in its protocol.

use super::{Mark, Netlink, plain};
use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use keelson_config::Cidr;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    /// The link's number.
    pub link: u32,
    /// The destination network.
    pub to: Cidr,
    /// The gateway; `None` means that the destination is on the link.
    pub via: Option<IpAddr>,
    /// The address to send from; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
    /// The table that it is in.
    pub table: u32,
    /// Why machined added it; `None` where somebody else did.
    pub mark: Option<Mark>,
}

impl Netlink {
    /// The plain routes of all tables, both families.
    pub(crate) async fn routes(&self) -> anyhow::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for ask in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let family = self.handle.route().get(ask).execute();
            let family: Vec<RouteMessage> = family
                .try_collect()
                .await
                .map_err(plain)
                .context("listing routes")?;
            routes.extend(family.iter().filter_map(route));
        }
        Ok(routes)
    }

    /// Adds a route.
    pub(crate) async fn add_route(&self, route: &Route) -> anyhow::Result<()> {
        let message = route_message(route)?;
        Ok(self
            .handle
            .route()
            .add(message)
            .execute()
            .await
            .map_err(plain)?)
    }

    /// Removes a route.
    pub(crate) async fn remove_route(&self, route: &Route) -> anyhow::Result<()> {
        let message = route_message(route)?;
        Ok(self
            .handle
            .route()
            .del(message)
            .execute()
            .await
            .map_err(plain)?)
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast {
        return None;
    }
    let mut table = u32::from(header.table);
    let (mut to, mut via, mut source, mut link, mut metric) = (None, None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(number) => metric = *number,
            _ => {}
        }
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    Some(Route {
        // Without a link it has several; those are not ours.
        link: link?,
        to: Cidr {
            addr: to.unwrap_or(any),
            prefix: header.destination_prefix_length,
        },
        via,
        source,
        metric,
        table,
        mark: Mark::from(header.protocol.into()),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn route_message(route: &Route) -> anyhow::Result<RouteMessage> {
    let protocol = route
        .mark
        .map_or(RouteProtocol::Static, |mark| mark.number().into());
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.to.addr, route.to.prefix)?
        .output_interface(route.link)
        .priority(route.metric)
        .table_id(route.table)
        .protocol(protocol);
    builder = match route.via {
        Some(via) => builder.gateway(via)?,
        None => builder.scope(RouteScope::Link),
    };
    if let Some(source) = route.source {
        builder = builder.pref_source(source)?;
    }
    Ok(builder.build())
}
