//! How a server is found, and how often is asked for one.

use super::*;

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
