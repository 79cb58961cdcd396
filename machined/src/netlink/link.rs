//! Links: what the kernel says of each, and the making, changing and joining of them. One
//! that machined made has its mark in its group, set in the same moment as it is made (an
//! alias would be a second step).

use super::{Netlink, plain};
use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use keelson_config::{MacAddr, Made};
use rtnetlink::{
    LinkBond, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVlan, LinkWireguard,
    packet_route::link::{
        BondLacpRate, BondMode, BondXmitHashPolicy, BridgeStpState, InfoBond, InfoBridge, InfoData,
        InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    },
};

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

/// The group of the links that machined made, as [`Mark::Config`] is of addresses. The
/// kernel gives a link group 0, and no program of a Kubernetes host any.
const LINK_GROUP: u32 = 71;

impl Netlink {
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
