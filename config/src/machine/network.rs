//! The network, as wanted: links, addresses, routes, rules, and who may come in.

use crate::Wireguard;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// Links and resolvers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// One entry for each configured link, in the order of the config.
    pub links: Vec<Link>,
    /// Resolvers to use instead of those from DHCP; empty means those from DHCP.
    pub nameservers: Vec<IpAddr>,
    /// Domains to look short names up in, instead of those from DHCP; empty means those.
    pub search_domains: Vec<String>,
    /// Names that no resolver is asked for, by their address.
    pub hosts: BTreeMap<IpAddr, Vec<String>>,
    /// The address that the servers share.
    pub virtual_address: Option<VirtualAddress>,
    /// Who may reach the machine's own ports; `None` for everybody.
    pub firewall: Option<Firewall>,
    /// Which packets' way is looked up in which table, by priority.
    pub rules: Vec<Rule>,
}

/// An address that one of the cluster's servers answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address.
    pub address: IpAddr,
    /// The link that has it; `None` for the one whose network it is in.
    pub link: Option<String>,
}

/// Who may reach the machine's own ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// What no rule is about is dropped.
    pub block: bool,
    /// The networks that may reach every port.
    pub nodes: Vec<Cidr>,
    /// The first that fits counts.
    pub rules: Vec<FirewallRule>,
}

/// Who may reach some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallRule {
    /// What it is called.
    pub name: String,
    /// The first and the last port of each range.
    pub ports: Vec<(u16, u16)>,
    /// Of UDP instead of TCP.
    pub udp: bool,
    /// From these networks; empty means from everywhere.
    pub from: Vec<Cidr>,
    /// What fits is dropped.
    pub block: bool,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which of the machine's links this is. One that is made has a name and nothing else.
    pub select: LinkSelector,
    /// The machine makes it, as this.
    pub made: Option<Made>,
    /// Ask a DHCPv4 server for an address.
    pub dhcp_v4: bool,
    /// Ask a DHCPv6 server for an address, and hear what routers say even while the machine
    /// forwards packets.
    pub dhcp_v6: bool,
    /// What is taken of their leases.
    pub lease: LeaseUse,
    /// Fixed addresses.
    pub addresses: Vec<Cidr>,
    /// The largest packet, in bytes; `None` leaves it to DHCP or the driver.
    pub mtu: Option<u32>,
    /// Fixed routes through this link.
    pub routes: Vec<Route>,
}

/// What is taken of a lease beside its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseUse {
    /// The metric of its routes, and of the default route of IPv6, which is a router's word;
    /// `None` is one for each link, and the kernel's 1024 for the latter.
    pub route_metric: Option<u32>,
    /// Its routes; for IPv6 the routers' default route.
    pub routes: bool,
    /// Its resolvers and its domains.
    pub nameservers: bool,
    /// The name that it has for the machine; DHCPv4 alone has one.
    pub hostname: bool,
}

impl Default for LeaseUse {
    /// All of it.
    fn default() -> Self {
        LeaseUse {
            route_metric: None,
            routes: true,
            nameservers: true,
            hostname: true,
        }
    }
}

/// A link that the machine makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// A network of its own on another link (IEEE 802.1Q).
    Vlan {
        /// The link that carries it, by name.
        parent: String,
        /// 1 to 4094.
        id: u16,
    },
    /// Several links that act as one.
    Bond {
        /// Their names; at least one.
        links: Vec<String>,
        /// How they share the work.
        mode: BondMode,
        /// How often it looks whether they have carrier, in milliseconds.
        miimon: u32,
        /// How often the switch says that it is there; `Some` with [`BondMode::Ieee8023Ad`].
        lacp_rate: Option<LacpRate>,
        /// What of a packet says which link it takes; `Some` in the modes that ask for it.
        xmit_hash_policy: Option<XmitHashPolicy>,
    },
    /// A switch.
    Bridge {
        /// The names of its ports.
        links: Vec<String>,
        /// Finds loops and breaks them (IEEE 802.1D).
        stp: bool,
    },
    /// A link without a cable.
    Dummy,
    /// An encrypted tunnel.
    Wireguard(Wireguard),
}

/// How the links of a bond share the work; the numbers are the kernel's, see
/// include/uapi/linux/if_bonding.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    /// One packet through each in turn.
    BalanceRr = 0,
    /// One works, the others wait for it to fail.
    ActiveBackup = 1,
    /// The addresses say which.
    BalanceXor = 2,
    /// Every packet through all.
    Broadcast = 3,
    /// As agreed with the switch (LACP).
    Ieee8023Ad = 4,
    /// The load says which, for what is sent.
    BalanceTlb = 5,
    /// The load says which, both ways.
    BalanceAlb = 6,
}

