//! The kernel's links, addresses, routes and rules over rtnetlink(7): read whole, changed one by
//! one, and watched. Thin: it decides nothing, and no type of the netlink crates leaves
//! this file.
//!
//! What machined adds carries a mark ([`Mark`]): an address in IFA_PROTO, a route in its
//! protocol, a link in its group, which is set in the same moment as the link is made (an
//! alias would be a second step), a rule in its protocol. The mark lives in the kernel, so that a new machined knows what the one
//! before it added, and nothing of others is ever taken for ours.

mod rule;

pub(crate) use rule::Rule;

use crate::engine::Wake;
use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use keelson_config::{Cidr, MacAddr, Made};
use rtnetlink::{
    Handle, LinkBond, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVlan,
    LinkWireguard, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{
            AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
        },
        link::{
            BondLacpRate, BondMode, BondXmitHashPolicy, BridgeStpState, InfoBond, InfoBridge,
            InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
            LinkMessage,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use tokio::time::sleep;

/// Says what machined added for what reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// The config says so.
    Config,
    /// A DHCP lease says so.
    Lease,
    /// This machine holds the address that the servers share.
    Shared,
}

impl Mark {
    /// Numbers that neither the kernel nor a routing daemon uses, see rtnetlink.h and
    /// /etc/iproute2/rt_protos.
    fn number(self) -> u8 {
        match self {
            Mark::Config => 71,
            Mark::Lease => 72,
            Mark::Shared => 73,
        }
    }

    fn from(number: u8) -> Option<Mark> {
        [Mark::Config, Mark::Lease, Mark::Shared]
            .into_iter()
            .find(|mark| mark.number() == number)
    }
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// It speaks Ethernet.
    pub ethernet: bool,
    /// It is the machine's own loopback.
    pub loopback: bool,
    /// What it is, where software made it: a bridge, one end of a pair, a tunnel.
    pub kind: Option<Kind>,
    /// machined made it, because the config says so.
    pub ours: bool,
    /// The number of the link that carries it: a VLAN's parent.
    pub parent: Option<u32>,
    /// The number of the link that it is part of: a bridge's port, a bond's member.
    pub part_of: Option<u32>,
    /// Its hardware address now.
    pub mac: Option<MacAddr>,
    /// The hardware address that it was built with.
    pub permanent: Option<MacAddr>,
    /// It is switched on.
    pub up: bool,
    /// A cable is in and the other end is there.
    pub carrier: bool,
    /// The largest packet.
    pub mtu: u32,
    /// The largest MTU that it can have; 0 is not known.
    pub largest_mtu: u32,
}

/// What software made, as far as machined makes such links too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A VLAN, by its number.
    Vlan(u16),
    /// A bond.
    Bond {
        /// The kernel's number for its mode.
        mode: u8,
        /// How often it looks at its members, in milliseconds.
        miimon: u32,
        /// The kernel's number for how often the switch says that it is there.
        lacp_rate: u8,
        /// The kernel's number for what of a packet says which link it takes.
        xmit_hash_policy: u8,
    },
    /// A bridge.
    Bridge {
        /// Spanning tree is on.
        stp: bool,
    },
    /// A link without a cable.
    Dummy,
    /// An encrypted tunnel; what it is set up with is not netlink's to say.
    Wireguard,
    /// Anything else.
    Other,
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The link's number.
    pub link: u32,
    /// The address and its prefix.
    pub cidr: Cidr,
    /// For how long yet; `None` is for ever.
    pub lifetime: Option<Duration>,
    /// For how long new connections may come from it yet; `None` is as long as it is there.
    pub preferred: Option<Duration>,
    /// Whether no other machine has it.
    pub unique: Unique,
    /// Why machined added it; `None` where somebody else did.
    pub mark: Option<Mark>,
}

/// What duplicate address detection found (RFC 4862, section 5.4); the kernel does it for
/// IPv6 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unique {
    /// No other machine has the address, or nobody asked.
    #[default]
    Yes,
    /// It is being found out: the address cannot be used yet.
    Unknown,
    /// Another machine has it.
    No,
}

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

