//! An end of the machine's run that has begun, written down: a machined that dies in the middle of
//! it is started again, and the next one goes on where this one stopped instead of putting the
//! node back into service.

use super::Plan;
use keelson_api::init::power::Action;
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path};

/// Where it is written; gone with the boot, as what it tells of is.
pub(super) const FILE: &str = "/run/keelson/ending.json";

/// An end that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unfinished {
    power_off: bool,
    force: bool,
    reason: String,
    snapshot_for: Option<String>,
    /// The orchestrator has been told to stop: it must not be started again.
    pub(super) stopped: bool,
}

impl Unfinished {
    pub(super) fn new(plan: &Plan, stopped: bool) -> Unfinished {
        Unfinished {
            power_off: plan.action == Action::PowerOff,
            force: plan.force,
            reason: plan.reason.clone(),
            snapshot_for: plan.snapshot_for.clone(),
            stopped,
        }
    }

    /// The one that a machined of this boot has left.
    pub(crate) fn find() -> Option<Unfinished> {
        match read(Path::new(FILE)) {
            Ok(unfinished) => Some(unfinished),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("reading {FILE}: {error}; what it tells of is not ended");
                None
            }
        }
    }

    pub(super) fn plan(&self) -> Plan {
        Plan {
            action: match self.power_off {
                true => Action::PowerOff,
                false => Action::Reboot,
            },
            force: self.force,
            reason: self.reason.clone(),
            snapshot_for: self.snapshot_for.clone(),
        }
    }

    /// Writes it down. The end goes on where that fails.
    pub(super) fn write(&self, file: &Path) {
        if let Err(error) = write(self, file) {
            tracing::warn!("writing {}: {error}", file.display());
        }
    }
}

fn read(file: &Path) -> io::Result<Unfinished> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

fn write(unfinished: &Unfinished, file: &Path) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(unfinished)?)?;
    fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_the_same_plan() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ending.json");
        for (action, snapshot_for) in [
            (Action::PowerOff, None),
            (Action::Reboot, Some("2.0.0".to_owned())),
        ] {
            let plan = Plan {
                action,
                force: action == Action::Reboot,
                reason: "a test".into(),
                snapshot_for,
            };
            Unfinished::new(&plan, true).write(&file);
            let unfinished = read(&file).unwrap();
            assert!(unfinished.stopped);
            assert_eq!(unfinished.plan(), plan);
        }
    }
}
