//! Speaks the init protocol: asks PID 1 to start and stop services and to end the
//! machine's run, and passes on what init tells of them. It decides nothing.

use keelson_api::init::{self as proto, message, request, response};
use prost::Message as _;
use std::{
    collections::HashMap,
    io,
    os::{fd::OwnedFd, unix::net::UnixDatagram as StdDatagram},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UnixDatagram,
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};

/// How long init may take to answer: it does nothing slow between two messages.
const PATIENCE: Duration = Duration::from_secs(10);

/// What init tells by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum InitEvent {
    /// A service's main process ended.
    Exited(proto::Exited),
    /// A service said something on its notify socket.
    Notify(proto::Notify),
    /// init started machined or apid again.
    Restarted(proto::Restarted),
    /// A person asked at the machine itself for a reboot or to power off.
    PowerKey(proto::power::Action),
    /// Events were dropped; this is how things stand now.
    Missed(Vec<proto::Process>),
}

/// Why init did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// There is no connection, or it broke.
    #[error("init cannot be reached")]
    Gone,
    /// No answer in time.
    #[error("init did not answer within {} s", PATIENCE.as_secs())]
    Late,
    /// The request does not fit into a datagram.
    #[error("the request is larger than {} bytes", keelson_api::INIT_DATAGRAM)]
    TooLarge,
    /// init said no.
    #[error("init refused: {0}")]
    Refused(String),
    /// The answer is of another kind than the question.
    #[error("init answered something else")]
    Confused,
}

/// The connection to init. Every clone is the same connection.
#[derive(Clone)]
pub(crate) struct Init {
    asks: mpsc::Sender<Ask>,
    events: Arc<broadcast::Sender<InitEvent>>,
}

struct Ask {
    body: request::Body,
    reply: oneshot::Sender<Result<Option<response::Body>, InitError>>,
}

impl Init {
    /// Takes over the inherited socket; `None` where machined runs without init: then
    /// every request is answered with [`InitError::Gone`].
    pub(crate) fn new(socket: Option<OwnedFd>) -> io::Result<Self> {
        let (asks, inbox) = mpsc::channel(16);
        let events = Arc::new(broadcast::Sender::new(256));
        if let Some(socket) = socket {
            // It is a SOCK_SEQPACKET, not a SOCK_DGRAM: connected, whole messages, and
            // an empty one at its end. recv(2) and send(2) are the same for both.
            let socket = StdDatagram::from(socket);
            socket.set_nonblocking(true)?;
            tokio::spawn(converse(
                UnixDatagram::from_std(socket)?,
                inbox,
                events.clone(),
            ));
        }
        Ok(Init { asks, events })
    }

    /// What init tells from now on. Whoever lags behind lists again.
    pub(crate) fn events(&self) -> broadcast::Receiver<InitEvent> {
        self.events.subscribe()
    }

    /// Starts a service; its PID.
    pub(crate) async fn start(&self, start: proto::Start) -> Result<u32, InitError> {
        match self.ask(request::Body::Start(start)).await? {
            Some(response::Body::Started(started)) => Ok(started.pid),
            _ => Err(InitError::Confused),
        }
    }

    /// Begins to stop a service; its exit comes as an event.
    pub(crate) async fn stop(&self, stop: proto::Stop) -> Result<(), InitError> {
        self.ask(request::Body::Stop(stop)).await.map(drop)
    }

    /// What init supervises.
    pub(crate) async fn list(&self) -> Result<Vec<proto::Process>, InitError> {
        match self.ask(request::Body::List(proto::List {})).await? {
            Some(response::Body::Services(services)) => Ok(services.processes),
            // An empty list may be left out on the wire.
            None => Ok(Vec::new()),
            Some(_) => Err(InitError::Confused),
        }
    }

    /// Ends the machine's run.
    pub(crate) async fn power(
        &self,
        action: proto::power::Action,
        reason: &str,
    ) -> Result<(), InitError> {
        let power = proto::Power {
            action: action.into(),
            reason: reason.to_owned(),
        };
        self.ask(request::Body::Power(power)).await.map(drop)
    }

    /// The machine's watchdog; with a time, in seconds, it is given that before.
    pub(crate) async fn watchdog(&self, seconds: u32) -> Result<proto::Watchdog, InitError> {
        let ask = proto::Watchdog {
            timeout_seconds: seconds,
            ..Default::default()
        };
        match self.ask(request::Body::Watchdog(ask)).await? {
            Some(response::Body::Watchdog(watchdog)) => Ok(watchdog),
            _ => Err(InitError::Confused),
        }
    }

