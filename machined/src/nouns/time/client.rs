//! The SNTP client: whom to ask when, and what to do to the clock. It neither sends
//! nor waits: inputs and the time go in, outputs and a deadline come out.
//!
//! ```text
//!        deadline: ask every server            all answered, or time is up
//! Idle ─────────────────────────────> Asking ─────────────────────────────> Idle
//!                                       │ answers, lookups, failures         adjust; ask again in
//!                                       └─<──┘                               2 s (the first four times),
//!                                                                            then 64 s to 1024 s
//! ```

use super::{
    choose::choose,
    packet::{self, Answer, Nanos, Refused, SECOND},
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long a round may take.
const ROUND: Duration = Duration::from_secs(5);
/// How long the others are waited for when one has answered.
const OTHERS: Duration = Duration::from_secs(1);
/// The first rounds follow each other this closely …
const BURST: Duration = Duration::from_secs(2);
/// … and there are this many.
const BURST_ROUNDS: u32 = 4;
/// Base-2 logarithms of the seconds between rounds: RFC 5905 calls them MINPOLL and MAXPOLL.
const MIN_POLL: u8 = 6;
const MAX_POLL: u8 = 10;
/// A first offset of more than this is stepped, not slewed.
const FIRST_STEP: Nanos = SECOND * 128 / 1000;
/// Once synchronised, only an offset of more than this is, and only if it stays.
const LATER_STEP: Nanos = SECOND;
/// A smaller offset says that the clock can be left alone for longer.
const CALM: Nanos = SECOND / 50;
/// An address that does not answer so often is not asked again.
const PATIENCE: u32 = 2;
/// How long a server that asked to be left alone is not asked.
const DENIED: Duration = Duration::from_secs(24 * 3600);
/// How long a server that asked to be asked less often is not asked.
const RATED: Duration = Duration::from_secs(2 << MAX_POLL);

/// A moment, by the clock that never jumps and by the one that is to be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) clock: Nanos,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Nothing, but time went by.
    Tick,
    /// A lookup came to its end.
    Resolved {
        /// The server, by its place in the list.
        server: usize,
        /// Its addresses, or why there are none.
        result: Result<Vec<IpAddr>, LookupError>,
    },
    /// A packet came in.
    Received {
        /// Who sent it.
        from: IpAddr,
        /// All of it.
        packet: Vec<u8>,
    },
    /// A packet could not be sent.
    Unsent {
        /// The server, by its place in the list.
        server: usize,
        /// Why.
        error: String,
    },
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// There is nobody to ask yet; asking again soon costs nothing.
    NoResolver,
    /// The resolvers were asked.
    Failed(String),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Look up a server's addresses.
    Resolve {
        /// The server, by its place in the list.
        server: usize,
        /// Its name.
        name: String,
    },
    /// Send a packet.
    Send {
        /// The server, by its place in the list.
        server: usize,
        /// Its address.
        to: IpAddr,
        /// All of it.
        packet: Vec<u8>,
    },
    /// Set the clock at once.
    Step {
        /// What must be added to it.
        offset: Nanos,
        /// How wrong that may be.
        error: Nanos,
    },
    /// Let the clock run faster or slower until it is right.
    Slew {
        /// What must be added to it.
        offset: Nanos,
        /// How wrong that may be.
        error: Nanos,
        /// The base-2 logarithm of the seconds to the next round.
        poll: u8,
    },
}

/// What is known of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerStatus {
    /// As in the config.
    pub(crate) name: String,
    /// Where it was asked last.
    pub(crate) address: Option<IpAddr>,
    /// Its last answer.
    pub(crate) answer: Option<Answer>,
    /// Why its last answer is not used, or why there is none.
    pub(crate) problem: Option<String>,
    /// Whether the clock followed it in the last round.
    pub(crate) followed: bool,
}

/// How the clock stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Every server.
    pub(crate) servers: Vec<ServerStatus>,
    /// How far the clock was from the truth in the last round that told.
    pub(crate) offset: Option<Nanos>,
    /// How wrong that may be.
    pub(crate) error: Nanos,
    /// Why the last round told nothing.
    pub(crate) problem: Option<String>,
    /// The seconds to the next round.
    pub(crate) poll: u64,
}

#[derive(Debug)]
struct Server {
    name: String,
    /// Where it can be asked; the first is asked.
    addresses: Vec<IpAddr>,
    failures: u32,
    silent_until: Option<Instant>,
    state: State,
    last: ServerStatus,
}

/// A server within a round.
#[derive(Debug)]
enum State {
    /// Nothing is asked.
    Rest,
    /// Its name is looked up.
    Resolving,
    /// It was asked.
    Asked { nonce: u64, sent: Now },
    /// It answered.
    Answered(Answer),
    /// It will not answer in this round.
    Failed(String),
}

#[derive(Debug)]
enum Phase {
    Idle { next: Instant },
    Asking { until: Instant },
}

