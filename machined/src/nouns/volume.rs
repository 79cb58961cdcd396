//! The machine's two writable volumes, STATE at `/system/state` and DATA at `/var`, and those
//! that the config adds (`further.rs`). For the two only partitions of the disk that holds the
//! running root are looked at; nothing is formatted unless it is empty, and what is not known
//! is never touched.

mod apply;
mod content;
mod further;
mod mounts;
mod observe;
mod plan;
mod table;

use crate::{
    noun::Noun,
    resource::{Phase, Resource},
};
pub(crate) use content::Content;
pub(crate) use further::doubt;
use keelson_config::Machine;
pub(crate) use mounts::{Mount, parse as mounts};
use observe::{Found, Mounted};
pub(crate) use observe::{head, partition_node};
pub(crate) use plan::Step;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// One of the two volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    /// Config, identity, certificates; read by machined alone.
    State,
    /// `/var`: the orchestrator's data, images, logs.
    Data,
}

impl Which {
    /// Both, in the order in which they are mounted.
    pub(crate) const ALL: [Which; 2] = [Which::State, Which::Data];

    /// The name of its resource.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Which::State => "state",
            Which::Data => "data",
        }
    }

    /// The name of its partition, and the label of its file system.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Which::State => "KEELSON-STATE",
            Which::Data => "KEELSON-DATA",
        }
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(self) -> &'static str {
        match self {
            Which::State => "/system/state",
            Which::Data => "/var",
        }
    }

    /// What must be there for others to use, below its mount point.
    pub(crate) fn directories(self) -> &'static [Directory] {
        match self {
            Which::State => STATE_DIRECTORIES,
            Which::Data => DATA_DIRECTORIES,
        }
    }
}

/// A directory or a link that a volume must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Below the mount point; empty is the mount point itself.
    pub path: &'static str,
    /// What it must be.
    pub form: Form,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A directory that is made with this mode.
    Directory(u32),
    /// A symbolic link to this.
    Link(&'static str),
}

const fn directory(path: &'static str, mode: u32) -> Directory {
    Directory {
        path,
        form: Form::Directory(mode),
    }
}

const STATE_DIRECTORIES: &[Directory] = &[directory("", 0o700), directory("network", 0o700)];

/// Parents first. What the orchestrator makes for itself is not here.
const DATA_DIRECTORIES: &[Directory] = &[
    directory("lib", 0o755),
    directory("lib/cni", 0o755),
    directory("lib/kubelet", 0o750),
    directory("lib/rancher", 0o755),
    directory("lib/rancher/node", 0o700),
    directory("log", 0o755),
    directory("log/containers", 0o755),
    directory("log/keelson", 0o750),
    directory("log/pods", 0o755),
    directory("cache", 0o755),
    directory("tmp", 0o1777),
    // Programs that still say /var/run mean /run; a real directory here would outlive a boot.
    Directory {
        path: "run",
        form: Form::Link("/run"),
    },
];

/// Whether a volume can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Nobody has looked yet.
    Unknown,
    /// It is mounted and can be used.
    Mounted,
    /// It cannot be used, and why and what to do.
    Unavailable(String),
}

/// Whether the volumes can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volumes {
    /// STATE.
    pub state: Availability,
    /// DATA.
    pub data: Availability,
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Volume {
    places: Arc<Places>,
    /// Why each step failed when it was last taken.
    failures: BTreeMap<Step, String>,
    volumes: watch::Sender<Volumes>,
    look_again: Option<Instant>,
    further: further::Further,
}

/// One missing step, of the machine's own volumes or of the config's.
#[derive(Debug)]
pub(crate) enum Any {
    /// Of STATE or DATA.
    Own(Step),
    /// Of another.
    Further(further::Step),
}

impl Any {
    /// Whether STATE needs it.
    pub(crate) fn is_of_state(&self) -> bool {
        matches!(self, Any::Own(step) if step.which() == Which::State)
    }
}

impl fmt::Display for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Any::Own(step) => step.fmt(f),
            Any::Further(step) => step.fmt(f),
        }
    }
}

/// Where things are; other than on a machine only in tests.
#[derive(Debug)]
pub(crate) struct Places {
    /// The disk that holds the running root; `None` where the boot record is missing.
    pub disk: Option<PathBuf>,
    /// What the mount points are below.
    pub root: PathBuf,
}

