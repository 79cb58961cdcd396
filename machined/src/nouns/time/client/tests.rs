//! The client in a world with servers, a network and a clock that is wrong.

use super::*;
use crate::nouns::time::packet::reply;
use proptest::prelude::*;
use std::collections::BTreeMap;

const EARLIEST: Duration = Duration::from_secs(1_790_000_000);

/// A world with servers and one clock that is wrong.
struct World {
    client: Client,
    begin: Instant,
    /// How much time went by, and by how much our clock is behind the truth.
    elapsed: Duration,
    behind: Nanos,
    /// How far each server is from the truth; one that is not there does not answer.
    servers: BTreeMap<IpAddr, Nanos>,
    names: BTreeMap<String, Result<Vec<IpAddr>, LookupError>>,
    /// Addresses that cannot be sent to.
    unreachable: Vec<IpAddr>,
    kiss: Option<[u8; 4]>,
    log: Vec<String>,
    asked: u32,
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

impl World {
    fn new(names: &[&str], behind: Nanos) -> Self {
        let begin = Instant::now();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        World {
            client: Client::new(&names, EARLIEST, begin),
            begin,
            elapsed: Duration::ZERO,
            behind,
            servers: (1..=4).map(|last| (ip(last), 0)).collect(),
            names: (1..=4)
                .map(|last| (format!("s{last}.example"), Ok(vec![ip(last)])))
                .collect(),
            unreachable: Vec::new(),
            kiss: None,
            log: Vec::new(),
            asked: 0,
        }
    }

    fn truth(&self) -> Nanos {
        (EARLIEST.as_nanos() + self.elapsed.as_nanos()) as Nanos + 100 * SECOND
    }

    fn now(&self) -> Now {
        Now {
            instant: self.begin + self.elapsed,
            clock: self.truth() - self.behind,
        }
    }

    fn give(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut nonce = 1000;
            let mut nonces = || {
                nonce += 1;
                nonce
            };
            for output in self.client.handle(self.now(), input, &mut nonces) {
                match output {
                    Output::Resolve { server, name } => {
                        let result = self
                            .names
                            .get(&name)
                            .cloned()
                            .unwrap_or(Err(LookupError::NoResolver));
                        inputs.push(Input::Resolved { server, result });
                    }
                    Output::Send { server, to, .. } if self.unreachable.contains(&to) => {
                        inputs.push(Input::Unsent {
                            server,
                            error: "no route".to_owned(),
                        });
                    }
                    Output::Send { to, packet, .. } => {
                        self.asked += 1;
                        if let Some(wrong) = self.servers.get(&to) {
                            let there = self.truth() + wrong;
                            let mut packet = reply(&packet, there, there);
                            if let Some(code) = self.kiss {
                                packet[1] = 0;
                                packet[12..16].copy_from_slice(&code);
                            }
                            inputs.push(Input::Received { from: to, packet });
                        }
                    }
                    Output::Step { offset, .. } => {
                        self.behind -= offset;
                        self.log.push(format!("step {} ms", offset / 1_000_000));
                    }
                    Output::Slew { offset, poll, .. } => {
                        self.behind -= offset;
                        self.log
                            .push(format!("slew {} ms, {}", offset / 1_000_000, 1 << poll));
                    }
                }
            }
        }
    }

    /// Lets so much time go by.
    fn run(&mut self, for_: Duration) {
        let end = self.elapsed + for_;
        while let Some(deadline) = self.client.deadline() {
            let at = deadline
                .saturating_duration_since(self.begin)
                .max(self.elapsed);
            if at > end {
                break;
            }
            self.elapsed = at;
            self.give(Input::Tick);
        }
        self.elapsed = end;
    }

    fn problems(&self) -> Vec<Option<&str>> {
        self.client
            .status()
            .servers
            .iter()
            .map(|server| server.problem.as_deref())
            .collect()
    }
}

#[test]
fn a_clock_that_is_far_behind_is_set_at_once_and_then_kept() {
    let mut world = World::new(
        &["s1.example", "s2.example", "s3.example"],
        50 * 365 * 86_400 * SECOND,
    );
    world.run(Duration::from_secs(8));
    assert_eq!(
        world.log[0],
        format!("step {} ms", 50i64 * 365 * 86_400_000)
    );
    assert_eq!(world.log[1..], ["slew 0 ms, 64"; 3], "a burst");
    world.run(Duration::from_secs(3 * 3600));
    assert_eq!(world.client.status().poll, 1024, "asked ever less often");
    assert!(world.behind.abs() < SECOND / 1000);
    assert!(
        world.asked < 3 * 25,
        "{} questions in three hours",
        world.asked
    );
    assert!(
        world
            .client
            .status()
            .servers
            .iter()
            .all(|server| server.followed)
    );
}

#[test]
fn steps_and_slews() {
    let cases = [
        ("a little wrong at first", 100, 0, vec!["slew 100 ms, 64"]),
        ("more wrong at first", 200, 0, vec!["step 200 ms"]),
        ("a little wrong later", 0, 900, vec!["slew 900 ms, 64"]),
        (
            "much wrong later is asked twice",
            0,
            1500,
            vec!["step 1500 ms"],
        ),
    ];
    for (name, first, later, want) in cases {
        let mut world = World::new(&["192.0.2.1"], first * SECOND / 1000);
        world.run(Duration::from_secs(7));
        if later != 0 {
            assert_eq!(world.client.good, BURST_ROUNDS, "{name}");
            world.log.clear();
            world.behind = later * SECOND / 1000;
            world.run(Duration::from_secs(70));
        }
        let changes: Vec<_> = world
            .log
            .iter()
            .filter(|line| !line.contains(" 0 ms"))
            .collect();
        assert_eq!(
            changes,
            want.iter().collect::<Vec<_>>(),
            "{name}: {:?}",
            world.log
        );
    }
}