    /// Tells init that machined lives. Waits for nothing: where it cannot be sent now the
    /// next one will be.
    pub(crate) fn alive(&self) {
        self.tell(request::Body::Alive(proto::Alive {}));
    }

    /// Tells init what is made of a key that was pressed at the machine: an end that takes at
    /// most so long, or nothing.
    pub(crate) fn answer_key(&self, within: Option<Duration>) {
        let millis = within.map_or(0, |within| within.as_millis());
        self.tell(request::Body::KeyAnswer(proto::KeyAnswer {
            within_ms: u32::try_from(millis).unwrap_or(u32::MAX),
        }));
    }

    /// Says something that needs no answer.
    fn tell(&self, body: request::Body) {
        let (reply, _) = oneshot::channel();
        // An error says that init is slow or gone: others see that as well.
        drop(self.asks.try_send(Ask { body, reply }));
    }

    async fn ask(&self, body: request::Body) -> Result<Option<response::Body>, InitError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.asks
                .send(Ask { body, reply })
                .await
                .map_err(|_| InitError::Gone)?;
            answer.await.map_err(|_| InitError::Gone)?
        };
        timeout(PATIENCE, exchange)
            .await
            .map_err(|_| InitError::Late)?
    }
}

/// Owns the socket: sends what is asked, hands answers back, passes events on.
async fn converse(
    socket: UnixDatagram,
    mut inbox: mpsc::Receiver<Ask>,
    events: Arc<broadcast::Sender<InitEvent>>,
) {
    let mut waiting = Waiting::new();
    let mut buffer = vec![0; keelson_api::INIT_DATAGRAM];
    loop {
        tokio::select! {
            ask = inbox.recv() => match ask {
                Some(Ask { body, reply }) => send(&socket, &mut waiting, body, reply).await,
                None => return,
            },
            received = socket.recv(&mut buffer) => match received {
                Ok(length) if length > 0 => match proto::Message::decode(&buffer[..length]) {
                    Ok(message) => receive(message, &mut waiting, &events),
                    Err(error) => tracing::warn!("init sent something that cannot be decoded: {error}"),
                },
                Ok(_) => {
                    tracing::error!("init closed the connection");
                    return;
                }
                Err(error) => {
                    tracing::error!("reading from init: {error}");
                    return;
                }
            },
        }
    }
}

async fn send(
    socket: &UnixDatagram,
    waiting: &mut Waiting,
    body: request::Body,
    reply: oneshot::Sender<Result<Option<response::Body>, InitError>>,
) {
    let id = waiting.next;
    let bytes = proto::Request {
        id,
        body: Some(body),
    }
    .encode_to_vec();
    let outcome = if bytes.len() > keelson_api::INIT_DATAGRAM {
        Err(InitError::TooLarge)
    } else {
        socket.send(&bytes).await.map(drop).map_err(|error| {
            tracing::error!("writing to init: {error}");
            InitError::Gone
        })
    };
    match outcome {
        Ok(()) => waiting.add(reply),
        // An error only says that the asker does not wait any more.
        Err(error) => drop(reply.send(Err(error))),
    }
}

fn receive(message: proto::Message, waiting: &mut Waiting, events: &broadcast::Sender<InitEvent>) {
    let event = match message.body {
        Some(message::Body::Response(proto::Response {
            id: 0,
            body: Some(response::Body::Services(services)),
            ..
        })) => InitEvent::Missed(services.processes),
        Some(message::Body::Response(response)) => return waiting.answer(response),
        Some(message::Body::PowerKey(key)) => InitEvent::PowerKey(key.action()),
        Some(message::Body::Exited(exited)) => InitEvent::Exited(exited),
        Some(message::Body::Notify(notify)) => InitEvent::Notify(notify),
        Some(message::Body::Restarted(restarted)) => InitEvent::Restarted(restarted),
        None => return,
    };
    // An error only says that nobody listens.
    drop(events.send(event));
}

/// The requests that are not answered yet.
struct Waiting {
    next: u64,
    replies: HashMap<u64, oneshot::Sender<Result<Option<response::Body>, InitError>>>,
}

