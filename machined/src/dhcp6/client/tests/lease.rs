//! What becomes of a lease: it is renewed, moved to another server, lost, declined.

use super::*;

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
