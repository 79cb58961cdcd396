//! Where a bundle's bytes come from: a client that sends them, or a web server. Blocking
//! readers; what they read is checked by whoever reads.

use crate::{facts::CAS, names};
use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes};
use keelson_config::Egress;
use keelson_disk::bundle::{Keys, PublicKey, key};
use std::{
    fs,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc};
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

/// The bytes that a client sends, or why no more come.
pub(crate) type Upload = mpsc::Receiver<Result<Bytes, String>>;

/// Where a bundle comes from.
pub(crate) enum Source {
    /// A client sends it.
    Upload(Upload),
    /// The machine fetches it.
    Url(String),
}

impl Source {
    /// The URL, where there is one. It may hold a password, so it is told to nobody.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            Source::Upload(_) => None,
            Source::Url(url) => Some(url.clone()),
        }
    }

    /// The source in words, to follow who began it.
    pub(crate) fn said(&self) -> String {
        match self {
            Source::Upload(_) => String::new(),
            Source::Url(url) => match url
                .parse::<Uri>()
                .ok()
                .and_then(|uri| uri.host().map(str::to_owned))
            {
                Some(host) => format!(", from {host}"),
                None => String::new(),
            },
        }
    }

    /// The bytes; `egress` is the way to a web server. Must be called where a runtime is,
    /// and not on one of its workers.
    pub(crate) fn open(self, egress: &Egress) -> anyhow::Result<Box<dyn Read>> {
        match self {
            Source::Upload(pieces) => Ok(Box::new(Pieces {
                pieces,
                piece: Bytes::new(),
            })),
            Source::Url(url) => Ok(Box::new(Download::begin(url, egress)?)),
        }
    }
}

/// The keys in the image that bundles may be signed with.
pub(crate) fn keys(folder: &Path) -> anyhow::Result<Keys> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("the image trusts no key: it was built without --trust")
        }
        Err(error) => return Err(error).with_context(|| format!("listing {}", folder.display())),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let key = PublicKey::from_pem(&text)
            .map_err(|error: key::Error| anyhow::anyhow!(error))
            .with_context(|| format!("reading the key {}", path.display()))?;
        keys.push(key);
    }
    Ok(keys.into_iter().collect())
}

/// What a client sends, as a reader.
struct Pieces {
    pieces: Upload,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(why)) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                }
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

