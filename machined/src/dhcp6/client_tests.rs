//! The client against a server that is not there: histories that are long, random or
//! hostile, in no time at all.

use super::*;
use proptest::prelude::*;

const DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ID: u32 = 7;
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x15);
const NEW: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x16);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const SERVER: [u8; 5] = [0, 3, 0, 1, 2];
const OTHER: [u8; 5] = [0, 3, 0, 1, 3];
const PREFERRED: u32 = 2400;
const VALID: u32 = 3600;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn client() -> Client {
    client_by_chance(42)
}

fn client_by_chance(seed: u64) -> Client {
    let identity = Identity {
        duid: DUID.to_vec(),
        association: ID,
    };
    Client::new(identity, seed)
}

/// The one message among some outputs.
fn sent(outputs: &[Output]) -> Message {
    let mut messages = outputs.iter().filter_map(|output| match output {
        Output::Send(message) => Some(message),
        _ => None,
    });
    let message = messages.next().expect("nothing was sent");
    assert_eq!(messages.next(), None, "more than one message");
    Message::decode(message).unwrap()
}

fn answer(request: &Message, kind: Kind, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message {
        kind,
        transaction: request.transaction,
        client: request.client.clone(),
        server: SERVER.to_vec(),
        associations: vec![Association {
            id: ID,
            addresses: vec![Lent {
                address: ADDRESS,
                preferred: PREFERRED,
                valid: VALID,
                status: status::SUCCESS,
            }],
            ..Association::default()
        }],
        ..Message::default()
    };
    change(&mut message);
    message.encode()
}

fn requested(message: &Message) -> Option<Ipv6Addr> {
    Some(message.associations[0].addresses.first()?.address)
}

/// Hands a message to the client.
fn hear(client: &mut Client, now: Instant, message: &[u8]) -> Vec<Output> {
    client.handle(now, Input::Message(message, ROUTER))
}

/// Goes to the deadline.
fn wait(client: &mut Client, now: &mut Instant) -> Vec<Output> {
    let deadline = client.deadline().expect("no deadline");
    assert!(deadline > *now, "a deadline in the past");
    *now = deadline;
    client.handle(*now, Input::Tick)
}

/// The link comes up, and what is asked first.
fn begin(client: &mut Client, now: &mut Instant) -> Message {
    let before = *now;
    assert_eq!(client.handle(*now, Input::LinkUp), []);
    let first = sent(&wait(client, now));
    assert!(*now - before <= seconds(1));
    first
}

/// A client that has just got a lease, and when.
fn bound(start: Instant) -> (Client, Instant) {
    let (mut client, mut now) = (client(), start);
    let solicit = begin(&mut client, &mut now);
    let reply = answer(&solicit, Kind::Reply, |m| m.rapid = true);
    let outputs = hear(&mut client, now, &reply);
    assert!(matches!(outputs[..], [Output::Bound(_)]), "{outputs:?}");
    (client, now)
}

