//! Tests of `share.rs`, against an API server that keeps one lease.

use super::*;
use crate::cluster::fake::{Api, Asked, Reply};
use serde_json::Value;

/// An API server with this lease, or none.
async fn cluster(lease: Option<Value>) -> Api {
    let mut kept = lease;
    let mut version = 7;
    Api::start(
        move |Asked { method, body, .. }| match (method.as_str(), &mut kept) {
            ("POST", None) => {
                let mut object = body.clone();
                object["metadata"]["resourceVersion"] = version.to_string().into();
                kept = Some(object);
                Reply::ok(&json!({}))
            }
            ("GET", Some(object)) => Reply::ok(object),
            ("PATCH", Some(object)) => {
                if body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return Reply::status(409, &json!({"message": "it was changed"}));
                }
                version += 1;
                for (key, value) in body["spec"].as_object().unwrap() {
                    object["spec"][key] = value.clone();
                }
                object["metadata"]["resourceVersion"] = version.to_string().into();
                Reply::ok(&json!({}))
            }
            _ => Reply::status(404, &json!({"message": "there is none"})),
        },
    )
    .await
}

fn held_by(holder: &str) -> Value {
    json!({
        "metadata": {"resourceVersion": "7"},
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 10,
            "renewTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 3,
        },
    })
}

#[tokio::test]
async fn the_first_takes_it_and_keeps_it() {
    let api = cluster(None).await;
    let (client, mut contest) = (api.client(), Contest::default());
    for _ in 0..3 {
        assert_eq!(contest.step(&client, "a").await.unwrap(), Holder::Here);
    }
    let lease = read(&client).await.unwrap();
    assert_eq!((lease.holder.as_str(), lease.transitions), ("a", 0));
    assert_eq!(lease.holds, DURATION);
    let created = &api.requests()[1].body;
    assert_eq!(created["metadata"]["name"], "keelson-virtual-address");
}

#[tokio::test]
async fn whoever_renews_it_has_it() {
    let api = cluster(None).await;
    let client = api.client();
    let (mut one, mut two) = (Contest::default(), Contest::default());
    assert_eq!(one.step(&client, "a").await.unwrap(), Holder::Here);
    for _ in 0..3 {
        let other = Holder::Other("a".into());
        assert_eq!(two.step(&client, "b").await.unwrap(), other);
        assert_eq!(one.step(&client, "a").await.unwrap(), Holder::Here);
    }
}

#[tokio::test]
async fn one_that_is_given_up_is_taken_at_once() {
    let api = cluster(None).await;
    let client = api.client();
    let (mut one, mut two) = (Contest::default(), Contest::default());
    assert_eq!(one.step(&client, "a").await.unwrap(), Holder::Here);
    one.release(&client).await.unwrap();
    assert_eq!(two.step(&client, "b").await.unwrap(), Holder::Here);
    assert_eq!(read(&client).await.unwrap().transitions, 1);
    // What is another's by now is not given away.
    one.renewed = Some((Instant::now(), "a".into()));
    one.release(&client).await.unwrap();
    assert_eq!(read(&client).await.unwrap().holder, "b");
}

#[tokio::test]
async fn of_two_that_take_it_at_once_one_has_it() {
    let gone = held_by("gone");
    let api = Api::start(move |request| match request.method.as_str() {
        "GET" => Reply::ok(&gone),
        _ => Reply::status(409, &json!({"message": "it was changed"})),
    })
    .await;
    let mut contest = Contest::default();
    let long_ago = Instant::now() - LONGEST;
    contest.seen = Some((read(&api.client()).await.unwrap(), long_ago));
    let holder = contest.step(&api.client(), "a").await.unwrap();
    assert_eq!(holder, Holder::Nobody("another server is taking it over"));
}

#[test]
fn a_lease_ends_when_nobody_has_renewed_it_for_as_long_as_it_holds() {
    let mut contest = Contest::default();
    let begin = Instant::now();
    let after = |seconds| begin + Duration::from_secs(seconds);
    let mut lease = Lease {
        version: "7".into(),
        holder: "b".into(),
        // Whatever its clock says.
        renewed: "1999-01-01T00:00:00.000000Z".into(),
        holds: DURATION,
        transitions: 0,
    };
    assert!(!contest.may_take(&lease, "a", begin));
    assert!(!contest.may_take(&lease, "a", after(9)));
    lease.version = "8".into();
    assert!(!contest.may_take(&lease, "a", after(9)));
    assert!(!contest.may_take(&lease, "a", after(18)));
    assert!(contest.may_take(&lease, "a", after(19)));
    // Its own, and nobody's, at once.
    lease.holder = "a".into();
    assert!(contest.may_take(&lease, "a", after(19)));
    lease.holder = String::new();
    assert!(contest.may_take(&lease, "a", after(19)));
}

#[test]
fn who_cannot_renew_it_lets_go_before_another_may_take_it() {
    let begin = Instant::now();
    let contest = Contest {
        seen: None,
        renewed: Some((begin, "a".into())),
    };
    let silent = Holder::Nobody("the API server does not answer here");
    let cases = [
        (0, Holder::Here, Holder::Here),
        (4, Holder::Here, Holder::Here),
        (5, Holder::Here, silent.clone()),
        (7, Holder::Here, silent.clone()),
        (1, Holder::Other("b".into()), silent.clone()),
        (1, Holder::Unknown, silent),
    ];
    for (seconds, before, wanted) in cases {
        let now = begin + Duration::from_secs(seconds);
        assert_eq!(
            contest.without_answer(now, &before),
            wanted,
            "{seconds} s, {before:?}"
        );
    }
    assert!(DEADLINE + GONE < DURATION, "two servers would have it");
}

#[tokio::test]
async fn a_refusal_is_no_lease() {
    let api = Api::start(|_| Reply::status(403, &json!({"message": "forbidden"}))).await;
    let mut contest = Contest::default();
    let failure = contest.step(&api.client(), "a").await.unwrap_err();
    assert_eq!(failure.status(), Some(403));
    assert_eq!(contest.renewed, None);
}

#[test]
fn a_time_has_six_digits_behind_the_second() {
    let now = now();
    assert_eq!(
        (now.len(), &now[10..11], &now[19..20]),
        (27, "T", "."),
        "{now}"
    );
}
