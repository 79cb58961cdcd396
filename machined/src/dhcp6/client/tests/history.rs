//! Histories of any kind.

use super::*;
use proptest::prelude::*;

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
