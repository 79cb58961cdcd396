//! What the owner does with a config: checks it, tells what it takes, stores it and
//! puts it in force, from whomever it comes.

use super::{
    Engine, Running, check,
    handle::{Applied, Apply, Error},
    pass::Question,
    pending::{self, Mode, Pending},
};
use crate::{
    acquire::Found,
    forward,
    nouns::swap,
    store::{Configs, Stored},
};
use bytes::Bytes;
use keelson_api::v1;
use keelson_config::Machine;
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long a caller waits for the steps of a plan.
const PLAN_PATIENCE: Duration = Duration::from_secs(10);

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
        self.admit(apply.mode)?;
        if let Some(conflict) = self.conflict(apply.expected_generation) {
            return Err(conflict);
        }
        let carried = self.payload.as_ref().map(|payload| payload.name.as_str());
        let (machine, mut diagnostics) = check::check(&apply.file_name, &apply.config, carried)?;
        diagnostics.extend(check::modules(&apply.file_name, &apply.config, &machine).await);
        diagnostics.extend(check::swap(
            &apply.file_name,
            &apply.config,
            &machine,
            swap::memory(),
        ));
        let system = Path::new(&self.facts.boot.disk);
        let volumes = check::volumes(&apply.file_name, &apply.config, &machine, system);
        diagnostics.extend(volumes.await);
        let machine = Arc::new(machine);
        let have = self.wanted.borrow().machine.clone();
        let mut steps = Vec::new();
        let mut steps_unknown = false;
        if let Some(running) = running {
            match plan(&running.questions, machine.clone()).await {
                Some(planned) => steps = planned,
                None => {
                    steps_unknown = true;
                    diagnostics.push(late(&apply.file_name));
                }
            }
            steps.extend(forward::plan(&have, &machine));
            steps.extend(running.orchestrator.plan(&have, &machine));
        }
        let after_reboot = self.after_reboot(&apply.config, &machine);
        if apply.mode == Mode::NoReboot && !after_reboot.is_empty() {
            return Err(Error::FailedPrecondition(format!(
                "only a reboot puts this in force, so nothing was changed: {}",
                after_reboot.join(", ")
            )));
        }
        let mut applied = Applied {
            diagnostics,
            steps,
            steps_unknown,
            after_reboot,
            ..Applied::default()
        };
        if apply.dry_run {
            return Ok(applied);
        }
        match apply.mode {
            Mode::Auto | Mode::NoReboot => {
                applied.generation = self.store(apply.config, machine, apply.source).await?;
            }
            Mode::Staged => {
                applied.generation = self.stage(apply.config, apply.source).await?;
            }
            Mode::Reboot => {
                let source = apply.source.clone();
                applied.generation = self.stage(apply.config, apply.source).await?;
                if let Some(running) = running {
                    self.reboot_for(applied.generation, &source, running)
                        .await?;
                }
            }
            Mode::Try(length) => {
                applied.until = Some(self.try_out(apply, machine, length));
            }
        }
        Ok(applied)
    }

    /// Stores a config and puts it in force; its generation. What was tried or waited
    /// before has been overtaken.
    pub(super) async fn store(
        &mut self,
        bytes: Bytes,
        machine: Arc<Machine>,
        source: String,
    ) -> Result<u64, Error> {
        let stored = self.config.borrow().clone();
        if let Some(stored) = stored.filter(|stored| stored.bytes == bytes) {
            self.end_trial("the stored config was sent again");
            self.unstage().await?;
            return Ok(stored.generation);
        }
        let configs = self.configs()?;
        let applied = SystemTime::now();
        let saved = {
            let (bytes, source) = (bytes.clone(), source.clone());
            tokio::task::spawn_blocking(move || configs.save(&bytes, &source, applied)).await
        };
        let generation = match saved {
            Ok(Ok(generation)) => generation,
            Ok(Err(error)) => return Err(Error::Internal(format!("storing the config: {error}"))),
            Err(error) => return Err(Error::Internal(format!("storing the config: {error}"))),
        };
        let text = format!("generation {generation} stored by {source}");
        self.events.say("config", text);
        self.publish(Stored {
            generation,
            bytes,
            applied,
            source,
            machine,
        });
        self.pending.send_replace(Pending::default());
        self.certify();
        Ok(generation)
    }

    /// Where configs are stored.
    pub(super) fn configs(&self) -> Result<Configs, Error> {
        self.configs.clone().map_err(|why| {
            Error::FailedPrecondition(format!(
                "the config cannot be stored, so it is not applied: {why}"
            ))
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
        let wanted = pending::wanted(&stored);
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
                mode: Mode::Auto,
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
