//! Sends the machine's logs to servers, as the config says: the kernel's log, and those of
//! machined (its events among them), of apid and of the orchestrator, one JSON object a line.
//!
//! ```text
//! kernel ───┐             ┌─> queue ─> destination ─> a server
//! services ─┴─> sources ──┴─> queue ─> destination ─> a server
//! ```
//!
//! It holds up nobody: the logs are files and a ring of the kernel's, which are written
//! whether it reads or not. What a server does not take in time is dropped for that server,
//! and counted. Nothing here writes to a log: that would come back.

mod destination;
mod line;
mod queue;
mod sources;

use crate::{
    engine::Wanted,
    resource::{Resource, Store},
};
use destination::{Destination, Pauses, Settings};
use keelson_api::v1;
use keelson_config::{LogServer, Machine};
use sources::{Out, POSITIONS, Positions};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// What is published of each server.
const KIND: &str = "logforward";

/// How often is told how far it is.
const TELL: Duration = Duration::from_secs(2);

/// Follows the config for ever. `logs` are the services' logs, by name.
pub(crate) async fn keep(
    mut wanted: watch::Receiver<Wanted>,
    logs: Vec<(String, PathBuf)>,
    resources: Arc<Store>,
) {
    let mut forward = Forward::new(logs, Path::new(POSITIONS));
    let mut tell = interval(TELL);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let machine = wanted.borrow_and_update().machine.clone();
    forward.follow(&machine);
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let machine = wanted.borrow_and_update().machine.clone();
                forward.follow(&machine);
            }
            _ = tell.tick() => {}
        }
        resources.replace(KIND, forward.resources());
        // Where it cannot be kept, a machined that is started again sends more than it need.
        if let Err(error) = forward.positions.save() {
            tracing::debug!("keeping how far the logs were sent: {error:#}");
        }
    }
}

/// What a config would change, in words.
pub(crate) fn plan(have: &Machine, want: &Machine) -> Vec<v1::PlannedStep> {
    let to = |machine: &Machine, server: &LogServer| {
        let mut all = machine.forward.iter();
        all.find(|it| it.to == *server).map(|it| it.fields.clone())
    };
    let began = want.forward.iter().filter_map(|it| match to(have, &it.to) {
        None => Some(format!("send the logs to {}", it.to)),
        Some(fields) if fields != it.fields => {
            Some(format!("send other fields with the logs to {}", it.to))
        }
        Some(_) => None,
    });
    let ended = have.forward.iter().filter(|it| to(want, &it.to).is_none());
    let ended = ended.map(|it| format!("send no more logs to {}", it.to));
    began
        .chain(ended)
        .map(|step| v1::PlannedStep {
            noun: KIND.to_owned(),
            step,
        })
        .collect()
}

/// One server, and what its task is told.
struct Running {
    destination: Arc<Destination>,
    settings: watch::Sender<Settings>,
    task: tokio::task::AbortHandle,
}

/// What runs.
struct Forward {
    logs: Vec<(String, PathBuf)>,
    positions: Arc<Positions>,
    moved: Arc<Notify>,
    pauses: Pauses,
    running: BTreeMap<LogServer, Running>,
    destinations: watch::Sender<Vec<Arc<Destination>>>,
    /// What reads the logs; nothing where they go nowhere.
    sources: JoinSet<()>,
    tasks: JoinSet<()>,
}

impl Forward {
    fn new(logs: Vec<(String, PathBuf)>, positions: &Path) -> Self {
        Forward {
            logs,
            positions: Arc::new(Positions::load(positions)),
            moved: Arc::default(),
            pauses: Pauses::default(),
            running: BTreeMap::new(),
            destinations: watch::Sender::default(),
            sources: JoinSet::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Does what a config says: the servers that stay keep their connections, and what waits
    /// for them.
    fn follow(&mut self, machine: &Machine) {
        let mut before = std::mem::take(&mut self.running);
        for wanted in &machine.forward {
            let settings = Settings {
                fields: wanted.fields.clone(),
                trusted_cas: machine.egress.trusted_cas.clone(),
            };
            let running = match before.remove(&wanted.to) {
                Some(running) => {
                    running.settings.send_if_modified(|old| {
                        let changed = *old != settings;
                        *old = settings;
                        changed
                    });
                    running
                }
                None => self.begin(wanted.to.clone(), settings),
            };
            self.running.insert(wanted.to.clone(), running);
        }
        for gone in before.into_values() {
            gone.task.abort();
        }
        while self.tasks.try_join_next().is_some() {}
        let all: Vec<_> = self
            .running
            .values()
            .map(|it| it.destination.clone())
            .collect();
        let (idle, needed) = (self.sources.is_empty(), !all.is_empty());
        self.destinations.send_replace(all);
        match (idle, needed) {
            (true, true) => self.read(),
            (false, false) => self.sources = JoinSet::new(),
            _ => {}
        }
    }

    fn begin(&mut self, to: LogServer, settings: Settings) -> Running {
        let destination = Arc::new(Destination::new(to, self.moved.clone()));
        let (settings, told) = watch::channel(settings);
        let (sender, pauses) = (destination.clone(), self.pauses);
        let task = self
            .tasks
            .spawn(async move { sender.run(told, pauses).await });
        Running {
            destination,
            settings,
            task,
        }
    }

    /// Begins to read the logs.
    fn read(&mut self) {
        let out = Out {
            destinations: self.destinations.subscribe(),
            moved: self.moved.clone(),
            positions: self.positions.clone(),
        };
        self.sources.spawn(sources::kernel(out.clone()));
        for (name, path) in &self.logs {
            self.sources
                .spawn(sources::service(name.clone(), path.clone(), out.clone()));
        }
    }

    fn resources(&self) -> Vec<Resource> {
        let all = self.running.values();
        all.map(|it| it.destination.resource(KIND)).collect()
    }
}

#[cfg(test)]
mod tests;
