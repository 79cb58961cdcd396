//! Ends the machine's run in order, always in the same one: the node is emptied, what is
//! left is stopped, then the orchestrator, then what that left running; what it mounted
//! is unmounted, all is written out, and the rest is init's. What is done when is
//! `plan.rs`'s decision; what fails on the way is told, and the end goes on.

mod plan;
mod unfinished;

pub(crate) use plan::{LONGEST, Plan};
pub(crate) use unfinished::Unfinished;

use crate::{
    cluster::{access, drain, node, pod::Pod},
    cri,
    events::Events,
    initclient::Init,
    mounted::mount_points,
    orchestrator::{
        Member, Orchestrator,
        snapshot::{self, SnapshotError, Snapshots},
    },
    resource::{self, Resource, Store},
};
use keelson_api::v1::service::State;
use plan::{Phase, Runs, Seen, phases};
use rustix::mount::{UnmountFlags, unmount};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

/// What its events are about, and the kind of its resources.
const SUBJECT: &str = "power";
const KIND: &str = "shutdown";

/// The event behind which nothing more comes; `osctl` knows it.
const LAST: &str = "all is down, init goes on";

/// The cgroups of the orchestrator, its pods first.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/orchestrator"];

/// Below these the orchestrator and its pods mount things.
const MOUNTED_BELOW: [&str; 5] = [
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/run/k3s",
    "/run/netns",
    "/run/containerd",
];

/// How long an answer may take on its way through apid.
pub(crate) const ANSWER: Duration = Duration::from_millis(300);

/// What is left of a bound for what cannot be interrupted.
const MARGIN: Duration = Duration::from_secs(5);

/// How long a machined that was started again waits to see the orchestrator that runs.
const SIGHT: Duration = Duration::from_secs(15);

/// How many of the pods that are left are named.
const NAMED: usize = 5;

/// What is brought down, and who is told.
#[derive(Clone)]
pub(crate) struct Ground {
    /// Who does the last of it.
    pub init: Init,
    /// What runs here.
    pub orchestrator: Orchestrator,
    /// Where it is told.
    pub events: Arc<Events>,
    /// Where it can be seen.
    pub resources: Arc<Store>,
}

/// Brings everything down and has init reboot or power off.
///
/// `begun` is answered when there is no way back: at once, or where the plan asks for a
/// snapshot, when that is taken or is known to fit. If it is not, it is answered with the
/// reason and nothing has changed. From then on it always gets to the end.
pub(crate) async fn down(
    ground: Ground,
    plan: Plan,
    begun: oneshot::Sender<Result<(), SnapshotError>>,
) {
    let mut ending = Ending::new(ground, plan);
    let first = ending.before().await;
    let refused = first.is_err();
    if let Err(error) = &first {
        ending.ground.events.say(
            SUBJECT,
            format!("called off, the datastore cannot be kept: {error}"),
        );
        ending.ground.resources.replace(KIND, Vec::new());
    }
    // An error only says that the asker does not wait any more.
    drop(begun.send(first));
    if refused {
        return;
    }
    // The answer to who asked for it gets out first.
    sleep(ANSWER).await;
    ending.run().await;
}

/// Goes on with what a machined before this one had begun.
pub(crate) async fn go_on(ground: Ground, unfinished: Unfinished) {
    ground
        .events
        .say(SUBJECT, format!("goes on: {}", unfinished.plan().reason));
    if !unfinished.stopped {
        let mut status = ground.orchestrator.status();
        // Where none is seen there is none to empty.
        drop(timeout(SIGHT, status.wait_for(|status| status.pid != 0)).await);
    }
    let mut ending = Ending::new(ground, unfinished.plan());
    ending.stopped = unfinished.stopped;
    if ending.stopped {
        ending
            .phases
            .retain(|phase| !matches!(phase, Phase::Snapshot | Phase::Drain | Phase::Pods));
    }
    ending.run().await;
}

/// An end that is under way.
struct Ending {
    ground: Ground,
    plan: Plan,
    member: Option<Member>,
    phases: Vec<Phase>,
    /// What became of each phase so far; `Ok` with a word, `Err` with what went wrong.
    done: Vec<Result<String, String>>,
    /// What the API server said of the pods.
    pods: Vec<Pod>,
    /// The orchestrator was told to stop.
    stopped: bool,
}

impl Ending {
    fn new(ground: Ground, plan: Plan) -> Ending {
        let status = ground.orchestrator.status().borrow().clone();
        let member = status.member;
        let seen = Seen {
            runs: match (status.pid, status.service) {
                (0, _) => Runs::No,
                (_, State::Running) => Runs::Ready,
                _ => Runs::Unready,
            },
            role: member.as_ref().map(|member| member.role),
            datastore: ground.orchestrator.payload().and_then(snapshot::datastore),
        };
        Ending {
            phases: phases(&plan, &seen),
            ground,
            plan,
            member,
            done: Vec::new(),
            pods: Vec::new(),
            stopped: false,
        }
    }

