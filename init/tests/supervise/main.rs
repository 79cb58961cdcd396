//! The supervision loop as a program among others: what machined sees of it, and what
//! services do not.

mod bench;
mod roles;

use bench::{Bench, children, signal, until};
use keelson_api::init as pb;
use nix::sys::signal::Signal;
use pb::{message::Body as Event, request::Body as Ask};
use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

const CASES: [(&str, fn()); 16] = [
    (
        "an_end_is_told_and_remembered",
        an_end_is_told_and_remembered,
    ),
    (
        "what_cannot_be_started_says_why",
        what_cannot_be_started_says_why,
    ),
    ("stop_escalates_to_a_kill", stop_escalates_to_a_kill),
    (
        "ten_deaths_of_machined_go_unnoticed",
        ten_deaths_of_machined_go_unnoticed,
    ),
    (
        "ten_thousand_orphans_are_collected",
        ten_thousand_orphans_are_collected,
    ),
    (
        "only_the_service_speaks_for_itself",
        only_the_service_speaks_for_itself,
    ),
    ("readiness_survives_machined", readiness_survives_machined),
    (
        "a_machined_that_does_not_read_blocks_nobody",
        a_machined_that_does_not_read_blocks_nobody,
    ),
    (
        "grace_runs_out_while_machined_is_away",
        grace_runs_out_while_machined_is_away,
    ),
    (
        "a_machined_that_hangs_up_is_replaced",
        a_machined_that_hangs_up_is_replaced,
    ),
    (
        "a_machined_that_hangs_is_replaced_and_then_the_run_ends",
        a_machined_that_hangs_is_replaced_and_then_the_run_ends,
    ),
    ("nonsense_is_answered", nonsense_is_answered),
    ("a_crash_loop_ends_the_run", a_crash_loop_ends_the_run),
    (
        "a_key_press_goes_to_machined_or_is_obeyed",
        a_key_press_goes_to_machined_or_is_obeyed,
    ),
    (
        "what_a_key_asks_for_is_done_in_the_time_that_machined_names_unless_it_calls_it_off",
        what_a_key_asks_for_is_done_in_the_time_that_machined_names_unless_it_calls_it_off,
    ),
    ("power_ends_the_run", power_ends_the_run),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if roles::run(&words).is_some() {
        return ExitCode::SUCCESS;
    }
    let filter = words.iter().find(|word| !word.starts_with('-'));
    let mut failed = 0;
    for (name, case) in CASES {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let begin = Instant::now();
        let result = std::panic::catch_unwind(case);
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {word} ({} ms)",
            begin.elapsed().as_millis()
        );
        failed += u8::from(result.is_err());
    }
    println!("test result: {failed} failed");
    ExitCode::from(failed)
}

fn an_end_is_told_and_remembered() {
    let mut bench = Bench::new(10, 10);
    let start = bench.program(
        "short",
        &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
    );
    let pid = bench.start(start);
    let exited = bench.exited("short");
    assert_eq!((exited.pid, exited.code, exited.signal), (pid, 3, 0));
    let process = bench.process("short");
    assert_eq!((process.pid, process.last), (0, Some(exited)));
    assert_eq!(bench.log("short"), "out\nerr\n");
    // Its name is free again.
    let again = bench.role("short", "counts");
    assert_ne!(bench.start(again.clone()), pid);
    assert!(bench.refused(again).contains("runs already"));
}

fn what_cannot_be_started_says_why() {
    let mut bench = Bench::new(10, 10);
    let start = bench.program("none", &["/nonexistent"]);
    let why = bench.refused(start);
    assert!(
        why.contains("cannot execute it") && why.contains("No such file"),
        "{why}"
    );
    let elsewhere = pb::Start {
        log_file: "/etc/x".into(),
        ..bench.role("astray", "counts")
    };
    assert!(bench.refused(elsewhere).contains("log"));
    let kept = bench.role("machined", "counts");
    assert!(bench.refused(kept).contains("kept by init"));
    let directory = pb::Start {
        directory: "/nonexistent".into(),
        ..bench.role("astray", "counts")
    };
    assert!(bench.refused(directory).contains("working directory"));
    let group = pb::Start {
        cgroup: "orchestrator/other".into(),
        ..bench.role("astray", "counts")
    };
    assert!(
        bench.refused(group).contains("cgroup"),
        "the group has no cgroup.procs here"
    );
}

fn stop_escalates_to_a_kill() {
    let mut bench = Bench::new(10, 10);
    bench.start_stubborn();
    let begin = Instant::now();
    assert_eq!(bench.stop("stubborn", 300), "");
    assert!(
        begin.elapsed() < Duration::from_millis(300),
        "the answer comes at once"
    );
    let exited = bench.exited("stubborn");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!((exited.code, exited.signal), (-1, 9));
    let kill = bench
        .dir
        .path()
        .join("cgroup/orchestrator/main/cgroup.kill");
    assert_eq!(std::fs::read_to_string(kill).unwrap(), "1");
    assert!(bench.stop("stubborn", 0).contains("does not run"));
    assert!(bench.stop("nobody", 0).contains("no service"));
    // One that listens ends by the signal itself.
    let start = bench.role("polite", "counts");
    bench.start(start);
    bench.stop("polite", 60_000);
    assert_eq!(bench.exited("polite").signal, 15);
}