#[test]
fn one_wild_answer_later_is_not_believed() {
    let mut world = World::new(&["192.0.2.1"], 0);
    world.run(Duration::from_secs(10));
    world.servers.insert(ip(1), 500 * SECOND);
    world.run(Duration::from_secs(61));
    world.servers.insert(ip(1), 0);
    world.run(Duration::from_secs(200));
    assert!(
        world.log.iter().all(|line| line.starts_with("slew 0 ms")),
        "{:?}",
        world.log
    );
}

#[test]
fn who_is_followed() {
    let ahead = 300 * SECOND;
    let cases: [(&str, &[(u8, Nanos)], Option<&str>); 3] = [
        ("one of three lies", &[(2, ahead)], None),
        (
            "one of two lies",
            &[(2, ahead), (3, -1)],
            Some("the servers disagree"),
        ),
        (
            "nobody answers",
            &[(1, -1), (2, -1), (3, -1)],
            Some("no server answers"),
        ),
    ];
    for (name, wrong, problem) in cases {
        let mut world = World::new(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], 0);
        for (last, offset) in wrong {
            match offset {
                -1 => drop(world.servers.remove(&ip(*last))),
                offset => drop(world.servers.insert(ip(*last), *offset)),
            }
        }
        world.run(Duration::from_secs(30));
        assert_eq!(world.client.status().problem.as_deref(), problem, "{name}");
        assert!(world.behind.abs() < SECOND, "{name}");
        let followed: Vec<_> = world
            .client
            .status()
            .servers
            .iter()
            .map(|server| server.followed)
            .collect();
        assert_eq!(
            followed,
            if problem.is_none() {
                [true, false, true]
            } else {
                [false; 3]
            },
            "{name}"
        );
    }
}

#[test]
fn a_silent_server_does_not_hold_up_the_others() {
    let mut world = World::new(&["192.0.2.1", "192.0.2.9"], 50 * SECOND);
    world.run(Duration::from_millis(1100));
    assert_eq!(world.log, ["step 50000 ms"]);
    assert_eq!(world.problems(), [None, Some("does not answer")]);
}

#[test]
fn before_the_network_is_there_it_is_looked_for_every_second() {
    let mut world = World::new(&["s1.example"], 50 * SECOND);
    let names = std::mem::take(&mut world.names);
    world.run(Duration::from_secs(100));
    assert_eq!(world.problems(), [Some("there is no resolver yet")]);
    assert_eq!(world.asked, 0);
    world.names = names;
    world.run(Duration::from_secs(1));
    assert_eq!(world.log, ["step 50000 ms"]);
}

#[test]
fn what_does_not_answer_is_asked_ever_less_often() {
    let mut world = World::new(&["192.0.2.9"], 0);
    world.run(Duration::from_secs(3600));
    assert!(
        world.asked < 3600 / 60 + 10,
        "{} questions in an hour",
        world.asked
    );
    assert!(world.asked > 40, "{} questions in an hour", world.asked);
}

#[test]
fn another_address_is_tried() {
    let mut world = World::new(&["s1.example"], 50 * SECOND);
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    world
        .names
        .insert("s1.example".to_owned(), Ok(vec![v6, ip(1)]));
    world.unreachable.push(v6);
    world.run(Duration::from_secs(1));
    assert_eq!(
        world.log,
        ["step 50000 ms"],
        "at once, where there is no route"
    );

    let mut world = World::new(&["s1.example"], 50 * SECOND);
    world
        .names
        .insert("s1.example".to_owned(), Ok(vec![ip(9), ip(1)]));
    world.run(Duration::from_secs(30));
    assert_eq!(world.log[0], "step 50000 ms", "after some silence");
}

#[test]
fn who_asks_to_be_left_alone_is() {
    let mut world = World::new(&["192.0.2.1"], 0);
    world.kiss = Some(*b"DENY");
    world.run(Duration::from_secs(3600));
    assert_eq!(world.asked, 1);
    assert_eq!(world.problems(), [Some("refuses to answer: DENY")]);
    world.kiss = None;
    world.run(Duration::from_secs(25 * 3600));
    assert_eq!(world.problems(), [None]);
}

#[test]
fn without_servers_there_is_nothing_to_wait_for() {
    assert_eq!(World::new(&[], 0).client.deadline(), None);
}

proptest! {
    /// Whatever comes in, in whatever order: no panic, and always a deadline ahead
    /// that is not further away than a day.
    #[test]
    fn any_history(inputs in proptest::collection::vec((0..5u8, 0..5usize, any::<bool>(), 0..2_000_000u64), 0..200)) {
        let mut world = World::new(&["s1.example", "192.0.2.2", "s9.example"], 0);
        for (kind, server, flag, millis) in inputs {
            match kind {
                0 | 1 => world.run(Duration::from_millis(millis)),
                2 => world.give(Input::Resolved { server, result: if flag { Ok(vec![ip(1)]) } else { Ok(vec![]) } }),
                3 => world.give(Input::Received { from: ip(server as u8), packet: vec![0x24; 48] }),
                _ => world.give(Input::Unsent { server, error: String::new() }),
            }
            let deadline = world.client.deadline().unwrap();
            prop_assert!(deadline <= world.now().instant + Duration::from_secs(86_400));
        }
    }
}