/// A connection to the kernel. Cheap: made anew for every look.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Connects; within a runtime.
    pub(crate) fn connect() -> anyhow::Result<Netlink> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        // Ends with the last handle.
        tokio::spawn(connection);
        Ok(Netlink { handle })
    }

    /// All links, by number.
    pub(crate) async fn links(&self) -> anyhow::Result<Vec<Link>> {
        let all: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(plain)
            .context("listing links")?;
        let mut links: Vec<Link> = all.iter().map(link).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// All addresses.
    pub(crate) async fn addresses(&self) -> anyhow::Result<Vec<Address>> {
        let all: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(plain)
            .context("listing addresses")?;
        Ok(all.iter().filter_map(address).collect())
    }

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

    /// Switches a link on.
    pub(crate) async fn set_up(&self, link: u32) -> anyhow::Result<()> {
        self.change(LinkUnspec::new_with_index(link).up().build())
            .await
    }

    /// Sets the largest packet of a link.
    pub(crate) async fn set_mtu(&self, link: u32, mtu: u32) -> anyhow::Result<()> {
        self.change(LinkUnspec::new_with_index(link).mtu(mtu).build())
            .await
    }

    /// Makes a link, marks it and switches it on; a VLAN on its parent, by number.
    pub(crate) async fn make(
        &self,
        name: &str,
        made: &Made,
        parent: Option<u32>,
    ) -> anyhow::Result<()> {
        let message = match made {
            Made::Vlan { id, .. } => {
                let parent = parent.context("its parent is not there")?;
                marked(LinkVlan::new(name, parent, *id))
            }
            Made::Bond {
                mode,
                miimon,
                lacp_rate,
                xmit_hash_policy,
                ..
            } => {
                let mode = BondMode::from(*mode as u8);
                let mut bond = LinkBond::new(name).mode(mode).miimon(*miimon);
                if let Some(rate) = lacp_rate {
                    bond = bond.ad_lacp_rate(BondLacpRate::from(*rate as u8));
                }
                if let Some(policy) = xmit_hash_policy {
                    bond = bond.xmit_hash_policy(BondXmitHashPolicy::from(*policy as u8));
                }
                marked(bond)
            }
            Made::Bridge { stp, .. } => marked(LinkBridge::new(name).stp_state(stp_state(*stp))),
            Made::Dummy => marked(LinkDummy::new(name)),
            Made::Wireguard(_) => marked(LinkWireguard::new(name)),
        };
        let made = self.handle.link().add(message).execute().await;
        made.map_err(plain).context("the kernel does not make it")
    }

    /// Sets what can be changed of a link that was made.
    pub(crate) async fn configure(&self, link: u32, made: &Made) -> anyhow::Result<()> {
        let (kind, data) = match made {
            Made::Bond {
                miimon,
                xmit_hash_policy,
                ..
            } => {
                let policy = xmit_hash_policy.map(|it| BondXmitHashPolicy::from(it as u8));
                let mut infos = vec![InfoBond::MiiMon(*miimon)];
                infos.extend(policy.map(InfoBond::XmitHashPolicy));
                (InfoKind::Bond, InfoData::Bond(infos))
            }
            Made::Bridge { stp, .. } => (
                InfoKind::Bridge,
                InfoData::Bridge(vec![InfoBridge::StpState(stp_state(*stp))]),
            ),
            Made::Vlan { .. } | Made::Dummy | Made::Wireguard(_) => return Ok(()),
        };
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind)
            .index(link)
            .set_info_data(data)
            .build();
        self.change(message).await
    }

    /// Removes a link that was made. One that is gone, with its parent, is fine.
    pub(crate) async fn remove_link(&self, link: u32) -> anyhow::Result<()> {
        match self.handle.link().del(link).execute().await.map_err(plain) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Makes a link part of another. A bond takes only what is switched off, and switches
    /// it on again.
    pub(crate) async fn join(&self, link: u32, of: u32, switched_off: bool) -> anyhow::Result<()> {
        if switched_off {
            self.change(LinkUnspec::new_with_index(link).down().build())
                .await?;
        }
        let message = LinkUnspec::new_with_index(link).controller(of).build();
        self.change(message).await
    }

    /// Takes a link out of the one that it is part of.
    pub(crate) async fn release(&self, link: u32) -> anyhow::Result<()> {
        self.change(LinkUnspec::new_with_index(link).nocontroller().build())
            .await
    }

    async fn change(&self, message: LinkMessage) -> anyhow::Result<()> {
        let change = self.handle.link().change(message);
        Ok(change.execute().await.map_err(plain)?)
    }

    /// Adds an address, or gives the one that is there another lifetime and mark.
    pub(crate) async fn add_address(&self, new: &Address) -> anyhow::Result<()> {
        let Cidr { addr, prefix } = new.cidr;
        let mut request = self.handle.address().add(new.link, addr, prefix).replace();
        let attributes = &mut request.message_mut().attributes;
        let mut cache = CacheInfo::default();
        let seconds = |left: Duration| (left.as_secs() + 1).try_into().unwrap_or(FOREVER);
        // Rounded up: the kernel takes no zero, and its last second is ours to remove.
        cache.ifa_valid = new.lifetime.map_or(FOREVER, seconds);
        cache.ifa_preferred = match new.preferred {
            Some(Duration::ZERO) => 0,
            Some(left) => seconds(left).min(cache.ifa_valid),
            None => cache.ifa_valid,
        };
        if new.mark == Some(Mark::Shared) {
            // Deprecated: nothing that begins here comes from it.
            cache.ifa_preferred = 0;
        }
        attributes.push(AddressAttribute::CacheInfo(cache));
        if let Some(mark) = new.mark {
            attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(
                mark.number(),
            )));
        }
        Ok(request.execute().await.map_err(plain)?)
    }

    /// Removes an address.
    pub(crate) async fn remove_address(&self, link: u32, cidr: Cidr) -> anyhow::Result<()> {
        let all: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(link)
            .execute()
            .try_collect()
            .await
            .map_err(plain)?;
        // As the kernel has it: an address may have a peer, a label, a broadcast address.
        for message in all {
            if address(&message).is_some_and(|found| found.cidr == cidr) {
                self.handle
                    .address()
                    .del(message)
                    .execute()
                    .await
                    .map_err(plain)?;
            }
        }
        Ok(())
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

/// The group of the links that machined made, as [`Mark::Config`] is of addresses. The
/// kernel gives a link group 0, and no program of a Kubernetes host any.
const LINK_GROUP: u32 = 71;

/// INFINITY_LIFE_TIME of the kernel's addrconf.h.
const FOREVER: u32 = u32::MAX;

/// How long changes are gathered: the start of a pod is many.
const GATHER: Duration = Duration::from_millis(200);

/// Wakes the loop at every change of a link, an address, a route or a rule, whoever makes it.
/// Never ends; what is missed while it connects again is made good by one more wake.
pub(crate) async fn monitor(wake: Wake) {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    loop {
        match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, _handle, mut messages)) => {
                let connection = tokio::spawn(connection);
                wake.notify_one();
                while messages.next().await.is_some() {
                    sleep(GATHER).await;
                    while let Ok(_more) = messages.try_recv() {}
                    wake.notify_one();
                }
                connection.abort();
            }
            Err(error) => tracing::warn!("watching the network: {error}"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// The kernel's own words for an error, where it sent one.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    let bytes = <[u8; 6]>::try_from(bytes).ok()?;
    (bytes != [0; 6]).then_some(MacAddr(bytes))
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::PermAddress(bytes) => link.permanent = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => link.largest_mtu = *mtu,
            LinkAttribute::Controller(index) => link.part_of = Some(*index),
            LinkAttribute::Link(index) => link.parent = Some(*index),
            LinkAttribute::Group(group) => link.ours = *group == LINK_GROUP,
            LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
            _ => {}
        }
    }
    link
}

