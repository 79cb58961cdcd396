//! The task against an init that the test plays.

use super::*;
use crate::orchestrator::payload::tests::payload;
use keelson_api::init as proto;
use keelson_config::{Orchestrator as Wants, Secret};
use prost::Message as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::unix::net::UnixDatagram as StdDatagram;
use tokio::{net::UnixDatagram, time::timeout};

/// What init would see, and what it says.
pub(super) struct FakeInit(UnixDatagram);

impl FakeInit {
    pub(super) fn new() -> (Self, Init) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let ours = UnixDatagram::from_std(StdDatagram::from(ours)).unwrap();
        (FakeInit(ours), Init::new(Some(theirs)).unwrap())
    }

    pub(super) async fn request(&self) -> Option<proto::Request> {
        let mut buffer = vec![0; keelson_api::INIT_DATAGRAM];
        let length = timeout(Duration::from_secs(1), self.0.recv(&mut buffer))
            .await
            .ok()?
            .unwrap();
        Some(proto::Request::decode(&buffer[..length]).unwrap())
    }

    pub(super) async fn respond(&self, id: u64, body: Option<proto::response::Body>) {
        let response = proto::Response {
            id,
            error: String::new(),
            body,
        };
        self.send(proto::message::Body::Response(response)).await;
    }

    pub(super) async fn send(&self, body: proto::message::Body) {
        let message = proto::Message { body: Some(body) };
        self.0.send(&message.encode_to_vec()).await.unwrap();
    }
}

fn wanted(token: &str) -> Wanted {
    let mut machine = Machine::maintenance();
    machine.role = Role::Server;
    machine.orchestrator = Some(Wants {
        name: payload().name,
        token: Secret::new(token.into()),
        server: None,
        datastore: None,
        images: Vec::new(),
        manifests: Default::default(),
        settings: Default::default(),
    });
    Wanted {
        generation: 1,
        machine: Arc::new(machine),
    }
}

fn run(init: Init) -> (Orchestrator, watch::Sender<Wanted>, watch::Sender<Outcome>) {
    let (wanted, wanted_receiver) = watch::channel(wanted("one"));
    let (outcome, outcome_receiver) = watch::channel(Outcome::default());
    let parts = Parts {
        init,
        wanted: wanted_receiver,
        outcome: outcome_receiver,
        resources: Arc::new(Store::new()),
        events: Events::new(),
        build_time: 0,
    };
    (start(Some(Arc::new(payload())), parts), wanted, outcome)
}

fn running(ready: bool) -> Option<proto::response::Body> {
    let process = proto::Process {
        name: payload().name,
        pid: 4711,
        ready,
        started_ms: 1,
        ..Default::default()
    };
    Some(proto::response::Body::Services(proto::Services {
        processes: vec![process],
    }))
}

#[tokio::test]
async fn a_machined_that_comes_back_leaves_the_running_one_alone() {
    let (fake, init) = FakeInit::new();
    let (orchestrator, wanted_sender, _outcome) = run(init);
    let list = fake.request().await.unwrap();
    assert!(matches!(list.body, Some(proto::request::Body::List(_))));
    fake.respond(list.id, running(true)).await;
    let mut status = orchestrator.status();
    status.wait_for(|status| status.pid == 4711).await.unwrap();
    assert_eq!(status.borrow().service, v1::service::State::Running);
    assert!(fake.request().await.is_none(), "nothing is asked of init");

    // A new config stops it, in order, and what is left in its cgroup lives on.
    wanted_sender.send_replace(wanted("two"));
    let Some(proto::request::Body::Stop(stop)) =
        fake.request().await.and_then(|request| request.body)
    else {
        panic!("it is not stopped")
    };
    assert_eq!(
        (stop.name, stop.grace_ms, stop.kill_cgroup),
        (payload().name, 60_000, false)
    );
}

#[tokio::test]
async fn what_init_tells_is_followed() {
    let (fake, init) = FakeInit::new();
    let (orchestrator, _wanted, _outcome) = run(init);
    let list = fake.request().await.unwrap();
    fake.respond(list.id, running(false)).await;
    let mut status = orchestrator.status();
    status
        .wait_for(|status| status.service == v1::service::State::Starting)
        .await
        .unwrap();
    let (name, pid) = (payload().name, 4711);
    let notify = proto::Notify {
        name: name.clone(),
        pid,
        ready: true,
        status: String::new(),
    };
    fake.send(proto::message::Body::Notify(notify)).await;
    status
        .wait_for(|status| status.service == v1::service::State::Running)
        .await
        .unwrap();
    // Another service's end is not its own.
    let exited = |name: &str| proto::Exited {
        name: name.into(),
        pid,
        code: 3,
        signal: 0,
    };
    fake.send(proto::message::Body::Exited(exited("other")))
        .await;
    fake.send(proto::message::Body::Exited(exited(&name))).await;
    status
        .wait_for(|status| status.service == v1::service::State::Backoff)
        .await
        .unwrap();
    assert_eq!(status.borrow().message, "it ended with exit code 3");
}

#[tokio::test]
async fn it_waits_for_what_it_needs_and_says_so() {
    let (fake, init) = FakeInit::new();
    let (orchestrator, _wanted, _outcome) = run(init);
    let list = fake.request().await.unwrap();
    fake.respond(list.id, None).await;
    let mut status = orchestrator.status();
    let waits = |status: &Status| {
        status
            .message
            .contains("the machine is not yet as configured")
    };
    status.wait_for(waits).await.unwrap();
    assert!(status.borrow().wanted);
    orchestrator.halt().await;
    assert!(!orchestrator.status().borrow().wanted);
}
