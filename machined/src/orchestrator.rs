//! Keeps the orchestrator running as the config wants it: renders its config, has
//! init start and stop it, asks how it is, publishes what it sees. When to do what is
//! `state.rs`'s decision. It does not know which orchestrator it is.

mod keeper;
pub(crate) mod needs;
pub(crate) mod oneshot;
pub(crate) mod payload;
mod prepare;
pub(crate) mod probe;
mod render;
pub(crate) mod restore;
pub(crate) mod snapshot;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use crate::{
    cluster::access,
    engine::{Outcome, Wanted},
    events::Events,
    initclient::Init,
    resource::{Phase, Resource, Store},
};
use keelson_api::v1;
use keelson_config::{Machine, Role};
use keeper::Keeper;
use payload::Payload;
use probe::Probes;
use state::Input;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::{mpsc, watch};

/// Where its output goes.
pub(crate) const LOG_FILE: &str = "/var/log/keelson/orchestrator.log";

/// How the orchestrator is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    /// Whether the config wants one.
    pub wanted: bool,
    /// Where its service stands.
    pub service: v1::service::State,
    /// Its process; 0 if there is none.
    pub pid: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it is in this state.
    pub message: String,
    /// Whether the start takes longer than it should.
    pub overdue: bool,
    /// What it answered last; `None` while it does not run, or was not asked yet.
    pub probes: Option<Probes>,
    /// What this node is in its cluster; `None` where it is in none.
    pub member: Option<Member>,
}

/// What a node is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The node's name.
    pub name: String,
    /// Whether it serves or only works.
    pub role: access::Role,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            wanted: false,
            service: v1::service::State::Stopped,
            pid: 0,
            restarts: 0,
            message: String::new(),
            overdue: false,
            probes: None,
            member: None,
        }
    }
}

/// Asks the task that keeps the orchestrator.
#[derive(Clone)]
pub(crate) struct Orchestrator {
    payload: Option<Arc<Payload>>,
    asks: mpsc::Sender<Input>,
    status: watch::Receiver<Status>,
}

impl Orchestrator {
    /// The one in the image, if there is one.
    pub(crate) fn payload(&self) -> Option<&Payload> {
        self.payload.as_deref()
    }

    /// How it is, and every change.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Begins a restart.
    pub(crate) async fn restart(&self) {
        self.ask(Input::Restart).await;
    }

    /// Stops it for good; returns when it does not run any more.
    pub(crate) async fn halt(&self) {
        self.ask(Input::Halt).await;
        let mut status = self.status.clone();
        // An error says that its task is gone: then there is nothing to wait for.
        drop(
            status
                .wait_for(|status| status.pid == 0 && !status.wanted)
                .await,
        );
    }

    /// The steps that a config would take.
    pub(crate) fn plan(&self, have: &Machine, want: &Machine) -> Vec<v1::PlannedStep> {
        let name = self
            .payload
            .as_ref()
            .map_or("orchestrator", |payload| payload.name.as_str());
        let wanted = self.status.borrow().wanted;
        let wants = want.role != Role::None && want.orchestrator.is_some();
        let step = match (wanted, wants) {
            (false, true) => format!("start {name}"),
            (true, false) => format!("stop {name}"),
            (true, true) if !render::is_same(have, want) => {
                format!("restart {name} with its new config")
            }
            _ => return Vec::new(),
        };
        vec![v1::PlannedStep {
            noun: "orchestrator".into(),
            step,
        }]
    }

    async fn ask(&self, input: Input) {
        if self.payload.is_some() && self.asks.send(input).await.is_err() {
            tracing::error!("the task that keeps the orchestrator is gone");
        }
    }
}

/// What it takes to keep the orchestrator.
pub(crate) struct Parts {
    pub init: Init,
    pub wanted: watch::Receiver<Wanted>,
    pub outcome: watch::Receiver<Outcome>,
    pub resources: Arc<Store>,
    pub events: Arc<Events>,
    pub build_time: u64,
}

/// The CAs that the orchestrator trusts, where the config names more than the image has.
const TRUSTED_CAS: &str = "/run/keelson/trusted-cas.pem";

/// Begins to keep the orchestrator that the image carries.
pub(crate) fn start(payload: Option<Arc<Payload>>, parts: Parts) -> Orchestrator {
    let (asks, inbox) = mpsc::channel(16);
    let status = watch::Sender::new(Status::default());
    let orchestrator = Orchestrator {
        payload: payload.clone(),
        asks,
        status: status.subscribe(),
    };
    match payload {
        Some(payload) => {
            tokio::spawn(Keeper::new(parts, payload, status).run(inbox));
        }
        None => parts.resources.replace("orchestrator", vec![none()]),
    }
    orchestrator
}

fn none() -> Resource {
    Resource::new("orchestrator", "none", Phase::Ready).message("the image carries no orchestrator")
}

/// CLOCK_BOOTTIME in milliseconds.
pub(crate) fn boot_time_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0)
}

/// The moment of a CLOCK_BOOTTIME in milliseconds.
pub(crate) fn moment(boot_ms: u64) -> SystemTime {
    SystemTime::now() - Duration::from_millis(boot_time_ms().saturating_sub(boot_ms))
}
