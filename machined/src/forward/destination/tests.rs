//! One server over the loopback, by each protocol.

use super::*;
use crate::{forward::line::Entry, testca::Ca};
use serde_json::Value;
use std::time::SystemTime;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    task::JoinHandle,
};

const PAUSES: Pauses = Pauses {
    first: Duration::from_millis(10),
    most: Duration::from_millis(50),
};

fn entry(message: &str) -> Arc<Entry> {
    Arc::new(Entry::of_service("k3s", message, SystemTime::UNIX_EPOCH))
}

struct Sender {
    destination: Arc<Destination>,
    settings: watch::Sender<Settings>,
    task: JoinHandle<()>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sender {
    fn start(protocol: LogProtocol, port: u16, settings: Settings) -> Self {
        let to = LogServer {
            protocol,
            host: "127.0.0.1".to_owned(),
            port,
        };
        let destination = Arc::new(Destination::new(to, Arc::default()));
        let (settings, told) = watch::channel(settings);
        let task = tokio::spawn({
            let destination = destination.clone();
            async move { destination.run(told, PAUSES).await }
        });
        Sender {
            destination,
            settings,
            task,
        }
    }

    fn say(&self, message: &str) {
        self.destination.queue.push(&entry(message));
    }

    /// Waits for a state.
    async fn is(&self, wanted: impl Fn(&State) -> bool) -> State {
        loop {
            let state = self.destination.state();
            if wanted(&state) {
                return state;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn next<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>) -> Value {
    serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap()
}

/// Shows: machine.logging.forward
#[tokio::test]
async fn lines_by_tcp_and_again_after_the_server_went_away() {
    let (listener, port) = listen().await;
    let fields = BTreeMap::from([("cluster".to_owned(), "shop-7".to_owned())]);
    let settings = Settings {
        fields,
        ..Settings::default()
    };
    let sender = Sender::start(LogProtocol::Tcp, port, settings);
    sender.say("one");
    let (stream, _) = listener.accept().await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let line = next(&mut lines).await;
    assert_eq!(line["message"], "one");
    assert_eq!(line["source"], "k3s");
    assert_eq!(line["cluster"], "shop-7");
    assert_eq!(line["time"], "1970-01-01T00:00:00.000Z");
    assert_eq!(line["node"], node());
    sender.is(|state| *state == State::Connected).await;

    // It goes away, what is said meanwhile waits, and it comes back.
    drop((lines, listener));
    let state = sender.is(|state| matches!(state, State::Retrying(_))).await;
    assert_ne!(state, State::Retrying(String::new()));
    sender.say("two");
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(next(&mut lines).await["message"], "two");
    let resource = sender.destination.resource("logforward");
    assert_eq!(resource.name, format!("tcp://127.0.0.1:{port}"));
    assert_eq!(resource.spec["dropped"], 0);
}

#[tokio::test]
async fn what_was_dropped_is_told_once_it_flows_again() {
    let (listener, port) = listen().await;
    drop(listener);
    let sender = Sender::start(LogProtocol::Tcp, port, Settings::default());
    let state = sender.is(|state| matches!(state, State::Retrying(_))).await;
    let State::Retrying(why) = state else {
        unreachable!()
    };
    assert!(why.starts_with("it is not reached: "), "{why}");
    let most = crate::forward::queue::MOST;
    for n in 0..most + 904 {
        sender.say(&n.to_string());
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    for n in 0..most {
        assert_eq!(next(&mut lines).await["message"], n.to_string());
    }
    assert_eq!(next(&mut lines).await["dropped"], 904);
    sender.say("after");
    assert_eq!(next(&mut lines).await["message"], "after");
    let resource = sender.destination.resource("logforward");
    assert_eq!(resource.spec["dropped"], 904);
}

#[tokio::test]
async fn datagrams_are_whole_objects_of_at_most_8_kib() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let sender = Sender::start(LogProtocol::Udp, port, Settings::default());
    sender.say("one");
    sender.say(&"x".repeat(20_000));
    let mut datagram = vec![0; 65_536];
    for wanted in ["one", "xxx"] {
        let length = server.recv(&mut datagram).await.unwrap();
        assert!(length <= DATAGRAM);
        let line: Value = serde_json::from_slice(&datagram[..length]).unwrap();
        assert!(line["message"].as_str().unwrap().starts_with(wanted));
    }
    sender.is(|state| *state == State::Connected).await;
}

#[tokio::test]
async fn lines_by_tls_to_whom_the_configs_ca_vouches_for() {
    let (listener, port) = listen().await;
    let ca = Ca::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server(&["127.0.0.1"]));
    let sender = Sender::start(LogProtocol::Tls, port, Settings::default());
    sender.say("one");
    // Nobody vouches for it yet.
    let (stream, _) = listener.accept().await.unwrap();
    assert!(acceptor.accept(stream).await.is_err());
    let state = sender.is(|state| matches!(state, State::Retrying(_))).await;
    let State::Retrying(why) = state else {
        unreachable!()
    };
    assert!(why.contains("certificate"), "{why}");

    // With the CA in the config it is trusted, without a restart.
    sender
        .settings
        .send_modify(|settings| settings.trusted_cas = vec![ca.pem()]);
    let stream = loop {
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(stream) = acceptor.accept(stream).await {
            break stream;
        }
    };
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(next(&mut lines).await["message"], "one");

    // Other CAs: it is asked anew who it is.
    sender
        .settings
        .send_modify(|settings| settings.trusted_cas.clear());
    while lines.next_line().await.is_ok_and(|line| line.is_some()) {}
    let (stream, _) = listener.accept().await.unwrap();
    assert!(acceptor.accept(stream).await.is_err());
}

#[tokio::test]
async fn a_server_with_another_name_gets_nothing() {
    let (listener, port) = listen().await;
    let ca = Ca::new();
    let server = ca.server(&["logs.example.com", "127.0.0.2"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(server);
    let settings = Settings {
        trusted_cas: vec![ca.pem()],
        ..Settings::default()
    };
    let sender = Sender::start(LogProtocol::Tls, port, settings);
    sender.say("one");
    let (stream, _) = listener.accept().await.unwrap();
    assert!(acceptor.accept(stream).await.is_err());
    let state = sender.is(|state| matches!(state, State::Retrying(_))).await;
    assert_eq!(sender.destination.queue.counts().sent, 0, "{state:?}");
}
