//! What the owner does with a config: checks it, tells what it takes, stores it and
//! puts it in force, from whomever it comes.

use super::{
    Engine, Running, Wanted, check,
    handle::{Applied, Apply, Error},
    pass::Question,
};
use crate::{acquire::Found, store::Stored};
use keelson_api::v1;
use keelson_config::Machine;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long a caller waits for the steps of a plan.
const PLAN_PATIENCE: Duration = Duration::from_secs(4);

impl Engine {
    /// Checks a config and, unless it is a dry run, stores it and puts it in force.
    pub(super) async fn apply(
        &mut self,
        apply: Apply,
        running: Option<&Running>,
    ) -> Result<Applied, Error> {
        if self.ending.load(Ordering::Relaxed) {
            return Err(Error::FailedPrecondition(
                "the machine is going down".into(),
            ));
        }
        if apply.only_first && self.config.borrow().is_some() {
            let text = "this machine has its first config: further ones need a client certificate of its administrators";
            return Err(Error::FailedPrecondition(text.into()));
        }
        if let Some(conflict) = self.conflict(apply.expected_generation) {
            return Err(conflict);
        }
        let carried = self.payload.as_ref().map(|payload| payload.name.as_str());
        let (machine, mut diagnostics) = check::check(&apply.file_name, &apply.config, carried)?;
        let machine = Arc::new(machine);
        let have = self.wanted.borrow().machine.clone();
        let mut steps = Vec::new();
        if let Some(running) = running {
            match plan(&running.questions, machine.clone()).await {
                Some(planned) => steps = planned,
                None => diagnostics.push(late(&apply.file_name)),
            }
            steps.extend(running.orchestrator.plan(&have, &machine));
        }
        if apply.dry_run {
            return Ok(Applied {
                diagnostics,
                steps,
                generation: 0,
            });
        }
        if let Some(stored) = self
            .config
            .borrow()
            .as_ref()
            .filter(|stored| stored.bytes == apply.config)
        {
            return Ok(Applied {
                diagnostics,
                steps,
                generation: stored.generation,
            });
        }
        let configs = self.configs.clone().map_err(|why| {
            Error::FailedPrecondition(format!(
                "the config cannot be stored, so it is not applied: {why}"
            ))
        })?;
        let applied = SystemTime::now();
        let (bytes, source) = (apply.config.clone(), apply.source.clone());
        let saved =
            tokio::task::spawn_blocking(move || configs.save(&bytes, &source, applied)).await;
        let generation = match saved {
            Ok(Ok(generation)) => generation,
            Ok(Err(error)) => return Err(Error::Internal(format!("storing the config: {error}"))),
            Err(error) => return Err(Error::Internal(format!("storing the config: {error}"))),
        };
        self.events.say(
            "config",
            format!("generation {generation} stored by {}", apply.source),
        );
        self.publish(Stored {
            generation,
            bytes: apply.config,
            applied,
            source: apply.source,
            machine,
        });
        self.certify();
        Ok(Applied {
            diagnostics,
            steps,
            generation,
        })
    }

    /// What is wrong if the caller changed another config than the stored one.
    fn conflict(&self, expected: Option<u64>) -> Option<Error> {
        let expected = expected?;
        let config = self.config.borrow();
        let text = match config.as_ref() {
            Some(stored) if stored.generation == expected => return None,
            Some(stored) => format!(
                "the config is not generation {expected} any more but {}, stored by {}: nothing was changed",
                stored.generation, stored.source
            ),
            None => {
                format!("there is no config of generation {expected}: this machine has none yet")
            }
        };
        Some(Error::Conflict(text))
    }

    /// Puts a stored config in force.
    pub(super) fn publish(&mut self, stored: Stored) {
        let wanted = Wanted {
            generation: stored.generation,
            machine: stored.machine.clone(),
        };
        self.config.send_replace(Some(Arc::new(stored)));
        self.wanted.send_replace(wanted);
    }

    /// In maintenance: applies a config that the platform offers.
    pub(super) async fn look_at_platform(&mut self) {
        if self.config.borrow().is_some() || self.configs.is_err() {
            return;
        }
        let Some(mut platform) = self.platform.take() else {
            return;
        };
        let looked = tokio::task::spawn_blocking(move || {
            let looked = platform.look();
            (platform, looked)
        });
        let (found, problems) = match looked.await {
            Ok((platform, looked)) => {
                self.platform = Some(platform);
                looked
            }
            Err(error) => (Vec::new(), vec![format!("looking for a config: {error}")]),
        };
        for problem in problems {
            self.events.say("config", problem);
        }
        for Found { bytes, source } in found {
            self.events.say("config", format!("found one: {source}"));
            let apply = Apply {
                config: bytes.into(),
                file_name: source.clone(),
                source: source.clone(),
                dry_run: false,
                only_first: true,
                expected_generation: None,
            };
            match self.apply(apply, None).await {
                Ok(_) => return,
                Err(Error::InvalidConfig(diagnostics)) => {
                    for diagnostic in diagnostics {
                        self.console.say(diagnostic.rendered.trim_end());
                        self.events.say("config", diagnostic.rendered);
                    }
                }
                Err(error) => {
                    self.console
                        .say(&format!("the config from {source} is not used: {error}"));
                    self.events.say(
                        "config",
                        format!("the one from {source} is not used: {error}"),
                    );
                }
            }
        }
    }
}

/// The steps of the nouns; `None` if they have too much to do to say.
async fn plan(
    questions: &mpsc::Sender<Question>,
    machine: Arc<Machine>,
) -> Option<Vec<v1::PlannedStep>> {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        questions.send(Question { machine, reply }).await.ok()?;
        answer.await.ok()
    };
    timeout(PLAN_PATIENCE, exchange).await.ok().flatten()
}

fn late(file_name: &str) -> v1::Diagnostic {
    let message = "the machine is busy with a step that takes long: its plan is not known yet";
    v1::Diagnostic {
        severity: v1::diagnostic::Severity::Warning.into(),
        file: file_name.to_owned(),
        message: message.into(),
        rendered: format!("warning: {message}\n"),
        ..Default::default()
    }
}
