//! Hosts: the machine's own name, the names of others, and the URLs of their servers.

use super::{Wrong, address};
use crate::{Hostname, tree::quote};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

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
