//! The cluster's memory, kept aside before an upgrade: Kubernetes cannot go back by a
//! minor version with a datastore that a newer one has written. Putting one back is
//! `restore.rs`'s part.
//!
//! A snapshot is a folder below `/var/lib/keelson/snapshots` with `snapshot.json` in it,
//! written last: without it there is no snapshot. It holds what the cluster's secrets
//! are encrypted with, so only root may read it, and it never leaves the machine.

use super::{oneshot, payload::Payload};
use crate::initclient::Init;
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where Keelson keeps what is its own on the data volume.
pub(crate) const HOME: &str = "/var/lib/keelson";

/// How long taking one may last.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// How many are kept.
const KEPT: usize = 3;

/// What must stay free beside a snapshot: a full volume stops the cluster.
const RESERVE: u64 = 64 << 20;

/// The manifest of a snapshot.
const MANIFEST: &str = "snapshot.json";

/// The version of the manifest that is understood here.
const FORMAT: u32 = 1;

/// The snapshot that etcd wrote, inside the folder.
const ETCD_FILE: &str = "etcd-snapshot";

/// The same, where the orchestrator compresses: it tells by the name.
const ETCD_ZIP: &str = "etcd-snapshot.zip";

/// The copied files, inside the folder.
pub(super) const FILES: &str = "db";

/// The server's token, inside the folder.
const TOKEN: &str = "token";

/// What a server keeps its cluster in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Datastore {
    /// An etcd inside the orchestrator.
    Etcd,
    /// One file, through the orchestrator's translation.
    Sqlite,
}

/// What is in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Form {
    /// What etcd itself wrote of its running state.
    Etcd,
    /// The datastore's files as they lie below `server/db`.
    Files,
}

/// A snapshot that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Its folder.
    pub place: PathBuf,
    /// When it was taken, in seconds since 1970.
    pub taken: u64,
    /// The version of the system that was to come after it.
    pub before: String,
    /// The orchestrator it is of, …
    pub orchestrator: String,
    /// … and that one's version: no other minor version of Kubernetes may open it but
    /// the next.
    pub version: String,
    /// What is in it.
    pub form: Form,
}

impl Snapshot {
    /// What etcd wrote.
    pub(super) fn etcd_file(&self) -> PathBuf {
        let zipped = self.place.join(ETCD_ZIP);
        if zipped.exists() {
            return zipped;
        }
        self.place.join(ETCD_FILE)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    format_version: u32,
    taken: u64,
    before: String,
    orchestrator: String,
    version: String,
    form: Form,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// This node keeps no datastore: it is an agent, or the datastore is elsewhere.
    #[error("there is no datastore on this machine")]
    None,
    /// The volume is too full.
    #[error("a snapshot needs {needed_mib} MiB on /var, and {free_mib} MiB are free: free {} MiB", needed_mib - free_mib)]
    Space {
        /// How much must be free.
        needed_mib: u64,
        /// How much is.
        free_mib: u64,
    },
    /// The orchestrator's own command failed.
    #[error("the orchestrator wrote no snapshot: {0}")]
    Orchestrator(#[from] oneshot::OnceError),
    /// It says that it wrote one, and there is none.
    #[error("the orchestrator's snapshot is not in {0}")]
    Lost(PathBuf),
    /// A file could not be read or written.
    #[error("{doing}: {cause}")]
    File {
        /// What was being done.
        doing: String,
        /// Why it failed.
        cause: io::Error,
    },
}

/// What this machine's orchestrator keeps its cluster in; `None` where it keeps nothing.
pub(crate) fn datastore(payload: &Payload) -> Option<Datastore> {
    let db = payload.data_dir.join("server/db");
    match (db.join("etcd").is_dir(), db.join("state.db").is_file()) {
        (true, _) => Some(Datastore::Etcd),
        (false, true) => Some(Datastore::Sqlite),
        (false, false) => None,
    }
}

/// The snapshots below a folder.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    root: PathBuf,
}

impl Snapshots {
    /// Those of this machine.
    pub(crate) fn new() -> Self {
        Self::at(Path::new(HOME))
    }

