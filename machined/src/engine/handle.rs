//! What the rest of machined may ask of the engine: messages to the task that
//! owns the state, and views of what is published. Cheap to clone; holds no state.

use super::pending::{Mode, Pending, Reverted};
use crate::{
    events::Events, facts::Facts, identity::Credentials, kmsg, logs,
    orchestrator::payload::Payload, resource::Store, store::Stored,
};
use bytes::Bytes;
use futures_util::Stream;
use keelson_api::v1;
use std::{io, path::PathBuf, sync::Arc, time::SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// Asks the engine. Every clone speaks to the same engine.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) shared: Arc<Shared>,
}

/// What is published: read without asking.
pub(crate) struct Shared {
    /// What the machine and its image are.
    pub facts: Facts,
    /// The resources of every noun.
    pub resources: Arc<Store>,
    /// What happens.
    pub events: Arc<Events>,
    /// The orchestrator that the image carries.
    pub payload: Option<Arc<Payload>>,
    /// The stored config; `None` in maintenance.
    pub config: watch::Receiver<Option<Arc<Stored>>>,
    /// What is tried, and what waits for a boot.
    pub pending: watch::Receiver<Pending>,
    /// The services, sorted by name.
    pub services: watch::Receiver<Arc<Vec<v1::Service>>>,
    /// The health checks, in the order to show them.
    pub health: watch::Receiver<Arc<Vec<v1::HealthCheck>>>,
    /// What apid serves with; `None` until it is made.
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// The machine's stable identity, 32 hexadecimal digits; empty until it is known.
    pub machine_id: watch::Receiver<String>,
}

/// Why the engine did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The config has errors; nothing was changed. gRPC: INVALID_ARGUMENT.
    #[error("the config has {} error(s)", .0.iter().filter(|d| d.severity() == v1::diagnostic::Severity::Error).count())]
    InvalidConfig(Vec<v1::Diagnostic>),
    /// The request makes no sense. gRPC: INVALID_ARGUMENT.
    #[error("{0}")]
    InvalidArgument(String),
    /// The machine is not in the state for it. gRPC: FAILED_PRECONDITION.
    #[error("{0}")]
    FailedPrecondition(String),
    /// Somebody else was faster. gRPC: ABORTED.
    #[error("{0}")]
    Conflict(String),
    /// No such thing. gRPC: NOT_FOUND.
    #[error("{0}")]
    NotFound(String),
    /// Not now; the same call may work later. gRPC: UNAVAILABLE.
    #[error("{0}")]
    Unavailable(String),
    /// Something broke on the machine. gRPC: INTERNAL.
    #[error("{0}")]
    Internal(String),
}

/// A config to apply.
pub(crate) struct Apply {
    /// The config as written.
    pub config: Bytes,
    /// The name of its file on the caller's side; for diagnostics.
    pub file_name: String,
    /// Who brings it: the subject of the client's certificate, or where it was found.
    pub source: String,
    /// Only tell what would happen.
    pub dry_run: bool,
    /// Refuse if a config is stored already: the rule of maintenance mode.
    pub only_first: bool,
    /// Refuse unless the stored config has this generation.
    pub expected_generation: Option<u64>,
    /// When it counts.
    pub mode: Mode,
}

/// What came of an [`Apply`].
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Warnings. A config with errors is [`Error::InvalidConfig`] instead.
    pub diagnostics: Vec<v1::Diagnostic>,
    /// The steps that are taken, or would be.
    pub steps: Vec<v1::PlannedStep>,
    /// There may be more steps: the nouns were too busy to tell theirs.
    pub steps_unknown: bool,
    /// The generation it was stored under; 0 where it was not stored.
    pub generation: u64,
    /// The changed values that only a reboot puts in force, as paths.
    pub after_reboot: Vec<String>,
    /// When a trial ends.
    pub until: Option<SystemTime>,
}

/// How to end the machine's run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// What comes after it.
    pub action: Power,
    /// Do not wait for pods.
    pub force: bool,
    /// The version of the system that comes next, if the datastore is to be kept as it is
    /// for the case that this one comes back.
    pub snapshot_for: Option<String>,
}

/// What comes after the end of the machine's run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Power {
    /// Start it again.
    #[default]
    Reboot,
    /// Switch it off.
    Off,
}

