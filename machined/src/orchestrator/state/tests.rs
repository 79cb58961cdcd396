//! Tests of `state.rs`.

use super::*;
use proptest::prelude::*;

fn want(digest: &str) -> Input {
    Input::Want(Some(digest.to_owned()))
}

fn acts(out: Vec<Output>) -> Vec<Output> {
    out.into_iter()
        .filter(|output| !matches!(output, Output::Say(_)))
        .collect()
}

/// A life that runs process 7 under the config "a".
fn running(now: Instant) -> Life {
    let mut life = Life::new();
    life.handle(now, want("a"));
    assert_eq!(life.handle(now, Input::Needs(true)), [Output::Start]);
    life.handle(now, Input::Started(7));
    life
}

fn ready(now: Instant) -> Life {
    let mut life = running(now);
    life.handle(now, Input::Ready(7));
    assert!(matches!(life.state(), State::Ready { pid: 7, .. }));
    life
}

#[test]
fn it_waits_for_what_it_needs_but_is_not_stopped_when_that_goes() {
    let now = Instant::now();
    let mut life = Life::new();
    assert_eq!(life.handle(now, want("a")), []);
    assert_eq!(life.handle(now, Input::Needs(true)), [Output::Start]);
    life.handle(now, Input::Started(7));
    assert_eq!(life.handle(now, Input::Needs(false)), []);
    assert_eq!(life.pid(), Some(7));
}

#[test]
fn a_changed_config_is_an_orderly_restart() {
    let now = Instant::now();
    let mut life = ready(now);
    assert_eq!(acts(life.handle(now, want("a"))), []);
    assert_eq!(acts(life.handle(now, want("b"))), [Output::Stop]);
    assert_eq!(
        acts(life.handle(now, Input::Exited(7, "exit code 0".into()))),
        [Output::Start]
    );
    assert_eq!(life.restarts(), 1);
}

#[test]
fn what_ends_by_itself_is_tried_again_after_a_growing_pause() {
    let mut now = Instant::now();
    let mut life = running(now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(
            acts(life.handle(now, Input::Exited(7, "exit code 1".into()))),
            []
        );
        let until = life.deadline().unwrap();
        assert_eq!(
            acts(life.handle(until - Duration::from_millis(1), Input::Tick)),
            []
        );
        assert_eq!(life.handle(until, Input::Tick), [Output::Start]);
        pauses.push((until - now).as_secs());
        now = until;
        life.handle(now, Input::Started(7));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    // Steady for five minutes: the next fault is a first one.
    life.handle(now, Input::Ready(7));
    life.handle(now + STEADY, Input::Exited(7, "exit code 1".into()));
    assert_eq!(life.deadline(), Some(now + STEADY + FIRST_PAUSE));
}

#[test]
fn an_adopted_one_is_not_started_again() {
    let now = Instant::now();
    for digest in [None, Some("a".to_owned())] {
        let mut life = Life::new();
        life.handle(now, want("a"));
        life.handle(
            now,
            Input::Adopted {
                pid: 9,
                ready: true,
                started: now,
                digest,
            },
        );
        assert_eq!(acts(life.handle(now, Input::Needs(true))), []);
        assert!(matches!(life.state(), State::Ready { pid: 9, .. }));
    }
    let mut life = Life::new();
    life.handle(now, want("b"));
    let other = Input::Adopted {
        pid: 9,
        ready: true,
        started: now,
        digest: Some("a".into()),
    };
    assert_eq!(acts(life.handle(now, other)), [Output::Stop]);
}

#[test]
fn one_that_is_not_wanted_is_stopped_and_cleaned_up() {
    let now = Instant::now();
    let mut life = ready(now);
    assert_eq!(acts(life.handle(now, Input::Want(None))), [Output::Stop]);
    assert_eq!(
        acts(life.handle(now, Input::Exited(7, String::new()))),
        [Output::CleanUp]
    );
    assert_eq!(*life.state(), State::Idle);
}

#[test]
fn after_halt_nothing_starts() {
    let now = Instant::now();
    let mut life = ready(now);
    assert_eq!(acts(life.handle(now, Input::Halt)), [Output::Stop]);
    assert_eq!(acts(life.handle(now, Input::Exited(7, String::new()))), []);
    assert_eq!(acts(life.handle(now, want("c"))), []);
    assert_eq!(acts(life.handle(now, Input::Restart)), []);
}

#[test]
fn it_is_restarted_in_time_for_its_certificates() {
    let now = Instant::now();
    let mut life = ready(now);
    assert_eq!(life.deadline(), Some(now + RENEWAL));
    assert_eq!(
        acts(life.handle(now + RENEWAL, Input::Tick)),
        [Output::Stop]
    );
}

#[test]
fn a_person_does_not_wait_for_the_pause() {
    let now = Instant::now();
    let mut life = running(now);
    life.handle(now, Input::Exited(7, "exit code 1".into()));
    assert_eq!(acts(life.handle(now, Input::Restart)), [Output::Start]);
}

fn inputs() -> impl Strategy<Value = Input> {
    let pid = 1..4u32;
    let digest = prop::option::of(prop::sample::select(vec!["a".to_owned(), "b".to_owned()]));
    prop_oneof![
        digest.clone().prop_map(Input::Want),
        any::<bool>().prop_map(Input::Needs),
        pid.clone().prop_map(Input::Started),
        Just(Input::Failed("no".into())),
        pid.clone().prop_map(Input::Ready),
        pid.clone()
            .prop_map(|pid| Input::Exited(pid, "exit code 1".into())),
        (pid, any::<bool>(), digest).prop_map(|(pid, ready, digest)| Input::Adopted {
            pid,
            ready,
            started: Instant::now(),
            digest
        }),
        Just(Input::Restart),
        Just(Input::Halt),
        Just(Input::Tick),
    ]
}

proptest! {
    /// Over any history: never two at once, never one that nobody wants, never stuck.
    #[test]
    fn histories(history in prop::collection::vec((inputs(), 0..100u64), 0..60)) {
        let mut now = Instant::now();
        let mut life = Life::new();
        let (mut wanted, mut halted) = (false, false);
        for (input, seconds) in history {
            now += Duration::from_secs(seconds);
            let before = life.state().clone();
            match &input {
                Input::Want(digest) => wanted = digest.is_some(),
                Input::Halt => halted = true,
                _ => {}
            }
            let out = life.handle(now, input.clone());
            let starts = out.iter().filter(|output| **output == Output::Start).count();
            let stops = out.iter().filter(|output| **output == Output::Stop).count();
            prop_assert!(starts + stops <= 1, "{out:?}");
            if starts == 1 {
                prop_assert!(wanted && !halted);
                prop_assert_eq!(life.state(), &State::Launching);
                prop_assert_ne!(before, State::Launching);
            }
            if stops == 1 {
                let stopping = matches!(life.state(), State::Stopping { .. });
                prop_assert!(stopping);
            }
            if halted {
                let runs = matches!(life.state(), State::Starting { .. } | State::Ready { .. });
                prop_assert!(!runs);
            }
        }
        // Whatever came before: answered and left alone, it ends up running if it is wanted.
        let end = now + Duration::from_secs(3600);
        life.handle(end, Input::Needs(true));
        for _ in 0..4 {
            match life.state().clone() {
                State::Launching => drop(life.handle(end, Input::Started(9))),
                State::Stopping { pid } => drop(life.handle(end, Input::Exited(pid, String::new()))),
                _ => {}
            }
        }
        let runs = matches!(life.state(), State::Starting { .. } | State::Ready { .. });
        prop_assert_eq!(runs, wanted && !halted);
    }
}
