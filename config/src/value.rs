//! From text to the values of a [`Machine`](crate::Machine): host names,
//! addresses, keys of kernel parameters, PEM. Each says in words what is wrong,
//! for a person who wrote the text and does not see the rule.

mod pem;
mod size;

pub(crate) use pem::{Pem, pem};
pub(crate) use size::size;

use crate::{Cidr, Hostname, MacAddr, SysctlKey, tree::quote};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

/// Why a text is not such a value, and what could be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl Wrong {
    /// With nothing to do about it.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Wrong {
            message: message.into(),
            hint: String::new(),
        }
    }

    /// With what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Wrong {
            hint: hint.into(),
            ..self
        }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}

/// A duration as Kubernetes writes it, in whole hours, minutes and seconds: `90s`, `1h30m`.
pub(crate) fn duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let malformed = || {
        Wrong::new(format!("{} is not a duration", quote(text)))
            .hint("write hours, minutes and seconds, as in 10m or 1h30m")
    };
    let mut seconds: u64 = 0;
    let mut rest = text;
    // Each unit once, the larger first.
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, after)) = rest.split_once(unit) else {
            continue;
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let count: u64 = digits.parse().map_err(|_| malformed())?;
        seconds = count
            .checked_mul(length)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(malformed)?;
        rest = after;
    }
    if !rest.is_empty() || text.is_empty() {
        return Err(malformed());
    }
    let duration = Duration::from_secs(seconds);
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (range.start().as_secs(), range.end().as_secs());
    Err(Wrong::new(format!(
        "{} is not between {} and {}",
        quote(text),
        short(least),
        short(most)
    )))
}

/// A number of seconds in the largest unit that fits.
fn short(seconds: u64) -> String {
    match seconds {
        0 => "0s".to_owned(),
        n if n.is_multiple_of(3600) => format!("{}h", n / 3600),
        n if n.is_multiple_of(60) => format!("{}m", n / 60),
        n => format!("{n}s"),
    }
}

/// The rule of RFC 1123, section 2.1, as far as Kubernetes lets a node be named by it.
impl FromStr for Hostname {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(
                Wrong::new("the host name is empty").hint("remove the key to have one derived")
            );
        }
        if text.len() > 63 {
            return Err(Wrong::new(format!(
                "the host name has {} characters, more than 63",
                text.len()
            )));
        }
        if let Some(c) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "-.".contains(*c)))
        {
            return Err(
                Wrong::new(format!("a host name cannot hold {}", quote(&c.to_string())))
                    .hint("lower case letters, digits, - and . are allowed"),
            );
        }
        if text.chars().any(|c| c.is_ascii_uppercase()) {
            let lower = text.to_ascii_lowercase();
            return Err(Wrong::new(format!(
                "the host name {} has upper case letters",
                quote(text)
            ))
            .hint(format!(
                "write {lower}: Kubernetes names nodes in lower case"
            )));
        }
        if text
            .split('.')
            .any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-'))
        {
            return Err(
                Wrong::new(format!("the host name {} is malformed", quote(text)))
                    .hint("each part between dots begins and ends with a letter or digit"),
            );
        }
        if text == "localhost" || text.ends_with(".localhost") {
            return Err(Wrong::new("a machine cannot be named localhost")
                .hint("that name means every machine"));
        }
        if text.parse::<Ipv4Addr>().is_ok() {
            return Err(Wrong::new("a host name cannot be an address"));
        }
        Ok(Hostname(text.to_owned()))
    }
}

/// The dotted form of sysctl(8). Where a part holds a dot of its own (the name of
/// a VLAN link), the dot is written as a slash: `net.ipv4.conf.eth0/100.forwarding`.
impl FromStr for SysctlKey {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let Some((first, _)) = text.split_once('.') else {
            let wrong = Wrong::new(format!(
                "{} is not the name of a kernel parameter",
                quote(text)
            ));
            return Err(if text.contains('/') {
                wrong.hint(format!(
                    "write it with dots: {}",
                    text.trim_matches('/').replace('/', ".")
                ))
            } else {
                wrong.hint("it is written with dots, as in vm.max_map_count")
            });
        };
        if first.contains('/') {
            return Err(Wrong::new(format!(
                "{} is not the name of a kernel parameter",
                quote(text)
            ))
            .hint("it is written with dots, as in vm.max_map_count"));
        }
        let part = |part: &str| {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_/:@".contains(c);
            !part.is_empty() && part.chars().all(fine) && !part.split('/').any(str::is_empty)
        };
        if text.len() > 255 || !text.split('.').all(part) {
            return Err(Wrong::new(format!(
                "{} is not the name of a kernel parameter",
                quote(text)
            ))
            .hint("its parts are letters, digits, - and _, with one dot between them"));
        }
        Ok(SysctlKey(text.to_owned()))
    }
}

