//! The health gate: whether the release on trial is good. Time and what was seen go in,
//! a verdict comes out.
//!
//! Every condition must hold, all of them at once, without a break for a while. A machine
//! is judged on what is its own: an agent that cannot reach its server is not blamed for it.

use keelson_api::v1::{HealthCheck, health_check::State};
use keelson_config::HealthGate;
use std::time::Duration;

/// The checks that only a cluster with a reachable server can pass.
const OF_THE_CLUSTER: [&str; 2] = ["orchestrator ready", "kubelet"];

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// The name of the health check that it is.
    pub name: String,
    /// Whether it holds.
    pub state: Held,
    /// What was seen, in words.
    pub message: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It does not, and need not: that is not this machine's fault, or the config says so.
    Waived,
}

/// What was seen at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// All health checks.
    pub checks: Vec<HealthCheck>,
    /// How often services had to be started again; a change is a crash.
    pub restarts: u64,
    /// An agent's server cannot be reached.
    pub alone: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look again at this time since the boot, or when something changes.
    Wait(Duration),
    /// The release is good.
    Good,
    /// It is not, and why.
    Bad(String),
}

/// The gate. Times are since the boot.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    rules: HealthGate,
    /// Since when everything holds, and how many restarts there had been then.
    steady: Option<(Duration, u64)>,
}

impl Gate {
    /// A gate that has seen nothing yet.
    pub(crate) fn new(rules: HealthGate) -> Self {
        Gate {
            rules,
            steady: None,
        }
    }

    /// Other rules, from a config that came meanwhile.
    pub(crate) fn rules(&mut self, rules: HealthGate) {
        self.rules = rules;
    }

    /// The conditions, as far as they hold now.
    pub(crate) fn conditions(&self, seen: &Seen) -> Vec<Condition> {
        conditions(seen, &self.rules.ignore)
    }

    /// Judges what is seen now.
    pub(crate) fn look(&mut self, now: Duration, seen: &Seen) -> Verdict {
        let conditions = self.conditions(seen);
        let unmet: Vec<String> = conditions
            .iter()
            .filter(|condition| condition.state == Held::No)
            .map(|condition| format!("{}: {}", condition.name, condition.message))
            .collect();
        if conditions.is_empty() || !unmet.is_empty() {
            self.steady = None;
        } else if self
            .steady
            .is_none_or(|(_, before)| before != seen.restarts)
        {
            self.steady = Some((now, seen.restarts));
        }
        if let Some((since, _)) = self.steady {
            let due = since.saturating_add(self.rules.stable);
            if now >= due {
                return Verdict::Good;
            }
            // What is steady is given the time that it needs: the deadline is for the others.
            return Verdict::Wait(due);
        }
        if now < self.rules.deadline {
            return Verdict::Wait(self.rules.deadline);
        }
        let what = if unmet.is_empty() {
            "nothing was seen".to_owned()
        } else {
            unmet.join("; ")
        };
        let limit = self.rules.deadline.as_secs();
        Verdict::Bad(format!("not healthy {limit} s after the boot: {what}"))
    }
}

