//! Whether machined still answers, as a state machine: what it says and time go in, what
//! to do comes out. Pure: it kills nobody and feeds nothing by itself.
//!
//! ```text
//!            started            alive
//! Away ──────────────> Starting ─────> Answering ─┐
//!  ^  │                   │  │             │  ^   │ alive
//!  │  └(grace over)       │  │(grace over) │  └───┘
//!  │      │               │  v             │(silent too long)
//!  │      │     exited    │ Replace <──────┘
//!  └──────┼───────────────┴──┤  Killed ──(still there)──┐
//!         │                  └─(too often)──────────────┤
//!         └────────────────────────────────────────> Lost: the machine restarts
//! ```
//!
//! As long as none of these times is over the watchdog may be fed. So a machined that
//! hangs is replaced here first; where that does not help the machine restarts, and where
//! even that hangs the watchdog resets it.

use crate::clock::Ms;

/// How long what may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// From its start, or its end, to its first word.
    pub grace: Ms,
    /// Between two words.
    pub silence: Ms,
    /// From the kill to its end. One that the kernel holds may never end.
    pub death: Ms,
    /// So many that were silent are replaced one after the other.
    pub replacements: u32,
    /// One that answers this long has helped: the count begins again.
    pub steady: Ms,
}

/// Where machined is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It does not run.
    Away { until: Ms },
    /// It was started and has said nothing yet.
    Starting { until: Ms },
    /// It answers.
    Answering { since: Ms, until: Ms },
    /// It was silent and is killed.
    Killed { until: Ms },
    /// Nothing helps.
    Lost,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Kill it, so that it is started again; why.
    Replace(String),
    /// End the machine's run; why.
    Restart(String),
}

/// The watch over machined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    bounds: Bounds,
    state: State,
    /// How many were replaced without one that has helped.
    replaced: u32,
}

impl Alive {
    /// It is to be started about now.
    pub fn new(now: Ms, bounds: Bounds) -> Self {
        Self {
            bounds,
            state: State::Away {
                until: now.saturating_add(bounds.grace),
            },
            replaced: 0,
        }
    }

    /// Its process was started.
    pub fn started(&mut self, now: Ms) {
        if self.state != State::Lost {
            self.state = State::Starting {
                until: now.saturating_add(self.bounds.grace),
            };
        }
    }

    /// Its process ended, whatever the reason.
    pub fn exited(&mut self, now: Ms) {
        match self.state {
            State::Lost | State::Away { .. } => {}
            State::Starting { .. } | State::Answering { .. } | State::Killed { .. } => {
                self.state = State::Away {
                    until: now.saturating_add(self.bounds.grace),
                };
            }
        }
    }

    /// It said that it lives. From one that was killed already the word is too late.
    pub fn heard(&mut self, now: Ms) {
        let since = match self.state {
            State::Starting { .. } => now,
            State::Answering { since, .. } => since,
            State::Away { .. } | State::Killed { .. } | State::Lost => return,
        };
        if now.saturating_sub(since) >= self.bounds.steady {
            self.replaced = 0;
        }
        self.state = State::Answering {
            since,
            until: now.saturating_add(self.bounds.silence),
        };
    }

    /// When `tick` will do something.
    pub fn deadline(&self) -> Option<Ms> {
        match self.state {
            State::Away { until }
            | State::Starting { until }
            | State::Answering { until, .. }
            | State::Killed { until } => Some(until),
            State::Lost => None,
        }
    }

