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
use crate::names::LookupError;
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
                    server.state = State::Failed(error.to_string());
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
mod tests;
