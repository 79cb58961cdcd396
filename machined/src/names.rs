//! Looks names up by the resolvers that `/etc/resolv.conf` lists. Nothing else on the machine
//! may: the C library's own resolver is not in a static program.

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use std::{net::IpAddr, path::Path, time::Duration};

/// Where the resolvers are listed.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// There is nobody to ask yet; asking again soon costs nothing.
    #[error("there is no resolver yet")]
    NoResolver,
    /// The resolvers were asked.
    #[error("its name has no address: {0}")]
    Failed(String),
}

/// The addresses of a name: by the `hosts` file beside `resolv_conf`, or else by the
/// resolvers that are listed now.
pub(crate) async fn addresses(name: &str, resolv_conf: &Path) -> Result<Vec<IpAddr>, LookupError> {
    let known = tokio::fs::read_to_string(resolv_conf.with_file_name("hosts")).await;
    let known = known.map_or_else(|_| Vec::new(), |text| hosts(&text, name));
    if !known.is_empty() {
        return Ok(known);
    }
    let listed = match tokio::fs::read_to_string(resolv_conf).await {
        Ok(text) => resolvers(&text),
        Err(_) => Vec::new(),
    };
    if listed.is_empty() {
        return Err(LookupError::NoResolver);
    }
    let servers = listed
        .into_iter()
        .map(NameServerConfig::udp_and_tcp)
        .collect();
    let config = ResolverConfig::from_name_servers(servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never;
    let failed = |error: &dyn std::error::Error| LookupError::Failed(error.to_string());
    let resolver = builder.build().map_err(|error| failed(&error))?;
    // With the final dot it is not tried below any search domain.
    let name = if name.ends_with('.') {
        name.to_owned()
    } else {
        format!("{name}.")
    };
    let found = resolver
        .lookup_ip(name)
        .await
        .map_err(|error| failed(&error))?;
    Ok(found.iter().collect())
}

/// The addresses that hosts(5) has for a name.
fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(address)
        })
        .collect()
}

/// The `nameserver` lines of resolv.conf(5).
fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_in_the_hosts_file_is_not_asked_for() {
        let etc = tempfile::tempdir().unwrap();
        let text = "127.0.0.1 localhost\n10.0.0.1 ntp.example Ntp # not k8s\nfd00::1 ntp\n";
        std::fs::write(etc.path().join("hosts"), text).unwrap();
        let resolv_conf = etc.path().join("resolv.conf");
        let want = |texts: &[&str]| Ok(texts.iter().map(|it| it.parse().unwrap()).collect());
        for (name, found) in [
            ("ntp.example.", want(&["10.0.0.1"])),
            ("NTP", want(&["10.0.0.1", "fd00::1"])),
            ("k8s", Err(LookupError::NoResolver)),
        ] {
            assert_eq!(addresses(name, &resolv_conf).await, found, "{name}");
        }
    }

    #[test]
    fn resolvers_as_they_are_listed() {
        let text = "# by hand\nsearch example.org\nnameserver 10.0.2.3\n nameserver\t2001:db8::1 # second\n\
            nameservers 1.1.1.1\nnameserver nonsense\noptions ndots:2\n";
        let want: Vec<IpAddr> = vec!["10.0.2.3".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(resolvers(text), want);
    }
}