#[test]
fn four_messages_and_the_address_is_there() {
    let (mut client, mut now) = (client(), Instant::now());
    assert_eq!((client.deadline(), client.listens()), (None, false));
    let solicit = begin(&mut client, &mut now);
    assert_eq!((solicit.kind, solicit.rapid), (Kind::Solicit, true));
    assert_eq!((solicit.elapsed, requested(&solicit)), (Some(0), None));
    assert_eq!(solicit.client, DUID);
    assert_eq!(
        solicit.wanted,
        [message::DNS, message::SEARCH, message::LONGEST]
    );
    assert!(client.listens());
    // Others have their time to offer something, too.
    let advertise = answer(&solicit, Kind::Advertise, |_| ());
    assert_eq!(hear(&mut client, now, &advertise), []);
    let asked = now;
    let request = sent(&wait(&mut client, &mut now));
    assert!(now - asked > seconds(1), "shorter than the others' time");
    assert_eq!(
        (request.kind, &request.server[..]),
        (Kind::Request, &SERVER[..])
    );
    assert_ne!(request.transaction, solicit.transaction);
    assert_eq!(requested(&request), Some(ADDRESS));
    let reply = answer(&request, Kind::Reply, |_| ());
    let outputs = hear(&mut client, now, &reply);
    let [Output::Bound(bound)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((bound.lease.address, bound.since), (ADDRESS, now));
    assert!(!client.listens(), "nothing is awaited");
    assert_eq!(client.deadline(), Some(now + seconds(1200)));
}

#[test]
fn two_messages_are_enough_where_the_server_takes_part() {
    let (mut client, mut now) = (client(), Instant::now());
    let solicit = begin(&mut client, &mut now);
    let plain = answer(&solicit, Kind::Reply, |_| ());
    assert_eq!(hear(&mut client, now, &plain), [], "it does not say so");
    let rapid = answer(&solicit, Kind::Reply, |m| m.rapid = true);
    assert!(matches!(
        hear(&mut client, now, &rapid)[..],
        [Output::Bound(_)]
    ));
}

#[test]
fn the_offer_that_its_server_prefers_is_taken() {
    let (mut client, mut now) = (client(), Instant::now());
    let solicit = begin(&mut client, &mut now);
    for (preference, server) in [(1, SERVER), (9, OTHER), (9, SERVER), (3, SERVER)] {
        let offer = answer(&solicit, Kind::Advertise, |m| {
            (m.preference, m.server) = (preference, server.to_vec());
        });
        assert_eq!(hear(&mut client, now, &offer), []);
    }
    let none = answer(&solicit, Kind::Advertise, |m| {
        (m.preference, m.status) = (200, status::NO_ADDRESSES);
    });
    assert_eq!(hear(&mut client, now, &none), [], "it lends nothing");
    assert_eq!(sent(&wait(&mut client, &mut now)).server, OTHER);
}

#[test]
fn the_highest_preference_is_taken_at_once_and_so_is_a_late_offer() {
    let (mut client, mut now) = (client(), Instant::now());
    let solicit = begin(&mut client, &mut now);
    let best = answer(&solicit, Kind::Advertise, |m| m.preference = 255);
    assert_eq!(sent(&hear(&mut client, now, &best)).kind, Kind::Request);

    let (mut client, mut now) = (self::client(), Instant::now());
    let solicit = begin(&mut client, &mut now);
    assert_eq!(sent(&wait(&mut client, &mut now)).kind, Kind::Solicit);
    let late = answer(&solicit, Kind::Advertise, |_| ());
    assert_eq!(sent(&hear(&mut client, now, &late)).kind, Kind::Request);
}

#[test]
fn a_week_of_renewals_keeps_the_address() {
    let (mut client, start) = bound(Instant::now());
    let (mut now, mut renewals) = (start, 0);
    while now < start + seconds(7 * 86400) {
        let renew = sent(&wait(&mut client, &mut now));
        assert_eq!((renew.kind, &renew.server[..]), (Kind::Renew, &SERVER[..]));
        assert_eq!(requested(&renew), Some(ADDRESS));
        let reply = answer(&renew, Kind::Reply, |_| ());
        let outputs = hear(&mut client, now, &reply);
        assert!(matches!(outputs[..], [Output::Bound(_)]));
        renewals += 1;
    }
    assert_eq!(renewals, 7 * 86400 / 1200);
}

#[test]
fn without_an_answer_it_rebinds_and_then_lets_go_in_time() {
    let (mut client, start) = bound(Instant::now());
    let mut now = start;
    let (mut renews, mut rebinds, mut elapsed) = (0, 0, 0);
    loop {
        let outputs = wait(&mut client, &mut now);
        if outputs[..] == [Output::Lost(Loss::Expired)] {
            break;
        }
        let message = sent(&outputs);
        match message.kind {
            Kind::Renew => {
                assert!(now < start + seconds(1920), "T2 has come");
                renews += 1;
            }
            Kind::Rebind => {
                assert!(now >= start + seconds(1920));
                assert_eq!(message.server, [0; 0]);
                rebinds += 1;
            }
            other => panic!("{other:?}"),
        }
        if rebinds == 1 {
            elapsed = 0;
        }
        assert!(message.elapsed >= Some(elapsed), "time goes back");
        elapsed = message.elapsed.unwrap();
    }
    assert_eq!(now, start + seconds(VALID.into()));
    assert!((4..10).contains(&renews) && (4..12).contains(&rebinds));
    wait(&mut client, &mut now);
    // It would like the same again.
    let solicit = loop {
        let outputs = client.handle(now, Input::Tick);
        match outputs[..] {
            [] => {
                now += seconds(1);
            }
            _ => break sent(&outputs),
        }
    };
    assert_eq!(
        (solicit.kind, requested(&solicit)),
        (Kind::Solicit, Some(ADDRESS))
    );
}

#[test]
fn another_server_may_answer_when_rebinding_but_not_before() {
    let (mut client, start) = bound(Instant::now());
    let mut now = start;
    let renew = sent(&wait(&mut client, &mut now));
    for code in [status::SUCCESS, status::NO_BINDING, status::NOT_ON_LINK] {
        let stranger = answer(&renew, Kind::Reply, |m| {
            (m.server, m.status) = (OTHER.to_vec(), code);
        });
        assert_eq!(
            hear(&mut client, now, &stranger),
            [],
            "{code} from a stranger"
        );
    }
    let rebind = loop {
        let message = sent(&wait(&mut client, &mut now));
        if message.kind == Kind::Rebind {
            break message;
        }
    };
    let reply = answer(&rebind, Kind::Reply, |m| m.server = OTHER.to_vec());
    let outputs = hear(&mut client, now, &reply);
    let [Output::Bound(bound)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(bound.lease.server, OTHER);
}

#[test]
fn each_status_has_its_answer() {
    let change = |code: u16| move |m: &mut Message| m.associations[0].status = code;
    // Of a server that was asked for an address.
    for (rule, code, again) in [
        ("it fails: it is asked again", 1, Some(Kind::Request)),
        ("it has none: another is sought", 2, Some(Kind::Solicit)),
        ("not of this network", 4, Some(Kind::Solicit)),
        ("it wants multicast, as it is", 5, Some(Kind::Request)),
    ] {
        let (mut client, mut now) = (client(), Instant::now());
        let solicit = begin(&mut client, &mut now);
        let offer = answer(&solicit, Kind::Advertise, |m| m.preference = 255);
        let request = sent(&hear(&mut client, now, &offer));
        let reply = answer(&request, Kind::Reply, change(code));
        assert_eq!(hear(&mut client, now, &reply), [], "{rule}");
        let next = sent(&wait(&mut client, &mut now));
        assert_eq!(Some(next.kind), again, "{rule}");
    }
    // Of the server of a lease.
    let renewing = || {
        let (mut client, start) = bound(Instant::now());
        let mut now = start;
        let renew = sent(&wait(&mut client, &mut now));
        (client, now, renew)
    };
    for code in [1, 2, 5] {
        let (mut client, mut now, renew) = renewing();
        let reply = answer(&renew, Kind::Reply, change(code));
        assert_eq!(
            hear(&mut client, now, &reply),
            [],
            "{code}: the lease stays"
        );
        assert_eq!(sent(&wait(&mut client, &mut now)).kind, Kind::Renew);
    }
    let (mut client, now, renew) = renewing();
    let forgotten = answer(&renew, Kind::Reply, change(status::NO_BINDING));
    let request = sent(&hear(&mut client, now, &forgotten));
    assert_eq!(
        (request.kind, requested(&request)),
        (Kind::Request, Some(ADDRESS))
    );
    let reply = answer(&request, Kind::Reply, |m| {
        m.associations[0].addresses[0].address = NEW;
    });
    let outputs = hear(&mut client, now, &reply);
    assert!(matches!(&outputs[..], [Output::Bound(it)] if it.lease.address == NEW));
    let (mut client, now, renew) = renewing();
    let taken = answer(&renew, Kind::Reply, |m| {
        let lent = &mut m.associations[0].addresses[0];
        (lent.preferred, lent.valid) = (0, 0);
    });
    let lost = hear(&mut client, now, &taken);
    assert_eq!(lost, [Output::Lost(Loss::Refused)], "taken back");
}

#[test]
fn a_server_that_forgot_and_falls_silent_leaves_the_lease_its_time() {
    let (mut client, start) = bound(Instant::now());
    let mut now = start;
    let renew = sent(&wait(&mut client, &mut now));
    let forgotten = answer(&renew, Kind::Reply, |m| {
        m.associations[0].status = status::NO_BINDING;
    });
    let mut outputs = hear(&mut client, now, &forgotten);
    let mut kinds = Vec::new();
    while outputs[..] != [Output::Lost(Loss::Expired)] {
        kinds.push(sent(&outputs).kind);
        outputs = wait(&mut client, &mut now);
    }
    assert_eq!(now, start + seconds(VALID.into()));
    kinds.dedup();
    assert_eq!(kinds, [Kind::Request, Kind::Rebind]);
}

#[test]
fn nobody_answers_and_the_world_is_told_once() {
    let (mut client, mut now) = (client(), Instant::now());
    let first = begin(&mut client, &mut now);
    let (mut told, mut pauses) = (0, Vec::new());
    for _ in 0..20 {
        let before = now;
        let outputs = wait(&mut client, &mut now);
        told += outputs
            .iter()
            .filter(|output| **output == Output::Unanswered)
            .count();
        assert_eq!(sent(&outputs).transaction, first.transaction);
        pauses.push((now - before).as_secs_f64());
    }
    assert_eq!(told, 1);
    assert!(pauses[0] > 1.0 && pauses[0] <= 1.1, "{pauses:?}");
    for pair in pauses.windows(2) {
        let (least, most) = match pair[0] * 2.1 {
            double if double < 3600.0 => (pair[0] * 1.9, double),
            _ => (3600.0 * 0.9, 3600.0 * 1.1),
        };
        assert!(
            (least * 0.999..=most * 1.001).contains(&pair[1]),
            "{pair:?}"
        );
    }
    assert!(pauses[19] >= 3240.0);
}

#[test]
fn a_server_may_bound_the_pauses_even_where_it_lends_nothing() {
    for (given, most) in [(60, 66.0), (59, 3960.0), (86401, 3960.0)] {
        let (mut client, mut now) = (client(), Instant::now());
        let solicit = begin(&mut client, &mut now);
        let none = answer(&solicit, Kind::Advertise, |m| {
            (m.status, m.longest) = (status::NO_ADDRESSES, Some(given));
        });
        assert_eq!(hear(&mut client, now, &none), []);
        let mut longest: f64 = 0.0;
        for _ in 0..20 {
            let before = now;
            wait(&mut client, &mut now);
            longest = longest.max((now - before).as_secs_f64());
        }
        assert!((most * 0.8..=most).contains(&longest), "{given}: {longest}");
    }
}

#[test]
fn machines_that_start_together_do_not_ask_together() {
    let now = Instant::now();
    let deadlines: std::collections::BTreeSet<_> = (0..50)
        .map(|seed| {
            let mut client = client_by_chance(seed);
            client.handle(now, Input::LinkUp);
            client.deadline()
        })
        .collect();
    assert!(deadlines.len() > 40, "{}", deadlines.len());
}

#[test]
fn a_cable_pulled_for_a_moment_keeps_the_lease_and_asks_whether_it_belongs() {
    let (mut client, start) = bound(Instant::now());
    let mut now = start + seconds(100);
    assert_eq!(client.handle(now, Input::LinkDown), []);
    assert!(!client.listens());
    assert_eq!(client.deadline(), Some(start + seconds(VALID.into())));
    now += seconds(10);
    let confirm = begin(&mut client, &mut now);
    assert_eq!(
        (confirm.kind, &confirm.server[..]),
        (Kind::Confirm, &[][..])
    );
    assert_eq!(requested(&confirm), Some(ADDRESS));
    let yes = answer(&confirm, Kind::Reply, |m| m.associations.clear());
    assert_eq!(hear(&mut client, now, &yes), []);
    assert_eq!(client.deadline(), Some(start + seconds(1200)));
    // The server is away: the lease goes on as it was.
    client.handle(now, Input::LinkDown);
    begin(&mut client, &mut now);
    let asked = now;
    while client.listens() {
        wait(&mut client, &mut now);
    }
    assert_eq!(now - asked, seconds(10));
    assert_eq!(client.deadline(), Some(start + seconds(1200)));
}

#[test]
fn a_cable_put_into_another_network_loses_the_lease() {
    let (mut client, mut now) = bound(Instant::now());
    client.handle(now, Input::LinkDown);
    let confirm = begin(&mut client, &mut now);
    let no = answer(&confirm, Kind::Reply, |m| {
        (m.server, m.status) = (OTHER.to_vec(), status::NOT_ON_LINK);
        m.associations.clear();
    });
    let lost = hear(&mut client, now, &no);
    assert_eq!(lost, [Output::Lost(Loss::Refused)]);
    assert_eq!(sent(&wait(&mut client, &mut now)).kind, Kind::Solicit);
}

#[test]
fn a_cable_pulled_for_long_loses_the_lease() {
    let (mut client, start) = bound(Instant::now());
    let mut now = start;
    client.handle(now, Input::LinkDown);
    assert_eq!(wait(&mut client, &mut now), [Output::Lost(Loss::Expired)]);
    assert_eq!(now, start + seconds(VALID.into()));
    assert_eq!(client.deadline(), None);
}

#[test]
fn an_address_that_another_machine_has_is_declined() {
    let (mut client, mut now) = bound(Instant::now());
    assert_eq!(client.handle(now, Input::Duplicate(NEW)), [], "not ours");
    let outputs = client.handle(now, Input::Duplicate(ADDRESS));
    assert_eq!(outputs[0], Output::Lost(Loss::Duplicate));
    let decline = sent(&outputs);
    assert_eq!(
        (decline.kind, &decline.server[..]),
        (Kind::Decline, &SERVER[..])
    );
    assert_eq!(requested(&decline), Some(ADDRESS));
    // A few times, should nobody answer; then all begins anew.
    let kinds: Vec<_> = std::iter::from_fn(|| {
        let outputs = wait(&mut client, &mut now);
        (!outputs.is_empty()).then(|| sent(&outputs).kind)
    })
    .collect();
    assert_eq!(kinds, [Kind::Decline; 3]);
    let solicit = sent(&wait(&mut client, &mut now));
    assert_eq!((solicit.kind, requested(&solicit)), (Kind::Solicit, None));
}

#[test]
fn a_server_that_lends_what_others_have_is_asked_ever_less_often() {
    let (mut client, start) = (client(), Instant::now());
    let mut now = start;
    let mut message = begin(&mut client, &mut now);
    let mut declined = 0;
    while now < start + seconds(3600) {
        message = match message.kind {
            Kind::Solicit => {
                let reply = answer(&message, Kind::Reply, |m| m.rapid = true);
                hear(&mut client, now, &reply);
                declined += 1;
                sent(&client.handle(now, Input::Duplicate(ADDRESS)))
            }
            _ => {
                hear(&mut client, now, &answer(&message, Kind::Reply, |_| ()));
                sent(&wait(&mut client, &mut now))
            }
        };
    }
    assert!(declined < 70, "{declined} in an hour");
}

#[test]
fn an_endless_lease_is_never_renewed() {
    let (mut client, mut now) = (client(), Instant::now());
    let solicit = begin(&mut client, &mut now);
    let reply = answer(&solicit, Kind::Reply, |m| {
        m.rapid = true;
        let lent = &mut m.associations[0].addresses[0];
        (lent.preferred, lent.valid) = (u32::MAX, u32::MAX);
    });
    let outputs = hear(&mut client, now, &reply);
    assert!(matches!(&outputs[..], [Output::Bound(it)] if it.expires().is_none()));
    assert_eq!(client.deadline(), None);
}

#[test]
fn a_server_that_always_refuses_is_asked_ever_less_often() {
    let (mut client, start) = (client(), Instant::now());
    let mut now = start;
    let mut solicit = begin(&mut client, &mut now);
    let mut solicits = 0;
    while now < start + seconds(3600) {
        solicits += 1;
        let offer = answer(&solicit, Kind::Advertise, |m| m.preference = 255);
        let request = sent(&hear(&mut client, now, &offer));
        let no = answer(&request, Kind::Reply, |m| m.status = status::NO_ADDRESSES);
        assert_eq!(hear(&mut client, now, &no), []);
        solicit = sent(&wait(&mut client, &mut now));
    }
    assert!(solicits < 70, "{solicits} in an hour");
}

#[test]
fn a_clock_that_jumps_ahead_by_a_month_ends_the_lease_in_one_go() {
    let (mut client, start) = bound(Instant::now());
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
    Duplicate,
    /// An answer to the last message.
    Answer {
        kind: Kind,
        server: [u8; 5],
        code: u16,
        stranger: bool,
        rapid: bool,
        times: (u32, u32, u32, u32),
    },
    Noise(Vec<u8>),
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![Kind::Advertise, Kind::Reply, Kind::Solicit]);
    let server = prop::sample::select(vec![SERVER, OTHER]);
    let code = prop_oneof![4 => Just(0u16), 1 => 0u16..7];
    let time = || prop_oneof![Just(3600u32), Just(0), Just(u32::MAX), any::<u32>()];
    let times = (time(), time(), time(), time());
    prop_oneof![
        1 => Just(Event::Up),
        1 => Just(Event::Down),
        1 => Just(Event::Duplicate),
        2 => (0u64..5000).prop_map(Event::Pass),
        4 => Just(Event::Deadline),
        8 => (kind, server, code, prop::bool::weighted(0.1), any::<bool>(), times).prop_map(
            |(kind, server, code, stranger, rapid, times)| {
                Event::Answer { kind, server, code, stranger, rapid, times }
            }
        ),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Event::Noise),
    ]
}

