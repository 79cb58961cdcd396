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
//! ```

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
        for op in &ops {
            self.apply(op)?;
        }
        Ok(generation)
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
                .map(|d| d.message.clone())
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

/// The changes that store a config, in order, and its generation.
fn plan(
    known: &[Known],
    current: Option<u64>,
    bytes: &[u8],
    source: &str,
    release: &str,
    applied: SystemTime,
) -> (u64, Vec<Op>) {
    let generation = known
        .iter()
        .map(|known| known.generation)
        .max()
        .unwrap_or(0)
        .max(current.unwrap_or(0))
        + 1;
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
    let mut ops = vec![
        Op::Put(format!("{generation}.yaml"), bytes.to_vec()),
        Op::Put(format!("{generation}.json"), beside),
        Op::Put("current".into(), format!("{generation}\n").into_bytes()),
    ];
    // What is kept beside the new one: the one that was current until now.
    let mut old = known.to_vec();
    old.sort_unstable_by_key(|it| (Some(it.generation) != current, Reverse(it.generation)));
    let mut others: Vec<String> = vec![release.to_owned()];
    for (
        place,
        Known {
            generation,
            release,
        },
    ) in old.into_iter().enumerate()
    {
        let first_of_its_release = !others.contains(&release);
        if first_of_its_release {
            others.push(release);
        }
        if place < KEPT - 1 || (first_of_its_release && others.len() <= KEPT_RELEASES + 1) {
            continue;
        }
        let gone = generation;
        ops.push(Op::Delete(format!("{gone}.yaml")));
        ops.push(Op::Delete(format!("{gone}.json")));
    }
    (generation, ops)
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
pub(crate) mod tests {
    use super::*;
    use crate::identity::tests::api;
    use std::os::unix::fs::PermissionsExt as _;

    /// A config that is valid on a machine, with `comment` in it.
    pub(crate) fn config(comment: &str) -> Vec<u8> {
        let api = api();
        let indent = |pem: &str| {
            pem.lines()
                .map(|line| format!("        {line}\n"))
                .collect::<String>()
        };
        format!(
            "# {comment}\napiVersion: keelson.dev/v1alpha1\nkind: Machine\nmachine:\n  hostname: server-1\n  \
             role: none\n  api:\n    ca: |\n{}    issuer:\n      cert: |\n{}      key: |\n{}",
            indent(&api.ca),
            indent(&api.issuer.cert),
            indent(api.issuer.key.reveal()),
        )
        .into_bytes()
    }

    fn store() -> (tempfile::TempDir, Configs) {
        let dir = tempfile::tempdir().unwrap();
        let configs = Configs::new(dir.path().join("config"), "0.1.0");
        (dir, configs)
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn names(configs: &Configs) -> Vec<String> {
        let entries = fs::read_dir(&configs.dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_saved_is_loaded_and_two_are_kept() {
        let (_dir, configs) = store();
        let loaded = configs.load();
        assert!(loaded.config.is_none() && loaded.problems.is_empty());
        for n in 1..=4u64 {
            assert_eq!(
                configs
                    .save(&config(&n.to_string()), "CN=admin", at(n))
                    .unwrap(),
                n
            );
        }
        let loaded = configs.load();
        assert_eq!(loaded.problems, [""; 0]);
        let stored = loaded.config.unwrap();
        assert_eq!(
            (stored.generation, stored.applied, stored.source.as_str()),
            (4, at(4), "CN=admin")
        );
        assert!(stored.bytes.starts_with(b"# 4\n"));
        assert_eq!(
            stored.machine.hostname.as_ref().map(|name| name.as_str()),
            Some("server-1")
        );
        assert_eq!(
            names(&configs),
            ["3.json", "3.yaml", "4.json", "4.yaml", "current"]
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&configs.dir), mode(&configs.dir.join("4.yaml"))),
            (0o700, 0o600)
        );
    }

    /// Power is cut after each prefix of the changes, and in the middle of each write.
    #[test]
    fn a_cut_of_power_at_any_point_leaves_the_old_or_the_new() {
        let (old, new) = (config("old"), config("new"));
        for before in 0..3u64 {
            for cut in 0.. {
                let (_dir, configs) = store();
                for n in 0..before {
                    configs.save(&old, "before", at(n)).unwrap();
                }
                make_private(&configs.dir).unwrap();
                let known = configs.known().unwrap();
                let (_, ops) = plan(&known, configs.current(), &new, "cut", "0.1.0", at(9));
                if cut > ops.len() {
                    break;
                }
                for op in &ops[..cut] {
                    configs.apply(op).unwrap();
                }
                if let Some(Op::Put(name, bytes)) = ops.get(cut) {
                    let torn = configs.dir.join(name).with_extension("tmp");
                    fs::write(torn, &bytes[..bytes.len() / 2]).unwrap();
                }
                let loaded = configs.load().config;
                let is =
                    |wanted: &[u8]| loaded.as_ref().is_some_and(|stored| stored.bytes == wanted);
                match cut {
                    0 | 1 if before == 0 => assert!(loaded.is_none(), "{cut}"),
                    // Whole, but not switched to: with no other it is as good as stored.
                    2 if before == 0 => assert!(is(&new)),
                    0..=2 => assert!(is(&old), "{before} {cut}"),
                    _ => assert!(is(&new), "{before} {cut}"),
                }
                // And what comes next works.
                let next = configs.save(&new, "after", at(10)).unwrap();
                assert!(loaded.is_none_or(|loaded| loaded.generation < next));
                assert_eq!(configs.load().config.unwrap().generation, next);
            }
        }
    }

    #[test]
    fn what_is_damaged_is_passed_over_and_told() {
        type Damage = fn(&Path);
        let cases: [(&str, Damage); 6] = [
            ("a torn config", |dir| {
                fs::write(dir.join("2.yaml"), "apiVersion: keel").unwrap()
            }),
            ("no config", |dir| {
                fs::remove_file(dir.join("2.yaml")).unwrap()
            }),
            ("no facts", |dir| {
                fs::remove_file(dir.join("2.json")).unwrap()
            }),
            ("torn facts", |dir| {
                fs::write(dir.join("2.json"), "{").unwrap()
            }),
            ("facts of a newer version", |dir| {
                let text = fs::read_to_string(dir.join("2.json")).unwrap();
                fs::write(
                    dir.join("2.json"),
                    text.replace("\"formatVersion\":1", "\"formatVersion\":9"),
                )
                .unwrap();
            }),
            ("a note that makes no sense", |dir| {
                fs::write(dir.join("current"), "\0\0").unwrap();
                fs::write(dir.join("2.yaml"), "").unwrap();
            }),
        ];
        for (name, damage) in cases {
            let (_dir, configs) = store();
            configs.save(&config("one"), "a", at(1)).unwrap();
            configs.save(&config("two"), "b", at(2)).unwrap();
            damage(&configs.dir);
            let loaded = configs.load();
            assert_eq!(
                loaded.config.map(|stored| stored.generation),
                Some(1),
                "{name}"
            );
            assert!(!loaded.problems.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_release_that_comes_back_finds_the_last_that_it_reads() {
        let (dir, old) = store();
        let first = config("of the old release");
        old.save(&first, "a", at(1)).unwrap();
        let new = Configs::new(dir.path().join("config"), "0.2.0");
        // A key that only the new release knows, many times over.
        let text = String::from_utf8(config("new")).unwrap();
        let text = text.replace("  role: none", "  role: none\n  hover: true");
        for n in 0..5 {
            new.save(text.as_bytes(), "a", at(2 + n)).unwrap();
        }
        let loaded = old.load();
        assert_eq!(loaded.config.unwrap().bytes, first);
        assert!(!loaded.problems.is_empty());
        assert_eq!(old.save(&config("again"), "a", at(9)).unwrap(), 7);
    }

    #[test]
    fn of_long_gone_releases_nothing_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        for n in 1..9 {
            let configs = Configs::new(dir.path().join("config"), &format!("0.{n}.0"));
            configs.save(&config("x"), "a", at(n)).unwrap();
        }
        let configs = Configs::new(dir.path().join("config"), "0.8.0");
        let mut kept = configs.generations().unwrap();
        kept.sort_unstable();
        assert_eq!(kept, [6, 7, 8]);
    }

    #[test]
    fn a_generation_is_never_used_again() {
        let (_dir, configs) = store();
        configs.save(&config("one"), "a", at(1)).unwrap();
        configs.save(&config("two"), "a", at(1)).unwrap();
        fs::remove_file(configs.dir.join("2.yaml")).unwrap();
        assert_eq!(configs.save(&config("three"), "a", at(1)).unwrap(), 3);
    }

    #[test]
    fn the_facts_as_they_are_on_disk() {
        let known = [6, 7].map(|generation| Known {
            generation,
            release: "0.1.0".into(),
        });
        let time = at(1_790_000_000);
        let (_, ops) = plan(&known, Some(7), b"x", "CN=admin", "0.1.0", time);
        let put = |name: &str, text: &str| Op::Put(name.into(), text.into());
        let facts = format!(
            r#"{{"formatVersion":1,"applied":1790000000,"source":"CN=admin","sha256":"{}","release":"0.1.0"}}"#,
            "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        );
        let wanted = [
            put("8.yaml", "x"),
            put("8.json", &facts),
            put("current", "8\n"),
            Op::Delete("6.yaml".into()),
            Op::Delete("6.json".into()),
        ];
        assert_eq!(ops, wanted);
    }
}