    /// Those of a home elsewhere.
    pub(super) fn at(home: &Path) -> Self {
        Snapshots {
            root: home.join("snapshots"),
        }
    }

    /// All that are whole, the newest first.
    pub(crate) fn list(&self) -> Vec<Snapshot> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        let mut all: Vec<_> = entries
            .flatten()
            .filter_map(|entry| read(&entry.path()))
            .collect();
        all.sort_by(|a, b| (b.taken, &b.place).cmp(&(a.taken, &a.place)));
        all
    }

    /// The one of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Snapshot> {
        self.list()
            .into_iter()
            .find(|snapshot| snapshot.place.file_name().is_some_and(|it| it == name))
    }

    /// Whether there is room for one. Blocks.
    pub(crate) fn room(&self, payload: &Payload) -> Result<(), SnapshotError> {
        let db = payload.data_dir.join("server/db");
        let (needed, kept) = match datastore(payload) {
            None => return Err(SnapshotError::None),
            Some(Datastore::Etcd) => (db.join("etcd"), true),
            Some(Datastore::Sqlite) => (db.clone(), false),
        };
        let size = match kept {
            true => size(&needed),
            false => {
                files(&db, Datastore::Sqlite).map(|all| all.iter().map(|path| length(path)).sum())
            }
        };
        let needed = size.map_err(failed(format!("looking at {}", db.display())))? + RESERVE;
        // Its own folder may not be there yet; the data directory is on the same volume.
        let volume = statvfs(&payload.data_dir)
            .map_err(|error| failed("looking for room".to_owned())(error.into()))?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        if free < needed {
            return Err(SnapshotError::Space {
                needed_mib: needed.div_ceil(1 << 20),
                free_mib: free >> 20,
            });
        }
        Ok(())
    }

    /// Has the running orchestrator write its etcd's state.
    pub(crate) async fn of_running(
        &self,
        init: &Init,
        payload: &Payload,
        before: &str,
    ) -> Result<Snapshot, SnapshotError> {
        self.room(payload)?;
        let name = format!("pre-{}", plain(before));
        let args = ["etcd-snapshot", "save", "--name", &name];
        let begun = SystemTime::now();
        oneshot::run(init, payload, "snapshot", &args, BOUND).await?;
        let (this, payload, before) = (self.clone(), payload.clone(), before.to_owned());
        let work = move || {
            let folder = written_to(&payload);
            let file = newest(&folder, &name, begun).ok_or(SnapshotError::Lost(folder))?;
            this.keep(&payload, &before, Form::Etcd, |place| {
                let zipped = file.extension().is_some_and(|it| it == "zip");
                let name = if zipped { ETCD_ZIP } else { ETCD_FILE };
                move_file(&file, &place.join(name))
            })
        };
        blocking(work).await
    }

    /// Copies the datastore's files. Nobody may have them open. Blocks.
    pub(crate) fn of_stopped(
        &self,
        payload: &Payload,
        before: &str,
    ) -> Result<Snapshot, SnapshotError> {
        let kind = datastore(payload).ok_or(SnapshotError::None)?;
        self.room(payload)?;
        let db = payload.data_dir.join("server/db");
        self.keep(payload, before, Form::Files, |place| {
            let to = place.join(FILES);
            make(&to)?;
            for file in files(&db, kind)? {
                let name = file.file_name().unwrap_or_default();
                copy(&file, &to.join(name))?;
            }
            sync(&to)
        })
    }

    /// Makes the folder, has it filled, and gives it its manifest last.
    fn keep(
        &self,
        payload: &Payload,
        before: &str,
        form: Form,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Snapshot, SnapshotError> {
        let taken = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let place = self.root.join(format!("{taken}-{}", plain(before)));
        let manifest = Manifest {
            format_version: FORMAT,
            taken,
            before: before.to_owned(),
            orchestrator: payload.name.clone(),
            version: payload.version.clone(),
            form,
        };
        let write = || {
            if place.exists() {
                fs::remove_dir_all(&place)?;
            }
            make(&place)?;
            fill(&place)?;
            // Without the token that the datastore was encrypted with nobody reads it.
            match copy(&payload.data_dir.join("server/token"), &place.join(TOKEN)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            sync(&place)?;
            store(
                &place.join(MANIFEST),
                &serde_json::to_vec_pretty(&manifest)?,
            )?;
            sync(&place)?;
            sync(&self.root)
        };
        write().map_err(failed(format!("writing {}", place.display())))?;
        self.prune();
        read(&place).ok_or(SnapshotError::Lost(place))
    }

    /// Takes away what is not whole, and what is older than the newest few.
    fn prune(&self) {
        let whole = self.list();
        let keep: Vec<_> = whole.iter().take(KEPT).map(|it| &it.place).collect();
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if !keep.contains(&&path)
                && let Err(error) = fs::remove_dir_all(&path)
            {
                tracing::warn!("removing the snapshot {}: {error}", path.display());
            }
        }
    }
}