proptest! {
    /// Whatever happens: no panic, no flood, no lease that was not asked for or that is
    /// kept beyond its time, and the world is told of each change.
    #[test]
    fn any_history_is_survived(
        seed: u64,
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut now = Instant::now();
        let mut client = client_by_chance(seed);
        let mut held: Option<Bound> = None;
        let mut asked: Option<Message> = None;
        for event in events {
            let mut honest = true;
            let outputs = match event {
                Event::Up => client.handle(now, Input::LinkUp),
                Event::Down => client.handle(now, Input::LinkDown),
                Event::Duplicate => client.handle(now, Input::Duplicate(ADDRESS)),
                Event::Pass(pass) => {
                    now += seconds(pass);
                    client.handle(now, Input::Tick)
                }
                Event::Deadline => {
                    now = client.deadline().unwrap_or(now).max(now);
                    client.handle(now, Input::Tick)
                }
                Event::Noise(noise) => hear(&mut client, now, &noise),
                Event::Answer { kind, server, code, stranger, rapid, times } => {
                    let Some(asked) = &asked else { continue };
                    honest = !stranger;
                    let answer = answer(asked, kind, |m| {
                        (m.server, m.rapid) = (server.to_vec(), rapid);
                        let it = &mut m.associations[0];
                        it.status = code;
                        (it.renew, it.rebind) = (times.0, times.1);
                        (it.addresses[0].preferred, it.addresses[0].valid) = (times.2, times.3);
                        if stranger {
                            m.client[9] ^= 1;
                        }
                    });
                    hear(&mut client, now, &answer)
                }
            };
            let sends = outputs.iter().filter(|output| matches!(output, Output::Send(_)));
            prop_assert!(sends.count() <= 4, "a flood: {:?}", outputs);
            for output in &outputs {
                match output {
                    Output::Send(message) => {
                        prop_assert!(honest, "a stranger's packet was answered");
                        asked = Message::decode(message);
                        prop_assert!(asked.is_some());
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
