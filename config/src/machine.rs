//! What a config means: validated values with every default resolved. Whoever
//! holds a [`Machine`] checks nothing again. Nothing here reads or writes files.

use std::{collections::BTreeMap, fmt, time::Duration};
use zeroize::Zeroizing;

mod network;
mod swap;
mod volume;

pub use network::*;
pub use swap::*;
pub use volume::*;

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
    /// Volumes for workloads, in the order of the config.
    pub volumes: Vec<Volume>,
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

/// RT_TABLE_MAIN of rtnetlink.h: the table that every packet's way is looked up in, unless a
/// rule says otherwise.
pub const MAIN_TABLE: u32 = 254;

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
            volumes: Vec::new(),
            orchestrator: None,
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
