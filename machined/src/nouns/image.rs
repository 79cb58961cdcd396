//! The noun image: the archives of container images that the config names are where the
//! orchestrator imports them from. Each is fetched by a task of its own, is checked by its
//! digest before it has its name, and is not fetched again. The orchestrator waits for those
//! that are under way; one that cannot be had for a while it starts without.
//!
//! A file's name holds its digest, so a new machined knows what there is, and what it may
//! delete. Files of others are left alone.

mod fetch;

use crate::{
    engine::Wake,
    mounted::is_mount_point,
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use fetch::Stand;
use keelson_config::{Egress, ImageArchive, Machine};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Where DATA is mounted; the orchestrator keeps what it has below it.
const DATA: &str = "/var";

/// How the names of our files begin.
const OURS: &str = "keelson-";

/// With this file there, the orchestrator imports a file once and not at every start.
/// <https://docs.k3s.io/installation/airgap#enable-conditional-image-imports>
const CACHE: &str = ".cache.json";

/// The first pause after a failure; it doubles …
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// So long an archive that cannot be had keeps the orchestrator from starting.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was observed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Have {
    now: Option<Instant>,
    /// The orchestrator's data has a place.
    mounted: bool,
    /// The names of our files.
    files: BTreeSet<String>,
    /// How the fetching stands, by the file's name.
    stands: BTreeMap<String, Seen>,
}

/// What was seen of one that is fetched.
#[derive(Clone, Debug)]
struct Seen {
    stand: Stand,
    since: Instant,
    again_at: Option<Instant>,
}

/// One missing step.
#[derive(Debug)]
pub(crate) enum Step {
    /// Begin to fetch one into the file of this name.
    Fetch(Box<ImageArchive>, Box<Egress>),
    /// Stop fetching the file of this name.
    Stop(String),
    /// Delete the file of this name.
    Delete(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Fetch(archive, _) => write!(f, "fetch {}", shown(archive)),
            Step::Stop(name) => write!(f, "stop fetching {name}"),
            Step::Delete(name) => write!(f, "delete {name}"),
        }
    }
}

/// The name that an archive has on the machine.
fn name(archive: &ImageArchive) -> String {
    format!("{OURS}{}{}", archive.sha256, archive.ending)
}

