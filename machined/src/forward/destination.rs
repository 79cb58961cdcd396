//! One server that gets the logs: reaches it, sends what waits for it, reaches it again.
//! It writes to no log, which would come back to it.
//!
//! ```text
//! connecting ─ reached ─> connected ─ it went away ─┐
//!     ^   └─ not reached ─────────────> retrying <──┘
//!     └──────── 1 s, 2 s, … 60 s later ────┘
//! ```

use super::queue::{Counts, Queue};
use crate::{
    facts::CAS,
    names,
    resource::{Phase, Resource},
};
use anyhow::{Context as _, Result, bail};
use keelson_config::{LogProtocol, LogServer};
use rustix::net::sockopt;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpStream, UdpSocket},
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

/// How long it may take to reach a server at one address.
const REACH: Duration = Duration::from_secs(10);

/// How long a server may take no bytes.
const WRITE: Duration = Duration::from_secs(30);

/// How much is written at once.
const BATCH: usize = 64 << 10;

/// The largest line on a connection, and the largest datagram.
const LINE: usize = 64 << 10;
const DATAGRAM: usize = 8 << 10;

/// How long a datagram socket is kept: its server may have moved, and nobody says so.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(600);

/// What a server's lines have besides, and who vouches for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// The fields of every line.
    pub fields: BTreeMap<String, String>,
    /// CAs to trust beside the image's, PEM.
    pub trusted_cas: Vec<String>,
}

/// How long to wait before a server is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    /// The first time.
    pub first: Duration,
    /// At most; each time is twice as long as the one before.
    pub most: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses {
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
        }
    }
}

/// How it stands with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is being reached for the first time.
    Connecting,
    /// It is reached.
    Connected,
    /// It was not reached, or went away, and why.
    Retrying(String),
}

/// What is known of one server, for those who do not send.
#[derive(Debug)]
pub(super) struct Destination {
    /// Which one.
    pub to: LogServer,
    /// What waits for it.
    pub queue: Queue,
    state: Mutex<State>,
    /// Some of what waited was sent, or the state is another.
    pub moved: Arc<Notify>,
}

impl Destination {
    /// One that nobody has tried to reach yet. `moved` is told when there may be room.
    pub(super) fn new(to: LogServer, moved: Arc<Notify>) -> Self {
        Destination {
            to,
            queue: Queue::default(),
            state: Mutex::new(State::Connecting),
            moved,
        }
    }

    /// How it stands.
    pub(super) fn state(&self) -> State {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.moved.notify_one();
    }

    /// What people see of it. The fields are not shown.
    pub(super) fn resource(&self, kind: &str) -> Resource {
        let Counts {
            sent,
            dropped,
            waiting,
        } = self.queue.counts();
        let (phase, state, message) = match self.state() {
            State::Connecting => (Phase::Pending, "connecting", String::new()),
            State::Connected => (Phase::Ready, "connected", String::new()),
            State::Retrying(why) => (Phase::Failed, "retrying", why),
        };
        Resource::new(kind, self.to.to_string(), phase)
            .message(message)
            .field("state", state)
            .field("sent", sent)
            .field("dropped", dropped)
            .field("waiting", waiting)
    }

    /// Sends what waits, for ever.
    pub(super) async fn run(&self, mut settings: watch::Receiver<Settings>, pauses: Pauses) {
        let mut pause = pauses.first;
        loop {
            let began = Instant::now();
            match self.connect_and_send(&mut settings).await {
                // It is to be reached anew; nothing is wrong with it.
                Ok(()) => continue,
                Err(error) => self.set(State::Retrying(format!("{error:#}"))),
            }
            // One that takes connections and drops them at once is not tried any faster.
            if began.elapsed() > pauses.most {
                pause = pauses.first;
            }
            sleep(pause).await;
            pause = (pause * 2).min(pauses.most);
        }
    }

