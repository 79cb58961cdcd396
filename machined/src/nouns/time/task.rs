//! The sockets, lookups and the clock behind the client. Runs beside the loop over
//! the nouns and holds nobody up; says what it knows through a watch.

use super::{
    client::{Client, Input, Now, Output, Status},
    packet::{LENGTH, Nanos, SECOND},
};
use crate::{
    engine::Wake,
    names::{self, LookupError},
};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::{
    collections::VecDeque,
    future, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::UdpSocket, sync::watch, time::sleep_until};

/// The clock that is kept; the tests have another.
pub(crate) trait Clock: Send + Sync + 'static {
    /// What it shows.
    fn now(&self) -> SystemTime;
    /// Sets it.
    fn set(&self, to: SystemTime) -> io::Result<()>;
    /// Tells the kernel how wrong it is: [`keelson_sys::clock::slew`].
    fn slew(&self, offset_ns: i64, error: Duration, poll: u8) -> io::Result<()>;
}

/// The machine's own clock.
pub(crate) struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn set(&self, to: SystemTime) -> io::Result<()> {
        keelson_sys::clock::set(to)
    }

    fn slew(&self, offset_ns: i64, error: Duration, poll: u8) -> io::Result<()> {
        keelson_sys::clock::slew(offset_ns, error, poll)
    }
}

/// What the task works with.
pub(crate) struct Task<C> {
    /// The servers to ask, as in the config.
    pub(crate) servers: watch::Receiver<Vec<String>>,
    /// Where it says what it knows.
    pub(crate) status: watch::Sender<Status>,
    /// Rung when it knows more.
    pub(crate) wake: Wake,
    /// What it keeps.
    pub(crate) clock: C,
    /// No time before this, since 1970, is believed.
    pub(crate) earliest: Duration,
    /// Where the resolvers are listed.
    pub(crate) resolv_conf: PathBuf,
    /// The servers' port: 123.
    pub(crate) port: u16,
}

impl<C: Clock> Task<C> {
    /// Asks for as long as somebody wants to know.
    pub(crate) async fn run(mut self) {
        loop {
            let servers = self.servers.borrow_and_update().clone();
            if self.ask(&servers).await.is_err() {
                return;
            }
        }
    }

    /// Asks these servers until there are others; an error says that nobody wants
    /// to know any more.
    async fn ask(&mut self, servers: &[String]) -> Result<(), watch::error::RecvError> {
        let mut client = Client::new(servers, self.earliest, Instant::now());
        let mut inputs = VecDeque::from([Input::Tick]);
        let mut sockets = Sockets::default();
        let mut lookups = FuturesUnordered::new();
        let mut nonce = random;
        loop {
            while let Some(input) = inputs.pop_front() {
                for output in client.handle(self.now(), input, &mut nonce) {
                    match output {
                        Output::Resolve { server, name } => {
                            lookups.push(look_up(server, name, self.resolv_conf.clone()))
                        }
                        Output::Send { server, to, packet } => {
                            if let Err(error) =
                                sockets.send(SocketAddr::new(to, self.port), &packet).await
                            {
                                inputs.push_back(Input::Unsent {
                                    server,
                                    error: error.to_string(),
                                });
                            }
                        }
                        Output::Step { .. } | Output::Slew { .. } => self.adjust(&output),
                    }
                }
            }
            self.publish(client.status());
            if client.is_idle() {
                // Each round has its own ports: one more number for a liar to guess.
                sockets = Sockets::default();
            }
            let (mut v4, mut v6) = ([0; LENGTH + 1], [0; LENGTH + 1]);
            let input = tokio::select! {
                changed = self.servers.changed() => return changed,
                () = until(client.deadline()) => Input::Tick,
                Some((server, result)) = lookups.next(), if !lookups.is_empty() => Input::Resolved { server, result },
                received = receive(sockets.v4.as_ref(), &mut v4) => received,
                received = receive(sockets.v6.as_ref(), &mut v6) => received,
            };
            inputs.push_back(input);
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            clock: nanos(self.clock.now()),
        }
    }

    fn adjust(&self, output: &Output) {
        let result = match *output {
            Output::Step { offset, error } => {
                let to = time(nanos(self.clock.now()) + offset);
                tracing::info!("setting the clock, it is {} ms off", offset / 1_000_000);
                // The second call tells the kernel that the clock is synchronised.
                self.clock
                    .set(to)
                    .and_then(|()| self.clock.slew(0, duration(error), 6))
            }
            Output::Slew {
                offset,
                error,
                poll,
            } => {
                let offset =
                    i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX });
                self.clock.slew(offset, duration(error), poll)
            }
            Output::Resolve { .. } | Output::Send { .. } => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!("adjusting the clock: {error}");
        }
    }

    fn publish(&self, status: &Status) {
        let changed = self.status.send_if_modified(|before| {
            let changed = before != status;
            if changed {
                before.clone_from(status);
            }
            changed
        });
        if changed {
            self.wake.notify_one();
        }
    }
}

