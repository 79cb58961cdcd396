//! Ends the machine's run in order: stops the orchestrator and what it left running,
//! unmounts what it mounted, syncs, and leaves the rest to init.

use crate::{events::Events, initclient::Init, mounted::mount_points, orchestrator::Orchestrator};
use keelson_api::init::power::Action;
use rustix::mount::{UnmountFlags, unmount};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

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

/// How long the orchestrator may take to stop; init kills it after less.
const PATIENCE: Duration = Duration::from_secs(75);

/// The same, if nobody wants to wait.
const FORCED: Duration = Duration::from_secs(5);

/// How long an answer may take on its way through apid.
const ANSWER: Duration = Duration::from_millis(300);

/// How long killed processes may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// Brings everything down and has init reboot or power off. It always gets to the
/// end; what fails on the way is told.
pub(crate) async fn down(
    init: Init,
    orchestrator: Orchestrator,
    events: Arc<Events>,
    action: Action,
    force: bool,
    reason: String,
) {
    // The answer to who asked for it gets out first.
    sleep(ANSWER).await;
    let patience = if force { FORCED } else { PATIENCE };
    if timeout(patience, orchestrator.halt()).await.is_err() {
        events.say(
            "power",
            format!(
                "the orchestrator did not stop within {} s",
                patience.as_secs()
            ),
        );
    }
    kill_orchestrator_cgroups();
    if !gone(DEATH).await {
        events.say("power", "some of the pods' processes cannot be killed");
    }
    let cleaned = tokio::task::spawn_blocking(|| {
        let failed = unmount_all();
        rustix::fs::sync();
        failed
    });
    match cleaned.await {
        Ok(failed) => {
            for (path, error) in failed {
                events.say(
                    "power",
                    format!("could not unmount {}: {error}", path.display()),
                );
            }
        }
        Err(error) => tracing::error!("unmounting: {error}"),
    }
    // init is asked until it hears: the machine must not stay between up and down.
    while let Err(error) = init.power(action, &reason).await {
        events.say("power", format!("{error}; asked again"));
        sleep(Duration::from_secs(1)).await;
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

/// Waits until no process is left in the cgroups.
async fn gone(patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let populated = |cgroup| {
            let events =
                fs::read_to_string(Path::new(cgroup).join("cgroup.events")).unwrap_or_default();
            events.lines().any(|line| line == "populated 1")
        };
        if !CGROUPS.into_iter().any(populated) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
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