    /// Sends until the server goes away, or is to be reached in another way.
    async fn connect_and_send(&self, settings: &mut watch::Receiver<Settings>) -> Result<()> {
        match self.to.protocol {
            LogProtocol::Udp => self.send_datagrams(settings).await,
            LogProtocol::Tcp => {
                let stream = self.reach().await?;
                self.send_lines(stream, settings).await
            }
            LogProtocol::Tls => {
                let trusted = settings.borrow_and_update().trusted_cas.clone();
                let tls = tls(Path::new(CAS), &trusted)?;
                let name = ServerName::try_from(self.to.host.clone())
                    .context("this name cannot be in a certificate")?;
                let stream = self.reach().await?;
                let shaken = TlsConnector::from(tls).connect(name, stream);
                let stream = timeout(REACH, shaken)
                    .await
                    .context("TLS took too long")?
                    .context("TLS with it failed")?;
                self.send_lines(stream, settings).await
            }
        }
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let found = match self.to.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => names::addresses(&self.to.host, Path::new(names::RESOLV_CONF)).await?,
        };
        let with_port = |address| SocketAddr::new(address, self.to.port);
        Ok(found.into_iter().map(with_port).collect())
    }

    /// A connection to the first address that takes one.
    async fn reach(&self) -> Result<TcpStream> {
        let mut why = io::Error::other("its name has no address");
        for address in self.addresses().await? {
            match timeout(REACH, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    keep_alive(&stream).context("setting up the connection")?;
                    return Ok(stream);
                }
                Ok(Err(error)) => why = error,
                Err(_) => why = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(why).context("it is not reached")
    }

    async fn send_lines(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send,
        settings: &mut watch::Receiver<Settings>,
    ) -> Result<()> {
        self.set(State::Connected);
        let trusted = settings.borrow_and_update().trusted_cas.clone();
        let (mut from, mut to) = split(stream);
        let mut ignored = [0; 1024];
        loop {
            tokio::select! {
                batch = self.queue.first(BATCH) => {
                    let node = node();
                    let fields = settings.borrow().fields.clone();
                    let mut bytes = Vec::new();
                    for entry in &batch {
                        bytes.extend(entry.render(&node, &fields, LINE));
                    }
                    let written = async {
                        to.write_all(&bytes).await?;
                        to.flush().await
                    };
                    timeout(WRITE, written)
                        .await
                        .context("it takes no more lines")?
                        .context("sending")?;
                    self.queue.done(batch.len());
                    self.moved.notify_one();
                }
                read = from.read(&mut ignored) => match read {
                    Ok(0) => bail!("it closed the connection"),
                    // What it says is not for us.
                    Ok(_) => {}
                    Err(error) => return Err(error).context("the connection broke"),
                },
                changed = settings.changed() => {
                    let tls = self.to.protocol == LogProtocol::Tls;
                    if changed.is_err() || (tls && settings.borrow().trusted_cas != trusted) {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn send_datagrams(&self, settings: &watch::Receiver<Settings>) -> Result<()> {
        let addresses = self.addresses().await?;
        let to = addresses.first().context("its name has no address")?;
        let from: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((from, 0))
            .await
            .context("opening a socket")?;
        socket.connect(to).await.context("it is not reached")?;
        self.set(State::Connected);
        let end = Instant::now() + LOOK_UP_AGAIN;
        loop {
            tokio::select! {
                batch = self.queue.first(BATCH) => {
                    let node = node();
                    let fields = settings.borrow().fields.clone();
                    for entry in &batch {
                        let line = entry.render(&node, &fields, DATAGRAM);
                        socket.send(&line).await.context("sending")?;
                        self.queue.done(1);
                    }
                    self.moved.notify_one();
                }
                () = sleep_until(end) => return Ok(()),
            }
        }
    }
}

/// A peer that is gone without a word is noticed: by probes while nothing is sent, by what is
/// not acknowledged while something is.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    let most = u32::try_from(WRITE.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, most)?;
    Ok(())
}

/// Trusts the image's CAs and these; the server's name is checked.
fn tls(image: &Path, trusted_cas: &[String]) -> Result<Arc<ClientConfig>> {
    let mut pem = match fs::read(image) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", image.display())),
    };
    for ca in trusted_cas {
        pem.extend_from_slice(ca.as_bytes());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The machine's name: its lines are told apart by it.
fn node() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