fn ten_deaths_of_machined_go_unnoticed() {
    let mut bench = Bench::new(5, 10);
    let start = bench.role("orchestrator", "counts");
    let pid = bench.start(start);
    for death in 1..=10 {
        let machined = bench.process("machined");
        assert_eq!(machined.restarts, death - 1);
        signal(machined.pid, Signal::SIGKILL);
        bench.connect();
        let (new, reason) = bench.event(|event| match event {
            Event::Restarted(restarted) => Some((restarted.pid, restarted.reason.clone())),
            _ => None,
        });
        assert_ne!(new, machined.pid);
        assert_eq!(reason, "signal 9 ended it");
        assert_eq!(bench.process("orchestrator").pid, pid);
    }
    bench.stop("orchestrator", 5000);
    bench.exited("orchestrator");
    let log = bench.log("orchestrator");
    let lines: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.len() > 100, "{}", lines.len());
    assert!(
        lines
            .iter()
            .enumerate()
            .all(|(at, line)| at as u64 == *line),
        "a gap in the log"
    );
}

fn ten_thousand_orphans_are_collected() {
    let mut bench = Bench::new(10, 10);
    let counts = bench.role("orchestrator", "counts");
    let pid = bench.start(counts);
    let orphans = bench.role("orphans", "orphans");
    bench.start(orphans);
    // It answers while they come in.
    let mut asked = 0;
    while bench.process("orphans").pid != 0 {
        assert_eq!(bench.process("orchestrator").pid, pid);
        asked += 1;
    }
    assert!(asked > 10, "{asked}");
    assert_eq!(bench.exited("orphans").code, 0);
    let parent = bench.child.id();
    until("all are collected", || {
        (children(parent).len() == 2).then_some(())
    });
    let told = bench
        .events
        .iter()
        .filter(|event| matches!(event, Event::Exited(_)))
        .count();
    assert_eq!(told, 0, "orphans go without a word");
}

fn only_the_service_speaks_for_itself() {
    let mut bench = Bench::new(10, 10);
    let start = bench.role("talks", "child-speaks");
    bench.start(start);
    let (ready, status) = bench.event(|event| match event {
        Event::Notify(notify) if notify.name == "talks" => {
            Some((notify.ready, notify.status.clone()))
        }
        _ => None,
    });
    assert_eq!((ready, status.as_str()), (false, "main"));
    assert!(!bench.process("talks").ready);
}

fn readiness_survives_machined() {
    let mut bench = Bench::new(5, 10);
    let start = bench.role("orchestrator", "ready");
    bench.start(start);
    bench.event(|event| matches!(event, Event::Notify(notify) if notify.ready).then_some(()));
    signal(bench.process("machined").pid, Signal::SIGKILL);
    bench.connect();
    let process = bench.process("orchestrator");
    assert!(process.ready);
    assert_eq!(process.status, "serving");
}

fn a_machined_that_does_not_read_blocks_nobody() {
    let mut bench = Bench::new(10, 10);
    let chatters = bench.role("chatters", "chatters");
    bench.start(chatters);
    let log = bench.dir.path().join("log/sub/chatters.log");
    // It counts only after all has been taken from its notify socket.
    until("all is heard", || {
        (std::fs::metadata(&log).ok()?.len() > 0).then_some(())
    });
    // Nothing was read here all the while; now the word comes that there was more.
    let list = bench.event(|event| match event {
        Event::Response(response) if response.id == 0 => response.body.clone(),
        _ => None,
    });
    let pb::response::Body::Services(services) = list else {
        panic!("{list:?}")
    };
    assert!(
        services
            .processes
            .iter()
            .any(|process| process.name == "chatters" && process.pid != 0)
    );
    assert_eq!(
        bench.process("chatters").status,
        format!("4999 {}", "x".repeat(200))
    );
    // And from then on it is told again.
    bench.stop("chatters", 100);
    bench.exited("chatters");
}

fn grace_runs_out_while_machined_is_away() {
    let mut bench = Bench::new(1500, 10);
    let pid = bench.start_stubborn();
    let machined = bench.process("machined").pid;
    bench.stop("stubborn", 300);
    signal(machined, Signal::SIGKILL);
    let begin = Instant::now();
    until("it is killed", || {
        (!children(bench.child.id()).contains(&pid)).then_some(())
    });
    assert!(
        begin.elapsed() < Duration::from_millis(1200),
        "before machined is back"
    );
    bench.connect();
    let last = bench.process("stubborn").last.unwrap();
    assert_eq!((last.pid, last.signal), (pid, 9));
}

