//! The volumes that the config adds: partitions of disks that do not hold the system, ext4,
//! at `/var/mnt` and their name. A partition is made where a disk is empty or has room, and
//! a file system where a partition is empty; nothing else that is on a disk is ever changed,
//! and nothing is ever deleted.

mod apply;
mod folder;
mod judge;
mod look;
mod plan;

use super::{Content, Volume as Noun, fullness};
use crate::{
    nouns::disk::Disk,
    resource::{Phase, Resource},
};
use keelson_config::{Machine, Volume};
pub(crate) use look::Found;
use look::{Found as Look, Mounted, Stand};
pub(crate) use plan::Step;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinHandle, time::timeout};

/// Below this they are mounted.
const MOUNTS: &str = "/var/mnt";

/// How long a volume that cannot be mounted keeps the orchestrator from starting.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a pass waits for the disks.
const LOOK: Duration = Duration::from_secs(10);

/// How soon a failed step is taken again; the pause doubles …
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// Where things are; other than on a machine only in tests.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The disk that holds the running root; `None` where the boot record is missing.
    system: Option<PathBuf>,
    block: PathBuf,
    dev: PathBuf,
    mounts: PathBuf,
    swaps: PathBuf,
    /// What the mount points are below.
    root: PathBuf,
}

impl Ground {
    pub(super) fn new(system: Option<PathBuf>, root: &Path) -> Ground {
        Ground {
            system,
            block: "/sys/block".into(),
            dev: "/dev".into(),
            mounts: "/proc/thread-self/mountinfo".into(),
            swaps: "/proc/swaps".into(),
            root: root.to_owned(),
        }
    }
}

/// Why a step failed.
#[derive(Debug)]
struct Failure {
    text: String,
    pause: Duration,
    again_at: Instant,
}

/// What is known of them from pass to pass.
#[derive(Debug)]
pub(crate) struct Further {
    ground: Arc<Ground>,
    /// As they were wanted last.
    wanted: Vec<Volume>,
    failures: BTreeMap<String, Failure>,
    /// Since when each has not been mounted.
    since: BTreeMap<String, Instant>,
    /// A look that has not ended yet; there is never a second one beside it.
    looking: Option<JoinHandle<anyhow::Result<Vec<Look>>>>,
    look_again: Option<Instant>,
}

impl Further {
    pub(super) fn new(ground: Ground) -> Further {
        Further {
            ground: Arc::new(ground),
            wanted: Vec::new(),
            failures: BTreeMap::new(),
            since: BTreeMap::new(),
            looking: None,
            look_again: None,
        }
    }

