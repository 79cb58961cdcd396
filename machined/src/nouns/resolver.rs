//! The noun resolver: `/run/etc/resolv.conf` lists the config's name servers or, where
//! it names none, those of the leases. Written whole and renamed; a list that is there
//! stays while the leases are not known yet.

use super::{
    address::is_undecided,
    file::{self, RenderedFile},
};
use crate::{
    dhcp::{Leases, Leases6, Status},
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use keelson_config::{Machine, Network};
use std::{collections::BTreeMap, fmt, fs, io, net::IpAddr, path::PathBuf};

/// Where the file is; `/etc/resolv.conf` links to it.
pub(crate) const RESOLV_CONF: &str = "/run/etc/resolv.conf";

/// What the C library looks at (resolv.conf(5)); pods' name servers have the same limit.
const MOST: usize = 3;

/// Name servers, and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolvers {
    servers: Vec<IpAddr>,
    /// The domain to complete short names with.
    search: Vec<String>,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Config,
    Dhcp,
    /// There is none, and there will be none.
    Nowhere,
    /// There is none yet.
    Undecided,
}

/// What was observed.
#[derive(Clone, Debug)]
pub(crate) struct Have {
    /// The file, where there is one.
    text: Option<String>,
    leases: BTreeMap<u32, Status>,
    leases6: Leases6,
}

/// The one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write the file with this text.
    Write(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write /etc/resolv.conf")
    }
}

/// Which name servers there shall be. Leases count in the order of their links, and of one
/// link that of DHCPv4 first.
fn wanted(network: &Network, have: &Have) -> Resolvers {
    let (v4, v6) = (&have.leases, &have.leases6);
    let mut leased: Vec<(u32, Vec<IpAddr>, Vec<String>)> = Vec::new();
    for (link, bound) in v4
        .iter()
        .filter_map(|(link, it)| Some((*link, it.bound()?)))
    {
        let dns = bound.lease.dns.iter().map(|&it| it.into()).collect();
        leased.push((link, dns, bound.lease.domain.iter().cloned().collect()));
    }
    for (link, bound) in v6
        .iter()
        .filter_map(|(link, it)| Some((*link, it.bound()?)))
    {
        let dns = bound.lease.dns.iter().map(|&it| it.into()).collect();
        leased.push((link, dns, bound.lease.search.clone()));
    }
    leased.sort_by_key(|(link, ..)| *link);
    let mut search = network.search_domains.clone();
    if search.is_empty() {
        for domain in leased.iter().flat_map(|(.., domains)| domains) {
            if !search.contains(domain) {
                search.push(domain.clone());
            }
        }
    }
    let mut servers = network.nameservers.clone();
    let mut source = Source::Config;
    if servers.is_empty() {
        for &server in leased.iter().flat_map(|(_, servers, _)| servers) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        source = match servers.is_empty() {
            false => Source::Dhcp,
            true if v4.values().any(|status| is_undecided(Some(status))) => Source::Undecided,
            // A network without a DHCPv6 server holds nothing up.
            true if v6.values().any(|status| *status == Status::Asking) => Source::Undecided,
            true => Source::Nowhere,
        };
    }
    servers.truncate(MOST);
    Resolvers {
        servers,
        search,
        source,
    }
}

/// resolv.conf(5).
fn render(resolvers: &Resolvers) -> String {
    let mut text = String::from("# Rendered by machined from the machine config.\n");
    for server in &resolvers.servers {
        text += &format!("nameserver {server}\n");
    }
    if !resolvers.search.is_empty() {
        text += &format!("search {}\n", resolvers.search.join(" "));
    }
    text + "options timeout:2 attempts:3\n"
}

/// The missing steps.
fn plan(have: &Have, network: &Network) -> Vec<Step> {
    let resolvers = wanted(network, have);
    let text = render(&resolvers);
    match &have.text {
        Some(there) if *there == text => Vec::new(),
        // A machined that began anew does not know yet what the one before knew.
        Some(_) if resolvers.source == Source::Undecided => Vec::new(),
        _ => vec![Step::Write(text)],
    }
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Resolver {
    leases: Leases,
    path: PathBuf,
}

impl Resolver {
    /// The noun; leases bring name servers.
    pub(crate) fn new(leases: Leases) -> Resolver {
        Resolver {
            leases,
            path: RESOLV_CONF.into(),
        }
    }
}

impl Noun for Resolver {
    const KIND: &'static str = "resolver";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", self.path.display()));
            }
        };
        Ok(Have {
            text,
            leases: self.leases.all(),
            leases6: self.leases.all6(),
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, &want.network)
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let Step::Write(text) = step;
        file::ensure(&[RenderedFile::file(&self.path, 0o644, text.as_bytes())])?;
        Ok(())
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        vec![publish(have, &want.network)]
    }
}