    /// What may still call it off.
    async fn before(&mut self) -> Result<(), SnapshotError> {
        if self.phases.contains(&Phase::Copy)
            && let Some(payload) = self.ground.orchestrator.payload().cloned()
        {
            snapshot::blocking(move || Snapshots::new().room(&payload)).await?;
        }
        if self.phases.first() == Some(&Phase::Snapshot) {
            self.publish();
            let text = self.snapshot().await?;
            self.ended(Ok(text));
        }
        Ok(())
    }

    /// Has the running orchestrator write a snapshot.
    async fn snapshot(&self) -> Result<String, SnapshotError> {
        let (Some(payload), Some(version)) =
            (self.ground.orchestrator.payload(), &self.plan.snapshot_for)
        else {
            return Ok(String::new());
        };
        let snapshots = Snapshots::new();
        let taken = snapshots.of_running(&self.ground.init, payload, version);
        Ok(kept(&taken.await?))
    }

    /// Every phase that is left, and the word to init.
    async fn run(mut self) {
        while let Some(&phase) = self.phases.get(self.done.len()) {
            self.publish();
            self.stopped |= phase == Phase::Orchestrator;
            self.write_down();
            let bound = phase.bound(self.plan.force);
            let outcome = match timeout(bound, self.take(phase)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("not done within {} s", bound.as_secs())),
            };
            self.ended(outcome);
        }
        self.publish();
        self.ground.events.say(SUBJECT, LAST);
        // init is asked until it hears: the machine must not stay between up and down.
        while let Err(error) = self
            .ground
            .init
            .power(self.plan.action, &self.plan.reason)
            .await
        {
            self.ground
                .events
                .say(SUBJECT, format!("{error}; asked again"));
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn take(&mut self, phase: Phase) -> Result<String, String> {
        match phase {
            Phase::Snapshot => self.snapshot().await.map_err(|error| error.to_string()),
            Phase::Drain => self.drain().await,
            Phase::Pods => self.stop_pods().await,
            Phase::Orchestrator => {
                self.ground.orchestrator.halt().await;
                Ok(String::new())
            }
            Phase::Copy => self.copy().await,
            Phase::Processes => {
                kill_orchestrator_cgroups();
                gone().await;
                Ok(String::new())
            }
            Phase::Volumes => unmount_and_sync().await,
        }
    }

    /// Cordons the node and evicts its pods.
    async fn drain(&mut self) -> Result<String, String> {
        let (Some(payload), Some(member)) =
            (self.ground.orchestrator.payload(), self.member.clone())
        else {
            return Ok(String::new());
        };
        let begin = Instant::now();
        let client = access::client(&payload.data_dir, member.role)
            .map_err(|error| format!("the API server cannot be asked: {error:#}"))?;
        // A node that may not be cordoned can still be emptied.
        if let Err(error) = node::cordon(&client, &member.name).await {
            let text = format!("the node is not cordoned: {error}");
            self.ground.events.say(SUBJECT, text);
        }
        let left = (plan::DRAIN - MARGIN).saturating_sub(begin.elapsed());
        let drained = drain::drain(&client, &member.name, left).await;
        let text = drain_text(&drained);
        self.pods = drained.pods;
        text
    }

    async fn stop_pods(&mut self) -> Result<String, String> {
        let Some(payload) = self.ground.orchestrator.payload() else {
            return Ok(String::new());
        };
        let stopped = cri::stop_pods(&payload.container_runtime, &self.pods)
            .await
            .map_err(|error| format!("{error:#}"))?;
        match stopped.failed.is_empty() {
            true => Ok(format!("{} stopped", stopped.pods)),
            false => Err(format!(
                "{} stopped, others not: {}",
                stopped.pods,
                stopped.failed.join("; ")
            )),
        }
    }

    async fn copy(&self) -> Result<String, String> {
        let (Some(payload), Some(version)) =
            (self.ground.orchestrator.payload(), &self.plan.snapshot_for)
        else {
            return Ok(String::new());
        };
        // A process that was stopped too slowly may still write.
        kill_orchestrator_cgroups();
        gone().await;
        let (payload, version) = (payload.clone(), version.clone());
        snapshot::blocking(move || Snapshots::new().of_stopped(&payload, &version))
            .await
            .map(|taken| kept(&taken))
            .map_err(|error| error.to_string())
    }

    /// Tells what became of the phase that was under way.
    fn ended(&mut self, outcome: Result<String, String>) {
        if let Some(phase) = self.phases.get(self.done.len()) {
            let text = match &outcome {
                Ok(word) if word.is_empty() => format!("{phase}: done"),
                Ok(word) => format!("{phase}: {word}"),
                Err(why) => format!("{phase}: {why}; going on"),
            };
            self.ground.events.say(SUBJECT, text);
        }
        self.done.push(outcome);
    }

    /// Leaves word for a machined that comes after this one, in this boot.
    fn write_down(&self) {
        let phases = self.phases.iter().zip(&self.done);
        let kept = phases
            .filter(|(phase, _)| matches!(phase, Phase::Snapshot | Phase::Copy))
            .any(|(_, outcome)| outcome.is_ok());
        let mut plan = self.plan.clone();
        plan.snapshot_for = plan.snapshot_for.filter(|_| !kept);
        Unfinished::new(&plan, self.stopped).write(Path::new(unfinished::FILE));
    }

    fn publish(&self) {
        let rows = self.phases.iter().enumerate().map(|(index, phase)| {
            let (state, word, message) = match self.done.get(index) {
                Some(Ok(word)) => (resource::Phase::Ready, "done", word.as_str()),
                Some(Err(why)) => (resource::Phase::Failed, "failed", why.as_str()),
                None if index == self.done.len() => (resource::Phase::Pending, "running", ""),
                None => (resource::Phase::Pending, "waiting", ""),
            };
            Resource::new(KIND, phase.name(), state)
                .message(message)
                .field("step", index + 1)
                .field("state", word)
        });
        self.ground.resources.replace(KIND, rows.collect());
    }
}

fn kept(snapshot: &snapshot::Snapshot) -> String {
    format!("the datastore is kept in {}", snapshot.place.display())
}

/// What a drain came to, in words.
fn drain_text(drained: &drain::Drained) -> Result<String, String> {
    let mut problems = Vec::new();
    if let Some(trouble) = &drained.trouble {
        problems.push(trouble.clone());
    }
    if !drained.left.is_empty() {
        let named = drained
            .left
            .iter()
            .take(NAMED)
            .map(|(title, why)| match why.is_empty() {
                true => title.clone(),
                false => format!("{title} ({why})"),
            });
        let mut text = format!("still here: {}", named.collect::<Vec<_>>().join(", "));
        if drained.left.len() > NAMED {
            text.push_str(&format!(" and {} more", drained.left.len() - NAMED));
        }
        problems.push(text);
    }
    match problems.is_empty() {
        true => Ok(format!(
            "{} evicted",
            drained.pods.iter().filter(|pod| pod.evictable).count()
        )),
        false => Err(problems.join("; ")),
    }
}

/// Kills every process of the pods and of the orchestrator.
pub(crate) fn kill_orchestrator_cgroups() {
    for cgroup in CGROUPS {
        if let Err(error) = fs::write(Path::new(cgroup).join("cgroup.kill"), "1")
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("killing {cgroup}: {error}");
        }
    }
}

