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

/// The addresses of a name, by the resolvers that are listed now.
pub(crate) async fn addresses(name: &str, resolv_conf: &Path) -> Result<Vec<IpAddr>, LookupError> {
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

    #[test]
    fn resolvers_as_they_are_listed() {
        let text = "# by hand\nsearch example.org\nnameserver 10.0.2.3\n nameserver\t2001:db8::1 # second\n\
            nameservers 1.1.1.1\nnameserver nonsense\noptions ndots:2\n";
        let want: Vec<IpAddr> = vec!["10.0.2.3".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(resolvers(text), want);
    }
}
