//! Where a node's API is: a host and a port, as a person writes them.

use rustls_pki_types::ServerName;
use std::{fmt, net::Ipv6Addr, str::FromStr};

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// Reads `HOST`, `HOST:PORT`, `ADDRESS` or `[IPV6]:PORT`.
    pub(crate) fn parse(text: &str, default_port: u16) -> Result<Endpoint, String> {
        let invalid = || format!("{text:?} is not HOST or HOST:PORT");
        let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
            host.parse::<Ipv6Addr>().map_err(|_| invalid())?;
            match rest {
                "" => (host, None),
                _ => (host, Some(rest.strip_prefix(':').ok_or_else(invalid)?)),
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        // The certificate must name the host, so it must be a name or an address.
        ServerName::try_from(host).map_err(|_| invalid())?;
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(invalid)?,
            None => default_port,
        };
        Ok(Endpoint {
            host: host.to_owned(),
            port,
        })
    }

    /// The host without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What the node's certificate may name.
    pub(crate) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Endpoint::parse(text, keelson_api::PORT)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_people_write_them() {
        for (text, want) in [
            ("10.0.0.1", Some("10.0.0.1:50000")),
            ("10.0.0.1:7", Some("10.0.0.1:7")),
            ("node-1.example.com", Some("node-1.example.com:50000")),
            ("localhost:1234", Some("localhost:1234")),
            ("::1", Some("[::1]:50000")),
            ("[::1]", Some("[::1]:50000")),
            ("[fd00::1]:443", Some("[fd00::1]:443")),
            ("", None),
            (":50000", None),
            ("host:", None),
            ("host:0", None),
            ("host:70000", None),
            ("https://host", None),
            ("[::1", None),
            ("[::1]50", None),
            ("ho st", None),
        ] {
            let got = text.parse::<Endpoint>().ok().map(|it| it.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }
}