/// Waits until no process is left in the cgroups; the phase has a bound.
async fn gone() {
    loop {
        let populated = |cgroup| {
            let events =
                fs::read_to_string(Path::new(cgroup).join("cgroup.events")).unwrap_or_default();
            events.lines().any(|line| line == "populated 1")
        };
        if !CGROUPS.into_iter().any(populated) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Unmounts and writes out, beside the tasks that must not block.
async fn unmount_and_sync() -> Result<String, String> {
    let work = tokio::task::spawn_blocking(|| {
        let failed = unmount_all();
        rustix::fs::sync();
        failed
    });
    let failed = work.await.map_err(|error| error.to_string())?;
    if failed.is_empty() {
        return Ok(String::new());
    }
    let failed = failed
        .iter()
        .map(|(path, error)| format!("could not unmount {}: {error}", path.display()));
    Err(failed.collect::<Vec<_>>().join("; "))
}

/// Unmounts what the orchestrator mounted; what could not be.
fn unmount_all() -> Vec<(PathBuf, io::Error)> {
    let mounted = match mount_points() {
        Ok(mounted) => mounted,
        Err(error) => return vec![("/proc/self/mountinfo".into(), error)],
    };
    let mut failed = Vec::new();
    for path in below(&mounted) {
        let flags = UnmountFlags::NOFOLLOW;
        // A busy one is taken out of the tree; it is unmounted when its last user is gone.
        let outcome =
            unmount(&path, flags).or_else(|_| unmount(&path, flags | UnmountFlags::DETACH));
        if let Err(error) = outcome {
            failed.push((path, error.into()));
        }
    }
    failed
}

/// What is to be unmounted, in order: what was mounted last first.
fn below(mounted: &[PathBuf]) -> Vec<PathBuf> {
    let ours = |path: &&PathBuf| MOUNTED_BELOW.iter().any(|top| path.starts_with(top));
    mounted.iter().rev().filter(ours).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_orchestrator_mounted_is_unmounted_and_nothing_else() {
        let mounted = [
            "/",
            "/run",
            "/var",
            "/var/lib/kubelet/pods/1/volumes/secret",
            "/run/k3s/containerd/x/rootfs",
            "/run/k3sother",
            "/run/netns/cni-1",
            "/var/lib/kubelet/pods/1/volumes/secret/inner",
        ]
        .map(PathBuf::from);
        let wanted = [
            "/var/lib/kubelet/pods/1/volumes/secret/inner",
            "/run/netns/cni-1",
            "/run/k3s/containerd/x/rootfs",
            "/var/lib/kubelet/pods/1/volumes/secret",
        ]
        .map(PathBuf::from);
        assert_eq!(below(&mounted), wanted);
    }
}
