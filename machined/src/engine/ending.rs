//! How the machine's run is ended: for whoever asks through the API or at the machine itself,
//! and where a machined before this one had begun. What an end is made of is `power.rs`'s.

use super::{
    Engine, Running,
    handle::{End, Error, Power, Reply},
};
use crate::{
    power::{self, Plan},
    upgrade,
};
use keelson_api::init::power::Action;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

impl Engine {
    /// Ends the run for a person at the machine, and tells init whether it may count on that.
    pub(super) fn key_pressed(&mut self, action: Action, running: &Running) {
        let action = match action {
            Action::PowerOff => Power::Off,
            Action::Reboot | Action::Unspecified => Power::Reboot,
        };
        let end = End {
            action,
            ..End::default()
        };
        let (reply, answer) = oneshot::channel();
        self.init.answer_key(Some(power::LONGEST));
        self.power(end, "a person at the machine", reply, running);
        let init = self.init.clone();
        tokio::spawn(async move {
            if !matches!(answer.await, Ok(Ok(()))) {
                init.answer_key(None);
            }
        });
    }

    /// Goes on with an end that a machined before this one had begun.
    pub(super) fn go_on_ending(&self, running: &Running) {
        if let Some(unfinished) = power::Unfinished::find() {
            self.ending.store(true, Ordering::Relaxed);
            running.returning.abort();
            tokio::spawn(power::go_on(self.ground_of_power(running), unfinished));
        }
    }

    fn ground_of_power(&self, running: &Running) -> power::Ground {
        power::Ground {
            init: self.init.clone(),
            orchestrator: running.orchestrator.clone(),
            events: self.events.clone(),
            resources: self.resources.clone(),
        }
    }

    pub(super) fn power(&mut self, end: End, source: &str, reply: Reply<()>, running: &Running) {
        // In haste is another end than in order: the second word counts.
        if self.ending.swap(true, Ordering::Relaxed) && !end.force {
            // An error only says that the asker does not wait any more.
            drop(reply.send(Ok(())));
            return;
        }
        let (action, word) = match end.action {
            Power::Reboot => (Action::Reboot, "reboot"),
            Power::Off => (Action::PowerOff, "power off"),
        };
        // Whoever reboots a machine with a release staged upgrades it.
        let staged = || upgrade::staged(&self.resources).filter(|_| !end.force);
        let plan = Plan {
            action,
            force: end.force,
            reason: format!("{word}, asked for by {source}"),
            snapshot_for: end.snapshot_for.or_else(staged),
        };
        self.events.say("power", plan.reason.as_str());
        let returning = running.returning.clone();
        let ground = self.ground_of_power(running);
        let ending = self.ending.clone();
        let (begun, answer) = oneshot::channel();
        tokio::spawn(power::down(ground, plan, begun));
        tokio::spawn(async move {
            let outcome = match answer.await {
                Ok(outcome) => {
                    outcome.map_err(|error| Error::FailedPrecondition(error.to_string()))
                }
                Err(_) => Err(Error::Internal("the end of the run ended itself".into())),
            };
            match &outcome {
                // Before the node is cordoned.
                Ok(()) => returning.abort(),
                Err(_) => ending.store(false, Ordering::Relaxed),
            }
            drop(reply.send(outcome));
        });
    }
}