/// The name that an archive has where it comes from.
fn shown(archive: &ImageArchive) -> &str {
    let path = archive.url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

fn wanted(want: &Machine) -> &[ImageArchive] {
    want.orchestrator
        .as_ref()
        .map_or(&[], |orchestrator| &orchestrator.images)
}

/// The missing steps: what goes, goes first, for the room.
fn plan(have: &Have, want: &Machine) -> Vec<Step> {
    if !have.mounted {
        return Vec::new();
    }
    let wanted = wanted(want);
    let is_wanted = |file: &str| wanted.iter().any(|archive| name(archive) == file);
    let mut steps = Vec::new();
    for file in have.stands.keys().filter(|file| !is_wanted(file)) {
        steps.push(Step::Stop(file.clone()));
    }
    for file in have.files.iter().filter(|file| !is_wanted(file)) {
        steps.push(Step::Delete(file.clone()));
    }
    for archive in wanted {
        let file = name(archive);
        let due = match have.stands.get(&file) {
            None => true,
            Some(seen) => seen.again_at.is_some_and(|at| have.now >= Some(at)),
        };
        if !have.files.contains(&file) && due {
            let egress = Box::new(want.egress.clone());
            steps.push(Step::Fetch(Box::new(archive.clone()), egress));
        }
    }
    steps
}

/// One that is fetched, or could not be.
#[derive(Debug)]
struct Job {
    fetch: fetch::Fetch,
    /// When it was first tried.
    since: Instant,
    /// How long to wait after it failed.
    pause: Duration,
}

impl Job {
    fn seen(&self) -> Seen {
        let stand = self.fetch.stand();
        let again_at = match &stand {
            Stand::Failed(_, at) => Some(*at + self.pause),
            Stand::Under { .. } => None,
        };
        Seen {
            stand,
            since: self.since,
            again_at,
        }
    }
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Images {
    directory: Option<PathBuf>,
    wake: Wake,
    jobs: BTreeMap<String, Job>,
    /// What an earlier machined left unfinished is not there any more.
    tidied: bool,
}

impl Images {
    /// The noun, for an orchestrator that imports what is in this directory.
    pub(crate) fn new(directory: Option<PathBuf>, wake: Wake) -> Images {
        Images {
            directory,
            wake,
            jobs: BTreeMap::new(),
            tidied: false,
        }
    }

    fn directory(&self) -> anyhow::Result<&Path> {
        self.directory
            .as_deref()
            .context("the image carries no orchestrator")
    }
}

/// The names of our files in a directory.
fn files(directory: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut files = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(name) = name.to_str()
            && name.starts_with(OURS)
        {
            files.insert(name.to_owned());
        }
    }
    Ok(files)
}

impl Noun for Images {
    const KIND: &'static str = "image";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        let Some(directory) = &self.directory else {
            return Ok(Have::default());
        };
        let reading = || format!("reading {}", directory.display());
        let files = files(directory).with_context(reading)?;
        self.jobs.retain(|name, _| !files.contains(name));
        Ok(Have {
            now: Some(Instant::now()),
            mounted: is_mount_point(Path::new(DATA)).unwrap_or(false),
            files,
            stands: self
                .jobs
                .iter()
                .map(|(name, job)| (name.clone(), job.seen()))
                .collect(),
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, want)
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let directory = self.directory()?.to_owned();
        match step {
            Step::Fetch(archive, egress) => {
                prepare(&directory, !self.tidied)?;
                self.tidied = true;
                let name = name(archive);
                let (since, pause) = match self.jobs.get(&name) {
                    Some(job) => (job.since, (job.pause * 2).min(LAST_PAUSE)),
                    None => (Instant::now(), FIRST_PAUSE),
                };
                let wake = self.wake.clone();
                let target = directory.join(&name);
                let fetch = fetch::Fetch::begin(archive, (**egress).clone(), target, wake);
                let job = Job {
                    fetch,
                    since,
                    pause,
                };
                self.jobs.insert(name, job);
                Ok(())
            }
            Step::Stop(name) => {
                self.jobs.remove(name);
                Ok(())
            }
            Step::Delete(name) => {
                let path = directory.join(name);
                fs::remove_file(&path).with_context(|| format!("deleting {}", path.display()))
            }
        }
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        publish(have, want)
    }

    fn deadline(&self) -> Option<Instant> {
        self.jobs
            .values()
            .filter_map(|job| job.seen().again_at)
            .min()
    }
}

/// Makes the directory. What an earlier machined did not finish is deleted.
fn prepare(directory: &Path, tidy: bool) -> anyhow::Result<()> {
    let doing = || format!("preparing {}", directory.display());
    fs::create_dir_all(directory).with_context(doing)?;
    let cache = fs::File::options()
        .append(true)
        .create(true)
        .open(directory.join(CACHE));
    cache.with_context(doing)?;
    if !tidy {
        return Ok(());
    }
    for entry in fs::read_dir(directory).with_context(doing)? {
        let entry = entry.with_context(doing)?;
        if entry.file_name().to_string_lossy().ends_with(fetch::PART) {
            fs::remove_file(entry.path()).with_context(doing)?;
        }
    }
    Ok(())
}

fn publish(have: &Have, want: &Machine) -> Vec<Resource> {
    let resource = |archive: &ImageArchive| {
        let file = name(archive);
        let mebibytes = |bytes: u64| bytes / (1 << 20);
        let (phase, message) = match have.stands.get(&file) {
            _ if !have.mounted => (Phase::Pending, "the data volume is not mounted".to_owned()),
            _ if have.files.contains(&file) => (Phase::Ready, String::new()),
            None => (Phase::Pending, "it is to be fetched".to_owned()),
            Some(seen) => match &seen.stand {
                Stand::Under {
                    read,
                    length: Some(length),
                } => {
                    let (read, length) = (mebibytes(*read), mebibytes(*length));
                    (Phase::Pending, format!("{read} of {length} MiB are here"))
                }
                Stand::Under { read, length: None } => {
                    (Phase::Pending, format!("{} MiB are here", mebibytes(*read)))
                }
                Stand::Failed(why, at) if *at < seen.since + PATIENCE => {
                    (Phase::Pending, format!("tried again: {why}"))
                }
                Stand::Failed(why, _) => (Phase::Failed, format!("tried again: {why}")),
            },
        };
        Resource::new(Images::KIND, &archive.sha256[..12], phase)
            .message(message)
            .field("file", shown(archive))
    };
    wanted(want).iter().map(resource).collect()
}

#[cfg(test)]
mod tests;
