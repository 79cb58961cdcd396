//! One service as a state machine: inputs and time go in, what to do comes out. Pure:
//! it starts, signals and tells nobody by itself.
//!
//! ```text
//! Down ──Started──> Up ──Stop──> Stopping ──(grace over)──> Stopping, killed
//!  ^                 │              │
//!  └──Exited (Once)──┼──────────────┤
//! Waiting <──Exited (Always)────────┘
//!    └──(delay over)──> Spawn ──Started──> Up, or ──Failed──> Waiting
//! ```

use crate::clock::Ms;

/// Whether init starts a service again by itself, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is started when machined says so, and not again.
    Once,
    /// It always runs.
    Always(Backoff),
}

/// How a kept service is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first death.
    pub first: Ms,
    /// The longest delay.
    pub longest: Ms,
    /// A life this long sets the delay back.
    pub steady: Ms,
    /// More deaths than these in a row, each after a life that was not steady, are a crash
    /// loop, however slow; nothing means that it never is one.
    pub crash_loop: Option<u32>,
}

/// How a main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process.
    pub pid: i32,
    /// Its exit code, or -1.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
}

impl Exit {
    /// The end in words.
    pub fn reason(&self) -> String {
        match self.signal {
            0 => format!("it exited with {}", self.code),
            signal => format!("signal {signal} ended it"),
        }
    }
}

/// A running main process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The process.
    pub pid: i32,
    /// When it was started.
    pub since: Ms,
    /// Whether it has said READY=1.
    pub ready: bool,
    /// What it said last as STATUS=.
    pub status: String,
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not run.
    Down,
    /// It runs.
    Up(Life),
    /// It runs and was told to end.
    Stopping {
        /// Its process.
        life: Life,
        /// When it is killed; nothing once it was.
        kill_at: Option<Ms>,
        /// Kill what is left in the cgroup afterwards.
        kill_cgroup: bool,
    },
    /// It does not run and will be started.
    Waiting {
        /// When.
        until: Ms,
    },
}

