//! The machine's watchdog, which init holds: how long it waits for food. Whether it is fed
//! is init's to decide (`init/src/alive.rs`).

use crate::{
    initclient::{Init, InitError},
    noun::Noun,
    resource::{Phase, Resource},
};
use keelson_api::init as proto;
use keelson_config::Machine;
use std::fmt;

/// The noun.
pub(crate) struct Watchdogs {
    init: Init,
    /// What it was given last, and what it made of it: some know fewer times.
    given: Option<(u32, u32)>,
}

/// What init says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Have {
    /// `None` where machined runs without init.
    watchdog: Option<proto::Watchdog>,
    given: Option<(u32, u32)>,
}

/// One missing step: give it another time, in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step(u32);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "let the watchdog wait {} s before it resets the machine",
            self.0
        )
    }
}

/// What is wanted, in seconds.
fn wanted(machine: &Machine) -> u32 {
    u32::try_from(machine.watchdog.as_secs()).unwrap_or(u32::MAX)
}

/// The missing step.
fn plan(have: &Have, wanted: u32) -> Vec<Step> {
    let Some(now) = have.watchdog.as_ref().map(|it| it.timeout_seconds) else {
        return Vec::new();
    };
    let nearest = have.given == Some((wanted, now));
    match now == 0 || now == wanted || nearest {
        true => Vec::new(),
        false => vec![Step(wanted)],
    }
}

impl Watchdogs {
    /// The noun.
    pub(crate) fn new(init: Init) -> Self {
        Watchdogs { init, given: None }
    }
}

impl Noun for Watchdogs {
    const KIND: &'static str = "watchdog";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        let watchdog = match self.init.watchdog(0).await {
            Ok(watchdog) => Some(watchdog),
            Err(InitError::Gone) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Have {
            watchdog,
            given: self.given,
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, wanted(want))
    }

    async fn apply(&mut self, Step(seconds): &Step) -> anyhow::Result<()> {
        let took = self.init.watchdog(*seconds).await?;
        self.given = Some((*seconds, took.timeout_seconds));
        Ok(())
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        have.watchdog
            .iter()
            .map(|watchdog| resource(watchdog, wanted(want)))
            .collect()
    }
}

fn resource(watchdog: &proto::Watchdog, wanted: u32) -> Resource {
    let proto::Watchdog {
        identity,
        timeout_seconds: now,
        panics_before_seconds: before,
    } = watchdog;
    let (phase, message) = match *now {
        0 => (
            Phase::Pending,
            "this machine has no watchdog, or the kernel's command line switches it off: what \
             hangs is not noticed"
                .to_owned(),
        ),
        now if now == wanted && *before == 0 => (
            Phase::Ready,
            "it resets the machine without a panic before, so that no log is left".to_owned(),
        ),
        now if now == wanted => (Phase::Ready, String::new()),
        now => (
            Phase::Ready,
            format!("it knows no {wanted} s, and waits {now} s"),
        ),
    };
    Resource::new(Watchdogs::KIND, "watchdog", phase)
        .message(message)
        .field("identity", identity.as_str())
        .field("timeoutSeconds", *now)
        .field("panicsBeforeSeconds", *before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn have(now: u32, given: Option<(u32, u32)>) -> Have {
        let watchdog = proto::Watchdog {
            identity: "i6300ESB timer".into(),
            timeout_seconds: now,
            panics_before_seconds: 15,
        };
        Have {
            watchdog: Some(watchdog),
            given,
        }
    }

    /// Shows: machine.watchdog.timeout
    #[test]
    fn each_case_has_its_step() {
        let text = include_str!("../../../config/tests/cases/valid/smallest.yaml");
        let config = |more: &str| {
            let text = text.replace("  role: none\n", &format!("  role: none\n{more}"));
            keelson_config::parse("m.yaml", text.as_bytes())
                .machine
                .unwrap()
        };
        let default = wanted(&config(""));
        let longer = wanted(&config("  watchdog: {timeout: 2m}\n"));
        assert_eq!((default, longer), (60, 120));
        let none = Have::default();
        for (rule, have, wanted, steps) in [
            ("as init armed it", have(60, None), default, vec![]),
            ("another time", have(60, None), longer, vec![Step(120)]),
            (
                "the field is removed",
                have(120, Some((120, 120))),
                default,
                vec![Step(60)],
            ),
            (
                "it knows fewer times",
                have(117, Some((120, 117))),
                longer,
                vec![],
            ),
            ("no watchdog", have(0, None), longer, vec![]),
            ("no init", none, longer, vec![]),
        ] {
            assert_eq!(plan(&have, wanted), steps, "{rule}");
        }
    }

    #[test]
    fn what_it_is_is_said() {
        let said = |now, before, wanted| {
            let watchdog = proto::Watchdog {
                identity: "Software Watchdog".into(),
                timeout_seconds: now,
                panics_before_seconds: before,
            };
            let resource = resource(&watchdog, wanted);
            (resource.phase, resource.message)
        };
        assert_eq!(said(60, 15, 60), (Phase::Ready, String::new()));
        assert!(said(39, 15, 60).1.contains("knows no 60 s, and waits 39 s"));
        assert!(said(20, 0, 20).1.contains("without a panic"));
        assert_eq!(said(0, 0, 60).0, Phase::Pending);
    }
}