fn read(place: &Path) -> Option<Snapshot> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(place.join(MANIFEST)).ok()?).ok()?;
    (manifest.format_version == FORMAT).then(|| Snapshot {
        place: place.to_owned(),
        taken: manifest.taken,
        before: manifest.before,
        orchestrator: manifest.orchestrator,
        version: manifest.version,
        form: manifest.form,
    })
}

/// The datastore's files and folders, directly below `server/db`.
pub(super) fn files(db: &Path, kind: Datastore) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(db)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = match kind {
            Datastore::Etcd => name == "etcd",
            // With its write-ahead log: what is in there is committed too.
            Datastore::Sqlite => {
                matches!(name.as_ref(), "state.db" | "state.db-wal" | "state.db-shm")
            }
        };
        if ours {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Where the orchestrator writes its own snapshots: its config may say so.
fn written_to(payload: &Payload) -> PathBuf {
    let text = fs::read_to_string(&payload.config).unwrap_or_default();
    let told = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd-snapshot-dir: "))
        .and_then(|value| serde_json::from_str::<PathBuf>(value).ok());
    told.unwrap_or_else(|| payload.data_dir.join("server/db/snapshots"))
}

/// The file of this name that was written last, and not before that moment. A name is
/// followed by the node's and the time.
fn newest(folder: &Path, name: &str, since: SystemTime) -> Option<PathBuf> {
    // File systems round times down.
    let since = since - Duration::from_secs(2);
    let mut found: Vec<_> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| {
            let file = entry.file_name();
            let file = file.to_string_lossy();
            file.starts_with(&format!("{name}-")) && !file.ends_with(".partial")
        })
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            let modified = metadata.modified().ok()?;
            (metadata.is_file() && modified >= since).then(|| (modified, entry.path()))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, path)| path)
}

/// A version as a part of a file's name.
fn plain(version: &str) -> String {
    version
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => c,
            _ => '-',
        })
        .take(64)
        .collect()
}

pub(super) fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Writes a file that only root may read, and sees it onto the disk.
pub(super) fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use io::Write as _;
    let mut file = private(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// Copies a file or a folder, and sees it onto the disk.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(from)?.is_dir() {
        make(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return sync(to);
    }
    let mut target = private(to)?;
    io::copy(&mut fs::File::open(from)?, &mut target)?;
    target.sync_all()
}

fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        // It was written to another volume.
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(from, to)?;
            fs::remove_file(from)
        }
        Err(error) => Err(error),
        Ok(()) => fs::File::open(to)?.sync_all(),
    }
}

/// Sees a folder's names onto the disk.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

fn size(path: &Path) -> io::Result<u64> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return Ok(length(path));
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}

fn length(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}

fn failed(doing: String) -> impl FnOnce(io::Error) -> SnapshotError {
    |cause| SnapshotError::File { doing, cause }
}

/// Runs what blocks beside the tasks that must not.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(failed("keeping a snapshot".into())(io::Error::other(error))),
    }
}

#[cfg(test)]
pub(super) mod tests;
