//! The client against a server that is not there: histories that are long, random or
//! hostile, in no time at all.

mod asking;
mod history;
mod lease;

use super::{
    super::message::{self, Association, Kind, Lent, Message, status},
    *,
};

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
