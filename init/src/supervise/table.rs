//! The services by name: those that init keeps and those that machined started. A
//! service stays in the table after its end, so that a machined that was away learns
//! how it ended; the place is given to another when the table is full.

use crate::{
    clock::Ms,
    protocol::{MOST_SERVICES, Spec},
    service::{Backoff, Exit, Keep, Service},
};
use keelson_api::init as pb;
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The service that gets the init protocol's socket.
pub const MACHINED: &str = "machined";

/// A service, how it is started, and its notify socket.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: Spec,
    pub(super) service: Service,
    pub(super) socket: Option<OwnedFd>,
}

/// All services.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<String, Entry>,
}

impl Table {
    /// Adds a service that is kept running.
    pub(super) fn keep(&mut self, spec: Spec, backoff: Backoff) {
        let service = Service::new(Keep::Always(backoff));
        self.entries.insert(
            spec.name.clone(),
            Entry {
                spec,
                service,
                socket: None,
            },
        );
    }

    /// Adds one that machined starts, in the place of one of that name that has ended.
    pub(super) fn add(&mut self, spec: Spec) -> Result<(), String> {
        let name = spec.name.clone();
        let last = match self.entries.get(&name) {
            Some(entry) if entry.service.is_kept() => {
                return Err(format!(
                    "{name} is kept by init: stop it, and it starts again"
                ));
            }
            Some(Entry { service, .. }) if service.life().is_some() => {
                return Err(format!("{name} runs already"));
            }
            Some(entry) => entry.service.last,
            None => {
                self.make_room()?;
                None
            }
        };
        let mut service = Service::new(Keep::Once);
        service.last = last;
        self.entries.insert(
            name,
            Entry {
                spec,
                service,
                socket: None,
            },
        );
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), String> {
        if self.entries.len() < MOST_SERVICES {
            return Ok(());
        }
        let ended = self
            .entries
            .iter()
            .find(|(_, entry)| !entry.service.is_kept() && entry.service.life().is_none())
            .map(|(name, _)| name.clone());
        match ended {
            Some(name) => {
                self.entries.remove(&name);
                Ok(())
            }
            None => Err(format!("{MOST_SERVICES} services run already")),
        }
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.entries.get_mut(name)
    }

    /// The service whose main process this is.
    pub(super) fn with_pid(&self, pid: i32) -> Option<String> {
        self.entries
            .iter()
            .find(|(_, entry)| entry.service.life().is_some_and(|life| life.pid == pid))
            .map(|(name, _)| name.clone())
    }

    /// When the next service is due.
    pub(super) fn deadline(&self) -> Option<Ms> {
        self.entries
            .values()
            .filter_map(|entry| entry.service.deadline())
            .min()
    }

    /// The services that are due now.
    pub(super) fn due(&self, now: Ms) -> Vec<String> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.service.deadline().is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.entries
            .values()
            .filter_map(|entry| entry.socket.as_ref().map(AsFd::as_fd))
    }

    pub(super) fn names_with_socket(&self) -> Vec<String> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.socket.is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// All services as machined sees them.
    pub(super) fn list(&self) -> pb::Services {
        let processes = self.entries.iter().map(|(name, entry)| {
            let life = entry.service.life().cloned().unwrap_or_default();
            pb::Process {
                name: name.clone(),
                pid: life.pid.unsigned_abs(),
                started_ms: life.since,
                restarts: entry.service.restarts,
                ready: life.ready,
                status: life.status,
                cgroup: entry.spec.cgroup.clone(),
                log_file: entry
                    .spec
                    .log
                    .as_ref()
                    .map(|(_, path)| path.clone())
                    .unwrap_or_default(),
                last: entry.service.last.map(|exit| exited(name, &exit)),
            }
        });
        pb::Services {
            processes: processes.collect(),
        }
    }
}

/// The end of a service's main process as a message.
pub(super) fn exited(name: &str, exit: &Exit) -> pb::Exited {
    pb::Exited {
        name: name.to_owned(),
        pid: exit.pid.unsigned_abs(),
        code: exit.code,
        signal: exit.signal.unsigned_abs(),
    }
}
