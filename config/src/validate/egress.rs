//! The rules of `machine.trustedCAs`, `machine.proxy` and `machine.env`: how the
//! machine's programs reach others. What a proxy's URL or a value says is never told.

use super::{checked, first_of, items};
use crate::{
    Egress, Secret,
    document::ProxySection,
    read::{Entries, Given, Located, Reader},
    tree::quote,
    value::{self, Pem, Wrong},
};
use std::collections::BTreeMap;

pub(super) fn egress(
    reader: &mut Reader<'_>,
    trusted_cas: &Given<Vec<Located<String>>>,
    proxy: &Given<ProxySection>,
) -> Egress {
    let mut egress = Egress::default();
    let mut seen = BTreeMap::new();
    for ca in items(trusted_cas) {
        if checked(reader, ca, |text| value::pem(text, Pem::Certificates)).is_some()
            && first_of(reader, &mut seen, ca.value.clone(), ca.at)
        {
            // They are put one behind the other, and a line holds one mark only.
            egress
                .trusted_cas
                .push(format!("{}\n", ca.value.trim_end()));
        }
    }
    let Some(proxy) = proxy.is() else {
        return egress;
    };
    let ProxySection { http, https, no } = &proxy.value;
    egress.http_proxy = url(reader, http);
    egress.https_proxy = url(reader, https);
    let mut seen = BTreeMap::new();
    for entry in items(no) {
        if let Some(host) = checked(reader, entry, |text| exception(text))
            && first_of(reader, &mut seen, host.clone(), entry.at)
        {
            egress.no_proxy.push(host);
        }
    }
    if http.is_absent() && https.is_absent() {
        let hint = "set `http` or `https`, or remove it";
        reader.error(proxy.at, "no proxy is named", hint);
    }
    egress
}

fn url(reader: &mut Reader<'_>, written: &Given<Secret>) -> Option<Secret> {
    let written = written.is()?;
    checked(reader, written, |secret: &Secret| {
        proxy_url(secret.reveal())
    })?;
    Some(written.value.clone())
}

/// `http://[user[:password]@]host:port`.
fn proxy_url(text: &str) -> Result<(), Wrong> {
    let wrong = || {
        Wrong::new("this is not the URL of a proxy")
            .hint("it looks like http://proxy.example.com:3128, or http://user:password@…")
    };
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let host = rest.rsplit_once('@').map_or(rest, |(user, host)| {
        if user.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            ""
        } else {
            host
        }
    });
    // What is wrong with a server's URL is wrong with a proxy's too.
    match value::server_url(&format!("https://{host}")) {
        Ok((_, true)) => Ok(()),
        Ok((_, false)) => {
            Err(Wrong::new("the URL of the proxy names no port")
                .hint("proxies often listen on 3128"))
        }
        Err(_) => Err(wrong()),
    }
}

/// What needs no proxy: a host, a domain with a dot before it, a network.
fn exception(text: &str) -> Result<String, Wrong> {
    if text.contains('/') && !text.contains("://") {
        return value::network(text).map(|cidr| cidr.to_string());
    }
    let domain = text.strip_prefix("*.").or_else(|| text.strip_prefix('.'));
    value::host(domain.unwrap_or(text)).map(|host| match domain {
        Some(_) => format!(".{host}"),
        None => host,
    })
}

/// What the orchestrator is given beside what the OS gives it.
pub(super) fn env(
    reader: &mut Reader<'_>,
    written: &Given<Entries<Secret>>,
) -> BTreeMap<String, Secret> {
    let mut env = BTreeMap::new();
    for entry in written.is().map_or(&[][..], |it| &it.value.0) {
        let name = reader.key(entry.at).to_owned();
        if let Err(Wrong { message, hint }) = variable(&name) {
            reader.key_error(entry.at, message, &hint);
        } else if entry.value.reveal().contains(char::is_control) {
            reader.error(entry.at, "a value in the environment is one line", "");
        } else {
            env.insert(name, entry.value.clone());
        }
    }
    env
}

fn variable(name: &str) -> Result<(), Wrong> {
    let good = !name.is_empty()
        && name.len() <= 128
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !good {
        let message = format!("{} is not the name of a variable", quote(name));
        return Err(Wrong::new(message).hint("letters, digits and underscores"));
    }
    let upper = name.to_ascii_uppercase();
    let elsewhere = if ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"].contains(&&*upper) {
        "set machine.proxy"
    } else if ["SSL_CERT_FILE", "SSL_CERT_DIR"].contains(&name) {
        "set machine.trustedCAs"
    } else if name.starts_with("K3S_") {
        "set it below orchestrator"
    } else if name.starts_with("LD_")
        || [
            "PATH",
            "HOME",
            "NOTIFY_SOCKET",
            "INVOCATION_ID",
            "LISTEN_FDS",
        ]
        .contains(&name)
    {
        "remove it"
    } else {
        return Ok(());
    };
    Err(Wrong::new("this variable is the OS's own").hint(elsewhere))
}