impl Places {
    /// Where a volume is mounted.
    pub(crate) fn mount_point(&self, which: Which) -> PathBuf {
        self.root.join(which.mount_point().trim_start_matches('/'))
    }
}

impl Volume {
    /// The volumes of this disk; `None` or an empty path where it is not known.
    pub(crate) fn new(disk: Option<&Path>) -> Self {
        Self::with(disk, Path::new("/"))
    }

    fn with(disk: Option<&Path>, root: &Path) -> Self {
        let disk = disk
            .filter(|disk| !disk.as_os_str().is_empty())
            .map(Path::to_owned);
        let further = further::Further::new(further::Ground::new(disk.clone(), root));
        let unknown = Volumes {
            state: Availability::Unknown,
            data: Availability::Unknown,
        };
        Volume {
            places: Arc::new(Places {
                disk,
                root: root.to_owned(),
            }),
            failures: BTreeMap::new(),
            volumes: watch::Sender::new(unknown),
            look_again: None,
            further,
        }
    }

    /// Whether the volumes can be used, as of the last look. After the first pass over
    /// this noun neither is unknown.
    pub(crate) fn volumes(&self) -> watch::Receiver<Volumes> {
        self.volumes.subscribe()
    }

    /// Why a volume is not as wanted: the last failure, where the failed step is still
    /// missing, or else what stands on the disk. `None` where nothing is wrong.
    fn trouble(&self, have: &Have, which: Which) -> Option<String> {
        let Some(found) = have.found.iter().find(|found| found.which == which) else {
            let disk = self.places.disk.as_deref().unwrap_or(Path::new("?"));
            return Some(format!(
                "the disk {} has no partition named {}; install the machine again",
                disk.display(),
                which.label(),
            ));
        };
        // The first failure is the cause; those after it follow from it.
        let steps = plan::plan(std::slice::from_ref(found));
        let failed = steps.iter().find_map(|step| self.failures.get(step));
        failed.cloned().or_else(|| plan::refused(found))
    }

    fn availability(&self, have: &Have, which: Which) -> Availability {
        let mounted = have
            .found
            .iter()
            .any(|found| found.which == which && matches!(found.mounted, Mounted::Here { .. }));
        if mounted {
            return Availability::Mounted;
        }
        let trouble = self.trouble(have, which);
        Availability::Unavailable(trouble.unwrap_or_else(|| "it is not mounted yet".into()))
    }
}

/// What was observed.
#[derive(Debug)]
pub(crate) struct Have {
    found: Vec<Found>,
    further: Vec<further::Found>,
}

impl Noun for Volume {
    const KIND: &'static str = "volume";
    type Have = Have;
    type Step = Any;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Have> {
        let places = self.places.clone();
        let observed = tokio::task::spawn_blocking(move || observe::observe(&places)).await?;
        let volumes = match &observed {
            Ok(found) => {
                let have = Have {
                    found: found.clone(),
                    further: Vec::new(),
                };
                Volumes {
                    state: self.availability(&have, Which::State),
                    data: self.availability(&have, Which::Data),
                }
            }
            Err(error) => {
                let unavailable = Availability::Unavailable(format!("{error:#}"));
                Volumes {
                    state: unavailable.clone(),
                    data: unavailable,
                }
            }
        };
        let settled =
            volumes.state == Availability::Mounted && volumes.data == Availability::Mounted;
        let pause = if settled { IDLE } else { RETRY };
        self.look_again = Some(Instant::now() + pause);
        self.volumes.send_if_modified(|old| {
            let changed = *old != volumes;
            *old = volumes;
            changed
        });
        Ok(Have {
            found: observed?,
            further: self.further.observe(want).await,
        })
    }

    fn plan(&self, have: &Have, _: &Machine) -> Vec<Any> {
        let own = plan::plan(&have.found);
        let mounted = |found: &Found| matches!(found.mounted, Mounted::Here { .. });
        // They are mounted below DATA.
        let data = own.contains(&Step::Mount(Which::Data))
            || have
                .found
                .iter()
                .any(|found| found.which == Which::Data && mounted(found));
        let further = match data {
            true => self.further.plan(&have.further),
            false => Vec::new(),
        };
        let own = own.into_iter().map(Any::Own);
        own.chain(further.into_iter().map(Any::Further)).collect()
    }