/// Six pairs of hexadecimal digits with colons (or dashes) between them.
impl FromStr for MacAddr {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let malformed = || {
            Wrong::new(format!("{} is not a hardware address", quote(text)))
                .hint("it looks like 52:54:00:12:34:56")
        };
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs
                .next()
                .filter(|pair| pair.len() == 2)
                .ok_or_else(malformed)?;
            if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
        }
        if pairs.next().is_some() {
            return Err(malformed());
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(Wrong::new(format!(
                "{} is not the address of a single link",
                quote(text)
            )));
        }
        Ok(MacAddr(bytes))
    }
}

/// An address and the length of its network's prefix: `10.1.0.5/24`.
impl FromStr for Cidr {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let Some((addr, prefix)) = text.split_once('/') else {
            let wrong = Wrong::new(format!("{} has no prefix length", quote(text)));
            return Err(match text.parse() {
                Ok(IpAddr::V4(_)) => wrong.hint(format!(
                    "write {text}/24, or whatever the network's prefix is"
                )),
                Ok(IpAddr::V6(_)) => wrong.hint(format!(
                    "write {text}/64, or whatever the network's prefix is"
                )),
                Err(_) => Wrong::new(format!("{} is not an address", quote(text)))
                    .hint("it looks like 10.1.0.5/24"),
            });
        };
        let addr: IpAddr = addr
            .parse()
            .map_err(|_| Wrong::new(format!("{} is not an address", quote(addr))))?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        if addr.is_ipv4() && prefix.parse::<Ipv4Addr>().is_ok() {
            let mask = prefix
                .parse::<Ipv4Addr>()
                .map(u32::from)
                .unwrap_or_default();
            return Err(Wrong::new("the network's prefix is given as a mask")
                .hint(format!("write {addr}/{}", mask.leading_ones())));
        }
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix
            .parse()
            .ok()
            .filter(|prefix| digits && *prefix <= most)
            .ok_or_else(|| {
                Wrong::new(format!(
                    "the prefix length {} is not between 0 and {most}",
                    quote(prefix)
                ))
            })?;
        Ok(Cidr { addr, prefix })
    }
}

impl Cidr {
    /// The network that the address is in: the same with its host part zero.
    pub fn network(&self) -> Cidr {
        let prefix = u32::from(self.prefix);
        let addr = match self.addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(addr) & mask))
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(addr) & mask))
            }
        };
        Cidr {
            addr,
            prefix: self.prefix,
        }
    }

    /// Whether an address is in this network.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4()
            && Cidr {
                addr,
                prefix: self.prefix,
            }
            .network()
            .addr
                == self.network().addr
    }
}

/// An address that a link can have.
pub(crate) fn host_address(text: &str) -> Result<Cidr, Wrong> {
    let cidr: Cidr = text.parse()?;
    let Cidr { addr, prefix } = cidr;
    if prefix == 0 {
        return Err(Wrong::new(
            "an address with the prefix length 0 would be in the same network as all others",
        ));
    }
    if addr.is_unspecified()
        || addr.is_multicast()
        || addr.is_loopback()
        || addr == Ipv4Addr::BROADCAST
    {
        return Err(Wrong::new(format!(
            "{addr} cannot be the address of a link"
        )));
    }
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    if prefix < bits - 1 && addr == cidr.network().addr {
        return Err(Wrong::new(format!(
            "{cidr} is the network itself, not an address in it"
        ))
        .hint("the part behind the prefix must not be zero"));
    }
    if let IpAddr::V4(v4) = addr
        && prefix < 31
        && u32::from(v4) | (u32::MAX >> prefix) == u32::from(v4)
    {
        return Err(Wrong::new(format!(
            "{addr} is the broadcast address of its network"
        )));
    }
    Ok(cidr)
}

