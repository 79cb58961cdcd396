//! The rules of `machine.logging`: where logs are sent, and what their lines have besides.

use super::{checked, first_of, items};
use crate::{
    Forward, LogProtocol, LogServer,
    document::LoggingSection,
    read::{Given, Reader},
    tree::quote,
    value::{self, Wrong},
};
use std::collections::BTreeMap;

/// The keys that lines have anyway.
const OWN_KEYS: [&str; 6] = ["time", "node", "source", "level", "message", "dropped"];

/// How many fields a server's lines may have, and how long their keys and values are at
/// most: together with them, a line still fits a datagram.
const MOST_FIELDS: usize = 16;
const LONGEST_KEY: usize = 64;
const LONGEST_VALUE: usize = 200;

pub(super) fn forward(reader: &mut Reader<'_>, logging: &Given<LoggingSection>) -> Vec<Forward> {
    let mut forward = Vec::new();
    let mut seen = BTreeMap::new();
    let Some(logging) = logging.is() else {
        return forward;
    };
    for server in items(&logging.value.forward) {
        let mut fields = BTreeMap::new();
        if let Some(entries) = server.value.fields.is() {
            if entries.value.0.len() > MOST_FIELDS {
                let message = format!(
                    "{} fields are more than {MOST_FIELDS}",
                    entries.value.0.len()
                );
                reader.error(entries.at, message, "");
            }
            for entry in &entries.value.0 {
                let (key, value) = (reader.key(entry.at), &entry.value.0);
                if let Err(Wrong { message, hint }) = field_key(key) {
                    reader.key_error(entry.at, message, &hint);
                } else if value.len() > LONGEST_VALUE || value.contains(char::is_control) {
                    let message = format!(
                        "the value of a field is one line of at most {LONGEST_VALUE} bytes"
                    );
                    reader.error(entry.at, message, "");
                } else {
                    fields.insert(key.to_owned(), value.clone());
                }
            }
        }
        let Some(url) = server.value.url.is() else {
            continue;
        };
        if let Some(to) = checked(reader, url, |text| log_server(text))
            && first_of(reader, &mut seen, to.clone(), url.at)
        {
            forward.push(Forward { to, fields });
        }
    }
    forward
}

/// `tcp://host:port`, `udp://host:port`, `tls://host:port`.
fn log_server(text: &str) -> Result<LogServer, Wrong> {
    const FORM: &str =
        "it looks like tcp://10.0.0.9:5170, udp://10.0.0.9:5170 or tls://logs.example.com:6514";
    let only = |found: char| {
        Wrong::new(format!(
            "the URL of a log server has only a host and a port, found {}",
            quote(&found.to_string())
        ))
        .hint(FORM)
    };
    // First of all: what stands before it may be a password, and is not told.
    if text.contains('@') {
        return Err(only('@'));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Wrong::new(format!(
            "{} does not say how the server is reached",
            quote(text)
        ))
        .hint(FORM));
    };
    let protocol = match scheme {
        "udp" => LogProtocol::Udp,
        "tcp" => LogProtocol::Tcp,
        "tls" => LogProtocol::Tls,
        _ => {
            let message = format!("logs are not sent by {}", quote(scheme));
            return Err(Wrong::new(message).hint(FORM));
        }
    };
    if let Some(c) = rest.chars().find(|c| "/?#".contains(*c)) {
        return Err(only(c));
    }
    let no_port = || Wrong::new(format!("{} names no port", quote(text))).hint(FORM);
    let (name, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (address, after) = inner.split_once(']').ok_or_else(|| {
                Wrong::new(format!("{} is not the URL of a log server", quote(text))).hint(FORM)
            })?;
            (address, after.strip_prefix(':').ok_or_else(no_port)?)
        }
        None if rest.parse::<std::net::Ipv6Addr>().is_ok() => {
            return Err(Wrong::new("an IPv6 address stands in brackets in a URL")
                .hint(format!("write {scheme}://[{rest}]:PORT")));
        }
        None => rest.rsplit_once(':').ok_or_else(no_port)?,
    };
    if name.is_empty() {
        return Err(Wrong::new(format!("{} names no host", quote(text))).hint(FORM));
    }
    let host = value::host(name)?;
    if port.is_empty() {
        return Err(no_port());
    }
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let number = port.parse().ok().filter(|port: &u16| digits && *port > 0);
    let port = number.ok_or_else(|| Wrong::new(format!("{} is not a port", quote(port))))?;
    Ok(LogServer {
        protocol,
        host,
        port,
    })
}

fn field_key(key: &str) -> Result<(), Wrong> {
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.len() <= LONGEST_KEY
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if !plain {
        return Err(
            Wrong::new(format!("{} is not the name of a field", quote(key)))
                .hint("it begins with a letter; letters, digits, _, - and . are allowed"),
        );
    }
    if OWN_KEYS.contains(&key) {
        return Err(Wrong::new(format!("every line has its own {key}")).hint("take another name"));
    }
    Ok(())
}
