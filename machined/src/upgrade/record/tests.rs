//! Tests of the record: each start of a machine is judged, and nothing is lost or made up.

use super::*;
use proptest::prelude::*;

const NEW: &str = "bb";
const OLD: &str = "aa";

static NOTHING: Words = Words {
    summary: String::new(),
    lines: Vec::new(),
};

fn release(version: &str, root_hash: &str) -> Release {
    Release {
        version: version.into(),
        root_hash: root_hash.into(),
        ..Release::default()
    }
}

fn staged() -> State {
    State::Staged {
        release: release("0.2.0", NEW),
    }
}

fn trying(boots: u32, boot: &str, reason: Option<&str>) -> State {
    State::Trying {
        release: release("0.2.0", NEW),
        boots,
        boot: boot.into(),
        reason: reason.map(str::to_owned),
        log: reason.map(|_| "k3s: no".to_owned()).into_iter().collect(),
    }
}

fn record(state: State) -> Record {
    Record {
        state,
        ..Record::default()
    }
}

fn start(running: &'static str, tries: Tries) -> Start<'static> {
    Start {
        running,
        boot: "second",
        tries,
        crash: &NOTHING,
        now: 7,
    }
}

const fn counted(left: u32, done: u32) -> Tries {
    Tries::Counted { left, done }
}

#[test]
fn each_start_is_judged() {
    let writing = State::Writing {
        release: release("0.2.0", NEW),
        url: None,
        stage: false,
        boot: "first".into(),
    };
    let cases: [(
        &str,
        State,
        &str,
        Tries,
        Arrival,
        State,
        Option<(End, &str)>,
    ); 13] = [
        (
            "nothing was under way",
            State::Idle,
            OLD,
            Tries::NoEntry,
            Arrival::Nothing,
            State::Idle,
            None,
        ),
        (
            "a half written slot is nothing",
            writing,
            OLD,
            Tries::NoEntry,
            Arrival::Ended,
            State::Idle,
            Some((End::Failed, "interrupted")),
        ),
        (
            "what was staged runs",
            staged(),
            NEW,
            counted(2, 1),
            Arrival::OnTrial,
            trying(1, "second", None),
            None,
        ),
        (
            "machined alone was started again",
            trying(1, "second", None),
            NEW,
            counted(2, 1),
            Arrival::OnTrial,
            trying(1, "second", None),
            None,
        ),
        (
            "it runs a second time",
            trying(1, "first", Some("kubelet: no")),
            NEW,
            counted(1, 2),
            Arrival::OnTrial,
            trying(2, "second", Some("kubelet: no")),
            None,
        ),
        (
            "somebody booted the old one by hand",
            staged(),
            OLD,
            counted(3, 0),
            Arrival::Waits,
            staged(),
            None,
        ),
        (
            "power was cut before the entry was there",
            staged(),
            OLD,
            Tries::NoEntry,
            Arrival::Ended,
            State::Idle,
            Some((End::Failed, "power was cut")),
        ),
        (
            "it never got as far as machined",
            staged(),
            OLD,
            counted(0, 3),
            Arrival::Ended,
            State::Idle,
            Some((End::FellBack, "never got as far as machined in 3 tries")),
        ),
        (
            "one try is not three",
            staged(),
            OLD,
            counted(0, 1),
            Arrival::Ended,
            State::Idle,
            Some((End::FellBack, "in 1 try")),
        ),
        (
            "it said itself why",
            trying(3, "first", Some("kubelet: no")),
            OLD,
            counted(0, 3),
            Arrival::Ended,
            State::Idle,
            Some((End::FellBack, "kubelet: no")),
        ),
        (
            "it ended without a word",
            trying(2, "first", None),
            OLD,
            counted(0, 3),
            Arrival::Ended,
            State::Idle,
            Some((End::FellBack, "machined ran in 2")),
        ),
        (
            "its entry was lost after it had run",
            trying(1, "first", None),
            OLD,
            Tries::NoEntry,
            Arrival::Ended,
            State::Idle,
            Some((End::FellBack, "entry in the boot loader is gone")),
        ),
        (
            "a later release left something",
            State::Unknown,
            OLD,
            Tries::NoEntry,
            Arrival::Nothing,
            State::Idle,
            None,
        ),
    ];
    for (what, state, running, tries, arrival, after, last) in cases {
        let mut record = record(state);
        assert_eq!(
            arrive(&mut record, &start(running, tries)),
            arrival,
            "{what}"
        );
        assert_eq!(record.state, after, "{what}");
        let found = record.last.as_ref();
        assert_eq!(
            found.map(|last| last.end),
            last.map(|last| last.0),
            "{what}"
        );
        if let (Some(found), Some((end, text))) = (found, last) {
            assert!(found.reason.contains(text), "{what}: {}", found.reason);
            let bad = record.failed("0.2.0", NEW).is_some();
            assert_eq!(bad, end == End::FellBack, "{what}");
        }
    }
}

#[test]
fn a_crash_is_quoted_where_the_release_said_nothing() {
    let crash = Words {
        summary: "Kernel panic".into(),
        lines: (0..100).map(|n| format!("line {n}")).collect(),
    };
    let mut record = record(staged());
    let start = Start {
        crash: &crash,
        ..start(OLD, counted(0, 3))
    };
    arrive(&mut record, &start);
    let Past { log, reason, .. } = record.last.unwrap();
    assert!(reason.ends_with("its last words: Kernel panic"), "{reason}");
    assert_eq!(log.len(), LAST_LINES);
    assert_eq!(log.last().map(String::as_str), Some("line 99"));
}

#[test]
fn the_same_build_is_not_tried_again_and_another_one_is() {
    let mut record = record(staged());
    arrive(&mut record, &start(OLD, counted(0, 3)));
    assert!(record.failed("0.2.0", NEW).is_some());
    assert!(record.failed("0.2.0", "cc").is_none());
    assert!(record.forgive("0.2.0"));
    assert!(!record.forgive("0.2.0"));
    assert!(record.failed("0.2.0", NEW).is_none());
}

#[test]
fn only_so_many_are_remembered_and_they_fit_a_record() {
    let mut record = Record::default();
    for n in 0..100 {
        record.fall_back(
            release(&format!("0.{n}.0"), &format!("{n:064}")),
            "x".repeat(500),
            bounded(vec!["ä".repeat(1000); 1000]),
            n,
        );
    }
    assert_eq!(record.bad.len(), REMEMBERED);
    assert_eq!(record.bad.last().unwrap().version, "0.99.0");
    let bytes = record.bytes().unwrap();
    assert!(
        bytes.len() <= keelson_disk::meta::MAX_PAYLOAD,
        "{}",
        bytes.len()
    );
}

#[test]
fn format_1_is_frozen() {
    let mut record = Record {
        floor: "0.1.0".into(),
        good: Some(release("0.1.0", OLD)),
        previous: Some(Release {
            orchestrator: Some(Carried {
                name: "k3s".into(),
                version: "v1.36.3+k3s1".into(),
            }),
            floor: "0.0.0".into(),
            ..release("0.1.0", OLD)
        }),
        state: trying(2, "boot", Some("kubelet: no")),
        ..Record::default()
    };
    record.fall_back(release("0.1.9", "cc"), "hung".into(), vec!["x".into()], 5);
    record.state = trying(2, "boot", Some("kubelet: no"));
    insta::assert_snapshot!(String::from_utf8(record.bytes().unwrap()).unwrap());
    assert_eq!(Record::parse(&record.bytes().unwrap()).unwrap(), record);
}

#[test]
fn what_a_later_release_adds_is_passed_over() {
    let text = r#"{"formatVersion":1,"state":{"name":"hovering","x":1},"last":{"version":"9","end":"ascended","at":1},"more":[]}"#;
    let record = Record::parse(text.as_bytes()).unwrap();
    assert_eq!(record.state, State::Unknown);
    assert_eq!(record.last.unwrap().end, End::Unknown);
    let other = Record::parse(br#"{"formatVersion":2}"#);
    assert!(matches!(other, Err(Error::Format(2))));
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes: Vec<u8>, text in "[{}\":a-zA-Z0-9,]{0,200}") {
        Record::parse(&bytes).ok();
        Record::parse(text.as_bytes()).ok();
    }

    /// Whatever the loader says: what runs is on trial or nothing is, and a version is bad
    /// only once it has no try left.
    #[test]
    fn no_start_loses_or_invents_a_trial(
        left in 0u32..4, done in 0u32..4, entry: bool, runs: bool, boots in 0u32..4, said: bool, began: bool,
    ) {
        let tries = if entry { counted(left, done) } else { Tries::NoEntry };
        let state = if began { trying(boots, "first", said.then_some("no")) } else { staged() };
        let mut record = record(state);
        let arrival = arrive(&mut record, &start(if runs { NEW } else { OLD }, tries));
        prop_assert_eq!(arrival == Arrival::OnTrial, runs);
        prop_assert_eq!(record.is_trying(), runs);
        if record.failed("0.2.0", NEW).is_some() {
            prop_assert!(!runs && (!entry || left == 0));
        }
    }
}
