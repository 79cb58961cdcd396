//! Fetches a file from a web server, as the config says that the machine reaches it: its
//! proxy, its CAs. A blocking reader; what it reads is checked by whoever reads.

use crate::{facts::CAS, names};
use anyhow::{Context as _, bail};
use keelson_config::Egress;
use std::{
    fs,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::Duration,
};
use tokio::runtime::Handle;
use ureq::{
    Proxy,
    http::{StatusCode, Uri, header},
    tls::{PemItem, RootCerts, TlsConfig},
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

/// How often a transfer that broke off is gone on with before it is given up; what comes
/// after some bytes counts anew.
const RESUMES: u32 = 6;

/// How long the first pause before that is; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// The host of a URL, to tell people: the whole may hold a password.
pub(crate) fn host(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    uri.host().map(str::to_owned)
}

/// What a web server sends; where it breaks off, the rest is asked for.
pub(crate) struct Download {
    /// What it is, in a word.
    what: &'static str,
    agent: ureq::Agent,
    url: String,
    body: Option<ureq::BodyReader<'static>>,
    /// How much has come.
    position: u64,
    /// How much there is, once the server has said so.
    length: Option<u64>,
    failures: u32,
}

impl Download {
    /// Asks for a file; `what` it is, in a word. Must be called where a runtime is, and not on
    /// one of its workers.
    pub(crate) fn begin(
        what: &'static str,
        url: String,
        egress: &Egress,
    ) -> anyhow::Result<Download> {
        let uri: Uri = url.parse().context("this is not a URL")?;
        if !matches!(uri.scheme_str(), Some("https" | "http")) {
            bail!("it is fetched by https or http");
        }
        let mut download = Download {
            what,
            agent: agent(&uri, egress)?,
            url,
            body: None,
            position: 0,
            length: None,
            failures: 0,
        };
        download
            .ask()
            .with_context(|| format!("fetching the {what}"))?;
        Ok(download)
    }

    /// How many bytes there are, where the server says so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Asks for what has not come yet.
    fn ask(&mut self) -> io::Result<()> {
        let mut request = self.agent.get(&self.url);
        if self.position > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.position));
        }
        let response = request.call().map_err(said)?;
        let status = response.status();
        match (status, self.position) {
            (StatusCode::OK, 0) => {}
            (StatusCode::PARTIAL_CONTENT, 1..) if self.goes_on(&response) => {}
            (StatusCode::OK, _) => {
                return Err(io::Error::other(
                    "the connection broke off, and the server cannot send the rest alone",
                ));
            }
            _ => return Err(io::Error::other(format!("the server answered {status}"))),
        }
        let length = response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        self.length = length.map(|length| self.position + length);
        self.body = Some(
            response
                .into_body()
                .into_with_config()
                .limit(u64::MAX)
                .reader(),
        );
        Ok(())
    }

    /// Whether the answer begins where the bytes broke off, and is of the same file.
    fn goes_on(&self, response: &ureq::http::Response<ureq::Body>) -> bool {
        let range = response.headers().get(header::CONTENT_RANGE);
        let range = range
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let Some((from, whole)) = range
            .strip_prefix("bytes ")
            .and_then(|range| range.split_once('/'))
        else {
            return false;
        };
        let starts = from.split_once('-').map(|(start, _)| start.parse());
        starts == Some(Ok(self.position))
            && match (self.length, whole.parse::<u64>()) {
                (Some(before), Ok(now)) => before == now,
                _ => true,
            }
    }

    /// Waits a little longer each time, and asks again.
    fn again(&mut self, mut why: io::Error) -> io::Result<()> {
        self.body = None;
        while self.failures < RESUMES {
            let pause = FIRST_PAUSE * 2u32.saturating_pow(self.failures);
            self.failures += 1;
            tracing::info!(
                "fetching the {} broke off after {} bytes ({why}); going on in {} s",
                self.what,
                self.position,
                pause.as_secs()
            );
            thread::sleep(pause);
            match self.ask() {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(body) = &mut self.body else {
                return Ok(0);
            };
            let ended = match body.read(buffer) {
                Ok(0)
                    if buffer.is_empty() || self.length.is_none_or(|all| self.position >= all) =>
                {
                    return Ok(0);
                }
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(read) => {
                    self.position += read as u64;
                    self.failures = 0;
                    return Ok(read);
                }
                Err(error) => error,
            };
            self.again(ended)?;
        }
    }
}

fn said(error: ureq::Error) -> io::Error {
    match error {
        ureq::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// What asks for a URL: it trusts the image's CAs and the config's, and goes through the
/// config's proxy.
fn agent(uri: &Uri, egress: &Egress) -> anyhow::Result<ureq::Agent> {
    let mut pem = fs::read(CAS).with_context(|| format!("reading {CAS}"))?;
    for ca in &egress.trusted_cas {
        pem.extend_from_slice(ca.as_bytes());
    }
    let mut roots = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let Ok(PemItem::Certificate(certificate)) = item {
            roots.push(certificate);
        }
    }
    let config = ureq::Agent::config_builder()
        .tls_config(
            TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&roots))
                .build(),
        )
        // A proxy is the config's to say, not the environment's.
        .proxy(proxy(uri, egress)?)
        .user_agent(concat!("keelson/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .http_status_as_error(false)
        .build();
    Ok(ureq::Agent::with_parts(
        config,
        DefaultConnector::default(),
        Names(Handle::current()),
    ))
}

/// The proxy for a URL, unless the config says that it needs none.
fn proxy(uri: &Uri, egress: &Egress) -> anyhow::Result<Option<Proxy>> {
    let wanted = match uri.scheme_str() {
        Some("http") => &egress.http_proxy,
        _ => &egress.https_proxy,
    };
    let host = uri.host().unwrap_or_default();
    let Some(url) = wanted
        .as_ref()
        .filter(|_| !is_direct(host, &egress.no_proxy))
    else {
        return Ok(None);
    };
    // The reason could hold the URL, and with it a password.
    let proxy = Proxy::new(url.reveal())
        .map_err(|_| anyhow::anyhow!("the URL in machine.proxy cannot be used"))?;
    Ok(Some(proxy))
}

/// Whether a host needs no proxy: it is the machine itself, or one of these hosts,
/// domains and networks.
fn is_direct(host: &str, no_proxy: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = bare.parse().ok();
    if bare.eq_ignore_ascii_case("localhost") || address.is_some_and(|it| it.is_loopback()) {
        return true;
    }
    no_proxy.iter().any(|entry| match address {
        Some(address) => match entry.parse::<keelson_config::Cidr>() {
            Ok(network) => network.contains(address),
            Err(_) => entry.parse() == Ok(address),
        },
        None => {
            let host = bare.to_ascii_lowercase();
            match entry.strip_prefix('.') {
                Some(domain) => host == domain || host.ends_with(entry.as_str()),
                None => host == *entry || host.ends_with(&format!(".{entry}")),
            }
        }
    })
}

/// Looks names up as everything on the machine does.
#[derive(Debug)]
struct Names(Handle);

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = match bare.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let lookup = names::addresses(host, Path::new(names::RESOLV_CONF));
                self.0
                    .block_on(lookup)
                    .map_err(|error| ureq::Error::Io(io::Error::other(error)))?
            }
        };
        let mut addresses = self.empty();
        for address in found.into_iter().take(16) {
            addresses.push(SocketAddr::new(address, port));
        }
        match addresses.is_empty() {
            true => Err(ureq::Error::HostNotFound),
            false => Ok(addresses),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
