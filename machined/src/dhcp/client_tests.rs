//! The client against a server that is not there: histories that are long, random or
//! hostile, in no time at all.

use super::*;
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{self, DhcpOption, MessageType, OptionCode},
};
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 4);
const LEASE: u32 = 3600;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn client(last: Option<Ipv4Addr>) -> Client {
    let identity = Identity {
        mac: MAC,
        hostname: "server-1".into(),
    };
    Client::new(identity, last, 42)
}

/// The one message among some outputs.
fn sent(outputs: &[Output]) -> v4::Message {
    let mut messages = outputs.iter().filter_map(|output| match output {
        Output::Broadcast(message) | Output::Unicast { message, .. } => Some(message),
        _ => None,
    });
    let message = messages.next().expect("nothing was sent");
    assert_eq!(messages.next(), None, "more than one message");
    v4::Message::from_bytes(message).unwrap()
}

fn answer(request: &v4::Message, kind: MessageType, server: Ipv4Addr) -> Vec<u8> {
    let mut message = v4::Message::default();
    message
        .set_opcode(v4::Opcode::BootReply)
        .set_xid(request.xid())
        .set_chaddr(request.chaddr());
    if kind != MessageType::Nak {
        message.set_yiaddr(ADDRESS);
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(server));
    options.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
    options.insert(DhcpOption::Router(vec![SERVER]));
    options.insert(DhcpOption::AddressLeaseTime(LEASE));
    message.to_vec().unwrap()
}

fn requested(message: &v4::Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    }
}

/// A client that has just got a lease.
fn bound(start: Instant) -> Client {
    let mut client = client(None);
    let discover = sent(&client.handle(start, Input::LinkUp));
    let offer = answer(&discover, MessageType::Offer, SERVER);
    let request = sent(&client.handle(start, Input::Message(&offer)));
    let ack = answer(&request, MessageType::Ack, SERVER);
    let outputs = client.handle(start, Input::Message(&ack));
    assert!(matches!(outputs[..], [Output::Bound(_)]), "{outputs:?}");
    client
}

/// Goes to the deadline.
fn wait(client: &mut Client, now: &mut Instant) -> Vec<Output> {
    let deadline = client.deadline().expect("no deadline");
    assert!(deadline > *now, "a deadline in the past");
    *now = deadline;
    client.handle(*now, Input::Tick)
}