    /// Looks at the disks and at what is mounted. A disk that does not answer holds up none of
    /// the machine's own.
    pub(super) async fn observe(&mut self, want: &Machine) -> Vec<Look> {
        if self.wanted != want.volumes {
            self.wanted.clone_from(&want.volumes);
            // What failed may go well with other words.
            self.failures.clear();
            // What is still being looked at is not what is asked now.
            self.looking = None;
        }
        let mut look = self.looking.take().unwrap_or_else(|| {
            let (ground, wanted) = (self.ground.clone(), want.volumes.clone());
            tokio::task::spawn_blocking(move || look::look(&ground, &wanted))
        });
        let seen = match timeout(LOOK, &mut look).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(error))) => Err(format!("{error:#}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                self.looking = Some(look);
                Err(format!("a disk has not answered for {} s", LOOK.as_secs()))
            }
        };
        let found = seen.unwrap_or_else(|why| {
            let unseen = |volume: &Volume| Look {
                name: volume.name.clone(),
                wanted: Some(volume.clone()),
                stand: Stand::Absent(why.clone()),
                mounted: Mounted::No,
                closed: folder::is_closed(&self.ground.point(&volume.name)),
            };
            want.volumes.iter().map(unseen).collect()
        });
        let now = Instant::now();
        let mut waits = false;
        for volume in &found {
            if matches!(volume.mounted, Mounted::Here(_)) == volume.wanted.is_some() {
                self.since.remove(&volume.name);
                self.failures.remove(&volume.name);
            } else {
                self.since.entry(volume.name.clone()).or_insert(now);
                waits = true;
            }
        }
        let known = |name: &String| found.iter().any(|volume| volume.name == *name);
        self.since.retain(|name, _| known(name));
        self.failures.retain(|name, _| known(name));
        let pause = if waits { FIRST_PAUSE } else { super::IDLE };
        self.look_again = (!found.is_empty()).then(|| now + pause);
        found
    }

    /// The missing steps of those that may be tried.
    pub(super) fn plan(&self, found: &[Look]) -> Vec<Step> {
        let mut steps = plan::plan(found);
        steps.retain(|step| !self.is_held(step.name()));
        steps
    }

    fn is_held(&self, name: &str) -> bool {
        let failure = self.failures.get(name);
        failure.is_some_and(|failure| Instant::now() < failure.again_at)
    }

    /// Takes one step.
    pub(super) async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        if self.is_held(step.name()) {
            anyhow::bail!("a step before it failed");
        }
        let result = apply::apply(&self.ground, step).await;
        if let Err(error) = &result {
            let before = self.failures.get(step.name()).map(|failure| failure.pause);
            let pause = before.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LAST_PAUSE));
            let failure = Failure {
                text: format!("could not {step}: {error:#}"),
                pause,
                again_at: Instant::now() + pause,
            };
            self.failures.insert(step.name().to_owned(), failure);
        }
        result
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look_again
    }

    /// What is known of each.
    pub(super) fn publish(&self, found: &[Look]) -> Vec<Resource> {
        found.iter().map(|volume| self.resource(volume)).collect()
    }

    fn resource(&self, found: &Look) -> Resource {
        let since = self.since.get(&found.name);
        let patient = since.is_none_or(|since| since.elapsed() < PATIENCE);
        let failure = self.failures.get(&found.name);
        let (phase, message) = judged(found, failure.map(|f| f.text.as_str()), patient);
        let mounted = match &found.mounted {
            Mounted::Here(space) => Some(space),
            Mounted::No | Mounted::Other(_) => None,
        };
        let mut resource = Resource::new(<Noun as crate::noun::Noun>::KIND, &found.name, phase)
            .message(message)
            .field("label", judge::partition_name(&found.name))
            .field("mountPoint", format!("{MOUNTS}/{}", found.name))
            .field("mounted", mounted.is_some());
        if let Stand::Room(disk) = &found.stand {
            resource = resource.field("disk", disk.as_str());
        }
        if let Stand::There(place) = &found.stand {
            let filesystem = match &place.content {
                Content::Empty => "none",
                Content::Ext4(_) => "ext4",
                Content::Other(name) => name,
            };
            resource = resource
                .field("disk", place.disk.as_str())
                .field("device", place.called())
                .field("size", place.size)
                .field("filesystem", filesystem);
        }
        if let Some(space) = mounted {
            // In MiB, rounded, so that a watcher is not told of every line that is written.
            resource = resource
                .field("usedMib", space.total.saturating_sub(space.available) >> 20)
                .field("freeMib", space.available >> 20);
        }
        resource
    }
}

/// How a volume is, and what there is to say of it. `patient` says that what may come by
/// itself is still waited for.
fn judged(found: &Look, failure: Option<&str>, patient: bool) -> (Phase, String) {
    let waiting = if patient {
        Phase::Pending
    } else {
        Phase::Failed
    };
    let Some(wanted) = &found.wanted else {
        let text = failure.unwrap_or("it is not wanted any more, and to be unmounted");
        return (Phase::Pending, text.to_owned());
    };
    if let Some(why) = plan::refused(found) {
        return (Phase::Failed, why);
    }
    let Mounted::Here(space) = &found.mounted else {
        let text = match (&found.stand, failure) {
            (Stand::Absent(text), _) => text,
            (_, Some(text)) => text,
            _ => return (Phase::Pending, "it is not mounted yet".to_owned()),
        };
        return (waiting, text.to_owned());
    };
    let full = fullness(
        &format!("{MOUNTS}/{}", found.name),
        space.total,
        space.available,
    );
    match (&found.stand, wanted.size) {
        (Stand::There(place), Some(size))
            if full.0 == Phase::Ready && size.next_multiple_of(1 << 20) != place.size =>
        {
            let (has, wants) = (place.size >> 20, size >> 20);
            let text = format!(
                "it has {has} MiB, where the config says {wants}: a partition keeps its size"
            );
            (Phase::Ready, text)
        }
        _ => full,
    }
}

/// What is doubtful in a selector of the config, on a machine with these disks.
pub(crate) fn doubt(volume: &Volume, disks: &[Disk], system: &Path) -> Option<String> {
    let system = system.file_name()?.to_str()?;
    match look::choose(&volume.disk, disks, system) {
        Ok(_) => None,
        Err(look::Unchosen::None(text) | look::Unchosen::Several(text)) => Some(text),
    }
}

#[cfg(test)]
mod tests;