/// What happens to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its process was started.
    Started {
        /// The process.
        pid: i32,
    },
    /// Its process could not be started.
    Failed(String),
    /// Its main process ended.
    Exited(Exit),
    /// It shall stop.
    Stop {
        /// The signal to the main process.
        signal: i32,
        /// How long it may take.
        grace: Ms,
        /// Kill what is left in its cgroup afterwards.
        kill_cgroup: bool,
    },
    /// It runs and does not answer: it is killed, and that is a death.
    Hung(String),
    /// It said something on its notify socket.
    Notified {
        /// READY=1 was among it.
        ready: bool,
        /// STATUS=, if it was among it.
        status: Option<String>,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start the process, and answer with `Started` or `Failed`.
    Spawn,
    /// Send the signal to this process.
    Signal {
        /// The main process, not yet collected.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// Kill all in the cgroup.
    KillCgroup,
    /// Tell machined that it ended.
    Exited(Exit),
    /// Tell machined what it said.
    Notify {
        /// The main process.
        pid: i32,
        /// It became ready.
        ready: bool,
        /// Its new status, if it has one.
        status: Option<String>,
    },
    /// Tell machined that it was started again.
    Restarted {
        /// The new process.
        pid: i32,
        /// What ended the one before.
        reason: String,
    },
    /// It dies again and again: the machine must be started again.
    CrashLoop(String),
    /// The input makes no sense now; why.
    Denied(&'static str),
}

/// A service: its state and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub state: State,
    /// How often it was started again by init.
    pub restarts: u32,
    /// How it ended the last time.
    pub last: Option<Exit>,
    keep: Keep,
    delay: Ms,
    deaths: u32,
    /// Why it ended or is to end, until it is started again.
    reason: Option<String>,
}

impl Service {
    /// A service that does not run yet; a kept one will at the first tick.
    pub fn new(keep: Keep) -> Self {
        let (state, delay) = match &keep {
            Keep::Once => (State::Down, 0),
            Keep::Always(backoff) => (State::Waiting { until: 0 }, backoff.first),
        };
        Self {
            state,
            keep,
            delay,
            restarts: 0,
            last: None,
            deaths: 0,
            reason: None,
        }
    }

    /// The main process, if it runs.
    pub fn life(&self) -> Option<&Life> {
        match &self.state {
            State::Up(life) | State::Stopping { life, .. } => Some(life),
            State::Down | State::Waiting { .. } => None,
        }
    }

    /// Whether init keeps it running by itself.
    pub fn is_kept(&self) -> bool {
        matches!(self.keep, Keep::Always(_))
    }

    /// When `Tick` will do something.
    pub fn deadline(&self) -> Option<Ms> {
        match self.state {
            State::Stopping { kill_at, .. } => kill_at,
            State::Waiting { until } => Some(until),
            State::Down | State::Up(_) => None,
        }
    }

    /// Takes one input at a time.
    pub fn handle(&mut self, now: Ms, input: Input) -> Vec<Output> {
        match input {
            Input::Started { pid } => self.started(now, pid),
            Input::Failed(reason) => self.failed(now, reason),
            Input::Exited(exit) => self.exited(now, exit),
            Input::Stop {
                signal,
                grace,
                kill_cgroup,
            } => self.stop(signal, now.saturating_add(grace), kill_cgroup),
            Input::Hung(reason) => self.hung(reason),
            Input::Notified { ready, status } => self.notified(ready, status),
            Input::Tick => self.tick(now),
        }
    }

    fn started(&mut self, now: Ms, pid: i32) -> Vec<Output> {
        if self.life().is_some() {
            return vec![Output::Denied("it runs already")];
        }
        self.state = State::Up(Life {
            pid,
            since: now,
            ..Life::default()
        });
        match self.reason.take() {
            Some(reason) if self.is_kept() => {
                self.restarts = self.restarts.saturating_add(1);
                vec![Output::Restarted { pid, reason }]
            }
            _ => vec![],
        }
    }

    fn failed(&mut self, now: Ms, reason: String) -> Vec<Output> {
        match self.life() {
            Some(_) => vec![Output::Denied("it runs already")],
            None => self.died(now, 0, reason),
        }
    }

    fn exited(&mut self, now: Ms, exit: Exit) -> Vec<Output> {
        let state = std::mem::replace(&mut self.state, State::Down);
        let (life, asked, kill_cgroup) = match state {
            State::Up(life) => (life, false, false),
            State::Stopping {
                life, kill_cgroup, ..
            } => (life, true, kill_cgroup),
            State::Down | State::Waiting { .. } => {
                self.state = state;
                return vec![Output::Denied("it does not run")];
            }
        };
        self.last = Some(exit);
        let mut outputs = vec![Output::Exited(exit)];
        if kill_cgroup {
            outputs.insert(0, Output::KillCgroup);
        }
        match &self.keep {
            Keep::Once => {}
            // Being stopped is no death: it is how a kept service is restarted.
            Keep::Always(backoff) if asked => {
                self.state = State::Waiting {
                    until: now.saturating_add(backoff.first),
                };
                self.reason = Some("it was told to stop".to_owned());
            }
            Keep::Always(_) => {
                let lived = now.saturating_sub(life.since);
                let reason = self.reason.take().unwrap_or_else(|| exit.reason());
                outputs.extend(self.died(now, lived, reason));
            }
        }
        outputs
    }

    /// A kept service is gone without having been told.
    fn died(&mut self, now: Ms, lived: Ms, reason: String) -> Vec<Output> {
        let Keep::Always(backoff) = &self.keep else {
            self.state = State::Down;
            return vec![];
        };
        if lived >= backoff.steady {
            self.delay = backoff.first;
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        self.state = State::Waiting {
            until: now.saturating_add(self.delay),
        };
        self.delay = self.delay.saturating_mul(2).min(backoff.longest);
        let mut outputs = vec![];
        if backoff.crash_loop.is_some_and(|most| self.deaths > most) {
            outputs.push(Output::CrashLoop(format!(
                "it died {} times in a row and never lived {} seconds, the last time because \
                 {reason}",
                self.deaths,
                backoff.steady / 1000
            )));
            self.deaths = 0;
        }
        self.reason = Some(reason);
        outputs
    }

    fn stop(&mut self, signal: i32, kill_at: Ms, kill: bool) -> Vec<Output> {
        let state = std::mem::replace(&mut self.state, State::Down);
        let (life, kill_at, kill_cgroup) = match state {
            State::Up(life) => (life, Some(kill_at), kill),
            // Asked again: the earlier end holds, and a kill is not taken back.
            State::Stopping {
                life,
                kill_at: earlier,
                kill_cgroup,
            } => (life, earlier.map(|at| at.min(kill_at)), kill_cgroup || kill),
            State::Down | State::Waiting { .. } => {
                self.state = state;
                return vec![Output::Denied("it does not run")];
            }
        };
        let pid = life.pid;
        self.state = State::Stopping {
            life,
            kill_at,
            kill_cgroup,
        };
        vec![Output::Signal { pid, signal }]
    }

    fn hung(&mut self, reason: String) -> Vec<Output> {
        let (State::Up(life) | State::Stopping { life, .. }) = &self.state else {
            return vec![Output::Denied("it does not run")];
        };
        self.reason = Some(reason);
        vec![Output::Signal {
            pid: life.pid,
            signal: 9,
        }]
    }

    fn notified(&mut self, ready: bool, status: Option<String>) -> Vec<Output> {
        let (State::Up(life) | State::Stopping { life, .. }) = &mut self.state else {
            return vec![Output::Denied("it does not run")];
        };
        let ready = ready && !life.ready;
        let status = status.filter(|status| *status != life.status);
        if !ready && status.is_none() {
            return vec![];
        }
        life.ready |= ready;
        if let Some(status) = &status {
            life.status.clone_from(status);
        }
        vec![Output::Notify {
            pid: life.pid,
            ready,
            status,
        }]
    }

    fn tick(&mut self, now: Ms) -> Vec<Output> {
        match &mut self.state {
            State::Waiting { until } if *until <= now => vec![Output::Spawn],
            State::Stopping { life, kill_at, .. } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
                vec![
                    Output::KillCgroup,
                    Output::Signal {
                        pid: life.pid,
                        signal: 9,
                    },
                ]
            }
            _ => vec![],
        }
    }
}

#[cfg(test)]
mod tests;