#[test]
fn four_messages_and_the_address_is_there() {
    let now = Instant::now();
    let mut client = client(None);
    assert_eq!((client.deadline(), client.listens()), (None, false));
    let discover = sent(&client.handle(now, Input::LinkUp));
    assert_eq!(discover.opts().msg_type(), Some(MessageType::Discover));
    assert!(client.listens());
    let offer = answer(&discover, MessageType::Offer, SERVER);
    let request = sent(&client.handle(now, Input::Message(&offer)));
    assert_eq!(request.opts().msg_type(), Some(MessageType::Request));
    assert_eq!(request.xid(), discover.xid());
    assert_eq!(requested(&request), Some(ADDRESS));
    let ack = answer(&request, MessageType::Ack, SERVER);
    let outputs = client.handle(now, Input::Message(&ack));
    let [Output::Bound(bound)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((bound.lease.address, bound.since), (ADDRESS, now));
    assert!(!client.listens(), "nothing is awaited");
    assert_eq!(client.deadline(), Some(now + seconds(1800)));
}

#[test]
fn a_week_of_renewals_keeps_the_address() {
    let start = Instant::now();
    let mut now = start;
    let mut client = bound(start);
    let mut renewals = 0;
    while now < start + seconds(7 * 86400) {
        let outputs = wait(&mut client, &mut now);
        let [Output::Unicast { from, to, .. }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!((*from, *to), (ADDRESS, SERVER));
        let request = sent(&outputs);
        assert_eq!((request.ciaddr(), requested(&request)), (ADDRESS, None));
        let ack = answer(&request, MessageType::Ack, SERVER);
        let outputs = client.handle(now, Input::Message(&ack));
        assert!(matches!(outputs[..], [Output::Bound(_)]));
        renewals += 1;
    }
    assert_eq!(renewals, 7 * 86400 / 1800);
}

#[test]
fn without_an_answer_it_rebinds_and_then_lets_go_in_time() {
    let start = Instant::now();
    let mut now = start;
    let mut client = bound(start);
    let (mut unicasts, mut broadcasts) = (0, 0);
    loop {
        let outputs = wait(&mut client, &mut now);
        match &outputs[..] {
            [Output::Unicast { .. }] => {
                assert!(now < start + seconds(3150), "T2 has come");
                unicasts += 1;
            }
            [Output::Broadcast(_)] => {
                assert!(now >= start + seconds(3150));
                assert_eq!(sent(&outputs).ciaddr(), ADDRESS);
                broadcasts += 1;
            }
            [Output::Lost(Loss::Expired)] => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(now, start + seconds(3600));
    assert!((2..10).contains(&unicasts) && (2..10).contains(&broadcasts));
    let outputs = wait(&mut client, &mut now);
    let discover = sent(&outputs);
    assert_eq!(discover.opts().msg_type(), Some(MessageType::Discover));
    assert_eq!(
        requested(&discover),
        Some(ADDRESS),
        "it would like the same again"
    );
}

#[test]
fn another_server_may_answer_when_rebinding_but_not_before() {
    let start = Instant::now();
    let mut now = start;
    let mut client = bound(start);
    let request = sent(&wait(&mut client, &mut now));
    for kind in [MessageType::Ack, MessageType::Nak] {
        let stranger = answer(&request, kind, OTHER);
        assert_eq!(
            client.handle(now, Input::Message(&stranger)),
            [],
            "{kind:?} from a stranger"
        );
    }
    while now < start + seconds(3150) {
        wait(&mut client, &mut now);
    }
    let request = sent(&wait(&mut client, &mut now));
    let ack = answer(&request, MessageType::Ack, OTHER);
    let outputs = client.handle(now, Input::Message(&ack));
    let [Output::Bound(bound)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(bound.lease.server, OTHER);
}

#[test]
fn nobody_answers_and_the_world_is_told_once() {
    let start = Instant::now();
    let mut now = start;
    let mut client = client(None);
    let first = sent(&client.handle(now, Input::LinkUp));
    let (mut told, mut pauses) = (0, Vec::new());
    for _ in 0..20 {
        let before = now;
        let outputs = wait(&mut client, &mut now);
        told += outputs
            .iter()
            .filter(|output| **output == Output::Unanswered)
            .count();
        assert_eq!(
            sent(&outputs).xid(),
            first.xid(),
            "a late answer still counts"
        );
        pauses.push((now - before).as_secs_f32());
    }
    assert_eq!(told, 1);
    for (tries, pause) in pauses.iter().enumerate() {
        let middle = (2 << tries.min(5)) as f32;
        assert!((pause - middle).abs() <= 1.0, "pause {tries} is {pause}");
    }
}

#[test]
fn machines_that_start_together_do_not_ask_together() {
    let now = Instant::now();
    let identity = Identity {
        mac: MAC,
        hostname: String::new(),
    };
    let deadlines: std::collections::BTreeSet<_> = (0..50)
        .map(|seed| {
            let mut client = Client::new(identity.clone(), None, seed);
            client.handle(now, Input::LinkUp);
            client.deadline()
        })
        .collect();
    assert!(deadlines.len() > 40, "{}", deadlines.len());
}

#[test]
fn an_old_address_is_asked_for_first() {
    let now = Instant::now();
    let mut client = client(Some(ADDRESS));
    let request = sent(&client.handle(now, Input::LinkUp));
    assert_eq!(request.opts().msg_type(), Some(MessageType::Request));
    assert_eq!(
        (requested(&request), request.ciaddr()),
        (Some(ADDRESS), Ipv4Addr::UNSPECIFIED)
    );
    assert_eq!(request.opts().get(OptionCode::ServerIdentifier), None);
    let ack = answer(&request, MessageType::Ack, SERVER);
    assert!(matches!(
        client.handle(now, Input::Message(&ack))[..],
        [Output::Bound(_)]
    ));
}

#[test]
fn an_old_address_that_is_refused_gives_way_to_a_new_one_at_once() {
    let now = Instant::now();
    let mut client = client(Some(ADDRESS));
    let request = sent(&client.handle(now, Input::LinkUp));
    let nak = answer(&request, MessageType::Nak, SERVER);
    let discover = sent(&client.handle(now, Input::Message(&nak)));
    assert_eq!(discover.opts().msg_type(), Some(MessageType::Discover));
    assert_eq!(requested(&discover), None);
}

#[test]
fn an_old_address_that_nobody_knows_gives_way_too() {
    let mut now = Instant::now();
    let mut client = client(Some(ADDRESS));
    client.handle(now, Input::LinkUp);
    let kinds: Vec<_> = (0..3)
        .map(|_| {
            sent(&wait(&mut client, &mut now))
                .opts()
                .msg_type()
                .unwrap()
        })
        .collect();
    assert_eq!(
        kinds,
        [
            MessageType::Request,
            MessageType::Request,
            MessageType::Discover
        ]
    );
}

#[test]
fn a_cable_pulled_for_a_moment_keeps_the_lease_and_asks_again() {
    let start = Instant::now();
    let mut now = start + seconds(100);
    let mut client = bound(start);
    assert_eq!(client.handle(now, Input::LinkDown), []);
    assert!(!client.listens());
    assert_eq!(client.deadline(), Some(start + seconds(3600)));
    now += seconds(10);
    let request = sent(&client.handle(now, Input::LinkUp));
    assert_eq!(requested(&request), Some(ADDRESS));
    // The server is away: the lease goes on as it was.
    wait(&mut client, &mut now);
    wait(&mut client, &mut now);
    assert_eq!(wait(&mut client, &mut now), []);
    assert_eq!(client.deadline(), Some(start + seconds(1800)));
}

#[test]
fn a_cable_put_into_another_network_loses_the_lease() {
    let start = Instant::now();
    let mut client = bound(start);
    client.handle(start, Input::LinkDown);
    let request = sent(&client.handle(start, Input::LinkUp));
    let nak = answer(&request, MessageType::Nak, OTHER);
    let outputs = client.handle(start, Input::Message(&nak));
    assert_eq!(outputs, [Output::Lost(Loss::Refused)]);
    let mut now = start;
    let discover = sent(&wait(&mut client, &mut now));
    assert_eq!(requested(&discover), None);
}

#[test]
fn a_cable_pulled_for_long_loses_the_lease() {
    let start = Instant::now();
    let mut now = start;
    let mut client = bound(start);
    client.handle(now, Input::LinkDown);
    assert_eq!(wait(&mut client, &mut now), [Output::Lost(Loss::Expired)]);
    assert_eq!(now, start + seconds(3600));
    assert_eq!(client.deadline(), None);
}

#[test]
fn a_link_that_is_up_already_changes_nothing() {
    let start = Instant::now();
    let mut client = bound(start);
    assert_eq!(client.handle(start, Input::LinkUp), []);
    assert_eq!(client.deadline(), Some(start + seconds(1800)));
}

#[test]
fn an_endless_lease_is_never_renewed() {
    let now = Instant::now();
    let mut client = client(None);
    let discover = sent(&client.handle(now, Input::LinkUp));
    let offer = answer(&discover, MessageType::Offer, SERVER);
    let request = sent(&client.handle(now, Input::Message(&offer)));
    let ack = answer(&request, MessageType::Ack, SERVER);
    let mut ack = v4::Message::from_bytes(&ack).unwrap();
    ack.opts_mut()
        .insert(DhcpOption::AddressLeaseTime(u32::MAX));
    let outputs = client.handle(now, Input::Message(&ack.to_vec().unwrap()));
    assert!(matches!(&outputs[..], [Output::Bound(bound)] if bound.expires().is_none()));
    assert_eq!(client.deadline(), None);
}

#[test]
fn a_server_that_always_refuses_is_asked_ever_less_often() {
    let start = Instant::now();
    let mut now = start;
    let mut client = client(None);
    let mut outputs = client.handle(now, Input::LinkUp);
    let mut discovers = 0;
    while now < start + seconds(3600) {
        let discover = sent(&outputs);
        discovers += 1;
        let offer = answer(&discover, MessageType::Offer, SERVER);
        let request = sent(&client.handle(now, Input::Message(&offer)));
        let nak = answer(&request, MessageType::Nak, SERVER);
        assert_eq!(client.handle(now, Input::Message(&nak)), []);
        outputs = wait(&mut client, &mut now);
    }
    assert!(discovers < 70, "{discovers} in an hour");
}

#[test]
fn a_clock_that_jumps_ahead_by_a_month_ends_the_lease_in_one_go() {
    let start = Instant::now();
    let mut client = bound(start);
    let now = start + seconds(30 * 86400);
    let outputs = client.handle(now, Input::Tick);
    assert!(
        outputs.contains(&Output::Lost(Loss::Expired)),
        "{outputs:?}"
    );
    assert!(client.deadline().is_some_and(|deadline| deadline > now));
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Up,
    Down,
    Pass(u64),
    Deadline,
    /// An answer to the last message.
    Answer {
        kind: MessageType,
        server: Ipv4Addr,
        xid: u32,
        mac: u8,
        lease: u32,
    },
    Noise(Vec<u8>),
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![
        MessageType::Offer,
        MessageType::Ack,
        MessageType::Nak,
        MessageType::Inform,
    ]);
    let server = prop::sample::select(vec![SERVER, OTHER, Ipv4Addr::UNSPECIFIED]);
    let lease = prop_oneof![Just(LEASE), Just(0), Just(u32::MAX), any::<u32>()];
    // Mostly right, sometimes another's.
    let xid = prop_oneof![9 => Just(0u32), 1 => any::<u32>()];
    let mac = prop_oneof![9 => Just(0u8), 1 => any::<u8>()];
    prop_oneof![
        1 => Just(Event::Up),
        1 => Just(Event::Down),
        2 => (0u64..5000).prop_map(Event::Pass),
        4 => Just(Event::Deadline),
        8 => (kind, server, xid, mac, lease).prop_map(|(kind, server, xid, mac, lease)| {
            Event::Answer { kind, server, xid, mac, lease }
        }),
        1 => prop::collection::vec(any::<u8>(), 0..400).prop_map(Event::Noise),
    ]
}

proptest! {
    /// Whatever happens: no panic, no flood, no lease that was not asked for or that is
    /// kept beyond its time, and the world is told of each change.
    #[test]
    fn any_history_is_survived(
        last: bool,
        seed: u64,
        events in prop::collection::vec(event(), 0..80),
    ) {
        let start = Instant::now();
        let mut now = start;
        let identity = Identity { mac: MAC, hostname: String::new() };
        let mut client = Client::new(identity, last.then_some(ADDRESS), seed);
        let mut held: Option<Bound> = None;
        let mut asked: Option<v4::Message> = None;
        for event in events {
            let mut honest = true;
            let outputs = match event {
                Event::Up => client.handle(now, Input::LinkUp),
                Event::Down => client.handle(now, Input::LinkDown),
                Event::Pass(pass) => {
                    now += seconds(pass);
                    client.handle(now, Input::Tick)
                }
                Event::Deadline => {
                    now = client.deadline().unwrap_or(now).max(now);
                    client.handle(now, Input::Tick)
                }
                Event::Noise(noise) => client.handle(now, Input::Message(&noise)),
                Event::Answer { kind, server, xid, mac, lease } => {
                    let Some(asked) = &asked else { continue };
                    honest = xid == 0 && mac == 0;
                    let mut message =
                        v4::Message::from_bytes(&answer(asked, kind, server)).unwrap();
                    message.opts_mut().insert(DhcpOption::AddressLeaseTime(lease));
                    message.set_xid(asked.xid() ^ xid);
                    let mut chaddr = MAC.0;
                    chaddr[5] ^= mac;
                    message.set_chaddr(&chaddr);
                    client.handle(now, Input::Message(&message.to_vec().unwrap()))
                }
            };
            let sends = outputs.iter().filter(|output| {
                matches!(output, Output::Broadcast(_) | Output::Unicast { .. })
            });
            prop_assert!(sends.count() <= 4, "a flood: {:?}", outputs);
            for output in &outputs {
                match output {
                    Output::Broadcast(message) | Output::Unicast { message, .. } => {
                        prop_assert!(honest, "a stranger's packet was answered");
                        asked = Some(v4::Message::from_bytes(message).unwrap());
                        if let Output::Unicast { from, .. } = output {
                            let used = held.as_ref().map(|held| held.lease.address);
                            prop_assert_eq!(Some(*from), used, "an address that is not held");
                        }
                    }
                    Output::Bound(bound) => {
                        prop_assert!(honest, "a stranger's lease was taken");
                        prop_assert_eq!(bound.lease.address, ADDRESS);
                        prop_assert!(bound.since <= now);
                        held = Some(bound.clone());
                    }
                    Output::Lost(_) => {
                        prop_assert!(held.is_some(), "lost what was not held");
                        held = None;
                    }
                    Output::Unanswered => {}
                }
            }
            let alive = held.as_ref().and_then(Bound::expires).is_none_or(|at| at > now);
            prop_assert!(alive, "a lease is kept beyond its time");
            if let Some(deadline) = client.deadline() {
                prop_assert!(deadline > now, "a deadline that has passed");
            }
        }
    }
}