/// One socket for each protocol, opened when it is needed.
#[derive(Default)]
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    async fn send(&mut self, to: SocketAddr, packet: &[u8]) -> io::Result<()> {
        let (slot, any) = match to {
            SocketAddr::V4(_) => (&mut self.v4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (&mut self.v6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        let socket = match slot {
            Some(socket) => socket,
            None => slot.insert(UdpSocket::bind(SocketAddr::new(any, 0)).await?),
        };
        socket.send_to(packet, to).await.map(drop)
    }
}

/// The next packet; never, without a socket.
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Input {
    let Some(socket) = socket else {
        return future::pending().await;
    };
    match socket.recv_from(buffer).await {
        Ok((length, from)) => Input::Received {
            from: from.ip(),
            packet: buffer[..length].to_vec(),
        },
        // An ICMP error of an earlier packet; whose it was is not said, and the round ends by itself.
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Input::Tick
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => future::pending().await,
    }
}

/// The addresses of a name, by the resolvers that are listed now.
async fn look_up(
    server: usize,
    name: String,
    resolv_conf: PathBuf,
) -> (usize, Result<Vec<IpAddr>, LookupError>) {
    (server, names::addresses(&name, &resolv_conf).await)
}

/// A number that nobody can guess; where the kernel has none yet, the time, which few can.
fn random() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => nanos(SystemTime::now()) as u64,
    }
}

pub(super) fn nanos(time: SystemTime) -> Nanos {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as Nanos,
        Err(before) => -(before.duration().as_nanos() as Nanos),
    }
}

/// A time; what is before 1970 is 1970.
fn time(nanos: Nanos) -> SystemTime {
    UNIX_EPOCH + duration(nanos)
}

fn duration(nanos: Nanos) -> Duration {
    let nanos = nanos.max(0);
    Duration::new(
        u64::try_from(nanos / SECOND).unwrap_or(u64::MAX >> 1),
        (nanos % SECOND) as u32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nouns::time::packet::reply;
    use std::sync::{Arc, Mutex};

    /// A clock that is behind the machine's own.
    #[derive(Clone, Default)]
    struct Behind(Arc<Mutex<(Duration, Vec<String>)>>);

    impl Clock for Behind {
        fn now(&self) -> SystemTime {
            SystemTime::now() - self.0.lock().unwrap().0
        }

        fn set(&self, to: SystemTime) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            inner.0 = SystemTime::now().duration_since(to).unwrap_or_default();
            inner.1.push("set".to_owned());
            Ok(())
        }

        fn slew(&self, _: i64, _: Duration, poll: u8) -> io::Result<()> {
            self.0.lock().unwrap().1.push(format!("slew {poll}"));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_server_on_loopback_sets_the_clock() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut packet = [0; 100];
            loop {
                let (length, from) = server.recv_from(&mut packet).await.unwrap();
                assert_eq!((length, packet[0]), (LENGTH, 0x23));
                let now = nanos(SystemTime::now());
                server
                    .send_to(&reply(&packet[..length], now, now), from)
                    .await
                    .unwrap();
            }
        });
        let clock = Behind::default();
        clock.0.lock().unwrap().0 = Duration::from_secs(3600);
        let (servers, servers_receiver) = watch::channel(vec![]);
        let (status, mut known) = watch::channel(Status::default());
        let wake = Wake::default();
        let task = Task {
            servers: servers_receiver,
            status,
            wake: wake.clone(),
            clock: clock.clone(),
            earliest: Duration::from_secs(1_500_000_000),
            resolv_conf: PathBuf::from("/nowhere"),
            port,
        };
        let task = tokio::spawn(task.run());
        servers.send_replace(vec!["127.0.0.1".to_owned(), "name.example".to_owned()]);
        let status = known
            .wait_for(|status| status.offset.is_some())
            .await
            .unwrap()
            .clone();
        wake.notified().await;
        assert!(
            (status.offset.unwrap() - 3600 * SECOND).abs() < SECOND,
            "{status:?}"
        );
        assert!(status.servers[0].followed && !status.servers[1].followed);
        assert_eq!(
            status.servers[1].problem.as_deref(),
            Some("there is no resolver yet")
        );
        assert_eq!(clock.0.lock().unwrap().1[..2], ["set", "slew 6"]);
        assert!(clock.0.lock().unwrap().0 < Duration::from_secs(1));
        drop(servers);
        task.await.unwrap();
    }
}
