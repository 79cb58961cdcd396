//! What a config means: validated values with every default resolved. Whoever
//! holds a [`Machine`] checks nothing again. Nothing here reads or writes files.

use crate::Wireguard;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};
use zeroize::Zeroizing;

mod swap;

pub use swap::*;

/// One machine, as wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The fixed host name; `None` takes the one from DHCP, or else one derived
    /// from the machine's identity.
    pub hostname: Option<Hostname>,
    /// What the machine is in its cluster.
    pub role: Role,
    /// Kernel parameters below `/proc/sys`, by dotted name.
    pub sysctls: BTreeMap<SysctlKey, String>,
    /// Kernel modules to load beside the machine's own, in the order of the config.
    pub modules: Vec<Module>,
    /// The servers that get the machine's logs.
    pub forward: Vec<Forward>,
    /// How the clock is kept.
    pub time: Time,
    /// Who may call the machine. `None` only in [`Machine::maintenance`].
    pub api: Option<Api>,
    /// How long the machine may hang before its watchdog resets it.
    pub watchdog: Duration,
    /// When a release that is new on the machine is taken for good.
    pub health_gate: HealthGate,
    /// How the machine's programs reach others.
    pub egress: Egress,
    /// The environment of the orchestrator.
    pub env: BTreeMap<String, Secret>,
    /// Where container images come from.
    pub registries: Registries,
    /// Files for the orchestrator's parts, by their absolute path.
    pub files: BTreeMap<String, Secret>,
    /// Links, resolvers.
    pub network: Network,
    /// Swap; `None` for none.
    pub swap: Option<Swap>,
    /// What runs on the machine; `None` where the role is [`Role::None`].
    pub orchestrator: Option<Orchestrator>,
}

/// What the machine is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the control plane, and pods.
    Server,
    /// Runs pods.
    Agent,
    /// Runs no orchestrator.
    None,
}

/// A host name: RFC 1123 labels in lower case, at most 63 characters in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hostname(pub(crate) String);

/// The dotted name of a kernel parameter, for example `vm.max_map_count`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SysctlKey(pub(crate) String);

/// One kernel module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Which one.
    pub name: ModuleName,
    /// What it is loaded with.
    pub parameters: BTreeMap<String, String>,
}

/// The name of a kernel module as the kernel has it: with `_`, never `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModuleName(pub(crate) String);

/// A server that gets the machine's logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Which one, and how it is reached.
    pub to: LogServer,
    /// What every line has besides.
    pub fields: BTreeMap<String, String>,
}

/// Where logs are sent. `Display` writes the URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogServer {
    /// How it is reached.
    pub protocol: LogProtocol,
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// How a server of logs is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogProtocol {
    /// Lines in datagrams.
    Udp,
    /// Lines.
    Tcp,
    /// Lines in TLS; the server's name is checked.
    Tls,
}

/// How the clock is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Time {
    /// NTP servers, names or addresses; empty means that nothing sets the clock.
    pub servers: Vec<String>,
    /// How long the orchestrator waits for the first answer of one.
    pub boot_timeout: Duration,
}

impl Default for Time {
    fn default() -> Self {
        Time {
            servers: Vec::new(),
            boot_timeout: Duration::from_secs(30),
        }
    }
}

/// When a release on trial is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthGate {
    /// How long after the boot that may take.
    pub deadline: Duration,
    /// How long all health checks must hold without a break.
    pub stable: Duration,
    /// The names of the health checks that need not hold.
    pub ignore: Vec<&'static str>,
}

impl Default for HealthGate {
    fn default() -> Self {
        HealthGate {
            deadline: Duration::from_secs(600),
            stable: Duration::from_secs(30),
            ignore: Vec::new(),
        }
    }
}

/// Who may call the machine's API.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    /// The CA that client certificates chain to, PEM.
    pub ca: String,
    /// Issues the machine's own server certificate. It may not issue client certificates.
    pub issuer: Issuer,
    /// Names and addresses to put into the server certificate beside the machine's own.
    pub sans: Vec<String>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// PEM.
    pub cert: String,
    /// PKCS#8 PEM.
    pub key: Secret,
}

/// Something that must not be shown: `Debug` prints stars, memory is cleared on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) Zeroizing<String>);

/// How the machine's programs reach others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// CAs to trust beside those of the image, PEM; one item may hold several.
    pub trusted_cas: Vec<String>,
    /// The proxy of http:// URLs.
    pub http_proxy: Option<Secret>,
    /// The proxy of https:// URLs.
    pub https_proxy: Option<Secret>,
    /// Hosts, domains and networks that need no proxy.
    pub no_proxy: Vec<String>,
}

/// Where container images come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// By the registry's name, or `*`: what is asked in its place.
    pub mirrors: BTreeMap<String, Mirror>,
    /// How a host, with its port if it has one, is spoken to.
    pub hosts: BTreeMap<String, RegistryHost>,
}