fn conditions(seen: &Seen, ignored: &[&str]) -> Vec<Condition> {
    seen.checks
        .iter()
        .map(|check| {
            let name = check.name.as_str();
            let (state, waived) = match check.state() {
                State::Healthy => (Held::Yes, ""),
                _ if seen.alone && OF_THE_CLUSTER.contains(&name) => {
                    (Held::Waived, "; the server cannot be reached")
                }
                _ if ignored.contains(&name) => (Held::Waived, "; the config does not ask for it"),
                _ => (Held::No, ""),
            };
            let message = format!("{}{waived}", check.message);
            Condition {
                name: check.name.clone(),
                state,
                message,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HealthGate = HealthGate {
        deadline: Duration::from_secs(600),
        stable: Duration::from_secs(30),
        ignore: Vec::new(),
    };

    fn seen(states: &[(&str, State)]) -> Seen {
        let check = |(name, state): &(&str, State)| HealthCheck {
            name: (*name).to_owned(),
            state: (*state).into(),
            message: "seen".into(),
        };
        Seen {
            checks: states.iter().map(check).collect(),
            ..Seen::default()
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Shows: machine.healthGate.stable
    #[test]
    fn everything_must_hold_for_a_while() {
        let mut gate = Gate::new(RULES);
        let good = seen(&[("network", State::Healthy), ("kubelet", State::Healthy)]);
        let poor = seen(&[("network", State::Healthy), ("kubelet", State::Waiting)]);
        assert_eq!(gate.look(at(10), &poor), Verdict::Wait(at(600)));
        assert_eq!(gate.look(at(20), &good), Verdict::Wait(at(50)));
        assert_eq!(gate.look(at(45), &poor), Verdict::Wait(at(600)));
        assert_eq!(gate.look(at(60), &good), Verdict::Wait(at(90)));
        assert_eq!(gate.look(at(89), &good), Verdict::Wait(at(90)));
        assert_eq!(gate.look(at(90), &good), Verdict::Good);
    }

    #[test]
    fn a_restart_that_nobody_saw_begins_the_wait_anew() {
        let mut gate = Gate::new(RULES);
        let mut good = seen(&[("network", State::Healthy)]);
        assert_eq!(gate.look(at(20), &good), Verdict::Wait(at(50)));
        good.restarts = 1;
        assert_eq!(gate.look(at(49), &good), Verdict::Wait(at(79)));
        assert_eq!(gate.look(at(79), &good), Verdict::Good);
    }

    /// Shows: machine.healthGate.deadline
    #[test]
    fn the_deadline_names_what_does_not_hold() {
        let mut gate = Gate::new(RULES);
        let poor = seen(&[("network", State::Healthy), ("kubelet", State::Unhealthy)]);
        let Verdict::Bad(why) = gate.look(at(600), &poor) else {
            panic!("it is not good");
        };
        assert_eq!(why, "not healthy 600 s after the boot: kubelet: seen");
        let mut gate = Gate::new(RULES);
        assert!(matches!(
            gate.look(at(600), &Seen::default()),
            Verdict::Bad(_)
        ));
    }

    #[test]
    fn what_is_steady_at_the_deadline_may_finish() {
        let mut gate = Gate::new(RULES);
        let good = seen(&[("network", State::Healthy)]);
        assert_eq!(gate.look(at(590), &good), Verdict::Wait(at(620)));
        assert_eq!(gate.look(at(605), &good), Verdict::Wait(at(620)));
        assert_eq!(gate.look(at(620), &good), Verdict::Good);
    }

    /// Shows: machine.healthGate.ignore
    #[test]
    fn what_the_config_ignores_need_not_hold() {
        let mut gate = Gate::new(HealthGate {
            ignore: vec!["time"],
            ..RULES
        });
        let late = seen(&[("network", State::Healthy), ("time", State::Waiting)]);
        assert_eq!(gate.look(at(10), &late), Verdict::Wait(at(40)));
        assert_eq!(gate.look(at(40), &late), Verdict::Good);
        let told = gate.conditions(&late);
        assert_eq!(told[1].state, Held::Waived);
        assert_eq!(told[1].message, "seen; the config does not ask for it");
        let alone = seen(&[("network", State::Waiting), ("time", State::Waiting)]);
        assert_eq!(gate.look(at(50), &alone), Verdict::Wait(at(600)));
    }

    #[test]
    fn an_agent_without_its_server_is_judged_on_its_own() {
        let mut gate = Gate::new(RULES);
        let mut agent = seen(&[
            ("orchestrator", State::Healthy),
            ("orchestrator ready", State::Waiting),
            ("kubelet", State::Waiting),
        ]);
        assert_eq!(gate.look(at(10), &agent), Verdict::Wait(at(600)));
        agent.alone = true;
        assert_eq!(gate.look(at(20), &agent), Verdict::Wait(at(50)));
        assert_eq!(gate.look(at(50), &agent), Verdict::Good);
        agent.checks[0].state = State::Unhealthy.into();
        assert!(matches!(gate.look(at(700), &agent), Verdict::Bad(_)));
    }
}