    /// Whether all is as it should be, or time is left for it to become so.
    pub fn is_well(&self, now: Ms) -> bool {
        self.deadline().is_some_and(|until| now < until)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Ms) -> Option<Output> {
        if self.deadline().is_none_or(|until| now < until) {
            return None;
        }
        let seconds = |ms: Ms| ms / 1000;
        let Bounds {
            grace,
            silence,
            death,
            replacements,
            ..
        } = self.bounds;
        let why = match self.state {
            State::Lost => return None,
            State::Away { .. } => format!("it does not run for {} s", seconds(grace)),
            State::Killed { .. } => format!("it does not end {} s after a kill", seconds(death)),
            State::Starting { .. } => {
                format!("it said nothing in {} s after its start", seconds(grace))
            }
            State::Answering { .. } => format!("it said nothing for {} s", seconds(silence)),
        };
        let silent = matches!(self.state, State::Starting { .. } | State::Answering { .. });
        if silent && self.replaced < replacements {
            self.replaced += 1;
            self.state = State::Killed {
                until: now.saturating_add(death),
            };
            return Some(Output::Replace(why));
        }
        self.state = State::Lost;
        Some(Output::Restart(match self.replaced {
            0 => why,
            times => format!("{why}, and replacing it {times} times did not help"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        grace: 100_000,
        silence: 10_000,
        death: 5_000,
        replacements: 2,
        steady: 60_000,
    };

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Started,
        Exited,
        Heard,
        Nothing,
    }
    use Step::*;

    /// What comes out when these happen at these seconds.
    fn play(steps: &[(Ms, Step)]) -> Vec<(Ms, String)> {
        let mut alive = Alive::new(0, BOUNDS);
        let mut outputs = vec![];
        for &(second, step) in steps {
            let now = second * 1000;
            match step {
                Started => alive.started(now),
                Exited => alive.exited(now),
                Heard => alive.heard(now),
                Nothing => {}
            }
            if let Some(output) = alive.tick(now) {
                let text = match output {
                    Output::Replace(why) => format!("replace: {why}"),
                    Output::Restart(why) => format!("restart: {why}"),
                };
                outputs.push((second, text));
            }
        }
        outputs
    }

    #[test]
    fn what_happens_to_a_machined_that() {
        let cases: &[(&str, &[(Ms, Step)], &[(Ms, &str)])] = &[
            (
                "answers",
                &[
                    (0, Started),
                    (90, Heard),
                    (99, Heard),
                    (108, Heard),
                    (117, Nothing),
                ],
                &[],
            ),
            (
                "says nothing after its start",
                &[(0, Started), (99, Nothing), (100, Nothing)],
                &[(100, "replace: it said nothing in 100 s after its start")],
            ),
            (
                "stops answering, and answers again once it is replaced",
                &[
                    (0, Started),
                    (1, Heard),
                    (11, Nothing),
                    (12, Exited),
                    (13, Started),
                    (14, Heard),
                    (20, Heard),
                ],
                &[(11, "replace: it said nothing for 10 s")],
            ),
            (
                "speaks only after its kill",
                &[
                    (0, Started),
                    (1, Heard),
                    (11, Nothing),
                    (12, Heard),
                    (16, Nothing),
                ],
                &[
                    (11, "replace: it said nothing for 10 s"),
                    (
                        16,
                        "restart: it does not end 5 s after a kill, and replacing it 1 times did not help",
                    ),
                ],
            ),
            (
                "is silent again and again",
                &[
                    (0, Started),
                    (1, Heard),
                    (11, Nothing),
                    (12, Exited),
                    (12, Started),
                    (13, Heard),
                    (23, Nothing),
                    (24, Exited),
                    (24, Started),
                    (25, Heard),
                    (35, Nothing),
                    (99, Nothing),
                ],
                &[
                    (11, "replace: it said nothing for 10 s"),
                    (23, "replace: it said nothing for 10 s"),
                    (
                        35,
                        "restart: it said nothing for 10 s, and replacing it 2 times did not help",
                    ),
                ],
            ),
            (
                "crashes and is started again, as the service machine decides",
                &[
                    (0, Started),
                    (1, Heard),
                    (2, Exited),
                    (12, Started),
                    (13, Heard),
                    (14, Exited),
                ],
                &[],
            ),
            (
                "is never started",
                &[
                    (0, Nothing),
                    (99, Nothing),
                    (100, Nothing),
                    (101, Started),
                    (500, Nothing),
                ],
                &[(100, "restart: it does not run for 100 s")],
            ),
        ];
        for (rule, steps, want) in cases {
            let got = play(steps);
            let got: Vec<_> = got.iter().map(|(at, text)| (*at, text.as_str())).collect();
            assert_eq!(got, *want, "{rule}");
        }
    }

    #[test]
    fn one_that_answered_long_enough_has_helped() {
        let mut alive = Alive::new(0, BOUNDS);
        alive.started(0);
        alive.heard(0);
        assert!(alive.tick(10_000).is_some());
        alive.exited(11_000);
        alive.started(11_000);
        for second in 11..=71 {
            alive.heard(second * 1000);
        }
        assert_eq!(alive.replaced, 0);
    }

    #[test]
    fn the_watchdog_is_fed_while_time_is_left() {
        let mut alive = Alive::new(0, BOUNDS);
        assert!(alive.is_well(99_999) && !alive.is_well(100_000));
        alive.started(50_000);
        alive.heard(60_000);
        assert!(alive.is_well(69_999) && !alive.is_well(70_000));
        assert!(alive.tick(70_000).is_some());
        assert!(alive.is_well(70_000), "it is being replaced");
        assert!(alive.tick(75_000).is_some());
        assert!(!alive.is_well(75_000), "nothing helps");
    }

    proptest! {
        /// Whatever happens, silence ends in a restart, after a bounded number of kills.
        #[test]
        fn silence_has_an_end(steps in proptest::collection::vec((0u64..200, 0u8..4), 0..60)) {
            let mut alive = Alive::new(0, BOUNDS);
            let mut now = 0;
            for (seconds, step) in steps {
                now += seconds * 1000;
                match step {
                    0 => alive.started(now),
                    1 => alive.exited(now),
                    2 => alive.heard(now),
                    _ => {}
                }
                let due = alive.deadline().is_some_and(|until| until <= now);
                prop_assert_eq!(alive.tick(now).is_some(), due);
            }
            for _ in 0..=BOUNDS.replacements + 1 {
                now += BOUNDS.grace;
                if let Some(Output::Replace(_)) = alive.tick(now) {
                    alive.exited(now);
                    alive.started(now);
                }
            }
            prop_assert_eq!(alive.state, State::Lost);
        }
    }
}
