//! The stored configs: the newest and the one before, as written, each with who
//! brought it and when. A cut of power at any instant leaves a whole one.
//!
//! Of every other release that stored one its newest is kept too: after a rollback a release
//! that does not read what a later one wrote goes on with its own.
//!
//! ```text
//! config/7.yaml   as written
//! config/7.json   who, when, and the digest of 7.yaml
//! config/current  "7": switched last
//! config/staged   the generation that counts from the next boot on (staged.rs)
//! ```

mod staged;

pub(crate) use staged::Staged;

use bytes::Bytes;
use keelson_config::Machine;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    cmp::Reverse,
    fmt::{self, Write as _},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How many configs are kept.
const KEPT: usize = 2;

/// Of how many other releases one is kept beside them.
const KEPT_RELEASES: usize = 2;

/// The largest config, in bytes.
pub(crate) const LARGEST: usize = 1024 * 1024;

/// The version of the facts beside a config.
const FORMAT: u32 = 1;

/// A stored config.
#[derive(Clone)]
pub(crate) struct Stored {
    /// How many configs have been stored, this one included.
    pub generation: u64,
    /// As it was written. Secret.
    pub bytes: Bytes,
    /// When it was stored.
    pub applied: SystemTime,
    /// Who brought it, or where it was found.
    pub source: String,
    /// What it means.
    pub machine: Arc<Machine>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// What stands beside a config.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Beside {
    format_version: u32,
    /// Seconds since 1970.
    applied: u64,
    source: String,
    sha256: String,
    /// The release that stored it; empty where an early one did.
    #[serde(default)]
    release: String,
}

/// What was found in the store.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The newest config that is whole and valid.
    pub config: Option<Stored>,
    /// What was passed over, and why, in words.
    pub problems: Vec<String>,
}

/// The folder that the configs are in.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    dir: PathBuf,
    /// The release that runs.
    release: String,
}

/// A stored config, as far as it counts for what is kept.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    generation: u64,
    release: String,
}

/// One change of the folder. Each is durable before the next is begun.
#[derive(Debug, PartialEq)]
enum Op {
    /// Writes a file under a temporary name, flushes it and renames it.
    Put(String, Vec<u8>),
    /// Deletes a file, if it is there.
    Delete(String),
}

impl Configs {
    /// The configs in this folder; it is made when the first is stored.
    pub(crate) fn new(dir: PathBuf, release: &str) -> Self {
        Configs {
            dir,
            release: release.to_owned(),
        }
    }

    /// The newest config that is whole and valid.
    pub(crate) fn load(&self) -> Loaded {
        let mut loaded = Loaded::default();
        let mut generations = match self.generations() {
            Ok(generations) => generations,
            Err(error) => {
                loaded
                    .problems
                    .push(format!("listing {}: {error}", self.dir.display()));
                return loaded;
            }
        };
        generations.sort_unstable_by(|a, b| b.cmp(a));
        // The one that was switched to first; a newer one was not finished.
        if let Some(index) = self
            .current()
            .and_then(|current| generations.iter().position(|g| *g == current))
        {
            let current = generations.remove(index);
            generations.insert(0, current);
        } else if !generations.is_empty() {
            loaded
                .problems
                .push("no note of which stored config is current: the newest is taken".into());
        }
        for generation in generations {
            match self.read(generation) {
                Ok(stored) => {
                    loaded.config = Some(stored);
                    break;
                }
                Err(problem) => loaded.problems.push(format!(
                    "stored config {generation} is passed over: {problem}"
                )),
            }
        }
        loaded
    }

    /// Stores a config and switches to it; its generation. On an error the one
    /// before is still current.
    pub(crate) fn save(&self, bytes: &[u8], source: &str, applied: SystemTime) -> io::Result<u64> {
        make_private(&self.dir)?;
        let known = self.known()?;
        let (generation, ops) = plan(
            &known,
            self.current(),
            bytes,
            source,
            &self.release,
            applied,
        );
        self.apply_all(&ops)?;
        Ok(generation)
    }

    fn apply_all(&self, ops: &[Op]) -> io::Result<()> {
        ops.iter().try_for_each(|op| self.apply(op))
    }

    fn apply(&self, op: &Op) -> io::Result<()> {
        match op {
            Op::Put(name, bytes) => write_durable(&self.dir.join(name), bytes),
            Op::Delete(name) => match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// The generations of which there is a config, in no order.
    fn generations(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut generations = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(generation) = name
                .to_str()
                .and_then(|n| n.strip_suffix(".yaml"))
                .and_then(|n| n.parse().ok())
            {
                generations.push(generation);
            }
        }
        Ok(generations)
    }

    /// What is stored, with the release that stored each.
    fn known(&self) -> io::Result<Vec<Known>> {
        let generations = self.generations()?;
        let known = generations.into_iter().map(|generation| {
            // What cannot be read counts as nobody's.
            let release = fs::read(self.dir.join(format!("{generation}.json")))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Beside>(&bytes).ok())
                .map_or_else(String::new, |beside| beside.release);
            Known {
                generation,
                release,
            }
        });
        Ok(known.collect())
    }

