//! When the orchestrator is started, stopped and tried again. Inputs and time go in,
//! what to do comes out; nothing here touches the machine.
//!
//! ```text
//!            wanted, needs met          answer of init           READY=1
//!   Idle ───────────────────> Launching ─────────────> Starting ────────> Ready
//!    ^ ^                          │                        │                │
//!    │ │ pause over               │ refused                │ ended          │ ended
//!    │ └──────────── Backoff <────┴────────────────────────┴────────────────┤
//!    │                                                                      │ not wanted, to
//!    └──────────────────────── Stopping <───────────────────────────────────┘ be restarted
//!               ended
//! ```

use std::time::{Duration, Instant};

/// The pause before the first new try; it doubles with each …
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// After this long without a fault, the next fault is a first one again.
const STEADY: Duration = Duration::from_secs(300);

/// Its own certificates last a year and are renewed only when it starts.
const RENEWAL: Duration = Duration::from_secs(250 * 86_400);

/// Where the orchestrator stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It does not run: nobody wants it, or it waits for what it needs.
    Idle,
    /// init was asked to start it.
    Launching,
    /// It runs and has not said that it is ready.
    Starting {
        /// Its process.
        pid: u32,
        /// When it was started.
        since: Instant,
    },
    /// It runs and has said that it is ready.
    Ready {
        /// Its process.
        pid: u32,
        /// When it was started.
        started: Instant,
        /// When it got ready.
        since: Instant,
    },
    /// It was told to stop.
    Stopping {
        /// Its process.
        pid: u32,
    },
    /// It ended by itself, or could not be started; it is tried again.
    Backoff {
        /// When.
        until: Instant,
        /// What happened.
        why: String,
    },
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// What is to run: its config's digest; `None` for nothing.
    Want(Option<String>),
    /// Whether everything that it needs is there.
    Needs(bool),
    /// It was running when machined started, under the config with this digest.
    Adopted {
        pid: u32,
        ready: bool,
        started: Instant,
        digest: Option<String>,
    },
    /// init has started it.
    Started(u32),
    /// It could not be started.
    Failed(String),
    /// It said READY=1.
    Ready(u32),
    /// Its process ended; how, in words.
    Exited(u32, String),
    /// A person wants it restarted.
    Restart,
    /// The machine goes down: stop it and never start it again.
    Halt,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Start it; answered with [`Input::Started`] or [`Input::Failed`].
    Start,
    /// Stop it in order; answered with [`Input::Exited`].
    Stop,
    /// It ended and is not wanted any more: end what it left behind.
    CleanUp,
    /// Tell people.
    Say(String),
}

/// The orchestrator's life.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    state: State,
    wanted: Option<String>,
    /// The digest of the config that the running one was started with.
    running: Option<String>,
    needs_met: bool,
    restart: bool,
    halted: bool,
    pause: Duration,
    launches: u32,
}

impl Life {
    /// It does not run and nobody wants it.
    pub(crate) fn new() -> Self {
        Life {
            state: State::Idle,
            wanted: None,
            running: None,
            needs_met: false,
            restart: false,
            halted: false,
            pause: FIRST_PAUSE,
            launches: 0,
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Whether somebody wants it to run.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.is_some() && !self.halted
    }

    /// Whether it never runs again before the machine is up the next time.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted
    }

    /// How often it was started again.
    pub(crate) fn restarts(&self) -> u32 {
        self.launches.saturating_sub(1)
    }