/// A network, as the destination of a route.
pub(crate) fn network(text: &str) -> Result<Cidr, Wrong> {
    if text == "default" {
        return Err(Wrong::new("\"default\" does not say of which protocol")
            .hint("write 0.0.0.0/0, or ::/0"));
    }
    let cidr: Cidr = text.parse()?;
    if cidr.network() != cidr {
        return Err(Wrong::new(format!(
            "{cidr} is an address within a network, not a network"
        ))
        .hint(format!("write {}", cidr.network())));
    }
    if cidr.addr.is_multicast() || cidr.addr.is_loopback() {
        return Err(Wrong::new(format!(
            "{cidr} cannot be the destination of a route"
        )));
    }
    Ok(cidr)
}

/// An address of another machine.
pub(crate) fn address(text: &str) -> Result<IpAddr, Wrong> {
    let addr: IpAddr = text.parse().map_err(|_| {
        let wrong = Wrong::new(format!("{} is not an address", quote(text)));
        if text.contains('/') {
            wrong.hint("here it is written without a prefix length")
        } else {
            wrong
        }
    })?;
    if addr.is_unspecified() || addr.is_multicast() || addr == Ipv4Addr::BROADCAST {
        return Err(Wrong::new(format!(
            "{addr} cannot be the address of a machine"
        )));
    }
    Ok(addr)
}

/// Names that Kubernetes' network plug-ins give to links of theirs: how they begin.
pub const LINKS_OF_PODS: &[&str] = &[
    "cali",
    "cilium",
    "cni",
    "docker",
    "dummy",
    "flannel",
    "ifb",
    "kube",
    "lxc",
    "nodelocaldns",
    "tunl",
    "veth",
    "vxlan",
    "weave",
];

/// Whether a link of this name is one of the network of the pods, which only they touch.
pub fn is_of_pods(name: &str) -> bool {
    LINKS_OF_PODS.iter().any(|prefix| name.starts_with(prefix))
}

/// Names that mean something else to the kernel: directories below /proc/sys/net, a file
/// beside the links in sysfs, the links that a tunnel's module brings.
const OF_THE_KERNEL: &[&str] = &[
    "all",
    "bonding_masters",
    "default",
    "erspan0",
    "gre0",
    "gretap0",
    "ip6_vti0",
    "ip6gre0",
    "ip6tnl0",
    "ip_vti0",
    "sit0",
];

/// Whether the kernel gives such names to network cards.
pub(crate) fn is_of_a_card(name: &str) -> bool {
    ["eth", "lan", "usb", "wlan", "wwan"].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// How the name of a dummy begins: whose one is, its name does not tell.
const DUMMY: &str = "dummy";

/// A link that others are made of.
pub(crate) fn lower_link(text: &str) -> Result<String, Wrong> {
    let name = link_name(text)?;
    if is_of_pods(&name) && !name.starts_with(DUMMY) {
        return Err(Wrong::new(format!(
            "{name} is the name of a link of the network of the pods"
        ))
        .hint("only the orchestrator touches those"));
    }
    Ok(name)
}

/// The name that a link gets which is made. What is called a dummy is one: nothing comes
/// in through it, so that nobody is on guard there.
pub(crate) fn made_name(text: &str, dummy: bool) -> Result<String, Wrong> {
    let name = lower_link(text)?;
    let hint = "give it another name, bond0 or storage";
    if name.starts_with(DUMMY) && !dummy {
        return Err(Wrong::new(format!("{name} is the name of a dummy link")).hint(hint));
    }
    if OF_THE_KERNEL.contains(&name.as_str()) {
        return Err(Wrong::new(format!("{name} means something else to the kernel")).hint(hint));
    }
    if is_of_a_card(&name) {
        return Err(Wrong::new(format!(
            "{name} is a name that the kernel gives to network cards"
        ))
        .hint(hint));
    }
    Ok(name)
}

/// The kernel's name for a link: dev_valid_name() in net/core/dev.c.
pub(crate) fn link_name(text: &str) -> Result<String, Wrong> {
    if text == "lo" {
        return Err(Wrong::new("the loopback link is not configured")
            .hint("it is always up, with its own addresses"));
    }
    if text.is_empty() || text.len() > 15 {
        return Err(Wrong::new(format!(
            "a link's name has 1 to 15 characters, {} has {}",
            quote(text),
            text.len()
        )));
    }
    if text == "."
        || text == ".."
        || text
            .chars()
            .any(|c| !c.is_ascii_graphic() || "/:%".contains(c))
    {
        return Err(Wrong::new(format!(
            "{} cannot be the name of a link",
            quote(text)
        )));
    }
    Ok(text.to_owned())
}

/// The name of a kernel driver.
pub(crate) fn driver(text: &str) -> Result<String, Wrong> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.is_empty() || text.len() > 64 || !text.chars().all(fine) {
        return Err(
            Wrong::new(format!("{} is not the name of a driver", quote(text)))
                .hint("it looks like virtio_net"),
        );
    }
    Ok(text.to_owned())
}