/// What a web server sends; where it breaks off, the rest is asked for.
struct Download {
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
    fn begin(url: String, egress: &Egress) -> anyhow::Result<Download> {
        let uri: Uri = url.parse().context("this is not a URL")?;
        if !matches!(uri.scheme_str(), Some("https" | "http")) {
            bail!("a bundle is fetched by https or http");
        }
        let mut download = Download {
            agent: agent(&uri, egress)?,
            url,
            body: None,
            position: 0,
            length: None,
            failures: 0,
        };
        download.ask().context("fetching the bundle")?;
        Ok(download)
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
                "fetching the bundle broke off after {} bytes ({why}); going on in {} s",
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
mod tests {
    use super::*;
    use keelson_config::Secret;
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
    };

    /// A web server that breaks off after so many bytes of each answer; what it was asked for.
    fn server(body: Vec<u8>, breaks_after: usize) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.bundle", listener.local_addr().unwrap());
        let served = thread::spawn(move || {
            let mut asked = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines
                    .map(|line| line.unwrap())
                    .take_while(|line| !line.is_empty())
                    .collect();
                let range = head.iter().find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("range: bytes=")
                        .map(str::to_owned)
                });
                asked.push(range.clone().unwrap_or_default());
                let from: usize =
                    range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
                let status = if from == 0 {
                    "200 OK"
                } else {
                    "206 Partial Content"
                };
                let (all, end) = (body.len(), (from + breaks_after).min(body.len()));
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{all}\r\n\r\n",
                    all - from,
                    all - 1
                )
                .unwrap();
                stream.write_all(&body[from..end]).unwrap();
                if end == all {
                    break;
                }
            }
            asked
        });
        (url, served)
    }

    fn fetch(url: String) -> anyhow::Result<Vec<u8>> {
        fetch_by(url, &Egress::default())
    }

    fn fetch_by(url: String, egress: &Egress) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Download::begin(url, egress)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_breaks_off_is_gone_on_with() {
        let body: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let (url, served) = server(body.clone(), 60_000);
        let fetched = tokio::task::spawn_blocking(|| fetch(url)).await.unwrap();
        assert!(fetched.unwrap() == body, "it is not what was sent");
        assert_eq!(served.join().unwrap(), ["", "60000-"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_else_than_the_web_is_fetched_from() {
        for url in ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", ""] {
            let url = url.to_owned();
            let fetched = tokio::task::spawn_blocking(|| fetch(url)).await.unwrap();
            assert!(fetched.is_err());
        }
    }

    /// A proxy that takes one connection through to where it is told; what it was asked.
    fn connect_proxy(to: String) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let proxied = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let lines = BufReader::new(client.try_clone().unwrap()).lines();
            let head: Vec<String> = lines
                .map(|line| line.unwrap())
                .take_while(|line| !line.is_empty())
                .collect();
            let mut server = std::net::TcpStream::connect(to).unwrap();
            write!(client, "HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let upwards = thread::spawn(move || {
                let copied = io::copy(&mut up, &mut down);
                // The one that speaks last ends the other.
                drop(down.shutdown(std::net::Shutdown::Write));
                copied
            });
            // A client that does not trust the server breaks off.
            drop(io::copy(&mut server, &mut client));
            drop(client.shutdown(std::net::Shutdown::Both));
            drop(upwards.join().unwrap());
            head
        });
        (at.to_string(), proxied)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_proxy_is_gone_through_with_its_password() {
        let body = b"a bundle".to_vec();
        let (url, served) = server(body.clone(), 100);
        let to = url.strip_prefix("http://").unwrap().split('/').next();
        let (at, proxied) = connect_proxy(to.unwrap().to_owned());
        let egress = Egress {
            http_proxy: Some(Secret::new(format!("http://me:s3cret@{at}"))),
            ..Egress::default()
        };
        // A name that nobody but the proxy could know.
        let url = "http://mirror.invalid/x.bundle".to_owned();
        let fetched = tokio::task::spawn_blocking(move || fetch_by(url, &egress)).await;
        assert_eq!(fetched.unwrap().unwrap(), body);
        served.join().unwrap();
        let head = proxied.join().unwrap().join("\n").to_lowercase();
        assert!(head.starts_with("connect mirror.invalid:80"), "{head}");
        assert!(
            head.contains("proxy-authorization: basic bwu6cznjcmv0"),
            "{head}"
        );
    }

    /// A web server with a certificate for `mirror.invalid`; its address, and its CA. It
    /// answers one call, and lets callers go who do not trust it.
    fn https_server(body: &'static [u8], calls: usize) -> (String, String) {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["mirror.invalid".to_owned()]).unwrap();
        let cert = cert.signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let config = std::sync::Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming().take(calls) {
                let tls = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = rustls::StreamOwned::new(tls, stream.unwrap());
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    match stream.read(&mut byte) {
                        Ok(1) => head.push(byte[0]),
                        _ => break,
                    }
                }
                if head.ends_with(b"\r\n\r\n") {
                    let length = body.len();
                    write!(
                        stream,
                        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
                    )
                    .unwrap();
                    stream.write_all(body).unwrap();
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                }
            }
        });
        (at, ca.pem())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_ca_of_the_configs_is_trusted_through_the_proxy() {
        let (to, ca) = https_server(b"a bundle", 2);
        let fetch = async |trusted_cas: Vec<String>| {
            let (at, _) = connect_proxy(to.clone());
            let egress = Egress {
                https_proxy: Some(Secret::new(format!("http://{at}"))),
                trusted_cas,
                ..Egress::default()
            };
            let url = "https://mirror.invalid/x.bundle".to_owned();
            let fetched = tokio::task::spawn_blocking(move || fetch_by(url, &egress)).await;
            fetched.unwrap()
        };
        let error = fetch(Vec::new()).await.unwrap_err();
        assert!(format!("{error:#}").contains("certificate"), "{error:#}");
        assert_eq!(fetch(vec![ca]).await.unwrap(), b"a bundle");
    }

    #[test]
    fn what_needs_no_proxy() {
        let no = ["example.com", ".internal", "10.0.0.0/8", "192.0.2.1"].map(str::to_owned);
        for (host, direct) in [
            ("example.com", true),
            ("a.example.com", true),
            ("Example.com", true),
            ("notexample.com", false),
            ("x.internal", true),
            ("internal", true),
            ("10.2.3.4", true),
            ("11.2.3.4", false),
            ("192.0.2.1", true),
            ("localhost", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("[fd00::1]", false),
        ] {
            assert_eq!(is_direct(host, &no), direct, "{host}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_told() {
        let source = Source::Url("https://me:secret@mirror.example/x".into());
        assert_eq!(source.said(), ", from mirror.example");
    }

    #[tokio::test]
    async fn pieces_are_read_as_they_come() {
        let (sender, pieces) = mpsc::channel(4);
        for piece in ["ab", "", "cde"] {
            sender.send(Ok(Bytes::from(piece))).await.unwrap();
        }
        sender.send(Err("gone".into())).await.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = Pieces {
                pieces,
                piece: Bytes::new(),
            };
            let mut bytes = [0; 5];
            reader.read_exact(&mut bytes).unwrap();
            (bytes, reader.read(&mut [0; 1]).unwrap_err().to_string())
        });
        assert_eq!(read.await.unwrap(), (*b"abcde", "gone".to_owned()));
    }
}