    fn current(&self) -> Option<u64> {
        fs::read_to_string(self.dir.join("current"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn read(&self, generation: u64) -> Result<Stored, String> {
        let read = |name: String| {
            fs::read(self.dir.join(&name)).map_err(|error| format!("reading {name}: {error}"))
        };
        let bytes = read(format!("{generation}.yaml"))?;
        let beside: Beside = serde_json::from_slice(&read(format!("{generation}.json"))?)
            .map_err(|error| format!("parsing {generation}.json: {error}"))?;
        if beside.format_version > FORMAT {
            return Err(format!(
                "{generation}.json is of the newer format {}",
                beside.format_version
            ));
        }
        if beside.sha256 != digest(&bytes) {
            return Err(format!("{generation}.yaml is not what was written"));
        }
        let outcome = keelson_config::parse(&format!("{generation}.yaml"), &bytes);
        let Some(machine) = outcome.machine else {
            let first = outcome
                .diagnostics
                .first()
                .map(|it| match it.path.as_str() {
                    "" => it.message.clone(),
                    path => format!("{path}: {}", it.message),
                })
                .unwrap_or_default();
            return Err(format!("this version does not accept it: {first}"));
        };
        Ok(Stored {
            generation,
            bytes: bytes.into(),
            applied: SystemTime::UNIX_EPOCH + Duration::from_secs(beside.applied),
            source: beside.source,
            machine: Arc::new(machine),
        })
    }
}

/// The changes that store a config and switch to it, in order, and its generation.
fn plan(
    known: &[Known],
    current: Option<u64>,
    bytes: &[u8],
    source: &str,
    release: &str,
    applied: SystemTime,
) -> (u64, Vec<Op>) {
    let generation = next(known, current);
    let mut ops = puts(generation, bytes, source, release, applied);
    ops.extend(switch(known, current, generation, release));
    (generation, ops)
}

/// The number that the next config gets.
fn next(known: &[Known], current: Option<u64>) -> u64 {
    let newest = known.iter().map(|known| known.generation).max();
    newest.max(current).unwrap_or(0) + 1
}

/// The changes that write a config down, without switching to it.
fn puts(
    generation: u64,
    bytes: &[u8],
    source: &str,
    release: &str,
    applied: SystemTime,
) -> Vec<Op> {
    let beside = Beside {
        format_version: FORMAT,
        applied: applied
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        source: source.to_owned(),
        sha256: digest(bytes),
        release: release.to_owned(),
    };
    // A struct of numbers and strings always serialises.
    let beside = serde_json::to_vec(&beside).unwrap_or_default();
    vec![
        Op::Put(format!("{generation}.yaml"), bytes.to_vec()),
        Op::Put(format!("{generation}.json"), beside),
    ]
}

/// The changes that switch to a config that is written down. Whatever waited for a
/// boot has been overtaken; of the others those that are not kept go.
fn switch(known: &[Known], current: Option<u64>, generation: u64, release: &str) -> Vec<Op> {
    let mut ops = vec![
        Op::Put("current".into(), format!("{generation}\n").into_bytes()),
        Op::Delete(staged::NOTE.into()),
    ];
    // What is kept beside the new one: the one that was current until now.
    let mut old = known.to_vec();
    old.retain(|it| it.generation != generation);
    old.sort_unstable_by_key(|it| (Some(it.generation) != current, Reverse(it.generation)));
    let mut others: Vec<String> = vec![release.to_owned()];
    for (place, old) in old.into_iter().enumerate() {
        let first_of_its_release = !others.contains(&old.release);
        if first_of_its_release {
            others.push(old.release);
        }
        if place < KEPT - 1 || (first_of_its_release && others.len() <= KEPT_RELEASES + 1) {
            continue;
        }
        ops.extend(delete(old.generation));
    }
    ops
}

/// The changes that delete a config.
fn delete(generation: u64) -> [Op; 2] {
    ["yaml", "json"].map(|end| Op::Delete(format!("{generation}.{end}")))
}

/// SHA-256 in lower-case hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            write!(hex, "{byte:02x}").unwrap_or_default();
            hex
        })
}

/// Makes a folder, and those above it, that only root may enter.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Replaces a file so that after a cut of power either the old or the new one is
/// there, whole. Only root may read it.
pub(crate) fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    io::Write::write_all(&mut &file, bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