fn publish(have: &Have, network: &Network) -> Resource {
    let resolvers = wanted(network, have);
    let (phase, source, message) = match resolvers.source {
        Source::Config => (Phase::Ready, "config", ""),
        Source::Dhcp => (Phase::Ready, "dhcp", ""),
        Source::Nowhere => (
            Phase::Ready,
            "none",
            "no name server is configured, and no lease has one",
        ),
        Source::Undecided => (Phase::Pending, "none", "waiting for a DHCP server"),
    };
    let servers: Vec<String> = resolvers.servers.iter().map(ToString::to_string).collect();
    Resource::new(Resolver::KIND, "resolv.conf", phase)
        .message(message)
        .field("servers", servers)
        .field("search", resolvers.search)
        .field("source", source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dhcp::tests::bound,
        dhcp6,
        nouns::link::tests::{named, network},
    };
    use std::net::Ipv4Addr;

    fn have(text: Option<&str>, leases: Vec<Status>) -> Have {
        Have {
            text: text.map(Into::into),
            leases: (2..).zip(leases).collect(),
            leases6: Leases6::new(),
        }
    }

    fn want(servers: &[&str]) -> Network {
        let mut network = network(&[named("eth0")]);
        network.nameservers = servers.iter().map(|text| text.parse().unwrap()).collect();
        network
    }

    fn written(have: &Have, network: &Network) -> Option<String> {
        let steps = plan(have, network);
        steps.first().map(|Step::Write(text)| text.clone())
    }

    /// Shows: network.nameservers
    #[test]
    fn the_file_from_the_config() {
        let network = want(&["1.1.1.1", "fd00::53"]);
        let text = written(&have(None, vec![bound(|_| ())]), &network).unwrap();
        assert_eq!(
            text,
            "# Rendered by machined from the machine config.\nnameserver 1.1.1.1\n\
             nameserver fd00::53\noptions timeout:2 attempts:3\n"
        );
        assert_eq!(
            written(&have(Some(&text), vec![bound(|_| ())]), &network),
            None
        );
    }

    #[test]
    fn the_file_from_leases() {
        let first = bound(|lease| lease.domain = Some("example.com".into()));
        let second = bound(|lease| {
            lease.dns = vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(10, 9, 0, 1)];
            lease.dns.push(Ipv4Addr::new(10, 9, 0, 2));
            lease.dns.push(Ipv4Addr::new(10, 9, 0, 3));
        });
        let text = written(&have(None, vec![first, second]), &want(&[])).unwrap();
        assert_eq!(
            text,
            "# Rendered by machined from the machine config.\nnameserver 10.0.2.3\n\
             nameserver 10.9.0.1\nnameserver 10.9.0.2\nsearch example.com\n\
             options timeout:2 attempts:3\n"
        );
    }

    /// Shows: network.searchDomains
    #[test]
    fn the_configs_domains_win() {
        let mut network = want(&[]);
        network.search_domains = vec!["a.example".into(), "example".into()];
        let lease = bound(|lease| lease.domain = Some("example.com".into()));
        let text = written(&have(None, vec![lease]), &network).unwrap();
        assert!(text.contains("\nsearch a.example example\n"), "{text}");
    }

    /// Shows: network.links.dhcp.v6
    #[test]
    fn leases_of_dhcpv6_count_behind_those_of_the_link() {
        let mut both = have(None, vec![bound(|_| ())]);
        both.leases6.insert(2, dhcp6::tests::bound(|_| ()));
        let text = written(&both, &want(&[])).unwrap();
        assert_eq!(
            text,
            "# Rendered by machined from the machine config.\nnameserver 10.0.2.3\n\
             nameserver 2001:db8::53\nsearch example.org\noptions timeout:2 attempts:3\n"
        );
        // Where there is no such server, nothing waits for one.
        let mut none = have(Some("x"), vec![bound(|lease| lease.dns.clear())]);
        for (status, phase) in [
            (Status::Asking, Phase::Pending),
            (Status::Unanswered, Phase::Ready),
        ] {
            none.leases6.insert(2, status);
            assert_eq!(publish(&none, &want(&[])).phase, phase);
        }
    }

    #[test]
    fn a_list_stays_while_nothing_is_known() {
        let before = "nameserver 10.0.2.3\n";
        for (status, rewritten, phase) in [
            (Status::Asking, false, Phase::Pending),
            (Status::Unanswered, false, Phase::Pending),
            (Status::Lost("expired"), true, Phase::Ready),
        ] {
            let have = have(Some(before), vec![status]);
            assert_eq!(written(&have, &want(&[])).is_some(), rewritten, "{have:?}");
            assert_eq!(publish(&have, &want(&[])).phase, phase);
        }
        assert!(
            written(&have(None, vec![Status::Asking]), &want(&[])).is_some(),
            "there is always a file"
        );
    }

    #[tokio::test]
    async fn what_is_written_is_as_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let mut resolver = Resolver::new(Leases::new(Default::default()));
        resolver.path = directory.path().join("etc/resolv.conf");
        let mut want = Machine::maintenance();
        want.network.nameservers = vec![Ipv4Addr::new(1, 1, 1, 1).into()];
        let have = resolver.observe(&want).await.unwrap();
        for step in resolver.plan(&have, &want) {
            resolver.apply(&step).await.unwrap();
        }
        let have = resolver.observe(&want).await.unwrap();
        assert_eq!(resolver.plan(&have, &want), []);
        assert!(have.text.unwrap().contains("nameserver 1.1.1.1\n"));
    }
}
