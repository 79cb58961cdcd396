//! Shows where the upgrade stands, as the one resource of the kind `upgrade`.

use super::{
    Base,
    record::{End, Record, State},
    stage::Progress,
};
use crate::{
    orchestrator::snapshot::{Snapshot, Snapshots},
    resource::{Phase, Resource, Store},
};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::watch;

const KIND: &str = "upgrade";

/// Its name: there is one.
const NAME: &str = "system";

/// The version that the next boot tries, if one is staged.
pub(crate) fn staged(resources: &Store) -> Option<String> {
    let upgrade = resources.get(KIND, NAME)?;
    let text = |key| upgrade.spec.get(key).and_then(|value| value.as_str());
    let is_staged = text("state") == Some("staged");
    text("version").filter(|_| is_staged).map(str::to_owned)
}

/// Says why there is none.
pub(super) fn unable(resources: &Store, why: &str) {
    let resource = Resource::new(KIND, NAME, Phase::Ready)
        .message(why)
        .field("state", "unable");
    resources.replace(KIND, vec![resource]);
}

/// Keeps it, beside everything else.
pub(super) fn keep(
    resources: Arc<Store>,
    base: Arc<Base>,
    mut progress: watch::Receiver<Option<Progress>>,
) {
    let mut record = base.memory.watch();
    tokio::spawn(async move {
        loop {
            let now = record.borrow_and_update().clone();
            let under_way = progress.borrow_and_update().clone();
            let running = &base.running.version;
            let mut resource = resource(running, &now, under_way.as_ref());
            if let Some(snapshot) = snapshot(running) {
                resource = resource.field("snapshot", snapshot.place.to_string_lossy());
            }
            resources.replace(KIND, vec![resource]);
            tokio::select! {
                Ok(()) = record.changed() => {}
                changed = progress.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    });
}

/// The datastore's snapshot from before this version came, if one is kept.
pub(super) fn snapshot(version: &str) -> Option<Snapshot> {
    Snapshots::new()
        .list()
        .into_iter()
        .find(|snapshot| snapshot.before == version)
}

fn resource(running: &str, record: &Record, progress: Option<&Progress>) -> Resource {
    let staging = matches!(record.state, State::Writing { .. } | State::Staged { .. });
    let progress = progress.filter(|_| staging);
    let (phase, state, version, message) = told(record, progress);
    let mut resource = Resource::new(KIND, NAME, phase)
        .message(message)
        .field("state", state)
        .field("running", running);
    if let Some(version) = version {
        resource = resource.field("version", version);
    }
    if let Some(progress) = progress {
        let seconds: serde_json::Map<String, serde_json::Value> = progress
            .took
            .iter()
            .map(|(step, took)| (step.word().to_owned(), json!(took.as_secs_f64())))
            .collect();
        resource = resource
            .field("step", progress.step.word())
            .field("done", progress.done)
            .field("total", progress.total)
            .field("seconds", seconds);
    }
    if let State::Trying { boots, .. } = &record.state {
        resource = resource.field("boots", *boots);
    }
    if !record.floor.is_empty() {
        resource = resource.field("floor", record.floor.as_str());
    }
    if let Some(previous) = &record.previous {
        resource = resource.field("previous", previous.version.as_str());
    }
    if let Some(last) = &record.last {
        resource = resource.field("last", json!(last));
    }
    if !record.bad.is_empty() {
        resource = resource.field("bad", json!(record.bad));
    }
    resource
}

/// The state in one word, what it is about, and the same for a person.
fn told(
    record: &Record,
    progress: Option<&Progress>,
) -> (Phase, &'static str, Option<String>, String) {
    let of = |version: &str| Some(version.to_owned());
    match &record.state {
        State::Writing { release, .. } => {
            let version = &release.version;
            let how = progress.map_or(String::new(), |it| {
                let percent = it.done.saturating_mul(100).checked_div(it.total);
                format!(": {} {} %", it.step.word(), percent.unwrap_or(0))
            });
            let message = format!("{version} is being written{how}");
            (Phase::Pending, "writing", of(version), message)
        }
        State::Staged { release } => {
            let version = &release.version;
            let message = format!("the next boot tries {version}");
            (Phase::Pending, "staged", of(version), message)
        }
        State::Trying {
            release,
            boots,
            reason,
            ..
        } => {
            let version = &release.version;
            let message = match reason {
                None => format!("{version} is on trial, boot {boots}"),
                Some(why) => format!("{version} is not good: {why}"),
            };
            (Phase::Pending, "trying", of(version), message)
        }
        State::Unknown => {
            let message = "a later release left something that this one does not know";
            (Phase::Ready, "idle", None, message.to_owned())
        }
        State::Idle => match &record.last {
            None => (Phase::Ready, "idle", None, String::new()),
            Some(last) => {
                let version = &last.version;
                let (phase, state, message) = match last.end {
                    End::Good => (Phase::Ready, "good", format!("{version} is good")),
                    End::FellBack => (
                        Phase::Failed,
                        "fell back",
                        format!("came back from {version}: {}", last.reason),
                    ),
                    End::Failed => (
                        Phase::Failed,
                        "failed",
                        match version.is_empty() {
                            true => format!("the bundle was not taken: {}", last.reason),
                            false => format!("{version} was not staged: {}", last.reason),
                        },
                    ),
                    End::RolledBack => (
                        Phase::Ready,
                        "rolled back",
                        format!("went back from {version}: {}", last.reason),
                    ),
                    End::Unknown => (Phase::Ready, "idle", String::new()),
                };
                (phase, state, of(version), message)
            }
        },
    }
}
