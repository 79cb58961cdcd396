//! The services of the machine: what init supervises and the orchestrator, as one
//! table. It only tells; who is started and stopped is decided elsewhere.

use crate::{
    initclient::Init,
    orchestrator::{self, Orchestrator, Status, oneshot},
    resource::{Phase, Resource, Store},
};
use keelson_api::{
    init as proto,
    v1::{self, service::State},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast, watch},
    time::sleep,
};

/// How often init is asked even if it tells nothing.
const EVERY: Duration = Duration::from_secs(30);

/// Keeps the table: asks init when something changed.
pub(crate) async fn keep(
    init: Init,
    orchestrator: Orchestrator,
    resources: Arc<Store>,
    services: watch::Sender<Arc<Vec<v1::Service>>>,
) {
    let mut events = init.events();
    let mut status = orchestrator.status();
    loop {
        let processes = match init.list().await {
            Ok(processes) => processes,
            Err(error) => {
                tracing::warn!("asking init what runs: {error}");
                Vec::new()
            }
        };
        let name = orchestrator.payload().map(|payload| payload.name.as_str());
        let table = table(&processes, name, &status.borrow_and_update());
        resources.replace("service", table.iter().map(resource).collect());
        services.send_if_modified(|old| {
            let changed = **old != table;
            *old = Arc::new(table);
            changed
        });
        tokio::select! {
            () = sleep(EVERY) => {}
            // Without an orchestrator nobody sends here any more.
            Ok(()) = status.changed() => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) = events.recv() => {}
        }
    }
}

/// The table, sorted by name.
fn table(
    processes: &[proto::Process],
    orchestrator: Option<&str>,
    status: &Status,
) -> Vec<v1::Service> {
    let mut table: BTreeMap<String, v1::Service> = processes
        .iter()
        .filter(|p| !oneshot::is_one(&p.name))
        .map(|p| (p.name.clone(), service(p)))
        .collect();
    if let Some(name) = orchestrator {
        let row = table.entry(name.to_owned()).or_default();
        // What machined decided says more than what init sees.
        row.name = name.to_owned();
        row.set_state(status.service);
        row.pid = status.pid;
        row.restarts = status.restarts;
        row.message.clone_from(&status.message);
    }
    table.into_values().collect()
}

/// A service that init starts by itself.
fn service(process: &proto::Process) -> v1::Service {
    let state = match (process.pid, process.ready) {
        (0, _) => State::Backoff,
        (_, false) => State::Starting,
        (_, true) => State::Running,
    };
    v1::Service {
        name: process.name.clone(),
        state: state.into(),
        pid: process.pid,
        started: (process.started_ms != 0).then(|| orchestrator::moment(process.started_ms).into()),
        restarts: process.restarts,
        message: process.status.clone(),
    }
}

fn resource(service: &v1::Service) -> Resource {
    let (phase, word) = match service.state() {
        State::Running => (Phase::Ready, "running"),
        State::Stopped | State::Unspecified => (Phase::Ready, "stopped"),
        State::Starting => (Phase::Pending, "starting"),
        State::Stopping => (Phase::Pending, "stopping"),
        State::Backoff => (Phase::Failed, "backoff"),
    };
    // One that should run and does not is waiting for something.
    let phase = if word == "stopped" && !service.message.is_empty() {
        Phase::Pending
    } else {
        phase
    };
    Resource::new("service", service.name.as_str(), phase)
        .message(service.message.as_str())
        .field("state", word)
        .field("pid", service.pid)
        .field("restarts", service.restarts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, pid: u32, ready: bool) -> proto::Process {
        proto::Process {
            name: name.into(),
            pid,
            ready,
            started_ms: 1,
            ..Default::default()
        }
    }

    #[test]
    fn the_table_is_what_init_sees_with_what_machined_decided() {
        let processes = [
            process("machined", 2, true),
            process("apid", 3, false),
            process("k3s", 9, true),
            process("once-snapshot", 0, false),
        ];
        let status = Status {
            service: State::Stopping,
            pid: 9,
            restarts: 2,
            message: "stopping".into(),
            ..Status::default()
        };
        let table = table(&processes, Some("k3s"), &status);
        let rows: Vec<_> = table
            .iter()
            .map(|s| (s.name.as_str(), s.state(), s.pid, s.restarts))
            .collect();
        let wanted = [
            ("apid", State::Starting, 3, 0),
            ("k3s", State::Stopping, 9, 2),
            ("machined", State::Running, 2, 0),
        ];
        assert_eq!(rows, wanted);
    }

    #[test]
    fn an_orchestrator_that_does_not_run_is_in_the_table() {
        let table = table(
            &[process("apid", 0, false)],
            Some("k3s"),
            &Status::default(),
        );
        let rows: Vec<_> = table.iter().map(|s| (s.name.as_str(), s.state())).collect();
        assert_eq!(rows, [("apid", State::Backoff), ("k3s", State::Stopped)]);
    }
}