/// What software made a link as.
fn kind(infos: &[LinkInfo]) -> Option<Kind> {
    let found = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let kind = match (found, data) {
        (InfoKind::Dummy, _) => Kind::Dummy,
        (InfoKind::Wireguard, _) => Kind::Wireguard,
        (InfoKind::Vlan, Some(InfoData::Vlan(data))) => {
            let id = data.iter().find_map(|info| match info {
                InfoVlan::Id(id) => Some(*id),
                _ => None,
            });
            id.map_or(Kind::Other, Kind::Vlan)
        }
        (InfoKind::Bond, Some(InfoData::Bond(data))) => {
            let (mut mode, mut miimon, mut lacp_rate, mut xmit_hash_policy) = (0, 0, 0, 0);
            for info in data {
                match info {
                    InfoBond::Mode(it) => mode = u8::from(*it),
                    InfoBond::MiiMon(it) => miimon = *it,
                    InfoBond::AdLacpRate(it) => lacp_rate = u8::from(*it),
                    InfoBond::XmitHashPolicy(it) => xmit_hash_policy = u8::from(*it),
                    _ => {}
                }
            }
            Kind::Bond {
                mode,
                miimon,
                lacp_rate,
                xmit_hash_policy,
            }
        }
        (InfoKind::Bridge, Some(InfoData::Bridge(data))) => {
            let off = InfoBridge::StpState(BridgeStpState::Disabled);
            let state = data
                .iter()
                .find(|info| matches!(info, InfoBridge::StpState(_)));
            Kind::Bridge {
                stp: state.is_some_and(|state| *state != off),
            }
        }
        _ => Kind::Other,
    };
    Some(kind)
}

fn stp_state(on: bool) -> BridgeStpState {
    if on {
        BridgeStpState::KernelStp
    } else {
        BridgeStpState::Disabled
    }
}

/// A new link, switched on, as one that machined made.
fn marked<T: std::fmt::Debug>(link: LinkMessageBuilder<T>) -> LinkMessage {
    link.up().link_group(LINK_GROUP).build()
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut given, mut lifetime, mut mark) = (None, None, None, None);
    let mut preferred = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => given = Some(*address),
            AddressAttribute::CacheInfo(cache) => {
                let lasting = |seconds: u32| {
                    (seconds != FOREVER).then(|| Duration::from_secs(seconds.into()))
                };
                lifetime = lasting(cache.ifa_valid);
                preferred = lasting(cache.ifa_preferred)
                    .filter(|_| cache.ifa_valid.abs_diff(cache.ifa_preferred) > 1);
            }
            AddressAttribute::Protocol(protocol) => mark = Mark::from((*protocol).into()),
            _ => {}
        }
    }
    // Where there is a peer, "address" is the peer's.
    let addr = local.or(given)?;
    let cidr = Cidr {
        addr,
        prefix: message.header.prefix_len,
    };
    Some(Address {
        link: message.header.index,
        cidr,
        lifetime,
        preferred,
        unique: match message.header.flags {
            flags if flags.contains(AddressHeaderFlags::Dadfailed) => Unique::No,
            flags if flags.contains(AddressHeaderFlags::Tentative) => Unique::Unknown,
            _ => Unique::Yes,
        },
        mark,
    })
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
