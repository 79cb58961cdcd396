//! Kernel parameters below `/proc/sys`: what every Kubernetes host needs and what
//! hardens the machine, overlaid by the config. A parameter that nobody wants any
//! more goes back to the value that it had before it was first changed.

mod defaults;
mod router;

use crate::{
    netlink::Netlink,
    noun::Noun,
    nouns::{
        file::{RenderedFile, ensure},
        link,
        module::Loading,
    },
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use defaults::{DEFAULTS, For, How};
use keelson_config::{Machine, Role};
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};
use tokio::sync::watch;

/// Where the values before the first change are kept: machined may be started again,
/// a reboot brings the kernel's own values back.
const ORIGINALS: &str = "/run/keelson/sysctl.json";

/// The noun.
pub(crate) struct Sysctls {
    root: PathBuf,
    store: PathBuf,
    originals: BTreeMap<String, String>,
    /// The machine's memory; `None` where it is not known.
    memory_kib: Option<u64>,
    /// The modules that are being loaded.
    loading: Loading,
}

/// What is wanted of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    value: String,
    how: How,
    /// Why; `None` where the config says so.
    why: Option<&'static str>,
}

/// What was read of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Its value, white space normalised.
    Is(String),
    /// The kernel has none of this name.
    Missing,
    /// It is there, but cannot be read.
    Unreadable(String),
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Have {
    values: BTreeMap<String, Value>,
    /// The values before the first change.
    originals: BTreeMap<String, String>,
    /// Whether modules are being loaded, which may bring what is missing.
    loading: bool,
    /// What links want that hear routers.
    routers: BTreeMap<String, Wanted>,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Set a parameter.
    Set {
        /// Its dotted name.
        key: String,
        /// The new value.
        value: String,
    },
    /// Set one that is not wanted any more to what it was.
    Restore {
        /// Its dotted name.
        key: String,
        /// The old value.
        value: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Set { key, value } => write!(f, "set {key} to {value}"),
            Step::Restore { key, value } => write!(f, "set {key} back to {value}"),
        }
    }
}

/// What is wanted in all, on a machine with so much memory and these links that hear
/// routers: the config wins.
fn wanted(
    machine: &Machine,
    memory_kib: Option<u64>,
    routers: &BTreeMap<String, Wanted>,
) -> BTreeMap<String, Wanted> {
    let pods = machine.role != Role::None;
    let swap = machine.swap.is_some();
    let mut wanted: BTreeMap<String, Wanted> = DEFAULTS
        .iter()
        .filter(|default| match default.on {
            For::Every => true,
            For::Pods => pods,
            For::Swap => swap,
        })
        .map(|default| {
            let why = Some(default.why);
            (
                default.key.to_owned(),
                Wanted {
                    value: default.value.to_owned(),
                    how: default.how,
                    why,
                },
            )
        })
        .collect();
    if let Some(memory_kib) = memory_kib {
        let reserve = Wanted {
            value: defaults::reserve(memory_kib).to_string(),
            how: How::AtMost,
            why: Some(defaults::WHY_RESERVE),
        };
        wanted.insert(defaults::RESERVE.to_owned(), reserve);
    }
    wanted.extend(routers.clone());
    for (key, value) in &machine.sysctls {
        let value = normalise(value);
        wanted.insert(
            key.as_str().to_owned(),
            Wanted {
                value,
                how: How::Exactly,
                why: None,
            },
        );
    }
    wanted
}

/// What is missing.
pub(crate) fn plan(have: &Have, wanted: &BTreeMap<String, Wanted>) -> Vec<Step> {
    let gone = have
        .originals
        .iter()
        .filter(|(key, _)| !wanted.contains_key(*key));
    let restore = gone.map(|(key, value)| Step::Restore {
        key: key.clone(),
        value: value.clone(),
    });
    let set = wanted.iter().filter(|&(key, wanted)| {
        let value = have.values.get(key);
        !satisfied(value, wanted) && !comes(value, have)
    });
    let set = set.map(|(key, wanted)| Step::Set {
        key: key.clone(),
        value: wanted.value.clone(),
    });
    restore.chain(set).collect()
}

/// Whether a parameter is missing that a module may be about to bring.
fn comes(value: Option<&Value>, have: &Have) -> bool {
    have.loading && value == Some(&Value::Missing)
}

fn satisfied(value: Option<&Value>, wanted: &Wanted) -> bool {
    match (value, wanted.how) {
        (Some(Value::Missing), How::IfThere) => true,
        (Some(Value::Is(value)), how @ (How::AtLeast | How::AtMost)) => {
            match (value.parse::<u64>(), wanted.value.parse::<u64>()) {
                (Ok(value), Ok(wanted)) if how == How::AtLeast => value >= wanted,
                (Ok(value), Ok(wanted)) => value <= wanted,
                _ => *value == wanted.value,
            }
        }
        (Some(Value::Is(value)), How::Exactly | How::IfThere) => *value == wanted.value,
        (None | Some(Value::Missing | Value::Unreadable(_)), _) => false,
    }
}

/// One space between two words: the kernel prints tabs where people write spaces.
fn normalise(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The machine's memory, as MemTotal has it.
fn memory_kib() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit) / 1024
}

