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
mod tests {
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
}