    /// Its process, if it has one.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self.state {
            State::Starting { pid, .. } | State::Ready { pid, .. } | State::Stopping { pid } => {
                Some(pid)
            }
            State::Idle | State::Launching | State::Backoff { .. } => None,
        }
    }

    /// When [`Input::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Backoff { until, .. } => Some(until),
            State::Ready { started, .. } => Some(started + RENEWAL),
            _ => None,
        }
    }

    /// Takes an input in; what makes no sense in the state changes nothing.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Want(digest) => self.wanted = digest,
            Input::Needs(met) => self.needs_met = met,
            Input::Restart => match self.state {
                State::Starting { .. } | State::Ready { .. } => self.restart = true,
                // A person who asks for it does not wait for the pause to be over.
                State::Backoff { .. } => self.state = State::Idle,
                State::Idle | State::Launching | State::Stopping { .. } => {}
            },
            Input::Halt => self.halted = true,
            Input::Adopted {
                pid,
                ready,
                started,
                digest,
            } => {
                if matches!(
                    self.state,
                    State::Idle | State::Launching | State::Backoff { .. }
                ) {
                    self.launches = self.launches.max(1);
                    self.running = digest.or_else(|| self.wanted.clone());
                    self.state = match ready {
                        true => State::Ready {
                            pid,
                            started,
                            since: now,
                        },
                        false => State::Starting {
                            pid,
                            since: started,
                        },
                    };
                }
            }
            Input::Started(pid) => {
                if self.state == State::Launching {
                    self.state = State::Starting { pid, since: now };
                }
            }
            Input::Failed(why) => {
                if self.state == State::Launching {
                    self.back_off(now, format!("it could not be started: {why}"), &mut out);
                }
            }
            Input::Ready(pid) => {
                if let State::Starting {
                    pid: running,
                    since,
                } = self.state
                    && running == pid
                {
                    self.state = State::Ready {
                        pid,
                        started: since,
                        since: now,
                    };
                    out.push(Output::Say(format!(
                        "ready after {} s",
                        (now - since).as_secs()
                    )));
                }
            }
            Input::Exited(pid, how) => self.exited(now, pid, &how, &mut out),
            Input::Tick => {}
        }
        self.settle(now, &mut out);
        out
    }

    fn exited(&mut self, now: Instant, pid: u32, how: &str, out: &mut Vec<Output>) {
        match self.state {
            State::Stopping { pid: running } if running == pid => {
                self.state = State::Idle;
                self.running = None;
                out.push(Output::Say("stopped".into()));
                if self.wanted.is_none() {
                    out.push(Output::CleanUp);
                }
            }
            State::Ready {
                pid: running,
                since,
                ..
            } if running == pid => {
                if now.saturating_duration_since(since) >= STEADY {
                    self.pause = FIRST_PAUSE;
                }
                self.back_off(now, how.to_owned(), out);
            }
            State::Starting { pid: running, .. } if running == pid => {
                self.back_off(now, how.to_owned(), out)
            }
            _ => {}
        }
    }

    fn back_off(&mut self, now: Instant, why: String, out: &mut Vec<Output>) {
        out.push(Output::Say(format!(
            "{why}; tried again in {} s",
            self.pause.as_secs()
        )));
        self.state = State::Backoff {
            until: now + self.pause,
            why,
        };
        self.running = None;
        self.restart = false;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    /// Takes the next step towards what is wanted.
    fn settle(&mut self, now: Instant, out: &mut Vec<Output>) {
        match self.state {
            State::Backoff { until, .. } if now >= until || !self.is_wanted() => {
                self.state = State::Idle;
                self.settle(now, out);
            }
            State::Idle if self.is_wanted() && self.needs_met => {
                self.state = State::Launching;
                self.running = self.wanted.clone();
                self.restart = false;
                self.launches += 1;
                out.push(Output::Start);
            }
            State::Starting {
                pid,
                since: started,
            }
            | State::Ready { pid, started, .. } => {
                let why = if self.halted {
                    "the machine goes down"
                } else if self.wanted.is_none() {
                    "it is not wanted any more"
                } else if self.wanted != self.running {
                    "its config changed"
                } else if self.restart {
                    "a restart was asked for"
                } else if now.saturating_duration_since(started) >= RENEWAL {
                    "its certificates are renewed when it starts"
                } else {
                    return;
                };
                self.restart = false;
                self.state = State::Stopping { pid };
                out.push(Output::Say(format!("stopping: {why}")));
                out.push(Output::Stop);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
