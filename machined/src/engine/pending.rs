//! Configs that count but are not stored, and configs that are stored but do not count
//! yet: trials, which end by themselves, and what waits for the next boot.
//!
//! ```text
//! stored ─ try ─> tried ─ confirm ─> stored (the next generation)
//!                   │
//!                   └─ its time is over, reverted, machined or the machine starts again
//!                        ─> stored (as before)
//! ```

use super::{
    Engine, Running, Wanted,
    handle::{Apply, End, Error},
};
use crate::{
    nouns::module,
    store::{Staged, Stored},
};
use bytes::Bytes;
use keelson_config::{Draft, Machine, Takes};
use std::{
    fmt,
    future::pending,
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::oneshot,
    time::{sleep_until, timeout},
};

/// How long a config may be tried.
const TRY_FOR: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(3600);

/// How long one is tried where nothing is said.
pub(crate) const DEFAULT_TRY: Duration = Duration::from_secs(60);

/// How long a reboot may take to begin before the caller is answered.
const REBOOT_BEGINS: Duration = Duration::from_secs(2);

/// Where the config names kernel modules.
const MODULES: &str = "machine.kernel.modules[";

/// When a config counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// At once, as far as that can be.
    #[default]
    Auto,
    /// At once; refused where a reboot would be needed.
    NoReboot,
    /// From the next boot on.
    Staged,
    /// After a reboot that follows.
    Reboot,
    /// At once, for so long, unless it is confirmed.
    Try(Duration),
}

/// What is not both stored and in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    /// What is in force in place of the stored config.
    pub tried: Option<Tried>,
    /// What counts from the next boot on.
    pub staged: Option<Staged>,
}

/// A config on trial.
#[derive(Clone)]
pub(crate) struct Tried {
    /// As it was written. Secret.
    pub bytes: Bytes,
    /// What it means.
    pub machine: Arc<Machine>,
    /// Who brought it.
    pub source: String,
    /// When it ends, on the clock that no time server moves.
    pub deadline: Instant,
    /// When it ends, for people.
    pub until: SystemTime,
    /// What the nouns know it by.
    pub generation: u64,
}

impl fmt::Debug for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tried")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

/// What was called off.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reverted {
    /// Whether a config was being tried.
    pub tried: bool,
    /// The generation of the one that waited for a boot.
    pub staged: Option<u64>,
}