/// The client.
#[derive(Debug)]
pub(crate) struct Client {
    servers: Vec<Server>,
    earliest: Duration,
    phase: Phase,
    /// How many rounds told the time.
    good: u32,
    /// How many rounds in a row did not.
    bad: u32,
    /// The last offset was too large to be believed at once.
    suspect: bool,
    poll: u8,
    /// Whether anyone was bothered in this round.
    bothered: bool,
    status: Status,
}

impl Client {
    /// A client of these servers. No time before `earliest`, since 1970, is believed.
    pub(crate) fn new(names: &[String], earliest: Duration, now: Instant) -> Self {
        let server = |name: &String| Server {
            name: name.clone(),
            addresses: name.parse().into_iter().collect(),
            failures: 0,
            silent_until: None,
            state: State::Rest,
            last: ServerStatus {
                name: name.clone(),
                ..ServerStatus::default()
            },
        };
        let servers: Vec<Server> = names.iter().map(server).collect();
        let status = Status {
            servers: servers.iter().map(|server| server.last.clone()).collect(),
            ..Status::default()
        };
        Client {
            servers,
            earliest,
            phase: Phase::Idle { next: now },
            good: 0,
            bad: 0,
            suspect: false,
            poll: MIN_POLL,
            bothered: false,
            status,
        }
    }