/// The name or address of another machine.
pub(crate) fn host(text: &str) -> Result<String, Wrong> {
    if text.parse::<IpAddr>().is_ok() {
        return address(text).map(|addr| addr.to_string());
    }
    let malformed = || {
        let wrong = Wrong::new(format!(
            "{} is neither a host name nor an address",
            quote(text)
        ));
        if text.contains("://") || text.contains(':') {
            wrong.hint("write the name alone, without scheme or port")
        } else {
            wrong
        }
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last part is a number is a mistyped address to everyone: RFC 1123, section 2.1.
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || numeric || !name.split('.').all(label) {
        return Err(malformed());
    }
    Ok(text.to_owned())
}

/// Whether a text is a plain name: small letters and digits, dashes between them, at most 63.
pub(crate) fn is_plain_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name, not the address, of another machine or a domain.
pub(crate) fn host_name(text: &str) -> Result<String, Wrong> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(Wrong::new(format!(
            "{} is an address, not a name",
            quote(text)
        )));
    }
    host(text)
}

/// An `https://host[:port]` URL. The second is whether it names a port.
pub(crate) fn server_url(text: &str) -> Result<(String, bool), Wrong> {
    const FORM: &str = "it looks like https://10.0.0.1:6443";
    let Some(rest) = text.strip_prefix("https://") else {
        return Err(Wrong::new(format!("{} is not an https:// URL", quote(text))).hint(FORM));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(c) = rest.chars().find(|c| "/?#@".contains(*c)) {
        return Err(Wrong::new(format!(
            "the URL of a server has only a host and a port, found {}",
            quote(&c.to_string())
        ))
        .hint(FORM));
    }
    let malformed = || Wrong::new(format!("{} is not the URL of a server", quote(text))).hint(FORM);
    let (name, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (addr, after) = inner.split_once(']').ok_or_else(malformed)?;
            addr.parse::<Ipv6Addr>().map_err(|_| malformed())?;
            (
                None,
                after
                    .strip_prefix(':')
                    .or((!after.is_empty()).then_some("")),
            )
        }
        None => match rest.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(rest), None),
        },
    };
    if let Some(name) = name {
        host(name)?;
    }
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        port.parse::<u16>()
            .ok()
            .filter(|port| digits && *port > 0)
            .ok_or_else(malformed)?;
    }
    Ok((
        text.strip_suffix('/').unwrap_or(text).to_owned(),
        port.is_some(),
    ))
}

/// What joins machines to a cluster: a password, or `K10<hash>::<user>:<password>`
/// with the SHA-256 of the cluster's CA.
pub(crate) fn token(text: &str) -> Result<(), Wrong> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Wrong::new("the token holds white space")
            .hint("a token is one word; check for a line break in it"));
    }
    let password = match text
        .strip_prefix("K10")
        .and_then(|rest| rest.split_once("::"))
    {
        Some((hash, rest)) => {
            if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(
                    Wrong::new("the hash in the token is not 64 hexadecimal digits")
                        .hint("the form is K10<hash>::server:<password>; was it copied whole?"),
                );
            }
            rest.split_once(':').map_or(rest, |(_, password)| password)
        }
        None => text,
    };
    let length = password.chars().count();
    if length < 16 {
        return Err(
            Wrong::new(format!("the token has {length} characters, fewer than 16"))
                .hint("whoever guesses it owns the cluster; `osctl gen secrets` makes a good one"),
        );
    }
    Ok(())
}