/// Waits for the end of a trial; for ever where there is none.
pub(super) async fn end_of(trial: Option<Instant>) {
    match trial {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

impl Engine {
    /// Whether a config may come in this way at all.
    pub(super) fn admit(&self, mode: Mode) -> Result<(), Error> {
        if let Mode::Try(length) = mode
            && !TRY_FOR.contains(&length)
        {
            return Err(Error::InvalidArgument(format!(
                "a config is tried for 10 s to 1 h, not for {} s",
                length.as_secs()
            )));
        }
        let first = self.config.borrow().is_none();
        if first && matches!(mode, Mode::Staged | Mode::Reboot | Mode::Try(_)) {
            let text =
                "a machine's first config counts at once: it cannot be tried, or wait for a reboot";
            return Err(Error::FailedPrecondition(text.into()));
        }
        Ok(())
    }

    /// The changed values that only a reboot puts in force, as paths.
    pub(super) fn after_reboot(&self, bytes: &[u8], machine: &Machine) -> Vec<String> {
        let config = self.config.borrow();
        let Some(stored) = config.as_ref() else {
            return Vec::new();
        };
        let read = |bytes| Draft::read("", bytes);
        let (Ok(before), Ok(after)) = (read(&stored.bytes), read(bytes)) else {
            return Vec::new();
        };
        // What modules are given may need a reboot, which the kernel knows.
        let modules = module::after_reboot(
            &stored.machine,
            machine,
            Path::new(module::SYS_MODULE),
            &self.facts.boot.modules,
        );
        let changes = before.changes(&after).into_iter();
        changes
            .filter(|change| change.takes == Takes::Reboot)
            .map(|change| change.path)
            .filter(|path| !path.starts_with(MODULES))
            .chain(modules)
            .collect()
    }

    /// Follows a config that is not stored.
    pub(super) fn try_out(
        &mut self,
        apply: Apply,
        machine: Arc<Machine>,
        length: Duration,
    ) -> SystemTime {
        let stored = self.config.borrow().as_ref().map_or(0, |it| it.generation);
        let staged = self
            .pending
            .borrow()
            .staged
            .as_ref()
            .map_or(0, |it| it.generation);
        let tried = Tried {
            bytes: apply.config,
            machine: machine.clone(),
            source: apply.source,
            deadline: Instant::now() + length,
            until: SystemTime::now() + length,
            // Nor is it the one that is tried now.
            generation: self.wanted.borrow().generation.max(stored).max(staged) + 1,
        };
        let text = format!(
            "one by {} is tried for {} s",
            tried.source,
            length.as_secs()
        );
        self.events.say("config", text);
        let until = tried.until;
        self.wanted.send_replace(Wanted {
            generation: tried.generation,
            machine,
        });
        self.pending
            .send_modify(|pending| pending.tried = Some(tried));
        self.certify();
        until
    }

    /// Stores what is being tried.
    pub(super) async fn confirm(
        &mut self,
        source: String,
        running: &Running,
    ) -> Result<u64, Error> {
        let Some(tried) = self.pending.borrow().tried.clone() else {
            let text = "no config is being tried: it was kept already, or its time is over; `osctl get config` tells";
            return Err(Error::FailedPrecondition(text.into()));
        };
        if running.outcome.borrow().generation != tried.generation {
            let text = "the machine has not followed the config yet: nobody knows that it works";
            return Err(Error::Unavailable(text.into()));
        }
        self.store(tried.bytes, tried.machine, source).await
    }

    /// Calls off what is tried and what waits.
    pub(super) async fn revert(&mut self, source: &str) -> Result<Reverted, Error> {
        let tried = self.end_trial(&format!("{source} called it off"));
        let staged = self.unstage().await?;
        if !tried && staged.is_none() {
            let text = "no config is being tried, and none waits for the next boot";
            return Err(Error::FailedPrecondition(text.into()));
        }
        Ok(Reverted { tried, staged })
    }

    /// Goes back to the stored config if another one is tried; whether one was.
    pub(super) fn end_trial(&mut self, why: &str) -> bool {
        let Some(_) = self.pending.borrow().tried else {
            return false;
        };
        self.pending.send_modify(|pending| pending.tried = None);
        let stored = self.config.borrow().clone();
        if let Some(stored) = stored {
            let text = format!("{why}: generation {} is in force again", stored.generation);
            self.events.say("config", text);
            self.wanted.send_replace(wanted(&stored));
            self.certify();
        }
        true
    }

    /// Stores a config that counts from the next boot on; its generation.
    pub(super) async fn stage(&mut self, bytes: Bytes, source: String) -> Result<u64, Error> {
        let configs = self.configs()?;
        let boot = self.facts.boot_id.clone();
        let now = SystemTime::now();
        let work = move || configs.stage(&bytes, &source, now, &boot);
        let staged = match tokio::task::spawn_blocking(work).await {
            Ok(Ok(staged)) => staged,
            Ok(Err(error)) => return Err(Error::Internal(format!("storing the config: {error}"))),
            Err(error) => return Err(Error::Internal(format!("storing the config: {error}"))),
        };
        let generation = staged.generation;
        let text = format!(
            "generation {generation} stored by {}: it counts from the next boot on",
            staged.source
        );
        self.events.say("config", text);
        self.pending
            .send_modify(|pending| pending.staged = Some(staged));
        Ok(generation)
    }

    pub(super) async fn unstage(&mut self) -> Result<Option<u64>, Error> {
        if self.pending.borrow().staged.is_none() {
            return Ok(None);
        }
        let configs = self.configs()?;
        let gone = match tokio::task::spawn_blocking(move || configs.unstage()).await {
            Ok(Ok(gone)) => gone.map(|staged| staged.generation),
            Ok(Err(error)) => {
                return Err(Error::Internal(format!(
                    "calling off the staged config: {error}"
                )));
            }
            Err(error) => {
                return Err(Error::Internal(format!(
                    "calling off the staged config: {error}"
                )));
            }
        };
        self.pending.send_modify(|pending| pending.staged = None);
        if let Some(generation) = gone {
            let text =
                format!("generation {generation}, which waited for the next boot, is called off");
            self.events.say("config", text);
        }
        Ok(gone)
    }

    /// Reboots in order for a config that waits for it.
    pub(super) async fn reboot_for(
        &mut self,
        generation: u64,
        source: &str,
        running: &Running,
    ) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.power(End::default(), source, reply, running);
        let events = self.events.clone();
        let told = async move {
            match answer.await {
                Ok(Err(error)) => {
                    let text = format!(
                        "the reboot was called off, config {generation} still waits for it: {error}"
                    );
                    events.say("config", text.as_str());
                    Err(Error::FailedPrecondition(text))
                }
                Ok(Ok(())) | Err(_) => Ok(()),
            }
        };
        // To keep a datastore takes long: who asks is not held up until then.
        let task = tokio::spawn(told);
        match timeout(REBOOT_BEGINS, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

/// What a stored config wants.
pub(super) fn wanted(stored: &Stored) -> Wanted {
    Wanted {
        generation: stored.generation,
        machine: stored.machine.clone(),
    }
}
