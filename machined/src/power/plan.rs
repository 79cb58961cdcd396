//! What the end of the machine's run is made of: which phases, in which order, and how
//! long each may take. Pure.

use crate::{
    cluster::access::Role,
    cri,
    orchestrator::snapshot::{self, Datastore},
};
use keelson_api::init::power::Action;
use std::{fmt, time::Duration};

/// How long cordoning and draining may take.
pub(super) const DRAIN: Duration = Duration::from_secs(120);

/// How long the orchestrator may take to stop; init kills it after less.
const STOP: Duration = Duration::from_secs(75);

/// The same, if nobody wants to wait.
const STOP_FORCED: Duration = Duration::from_secs(5);

/// How long killed processes may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// How long unmounting and writing out may take; init has its own patience after it.
const UNMOUNT: Duration = Duration::from_secs(20);

/// Longer takes no end: what init is told to wait after a key was pressed at the machine.
pub(crate) const LONGEST: Duration = Duration::from_secs(
    snapshot::BOUND.as_secs()
        + DRAIN.as_secs()
        + cri::BOUND.as_secs()
        + STOP.as_secs()
        + DEATH.as_secs()
        + UNMOUNT.as_secs()
        + MARGIN.as_secs(),
);

/// For what is between the phases, and at init.
const MARGIN: Duration = Duration::from_secs(30);

/// How the machine's run is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What init is asked for when all is down.
    pub action: Action,
    /// Do not wait for pods.
    pub force: bool,
    /// Why, in words.
    pub reason: String,
    /// The version of the system that comes next, if the datastore is to be kept as it
    /// is for the case that this one comes back.
    pub snapshot_for: Option<String>,
}

/// How far the orchestrator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// It does not run.
    No,
    /// It runs and has not said that it is ready.
    Unready,
    /// It serves.
    Ready,
}

/// What the plan hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How far the orchestrator is.
    pub runs: Runs,
    /// What this node is in its cluster.
    pub role: Option<Role>,
    /// What the orchestrator of a server keeps its cluster in.
    pub datastore: Option<Datastore>,
}

/// A part of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Have the running orchestrator write a snapshot.
    Snapshot,
    /// Cordon the node and evict its pods.
    Drain,
    /// Stop the pods that are left.
    Pods,
    /// Stop the orchestrator.
    Orchestrator,
    /// Copy the datastore's files, which nobody has open now.
    Copy,
    /// Kill what is left of the orchestrator and its pods.
    Processes,
    /// Unmount what they mounted, and write out.
    Volumes,
}