impl Waiting {
    /// The socket outlives machined, so answers to the one before may still come: its
    /// ids must not be used again. They begin with the time since boot.
    fn new() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let next = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(now.tv_nsec / 1000).unwrap_or(0);
        Waiting {
            next,
            replies: HashMap::new(),
        }
    }

    fn add(&mut self, reply: oneshot::Sender<Result<Option<response::Body>, InitError>>) {
        self.replies.retain(|_, reply| !reply.is_closed());
        self.replies.insert(self.next, reply);
        self.next += 1;
    }

    fn answer(&mut self, response: proto::Response) {
        let Some(reply) = self.replies.remove(&response.id) else {
            return;
        };
        let outcome = if response.error.is_empty() {
            Ok(response.body)
        } else {
            Err(InitError::Refused(response.error))
        };
        // An error only says that the asker does not wait any more.
        drop(reply.send(outcome));
    }
}

/// Says READY=1 on the socket that init gave to machined itself.
pub(crate) fn ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    StdDatagram::unbound()?.send_to(b"READY=1", path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// A socket pair as init makes it, and the client on one end.
    fn pair() -> (UnixDatagram, Init) {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        (
            UnixDatagram::from_std(ours.into()).unwrap(),
            Init::new(Some(theirs)).unwrap(),
        )
    }

    async fn next(init: &UnixDatagram) -> proto::Request {
        let mut buffer = vec![0; keelson_api::INIT_DATAGRAM];
        let length = init.recv(&mut buffer).await.unwrap();
        proto::Request::decode(&buffer[..length]).unwrap()
    }

    fn message(body: message::Body) -> Vec<u8> {
        proto::Message { body: Some(body) }.encode_to_vec()
    }

    #[tokio::test]
    async fn answers_find_their_question_and_events_pass_in_between() {
        let (init, client) = pair();
        let mut events = client.events();
        let asked = tokio::spawn(async move {
            client
                .start(proto::Start {
                    name: "k3s".into(),
                    ..Default::default()
                })
                .await
        });
        let request = next(&init).await;
        let exited = proto::Exited {
            name: "old".into(),
            pid: 7,
            code: 1,
            signal: 0,
        };
        init.send(&message(message::Body::Exited(exited.clone())))
            .await
            .unwrap();
        // An answer to a question that an earlier machined asked.
        let stale = proto::Response {
            id: 1,
            error: "stale".into(),
            body: None,
        };
        init.send(&message(message::Body::Response(stale)))
            .await
            .unwrap();
        let body = Some(response::Body::Started(proto::Started { pid: 42 }));
        init.send(&message(message::Body::Response(proto::Response {
            id: request.id,
            error: String::new(),
            body,
        })))
        .await
        .unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), 42);
        assert_eq!(events.recv().await.unwrap(), InitEvent::Exited(exited));
    }

    #[tokio::test]
    async fn a_sign_of_life_waits_for_nothing() {
        let (init, client) = pair();
        for _ in 0..100 {
            client.alive();
        }
        let request = next(&init).await;
        assert_eq!(request.body, Some(request::Body::Alive(proto::Alive {})));
        Init::new(None).unwrap().alive();
    }

    #[tokio::test]
    async fn a_refusal_carries_its_reason() {
        let (init, client) = pair();
        let asked = tokio::spawn(async move { client.stop(proto::Stop::default()).await });
        let id = next(&init).await.id;
        let refusal = proto::Response {
            id,
            error: "no such service".into(),
            body: None,
        };
        init.send(&message(message::Body::Response(refusal)))
            .await
            .unwrap();
        assert_eq!(
            asked.await.unwrap().unwrap_err().to_string(),
            "init refused: no such service"
        );
    }

    #[tokio::test]
    async fn garbage_is_survived_and_the_end_is_told() {
        let (init, client) = pair();
        init.send(&[0xff; 100]).await.unwrap();
        let asked = tokio::spawn(async move { client.list().await });
        next(&init).await;
        drop(init);
        assert!(matches!(asked.await.unwrap(), Err(InitError::Gone)));
    }

    #[tokio::test]
    async fn a_request_larger_than_a_datagram_is_refused_here() {
        let (_init, client) = pair();
        let start = proto::Start {
            argv: vec!["x".repeat(keelson_api::INIT_DATAGRAM)],
            ..Default::default()
        };
        assert!(matches!(
            client.start(start).await,
            Err(InitError::TooLarge)
        ));
    }

    #[tokio::test]
    async fn without_init_every_request_says_so() {
        let client = Init::new(None).unwrap();
        assert!(matches!(client.list().await, Err(InitError::Gone)));
    }
}