/// What is asked in place of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Their URLs, in the order that they are asked.
    pub endpoints: Vec<String>,
    /// What they call its images: regular expressions, and what stands in their place.
    pub rewrites: BTreeMap<String, String>,
}

/// How a registry or a mirror is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryHost {
    /// The name and the password that are given to it.
    pub login: Option<(String, Secret)>,
    /// How its connection is trusted.
    pub tls: TlsFiles,
    /// Its certificate is not looked at.
    pub insecure: bool,
}

/// The certificates of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CAs that the other side's certificate may chain to, PEM.
    pub ca: Option<String>,
    /// What is shown to the other side.
    pub own: Option<Issuer>,
}

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
    /// What is taken of its lease.
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
    /// The metric of its routes; `None` is one for each link.
    pub route_metric: Option<u32>,
    /// Its routes.
    pub routes: bool,
    /// Its resolvers and its domain.
    pub nameservers: bool,
    /// The name that it has for the machine.
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

/// RT_TABLE_MAIN of rtnetlink.h: the table that every packet's way is looked up in, unless a
/// rule says otherwise.
pub const MAIN_TABLE: u32 = 254;

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

/// The orchestrator to run.
#[derive(Clone, PartialEq)]
pub struct Orchestrator {
    /// Which one; must be the one in the image.
    pub name: String,
    /// What joins machines to the cluster.
    pub token: Secret,
    /// The server to join, for example `https://10.0.0.1:6443`. Always there for an agent.
    pub server: Option<String>,
    /// The database that servers keep the cluster in; `None` for their own.
    pub datastore: Option<Datastore>,
    /// What is fetched before it starts.
    pub images: Vec<ImageArchive>,
    /// What is deployed into the cluster: YAML, by its name here.
    pub manifests: BTreeMap<String, Secret>,
    /// Keys of the orchestrator's own config, passed through as written. Never one that the OS sets.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// An archive of container images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageArchive {
    /// Where it is fetched from. Not secret.
    pub url: String,
    /// The SHA-256 of the file, in lower case.
    pub sha256: String,
    /// How its name must end for the orchestrator to know what it is: `.tar.zst`.
    pub ending: &'static str,
}

/// A database outside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datastore {
    /// Its URL.
    pub endpoint: Secret,
    /// How its connection is trusted.
    pub tls: TlsFiles,
}

impl Machine {
    /// How long a machine may hang where its config says nothing.
    pub const WATCHDOG: Duration = Duration::from_secs(60);

    /// What a machine without a config does: DHCP on every Ethernet link,
    /// nothing else. Its API is the maintenance API.
    pub fn maintenance() -> Self {
        Machine {
            hostname: None,
            role: Role::None,
            sysctls: BTreeMap::new(),
            modules: Vec::new(),
            forward: Vec::new(),
            time: Time::default(),
            api: None,
            watchdog: Machine::WATCHDOG,
            health_gate: HealthGate::default(),
            egress: Egress::default(),
            env: BTreeMap::new(),
            registries: Registries::default(),
            files: BTreeMap::new(),
            network: Network {
                links: vec![Link::any_dhcp()],
                ..Network::default()
            },
            swap: None,
            orchestrator: None,
        }
    }
}

impl Link {
    /// Any link, with DHCPv4: what is done where the config names no link.
    pub fn any_dhcp() -> Self {
        Link {
            select: LinkSelector::default(),
            made: None,
            dhcp_v4: true,
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

impl Hostname {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SysctlKey {
    /// The dotted name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ModuleName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Secret {
    /// Wraps a text that must not be shown.
    pub fn new(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }

    /// The text itself. Call it where the text is used, not where it is passed on.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Settings that name a secret are starred out.
impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Orchestrator {
            name,
            token,
            server,
            datastore,
            images,
            manifests,
            settings,
        } = self;
        let shown = |(key, value): (&String, &serde_json::Value)| {
            let secret = crate::secret::names_secret(key) && !value.is_boolean();
            (
                key.clone(),
                if secret { "***".into() } else { value.clone() },
            )
        };
        let settings: BTreeMap<String, serde_json::Value> = settings.iter().map(shown).collect();
        f.debug_struct("Orchestrator")
            .field("name", name)
            .field("token", token)
            .field("server", server)
            .field("datastore", datastore)
            .field("images", images)
            .field("manifests", manifests)
            .field("settings", &settings)
            .finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
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

impl fmt::Display for LogServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogServer {
            protocol,
            host,
            port,
        } = self;
        let scheme = match protocol {
            LogProtocol::Udp => "udp",
            LogProtocol::Tcp => "tcp",
            LogProtocol::Tls => "tls",
        };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
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
