//! Tests of `service.rs`.

use super::*;
use proptest::prelude::*;

fn kept() -> Service {
    Service::new(Keep::Always(Backoff {
        first: 100,
        longest: 10_000,
        steady: 60_000,
        crash_loop: Some(10),
    }))
}

fn exit(pid: i32) -> Exit {
    Exit {
        pid,
        code: 1,
        signal: 0,
    }
}

/// Dies at once whenever it is started, until it loops; the delays it was given.
fn die(service: &mut Service, mut now: Ms, most: usize) -> (Vec<Ms>, bool) {
    let mut delays = vec![];
    for pid in 1..=most {
        service.handle(now, Input::Started { pid: pid as i32 });
        let outputs = service.handle(now, Input::Exited(exit(pid as i32)));
        if outputs
            .iter()
            .any(|output| matches!(output, Output::CrashLoop(_)))
        {
            return (delays, true);
        }
        let until = service.deadline().unwrap();
        delays.push(until - now);
        now = until;
        assert_eq!(service.handle(now, Input::Tick), [Output::Spawn]);
    }
    (delays, false)
}

#[test]
fn delays_double_up_to_the_longest() {
    let (delays, looped) = die(&mut kept(), 0, 9);
    assert_eq!(
        delays,
        [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
    );
    assert!(!looped);
}

#[test]
fn ten_deaths_are_borne_and_the_eleventh_is_a_loop() {
    let (delays, looped) = die(&mut kept(), 0, 20);
    assert_eq!(delays.len(), 10);
    assert!(looped);
}

/// Lives this long each time it is started; how many deaths until it loops.
fn deaths_after(lived: Ms, most: i32) -> Option<i32> {
    let mut service = kept();
    let mut now = 0;
    for pid in 1..=most {
        service.handle(now, Input::Started { pid });
        let outputs = service.handle(now + lived, Input::Exited(exit(pid)));
        if let Some(Output::CrashLoop(why)) = outputs.last() {
            assert!(why.contains("11 times in a row"), "{why}");
            return Some(pid);
        }
        now = service.deadline().unwrap();
    }
    None
}

#[test]
fn a_loop_may_be_slow_but_a_steady_life_is_no_part_of_one() {
    assert_eq!(deaths_after(0, 100), Some(11));
    assert_eq!(deaths_after(15_000, 100), Some(11));
    assert_eq!(deaths_after(59_999, 100), Some(11));
    assert_eq!(deaths_after(60_000, 100), None);
}

#[test]
fn a_steady_life_sets_the_delay_back() {
    let mut service = kept();
    die(&mut service, 0, 5);
    service.handle(10_000, Input::Started { pid: 9 });
    service.handle(80_000, Input::Exited(exit(9)));
    assert_eq!(service.deadline(), Some(80_100));
}

#[test]
fn a_program_that_cannot_start_is_a_death_too() {
    let mut service = kept();
    let mut now = 0;
    for _ in 0..10 {
        assert_eq!(service.handle(now, Input::Tick), [Output::Spawn]);
        assert_eq!(
            service.handle(now, Input::Failed("no such file".into())),
            []
        );
        now = service.deadline().unwrap();
    }
    let outputs = service.handle(now, Input::Failed("no such file".into()));
    assert!(matches!(&outputs[..], [Output::CrashLoop(why)] if why.contains("no such file")));
}

#[test]
fn one_that_hangs_is_killed_and_that_is_a_death_with_its_own_reason() {
    let mut service = kept();
    let hung = || Input::Hung("it said nothing".into());
    assert!(matches!(service.handle(0, hung())[..], [Output::Denied(_)]));
    service.handle(0, Input::Started { pid: 7 });
    assert_eq!(
        service.handle(1, hung()),
        [Output::Signal { pid: 7, signal: 9 }]
    );
    let outputs = service.handle(2, Input::Exited(exit(7)));
    assert_eq!(outputs, [Output::Exited(exit(7))]);
    assert_eq!(service.deadline(), Some(102));
    let outputs = service.handle(102, Input::Started { pid: 8 });
    let reason = "it said nothing".to_owned();
    assert_eq!(outputs, [Output::Restarted { pid: 8, reason }]);
}

#[test]
fn stop_signals_then_kills_then_cleans_the_cgroup() {
    let mut service = Service::new(Keep::Once);
    service.handle(0, Input::Started { pid: 7 });
    let stop = Input::Stop {
        signal: 15,
        grace: 500,
        kill_cgroup: true,
    };
    assert_eq!(
        service.handle(10, stop),
        [Output::Signal { pid: 7, signal: 15 }]
    );
    assert_eq!(service.handle(509, Input::Tick), []);
    assert_eq!(
        service.handle(510, Input::Tick),
        [Output::KillCgroup, Output::Signal { pid: 7, signal: 9 }]
    );
    assert_eq!(service.deadline(), None);
    let end = Exit {
        pid: 7,
        code: -1,
        signal: 9,
    };
    assert_eq!(
        service.handle(511, Input::Exited(end)),
        [Output::KillCgroup, Output::Exited(end)]
    );
    assert_eq!(service.state, State::Down);
}

#[test]
fn asking_twice_keeps_the_earlier_end() {
    let mut service = Service::new(Keep::Once);
    service.handle(0, Input::Started { pid: 7 });
    service.handle(
        0,
        Input::Stop {
            signal: 15,
            grace: 500,
            kill_cgroup: false,
        },
    );
    service.handle(
        0,
        Input::Stop {
            signal: 15,
            grace: 9000,
            kill_cgroup: true,
        },
    );
    assert_eq!(service.deadline(), Some(500));
    service.handle(
        1,
        Input::Stop {
            signal: 2,
            grace: 9,
            kill_cgroup: false,
        },
    );
    assert_eq!(service.deadline(), Some(10));
}

#[test]
fn a_kept_service_that_is_stopped_comes_back_without_a_death() {
    let mut service = kept();
    for pid in 1..50 {
        service.handle(0, Input::Started { pid });
        service.handle(
            0,
            Input::Stop {
                signal: 15,
                grace: 0,
                kill_cgroup: false,
            },
        );
        assert_eq!(
            service.handle(0, Input::Exited(exit(pid))),
            [Output::Exited(exit(pid))]
        );
        assert_eq!(service.deadline(), Some(100));
    }
    let outputs = service.handle(100, Input::Started { pid: 99 });
    assert!(matches!(outputs[..], [Output::Restarted { pid: 99, .. }]));
    assert_eq!(service.restarts, 49);
}

#[test]
fn saying_the_same_again_is_no_news() {
    let mut service = Service::new(Keep::Once);
    service.handle(0, Input::Started { pid: 7 });
    let say = Input::Notified {
        ready: true,
        status: Some("up".into()),
    };
    assert_eq!(service.handle(1, say.clone()).len(), 1);
    assert_eq!(service.handle(2, say), []);
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        (1..5i32).prop_map(|pid| Input::Started { pid }),
        Just(Input::Failed("why".into())),
        (1..5i32).prop_map(|pid| Input::Exited(exit(pid))),
        (0..3000u64, any::<bool>()).prop_map(|(grace, kill_cgroup)| Input::Stop {
            signal: 15,
            grace,
            kill_cgroup
        }),
        (any::<bool>(), proptest::option::of("[ab]"))
            .prop_map(|(ready, status)| Input::Notified { ready, status }),
        Just(Input::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: it never panics, never has two lives,
    /// tells of an end exactly once per life, and a kept one always has a future.
    #[test]
    fn any_history_is_answered(
        history in proptest::collection::vec((0..5000u64, input()), 0..80),
        keep in any::<bool>(),
    ) {
        let mut service = if keep { kept() } else { Service::new(Keep::Once) };
        let (mut now, mut lives, mut ends) = (0, 0, 0);
        for (step, input) in history {
            now += step;
            let before = service.life().cloned();
            let outputs = service.handle(now, input.clone());
            ends += outputs.iter().filter(|output| matches!(output, Output::Exited(_))).count();
            if before.is_none() && service.life().is_some() {
                lives += 1;
            }
            for output in &outputs {
                if let Output::Signal { pid, .. } = output {
                    prop_assert_eq!(Some(*pid), before.as_ref().map(|life| life.pid));
                }
                if *output == Output::Spawn {
                    prop_assert!(keep && before.is_none());
                }
            }
            if let Some(before) = before
                && !matches!(input, Input::Exited(_))
            {
                prop_assert_eq!(service.life().map(|life| life.pid), Some(before.pid));
            }
            if keep && service.life().is_none() {
                prop_assert!(service.deadline().is_some());
            }
        }
        prop_assert_eq!(lives, ends + usize::from(service.life().is_some()));
    }
}