    async fn apply(&mut self, step: &Any) -> anyhow::Result<()> {
        let step = match step {
            Any::Own(step) => step,
            Any::Further(step) => return self.further.apply(step).await,
        };
        let result = apply::apply(&self.places, step).await;
        match &result {
            Ok(()) => {
                self.failures.remove(step);
            }
            Err(error) => {
                self.failures
                    .insert(step.clone(), format!("could not {step}: {error:#}"));
            }
        }
        result
    }

    fn publish(&self, have: &Have, _: &Machine) -> Vec<Resource> {
        let own = Which::ALL.map(|which| self.resource(have, which));
        let mut all = Vec::from(own);
        all.extend(self.further.publish(&have.further));
        all
    }

    fn deadline(&self) -> Option<Instant> {
        let further = self.further.deadline();
        self.look_again.into_iter().chain(further).min()
    }
}

/// How often used space is looked at.
const IDLE: Duration = Duration::from_secs(60);
/// How soon to look again at what is not mounted.
const RETRY: Duration = Duration::from_secs(10);

impl Volume {
    fn resource(&self, have: &Have, which: Which) -> Resource {
        let trouble = self.trouble(have, which);
        let found = have.found.iter().find(|found| found.which == which);
        let mounted = found.map_or(&Mounted::No, |found| &found.mounted);
        let (phase, message) = match (trouble, mounted) {
            (Some(trouble), _) => (Phase::Failed, trouble),
            (
                None,
                Mounted::Here {
                    total, available, ..
                },
            ) => fullness(which.mount_point(), *total, *available),
            (None, _) => (Phase::Pending, "it is not mounted yet".into()),
        };
        let mut resource = Resource::new(Self::KIND, which.name(), phase)
            .message(message)
            .field("label", which.label())
            .field("mountPoint", which.mount_point());
        if let Some(found) = found {
            let filesystem = match &found.content {
                Content::Empty => "none",
                Content::Ext4(_) => "ext4",
                Content::Other(name) => name,
            };
            resource = resource
                .field("device", found.device.to_string_lossy())
                .field("size", found.size)
                .field("filesystem", filesystem);
        }
        if let Mounted::Here {
            total, available, ..
        } = mounted
        {
            // In MiB, rounded, so that a watcher is not told of every log line.
            resource = resource
                .field("usedMib", total.saturating_sub(*available) >> 20)
                .field("freeMib", available >> 20);
        }
        resource
    }
}

/// Says whether a volume fills up: above 90 % used it is not as it should be, and full
/// it has failed.
fn fullness(point: &str, total: u64, available: u64) -> (Phase, String) {
    let used = total.saturating_sub(available);
    let percent = used.saturating_mul(100) / total.max(1);
    let free = available >> 20;
    match percent {
        99.. => (
            Phase::Failed,
            format!("{point} is full: {free} MiB are left; remove data or use a larger disk"),
        ),
        91.. => (
            Phase::Pending,
            format!("{point} is {percent} % full: {free} MiB are left"),
        ),
        _ => (Phase::Ready, String::new()),
    }
}

#[cfg(test)]
#[path = "volume/tests.rs"]
mod disk_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_fills_up_says_so() {
        let gib = 1 << 30;
        for (total, available, want) in [
            (gib, gib, Phase::Ready),
            (gib, gib / 8, Phase::Ready),
            (gib, gib / 12, Phase::Pending),
            (gib, gib / 200, Phase::Failed),
            (gib, 0, Phase::Failed),
            (0, 0, Phase::Ready),
        ] {
            let (phase, message) = fullness("/var", total, available);
            assert_eq!(phase, want, "{available} of {total}: {message}");
            assert_eq!(message.is_empty(), phase == Phase::Ready);
        }
    }

    #[test]
    fn parents_come_before_what_is_in_them() {
        for which in Which::ALL {
            let mut made = vec![""];
            for directory in which.directories() {
                let parent = directory
                    .path
                    .rsplit_once('/')
                    .map_or("", |(parent, _)| parent);
                assert!(made.contains(&parent), "{} before {parent}", directory.path);
                made.push(directory.path);
            }
        }
    }

    #[tokio::test]
    async fn without_a_boot_record_nothing_is_touched_and_the_reason_is_known() {
        let mut volume = Volume::new(None);
        let volumes = volume.volumes();
        assert_eq!(volumes.borrow().state, Availability::Unknown);
        volume.observe(&Machine::maintenance()).await.unwrap_err();
        let Availability::Unavailable(reason) = volumes.borrow().state.clone() else {
            panic!("not unavailable");
        };
        assert!(reason.contains("boot record"), "{reason}");
    }
}
