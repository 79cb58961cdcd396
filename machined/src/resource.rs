//! The resources that machined publishes, in memory: each noun replaces the
//! whole list of its kind, readers get a copy and a stream of changes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};
use tokio::sync::broadcast;

/// Where a resource stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// As wanted.
    Ready,
    /// On its way, or waiting for something else.
    Pending,
    /// The last try failed; it is tried again.
    Failed,
}

/// One thing that the machine knows of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resource {
    /// What it is: "address".
    pub kind: String,
    /// Unique among its kind: "eth0/10.0.2.15/24".
    pub name: String,
    /// Where it stands.
    pub phase: Phase,
    /// Why it is there, or what failed last; may be empty.
    pub message: String,
    /// What is wanted and what was seen. Never a secret: readers see it.
    pub spec: serde_json::Map<String, serde_json::Value>,
    /// Counts up with every change over all resources. The store sets it.
    pub version: u64,
    /// When it last changed. The store sets it.
    pub updated: SystemTime,
}

impl Resource {
    /// A resource with neither message nor spec.
    pub(crate) fn new(kind: &str, name: impl Into<String>, phase: Phase) -> Self {
        Resource {
            kind: kind.to_owned(),
            name: name.into(),
            phase,
            message: String::new(),
            spec: serde_json::Map::new(),
            version: 0,
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    /// With a message.
    pub(crate) fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// With one more field in its spec.
    pub(crate) fn field(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.spec.insert(key.to_owned(), value.into());
        self
    }

    /// Whether the other says the same; version and time do not count.
    fn same(&self, other: &Resource) -> bool {
        self.kind == other.kind
            && self.name == other.name
            && self.phase == other.phase
            && self.message == other.message
            && self.spec == other.spec
    }
}

/// One change in the store.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A resource that was not there before.
    Added(Resource),
    /// A resource that says something else than before.
    Updated(Resource),
    /// A resource that is gone, as it was last.
    Removed(Resource),
}

/// All resources. Cheap to read; a change wakes every watcher.
#[derive(Debug)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    kinds: BTreeMap<String, BTreeMap<String, Resource>>,
}

impl Store {
    /// An empty store.
    pub(crate) fn new() -> Self {
        Store {
            inner: Mutex::default(),
            changes: broadcast::channel(1024).0,
        }
    }

    /// Replaces every resource of a kind. What says the same as before keeps its
    /// version and wakes nobody.
    pub(crate) fn replace(&self, kind: &str, resources: Vec<Resource>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { version, kinds } = &mut *inner;
        let old = kinds.entry(kind.to_owned()).or_default();
        let mut new = BTreeMap::new();
        for mut resource in resources {
            let before = old.remove(&resource.name);
            if let Some(before) = before.as_ref().filter(|before| before.same(&resource)) {
                new.insert(before.name.clone(), before.clone());
                continue;
            }
            *version += 1;
            resource.version = *version;
            resource.updated = SystemTime::now();
            let change = if before.is_some() {
                Change::Updated
            } else {
                Change::Added
            };
            self.send(change(resource.clone()));
            new.insert(resource.name.clone(), resource);
        }
        for gone in std::mem::replace(old, new).into_values() {
            *version += 1;
            self.send(Change::Removed(gone));
        }
    }

    /// All resources of a kind, sorted by name.
    pub(crate) fn list(&self, kind: &str) -> Vec<Resource> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .kinds
            .get(kind)
            .map(|all| all.values().cloned().collect())
            .unwrap_or_default()
    }

    /// One resource.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Resource> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.kinds.get(kind)?.get(name).cloned()
    }

    /// The kinds that there are, sorted.
    pub(crate) fn kinds(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.kinds.keys().cloned().collect()
    }

    /// All changes from now on. A reader that falls 1024 behind must list again.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn send(&self, change: Change) {
        // An error only says that nobody watches.
        drop(self.changes.send(change));
    }
}