/// How often the other end of a bond says that it is there; the numbers are the kernel's,
/// AD_LACP_SLOW and AD_LACP_FAST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LacpRate {
    /// Every 30 seconds.
    Slow = 0,
    /// Every second.
    Fast = 1,
}

/// What of a packet says which link of a bond it takes; the numbers are the kernel's, see
/// include/uapi/linux/if_bonding.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XmitHashPolicy {
    /// The hardware addresses.
    Layer2 = 0,
    /// Addresses and ports.
    Layer34 = 1,
    /// The hardware addresses and the addresses.
    Layer23 = 2,
    /// As [`XmitHashPolicy::Layer23`], of what is in a tunnel.
    Encap23 = 3,
    /// As [`XmitHashPolicy::Layer34`], of what is in a tunnel.
    Encap34 = 4,
    /// The VLAN and the hardware address of the sender.
    VlanSrcMac = 5,
}

/// Picks links. Every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkSelector {
    /// The kernel's name for it, for example `eth0`.
    pub name: Option<String>,
    /// Its permanent hardware address.
    pub mac: Option<MacAddr>,
    /// The driver that serves it, for example `virtio_net`.
    pub driver: Option<String>,
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// The address itself.
    pub addr: IpAddr,
    /// 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub prefix: u8,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination network.
    pub to: Cidr,
    /// The gateway; `None` means that the destination is on the link.
    pub via: Option<IpAddr>,
    /// Lower wins. The default is 1024, as the kernel's own for IPv6.
    pub metric: u32,
    /// The table that it is in; [`MAIN_TABLE`] unless the config says another.
    pub table: u32,
}

/// Which packets' way is looked up in which table. One that names no network is for both
/// families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The lower comes first. No two have the same.
    pub priority: u32,
    /// Packets from this network.
    pub from: Option<Cidr>,
    /// Packets to this network.
    pub to: Option<Cidr>,
    /// Packets with this mark; never 0.
    pub fw_mark: Option<u32>,
    /// Packets that came in by this link; `lo` means those that the machine itself sends.
    pub iif: Option<String>,
    /// Where their way is looked up.
    pub table: u32,
}

impl Link {
    /// Any link, with DHCPv4: what is done where the config names no link.
    pub fn any_dhcp() -> Self {
        Link {
            select: LinkSelector::default(),
            made: None,
            dhcp_v4: true,
            dhcp_v6: false,
            lease: LeaseUse::default(),
            addresses: Vec::new(),
            mtu: None,
            routes: Vec::new(),
        }
    }
}

impl Made {
    /// The links that are part of it.
    pub fn members(&self) -> &[String] {
        match self {
            Made::Bond { links, .. } | Made::Bridge { links, .. } => links,
            Made::Vlan { .. } | Made::Dummy | Made::Wireguard(_) => &[],
        }
    }

    /// The links that it stands on: its parts, or its parent.
    pub fn below(&self) -> &[String] {
        match self {
            Made::Vlan { parent, .. } => std::slice::from_ref(parent),
            _ => self.members(),
        }
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Made::Vlan { .. } => "vlan",
            Made::Bond { .. } => "bond",
            Made::Bridge { .. } => "bridge",
            Made::Dummy => "dummy",
            Made::Wireguard(_) => "wireguard",
        }
    }
}

impl BondMode {
    /// As it is written, and as the kernel calls it.
    pub fn word(self) -> &'static str {
        match self {
            BondMode::BalanceRr => "balance-rr",
            BondMode::ActiveBackup => "active-backup",
            BondMode::BalanceXor => "balance-xor",
            BondMode::Broadcast => "broadcast",
            BondMode::Ieee8023Ad => "802.3ad",
            BondMode::BalanceTlb => "balance-tlb",
            BondMode::BalanceAlb => "balance-alb",
        }
    }
}

impl LacpRate {
    /// As it is written, and as the kernel calls it.
    pub fn word(self) -> &'static str {
        match self {
            LacpRate::Slow => "slow",
            LacpRate::Fast => "fast",
        }
    }
}

impl XmitHashPolicy {
    /// As it is written, and as the kernel calls it.
    pub fn word(self) -> &'static str {
        match self {
            XmitHashPolicy::Layer2 => "layer2",
            XmitHashPolicy::Layer23 => "layer2+3",
            XmitHashPolicy::Layer34 => "layer3+4",
            XmitHashPolicy::Encap23 => "encap2+3",
            XmitHashPolicy::Encap34 => "encap3+4",
            XmitHashPolicy::VlanSrcMac => "vlan+srcmac",
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl Cidr {
    /// `0.0.0.0/0`.
    pub const DEFAULT_V4: Cidr = Cidr {
        addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        prefix: 0,
    };
}