/// The file of a parameter. A slash in the name stands for a dot in a file's name,
/// as in `net.ipv4.conf.eth0/100.forwarding`.
fn path(root: &Path, key: &str) -> PathBuf {
    key.split('.').fold(root.to_owned(), |path, part| {
        path.join(part.replace('/', "."))
    })
}

impl Sysctls {
    /// The noun. `loading` are the modules that are being loaded: they bring parameters.
    pub(crate) fn new(loading: Loading) -> Self {
        Sysctls {
            memory_kib: Some(memory_kib()),
            loading,
            ..Sysctls::below(Path::new("/proc/sys"), Path::new(ORIGINALS))
        }
    }

    fn below(root: &Path, store: &Path) -> Self {
        let originals = fs::read(store)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Sysctls {
            root: root.to_owned(),
            store: store.to_owned(),
            originals,
            memory_kib: None,
            loading: watch::Sender::default().subscribe(),
        }
    }

    fn read(&self, key: &str) -> Value {
        match fs::read_to_string(path(&self.root, key)) {
            Ok(value) => Value::Is(normalise(&value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Missing,
            Err(error) => Value::Unreadable(error.to_string()),
        }
    }

    fn write(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = path(&self.root, key);
        // Never made: a parameter that is not there is not made by writing it.
        let mut file = match fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                anyhow::bail!(
                    "this kernel has no parameter {key}; is its name right, and its module loaded?"
                );
            }
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        };
        // In one write: the kernel takes each for a whole value.
        let line = format!("{value}\n");
        let written = rustix::io::write(&mut file, line.as_bytes())
            .with_context(|| format!("the kernel refuses {value:?} for {key}"))?;
        anyhow::ensure!(
            written == line.len(),
            "the kernel takes only a part of {value:?} for {key}"
        );
        Ok(())
    }

    fn remember(&mut self, key: &str) -> anyhow::Result<()> {
        if self.originals.contains_key(key) {
            return Ok(());
        }
        if let Value::Is(value) = self.read(key) {
            self.originals.insert(key.to_owned(), value);
            self.save()?;
        }
        Ok(())
    }

    fn save(&self) -> anyhow::Result<()> {
        let json = serde_json::to_vec(&self.originals)?;
        ensure(&[RenderedFile::file(&self.store, 0o600, json)]).map(drop)
    }
}

impl Noun for Sysctls {
    const KIND: &'static str = "sysctl";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Have> {
        // Before the parameters: what is loaded by then has brought its own.
        let loading = !self.loading.borrow().is_empty();
        let mut routers = BTreeMap::new();
        if want.network.links.iter().any(|link| link.dhcp_v6) {
            let links = link::look(&Netlink::connect()?).await?;
            routers = router::wanted(&links, &want.network);
        }
        let values = wanted(want, self.memory_kib, &routers)
            .into_keys()
            .map(|key| (key.clone(), self.read(&key)))
            .collect();
        Ok(Have {
            values,
            originals: self.originals.clone(),
            loading,
            routers,
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, &wanted(want, self.memory_kib, &have.routers))
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Set { key, value } => {
                self.remember(key)?;
                self.write(key, value)
            }
            Step::Restore { key, value } => {
                // A parameter that went away with its module needs no value.
                if self.read(key) != Value::Missing {
                    self.write(key, value)?;
                }
                self.originals.remove(key);
                self.save()
            }
        }
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        wanted(want, self.memory_kib, &have.routers)
            .into_iter()
            .map(|(key, wanted)| {
                let value = have.values.get(&key);
                let done = satisfied(value, &wanted);
                let (phase, message) = match value {
                    Some(Value::Missing) if done => (
                        Phase::Ready,
                        "this kernel has no such parameter, or not yet".to_owned(),
                    ),
                    _ if done => (
                        Phase::Ready,
                        wanted.why.unwrap_or("wanted by the config").to_owned(),
                    ),
                    Some(Value::Unreadable(error)) => {
                        (Phase::Failed, format!("cannot be read: {error}"))
                    }
                    _ if comes(value, have) => (
                        Phase::Pending,
                        "a module that is being loaded may bring it".to_owned(),
                    ),
                    Some(Value::Missing) => {
                        (Phase::Failed, "the kernel has no such parameter".to_owned())
                    }
                    _ if wanted.how == How::AtMost => {
                        (Phase::Failed, format!("is more than {}", wanted.value))
                    }
                    _ => (Phase::Failed, format!("is not {}", wanted.value)),
                };
                let resource = Resource::new(Self::KIND, key, phase)
                    .message(message)
                    .field("wanted", wanted.value)
                    .field(
                        "from",
                        if wanted.why.is_some() {
                            "default"
                        } else {
                            "config"
                        },
                    );
                match value {
                    Some(Value::Is(value)) => resource.field("value", value.clone()),
                    _ => resource,
                }
            })
            .collect()
    }
}

/// Sets what links want that hear routers, and nothing else.
#[cfg(test)]
pub(crate) async fn hear_routers(want: &Machine) {
    let links = link::look(&Netlink::connect().unwrap()).await.unwrap();
    let sysctls = Sysctls::below(Path::new("/proc/sys"), Path::new("/not/there"));
    for (key, wanted) in router::wanted(&links, &want.network) {
        sysctls.write(&key, &wanted.value).unwrap();
    }
}

#[cfg(test)]
mod tests;