fn a_machined_that_hangs_up_is_replaced() {
    let mut bench = Bench::new(5, 10);
    let old = bench.process("machined").pid;
    rustix::net::shutdown(bench.link(), rustix::net::Shutdown::Both).unwrap();
    bench.connect();
    assert_ne!(bench.process("machined").pid, old);
}

fn a_machined_that_hangs_is_replaced_and_then_the_run_ends() {
    let mut bench = Bench::new(5, 10);
    let start = bench.role("orchestrator", "counts");
    let pid = bench.start(start);
    for _ in 0..2 {
        let machined = bench.process("machined");
        assert_eq!(bench.ask(Ask::Alive(pb::Alive {})).error, "");
        // It says no more from here on.
        bench.connect();
        let (new, reason) = bench.event(|event| match event {
            Event::Restarted(restarted) => Some((restarted.pid, restarted.reason.clone())),
            _ => None,
        });
        assert_ne!(new, machined.pid);
        assert_eq!(reason, "it said nothing for 1 s");
        assert_eq!(bench.process("orchestrator").pid, pid);
    }
    bench.ask(Ask::Alive(pb::Alive {}));
    assert_eq!(
        bench.ending(),
        "Reboot: machined does not answer: it said nothing for 1 s, and replacing it 2 times did not help"
    );
}

fn nonsense_is_answered() {
    let mut bench = Bench::new(10, 10);
    for bytes in [&[0xff; 40][..], &[7; 65_000], &[1; 66_000]] {
        keelson_sys::packet::send(bench.link(), bytes).unwrap();
        let error = bench.event(|event| match event {
            Event::Response(response) if response.id == 0 => Some(response.error.clone()),
            _ => None,
        });
        assert_ne!(error, "");
    }
    // Without a watchdog there is none to see, and none to be given another time.
    let ask = |timeout_seconds| {
        Ask::Watchdog(pb::Watchdog {
            timeout_seconds,
            ..Default::default()
        })
    };
    assert!(bench.ask(ask(90)).error.contains("no watchdog"));
    let seen = bench.ask(ask(0)).body;
    let none = pb::response::Body::Watchdog(pb::Watchdog::default());
    assert_eq!(seen, Some(none));
    let empty = Ask::Power(pb::Power::default());
    assert!(bench.ask(empty).error.contains("action"));
    assert_ne!(bench.process("machined").pid, 0);
}

fn a_crash_loop_ends_the_run() {
    let mut bench = Bench::new(5, 2);
    for _ in 0..2 {
        signal(bench.process("machined").pid, Signal::SIGKILL);
        bench.connect();
    }
    signal(bench.process("machined").pid, Signal::SIGKILL);
    let ending = bench.ending();
    assert!(
        ending.starts_with("Reboot: machined crashes again and again"),
        "{ending}"
    );
}

fn a_key_press_goes_to_machined_or_is_obeyed() {
    let mut bench = Bench::new(5, 10);
    signal(bench.child.id(), Signal::SIGINT);
    let action = bench.event(|event| match event {
        Event::PowerKey(key) => Some(key.action()),
        _ => None,
    });
    assert_eq!(action, pb::power::Action::Reboot);
    assert_ne!(bench.process("machined").pid, 0, "the run goes on");

    let mut alone = Bench::with(5, 1000, "missing");
    // Until it has blocked the signal it would die of it.
    let log = alone.dir.path().join("log/machined.log");
    until("it tries to start machined", || log.exists().then_some(()));
    signal(alone.child.id(), Signal::SIGINT);
    assert_eq!(alone.ending(), "Reboot: Ctrl-Alt-Del");
}

fn what_a_key_asks_for_is_done_in_the_time_that_machined_names_unless_it_calls_it_off() {
    let mut bench = Bench::new(5, 10);
    let press = |bench: &mut Bench| {
        signal(bench.child.id(), Signal::SIGINT);
        bench.event(|event| match event {
            Event::PowerKey(key) => Some(key.action()),
            _ => None,
        });
    };
    let answer = |within_ms| Ask::KeyAnswer(pb::KeyAnswer { within_ms });
    press(&mut bench);
    assert_eq!(bench.ask(answer(0)).error, "");
    // No key waits any more, so this ends nothing.
    assert_eq!(bench.ask(answer(1)).error, "");
    assert_ne!(bench.process("machined").pid, 0, "the run goes on");
    press(&mut bench);
    assert_eq!(bench.ask(answer(1)).error, "");
    assert_eq!(bench.ending(), "Reboot: Ctrl-Alt-Del");
}

fn power_ends_the_run() {
    let mut bench = Bench::new(5, 10);
    let off = pb::Power {
        action: pb::power::Action::PowerOff.into(),
        reason: "asked to".into(),
    };
    assert_eq!(bench.ask(Ask::Power(off)).error, "");
    assert_eq!(bench.ending(), "PowerOff: asked to");
    thread::yield_now();
}