/// A message to the task that owns the state.
pub(super) enum Command {
    /// Validate, store, and make it so.
    Apply(Apply, Reply<Applied>),
    /// Store what is being tried, for whom it says.
    Confirm(String, Reply<u64>),
    /// Call off what is tried and what waits for a boot, for whom it says.
    Revert(String, Reply<Reverted>),
    /// Stop a service in order and start it again.
    Restart(String, Reply<()>),
    /// End the machine's run.
    Power {
        end: End,
        source: String,
        reply: Reply<()>,
    },
}

/// Where the answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

impl Handle {
    /// Validates a config and, unless it is a dry run, stores it and makes the
    /// machine match. Answers within seconds: steps are taken after the answer.
    pub(crate) async fn apply(&self, apply: Apply) -> Result<Applied, Error> {
        self.ask(|reply| Command::Apply(apply, reply)).await
    }

    /// Stores the config that is being tried; its generation.
    pub(crate) async fn confirm(&self, source: String) -> Result<u64, Error> {
        self.ask(|reply| Command::Confirm(source, reply)).await
    }

    /// Calls off the config that is being tried, and the one that waits for a boot.
    pub(crate) async fn revert(&self, source: String) -> Result<Reverted, Error> {
        self.ask(|reply| Command::Revert(source, reply)).await
    }

    /// Begins to stop a service in order and to start it again.
    pub(crate) async fn restart_service(&self, name: String) -> Result<(), Error> {
        self.ask(|reply| Command::Restart(name, reply)).await
    }

    /// Begins the end of the machine's run. `source` is who asks. An error says that it
    /// was called off before anything was stopped: the datastore could not be kept.
    pub(crate) async fn power(&self, end: End, source: String) -> Result<(), Error> {
        self.ask(|reply| Command::Power { end, source, reply })
            .await
    }

    /// What the machine and its image are.
    pub(crate) fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    /// The machine's stable identity; empty until it is known.
    pub(crate) fn machine_id(&self) -> String {
        self.shared.machine_id.borrow().clone()
    }

    /// The resources of every noun.
    pub(crate) fn resources(&self) -> &Arc<Store> {
        &self.shared.resources
    }

    /// The orchestrator that the image carries.
    pub(crate) fn payload(&self) -> Option<&Payload> {
        self.shared.payload.as_deref()
    }

    /// The stored config; `None` in maintenance.
    pub(crate) fn config(&self) -> Option<Arc<Stored>> {
        self.shared.config.borrow().clone()
    }

    /// What is tried, and what waits for a boot.
    pub(crate) fn pending(&self) -> Pending {
        self.shared.pending.borrow().clone()
    }

    /// The services, sorted by name.
    pub(crate) fn services(&self) -> Arc<Vec<v1::Service>> {
        self.shared.services.borrow().clone()
    }

    /// The health checks, and every change of them.
    pub(crate) fn health(&self) -> watch::Receiver<Arc<Vec<v1::HealthCheck>>> {
        self.shared.health.clone()
    }

    /// What apid serves with, and every change of it. Secret.
    pub(crate) fn credentials(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.shared.credentials.clone()
    }

    /// Events from now on, or with `replay` from the oldest that is kept.
    pub(crate) fn events(&self, replay: bool) -> impl Stream<Item = v1::Event> + Send + use<> {
        self.shared.events.follow(replay)
    }

    /// Where what happens is told.
    pub(crate) fn journal(&self) -> Arc<Events> {
        self.shared.events.clone()
    }

    /// The cluster administrator's kubeconfig, its server rewritten: to the machine's
    /// own first address and port 6443 if none is given.
    pub(crate) async fn kubeconfig(&self, server: Option<&str>) -> Result<Vec<u8>, Error> {
        super::views::kubeconfig(&self.shared, server).await
    }

    /// A service's log: the last `tail` lines (all that is kept if `None`), then, with
    /// `follow`, what is written later.
    pub(crate) fn logs(
        &self,
        service: &str,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Error> {
        Ok(logs::read(self.log_file(service)?, tail, follow))
    }

    /// The kernel's log from its oldest record, then, with `follow`, what comes later.
    pub(crate) fn dmesg(
        &self,
        follow: bool,
    ) -> Result<impl Stream<Item = io::Result<kmsg::Record>> + Send + use<>, Error> {
        kmsg::read(follow).map_err(|error| Error::Internal(format!("opening /dev/kmsg: {error}")))
    }

    /// The logs of all services.
    pub(crate) fn log_files(&self) -> Vec<PathBuf> {
        super::views::log_files()
    }

    fn log_file(&self, service: &str) -> Result<PathBuf, Error> {
        super::views::log_file(&self.shared, service)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::Unavailable("machined is stopping".into());
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