    /// When to come back with a [`Input::Tick`]; `None` where there is nobody to ask.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            _ if self.servers.is_empty() => None,
            Phase::Idle { next } => Some(next),
            Phase::Asking { until } => Some(until),
        }
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle { .. })
    }

    /// How things stand after the last round.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Takes an input. `nonce` gives random numbers.
    pub(crate) fn handle(
        &mut self,
        now: Now,
        input: Input,
        nonce: &mut dyn FnMut() -> u64,
    ) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Tick => match self.phase {
                Phase::Idle { next } if next <= now.instant => self.begin(now, nonce, &mut outputs),
                Phase::Idle { .. } | Phase::Asking { .. } => {}
            },
            Input::Resolved { server, result } => {
                self.resolved(server, result, now, nonce, &mut outputs)
            }
            Input::Received { from, packet } => self.received(from, &packet, now),
            Input::Unsent {
                server: index,
                error,
            } => {
                if let Some(server) = self.servers.get_mut(index)
                    && let State::Asked { .. } = server.state
                {
                    // No route to this address: the next may be of the other protocol.
                    if server.addresses.len() > 1 {
                        server.addresses.remove(0);
                        outputs.extend(server.ask(index, now, nonce));
                    } else {
                        server.state = State::Failed(error);
                    }
                }
            }
        }
        self.end_if_over(now, &mut outputs);
        outputs
    }

    fn begin(&mut self, now: Now, nonce: &mut dyn FnMut() -> u64, outputs: &mut Vec<Output>) {
        self.phase = Phase::Asking {
            until: now.instant + ROUND,
        };
        self.bothered = false;
        for (index, server) in self.servers.iter_mut().enumerate() {
            if server.silent_until.is_some_and(|until| until > now.instant) {
                let problem = server.last.problem.clone().unwrap_or_default();
                server.state = State::Failed(problem);
            } else if server.addresses.is_empty() {
                server.state = State::Resolving;
                outputs.push(Output::Resolve {
                    server: index,
                    name: server.name.clone(),
                });
            } else {
                self.bothered = true;
                outputs.extend(server.ask(index, now, nonce));
            }
        }
    }

    fn resolved(
        &mut self,
        index: usize,
        result: Result<Vec<IpAddr>, LookupError>,
        now: Now,
        nonce: &mut dyn FnMut() -> u64,
        outputs: &mut Vec<Output>,
    ) {
        let Some(server) = self.servers.get_mut(index) else {
            return;
        };
        let addresses = match result {
            Ok(addresses) => addresses,
            Err(error) => {
                self.bothered |= error != LookupError::NoResolver;
                if let State::Resolving = server.state {
                    server.state = State::Failed(match error {
                        LookupError::NoResolver => "there is no resolver yet".to_owned(),
                        LookupError::Failed(error) => format!("its name has no address: {error}"),
                    });
                }
                return;
            }
        };
        // An answer that comes after its round is still good for the next one.
        server.addresses = addresses;
        if let State::Resolving = server.state {
            self.bothered = true;
            match server.addresses.is_empty() {
                true => server.state = State::Failed("its name has no address".to_owned()),
                false => outputs.extend(server.ask(index, now, nonce)),
            }
        }
    }

    fn received(&mut self, from: IpAddr, packet: &[u8], now: Now) {
        let mut answered = false;
        for server in &mut self.servers {
            let State::Asked { nonce, sent } = server.state else {
                continue;
            };
            if server.addresses.first() != Some(&from) {
                continue;
            }
            // By the clock that does not jump: ours may have been set meanwhile.
            let received = sent.clock
                + now
                    .instant
                    .saturating_duration_since(sent.instant)
                    .as_nanos() as Nanos;
            match packet::answer(packet, nonce, sent.clock, received, self.earliest) {
                // Another server may have the same address; or someone guesses.
                Err(Refused::NotOurs) => continue,
                Ok(mut answer) => {
                    // Where the clock was set while the packet was on its way.
                    answer.offset -= now.clock - received;
                    server.state = State::Answered(answer);
                    answered = true;
                }
                Err(refused) => {
                    if let Refused::Kiss(code) = &refused {
                        let pause = if code == b"RATE" { RATED } else { DENIED };
                        server.silent_until = Some(now.instant + pause);
                    }
                    server.state = State::Failed(refused.to_string());
                }
            }
            break;
        }
        if answered && let Phase::Asking { until } = &mut self.phase {
            *until = (*until).min(now.instant + OTHERS);
        }
    }

    fn end_if_over(&mut self, now: Now, outputs: &mut Vec<Output>) {
        let Phase::Asking { until } = self.phase else {
            return;
        };
        let waiting =
            |server: &Server| matches!(server.state, State::Resolving | State::Asked { .. });
        if until > now.instant && self.servers.iter().any(waiting) {
            return;
        }
        for server in &mut self.servers {
            server.finish();
        }
        let who: Vec<usize> = (0..self.servers.len())
            .filter(|&index| matches!(self.servers[index].state, State::Answered(_)))
            .collect();
        let answers: Vec<Answer> = who
            .iter()
            .filter_map(|&index| self.servers[index].last.answer)
            .collect();
        let choice = choose(&answers);
        self.status.problem = match (&choice, answers.is_empty()) {
            (Some(_), _) => None,
            (None, true) => Some("no server answers".to_owned()),
            (None, false) => Some("the servers disagree".to_owned()),
        };
        for server in &mut self.servers {
            server.last.followed = false;
            server.state = State::Rest;
        }
        let pause = match choice {
            Some(choice) => {
                for &index in &choice.agreeing {
                    self.servers[who[index]].last.followed = true;
                }
                self.adjust(choice.offset, choice.distance, outputs)
            }
            None => self.pause_after_failure(),
        };
        self.status.poll = pause.as_secs();
        self.status.servers = self
            .servers
            .iter()
            .map(|server| server.last.clone())
            .collect();
        self.phase = Phase::Idle {
            next: now.instant + pause,
        };
    }

    /// Decides what to do to the clock, and when to look again.
    fn adjust(&mut self, offset: Nanos, error: Nanos, outputs: &mut Vec<Output>) -> Duration {
        self.bad = 0;
        self.status.offset = Some(offset);
        self.status.error = error;
        let large = offset.abs()
            > if self.good == 0 {
                FIRST_STEP
            } else {
                LATER_STEP
            };
        if large && self.good > 0 && !self.suspect {
            self.suspect = true;
            return BURST;
        }
        self.suspect = false;
        self.good = self.good.saturating_add(1);
        if self.good > BURST_ROUNDS {
            self.poll = match offset.abs() < CALM {
                true => (self.poll + 1).min(MAX_POLL),
                false => (self.poll - 1).max(MIN_POLL),
            };
        }
        match large {
            true => outputs.push(Output::Step { offset, error }),
            false => outputs.push(Output::Slew {
                offset,
                error,
                poll: self.poll,
            }),
        }
        if self.good < BURST_ROUNDS {
            BURST
        } else {
            Duration::from_secs(1 << self.poll)
        }
    }

    fn pause_after_failure(&mut self) -> Duration {
        if self.good == 0 && !self.bothered {
            // The network is not there yet, and nobody was asked anything.
            return Duration::from_secs(1);
        }
        self.bad = self.bad.saturating_add(1);
        let longest = if self.good == 0 { MIN_POLL } else { MAX_POLL };
        let shift = u32::from(longest).min(self.bad);
        Duration::from_secs(1 << shift)
    }
}

impl Server {
    fn ask(&mut self, index: usize, now: Now, nonce: &mut dyn FnMut() -> u64) -> Option<Output> {
        let to = *self.addresses.first()?;
        let nonce = nonce();
        self.state = State::Asked { nonce, sent: now };
        self.last.address = Some(to);
        Some(Output::Send {
            server: index,
            to,
            packet: packet::question(nonce).to_vec(),
        })
    }

    /// Takes stock at the end of a round.
    fn finish(&mut self) {
        let problem = match &self.state {
            State::Rest => return,
            State::Answered(answer) => {
                self.last.answer = Some(*answer);
                self.last.problem = None;
                self.failures = 0;
                return;
            }
            State::Resolving => "its name is not found in time".to_owned(),
            State::Asked { .. } => "does not answer".to_owned(),
            State::Failed(problem) => problem.clone(),
        };
        self.last.problem = Some(problem);
        self.last.answer = None;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= PATIENCE
            && !self.addresses.is_empty()
            && self.name.parse::<IpAddr>().is_err()
        {
            // The next address; after the last one the name is looked up again.
            self.addresses.remove(0);
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
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
}