impl Phase {
    /// Its name in resources and events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Snapshot => "snapshot",
            Phase::Drain => "drain",
            Phase::Pods => "pods",
            Phase::Orchestrator => "orchestrator",
            Phase::Copy => "copy",
            Phase::Processes => "processes",
            Phase::Volumes => "volumes",
        }
    }

    /// How long it may take.
    pub(crate) fn bound(self, force: bool) -> Duration {
        match self {
            Phase::Snapshot | Phase::Copy => snapshot::BOUND,
            Phase::Drain => DRAIN,
            Phase::Pods => cri::BOUND,
            Phase::Orchestrator if force => STOP_FORCED,
            Phase::Orchestrator => STOP,
            Phase::Processes => DEATH,
            Phase::Volumes => UNMOUNT,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The phases of this end on this machine, in order.
pub(crate) fn phases(plan: &Plan, seen: &Seen) -> Vec<Phase> {
    let mut phases = Vec::new();
    let keeps = seen
        .datastore
        .filter(|_| plan.snapshot_for.is_some() && seen.role == Some(Role::Server));
    // An etcd that does not run cannot be asked for one; its files are as good.
    let asked = keeps == Some(Datastore::Etcd) && seen.runs == Runs::Ready;
    if asked {
        phases.push(Phase::Snapshot);
    }
    if !plan.force {
        if seen.runs == Runs::Ready && seen.role.is_some() {
            phases.push(Phase::Drain);
        }
        if seen.runs != Runs::No {
            phases.push(Phase::Pods);
        }
    }
    // Even one that does not run is halted, or it could be started meanwhile.
    phases.push(Phase::Orchestrator);
    if keeps.is_some() && !asked {
        phases.push(Phase::Copy);
    }
    phases.extend([Phase::Processes, Phase::Volumes]);
    phases
}

#[cfg(test)]
mod tests {
    use super::{Phase::*, *};

    fn plan(force: bool, snapshot_for: Option<&str>) -> Plan {
        Plan {
            action: Action::Reboot,
            force,
            reason: "a test".into(),
            snapshot_for: snapshot_for.map(str::to_owned),
        }
    }

    fn seen(runs: Runs, role: Option<Role>, datastore: Option<Datastore>) -> Seen {
        Seen {
            runs,
            role,
            datastore,
        }
    }

    #[test]
    fn each_end_has_its_phases() {
        let (server, agent) = (Some(Role::Server), Some(Role::Agent));
        let (etcd, sqlite) = (Some(Datastore::Etcd), Some(Datastore::Sqlite));
        let usual: &[_] = &[Drain, Pods, Orchestrator, Processes, Volumes];
        let hasty: &[_] = &[Orchestrator, Processes, Volumes];
        let next = Some("2.0.0");
        let cases = [
            (
                "a server",
                false,
                None,
                seen(Runs::Ready, server, etcd),
                usual,
            ),
            (
                "an agent",
                false,
                None,
                seen(Runs::Ready, agent, None),
                usual,
            ),
            (
                "in haste",
                true,
                None,
                seen(Runs::Ready, server, etcd),
                hasty,
            ),
            (
                "not ready yet",
                false,
                None,
                seen(Runs::Unready, server, etcd),
                &[Pods, Orchestrator, Processes, Volumes],
            ),
            (
                "nothing runs",
                false,
                None,
                seen(Runs::No, server, etcd),
                hasty,
            ),
            (
                "no orchestrator",
                false,
                None,
                seen(Runs::No, None, None),
                hasty,
            ),
            (
                "upgrade with etcd",
                false,
                next,
                seen(Runs::Ready, server, etcd),
                &[Snapshot, Drain, Pods, Orchestrator, Processes, Volumes],
            ),
            (
                "upgrade with SQLite",
                false,
                next,
                seen(Runs::Ready, server, sqlite),
                &[Drain, Pods, Orchestrator, Copy, Processes, Volumes],
            ),
            (
                "upgrade in haste",
                true,
                next,
                seen(Runs::Ready, server, etcd),
                &[Snapshot, Orchestrator, Processes, Volumes],
            ),
            (
                "upgrade, etcd away",
                false,
                next,
                seen(Runs::Unready, server, etcd),
                &[Pods, Orchestrator, Copy, Processes, Volumes],
            ),
            (
                "upgrade, nothing runs",
                false,
                next,
                seen(Runs::No, server, etcd),
                &[Orchestrator, Copy, Processes, Volumes],
            ),
            (
                "upgrade of an agent",
                false,
                next,
                seen(Runs::Ready, agent, None),
                usual,
            ),
            (
                "an agent that was a server",
                false,
                next,
                seen(Runs::Ready, agent, etcd),
                usual,
            ),
            (
                "an external datastore",
                false,
                next,
                seen(Runs::Ready, server, None),
                usual,
            ),
        ];
        for (name, force, snapshot_for, seen, wanted) in cases {
            assert_eq!(phases(&plan(force, snapshot_for), &seen), wanted, "{name}");
        }
    }

    #[test]
    fn no_end_takes_longer_than_init_is_told_and_waits() {
        assert!(LONGEST < keelson_api::ENDING_PATIENCE);
        for role in [None, Some(Role::Server), Some(Role::Agent)] {
            for runs in [Runs::No, Runs::Unready, Runs::Ready] {
                for datastore in [Datastore::Etcd, Datastore::Sqlite] {
                    let seen = seen(runs, role, Some(datastore));
                    let phases = phases(&plan(false, Some("2.0.0")), &seen);
                    let sum: Duration = phases.iter().map(|phase| phase.bound(false)).sum();
                    assert!(sum < LONGEST, "{phases:?}: {sum:?}");
                }
            }
        }
    }
}
