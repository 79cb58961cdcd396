//! Puts a snapshot of the datastore back before the orchestrator is started: what a
//! rollback across a minor version of Kubernetes asks for. The wish is a file, so that
//! it outlives the reboot, and it is taken away when it is fulfilled: as long as it is
//! there the orchestrator is not started, whatever happens in between.

use super::{
    oneshot,
    payload::Payload,
    snapshot::{self, Datastore, Form, Snapshot, SnapshotError, Snapshots, copy, make, sync},
};
use crate::initclient::Init;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The wish, in [`snapshot::HOME`].
const WISH: &str = "restore.json";

/// The version of the wish that is understood here.
const FORMAT: u32 = 1;

/// How long the orchestrator may take over its own snapshot.
const PATIENCE: Duration = Duration::from_secs(300);

/// Its mark that it has restored one and was not started since; it refuses another.
const RESET_FLAG: &str = "server/db/reset-flag";

/// What the datastore was before, beside the one that was put in its place.
const ASIDE: &str = "before-";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wish {
    format_version: u32,
    snapshot: String,
}

/// Why a snapshot was not put back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The wish cannot be read.
    #[error("{path} cannot be read: {why}")]
    Wish {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What it names is not there.
    #[error("there is no whole snapshot {0}")]
    Missing(String),
    /// It is of another orchestrator.
    #[error("the snapshot is of {0}, and the image carries {1}")]
    Other(String, String),
    /// The orchestrator could not do it.
    #[error("the orchestrator did not take its snapshot back: {0}")]
    Orchestrator(#[from] oneshot::OnceError),
    /// Files could not be put in place.
    #[error("putting the datastore's files in place: {0}")]
    Files(#[from] SnapshotError),
}

/// Has the snapshot put back before the orchestrator's next start after a boot. Blocks.
pub(crate) fn request(snapshot: &Snapshot) -> io::Result<()> {
    request_at(Path::new(snapshot::HOME), snapshot)
}

fn request_at(home: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let name = snapshot.place.file_name().unwrap_or_default();
    let wish = Wish {
        format_version: FORMAT,
        snapshot: name.to_string_lossy().into_owned(),
    };
    make(home)?;
    let (path, temporary) = (home.join(WISH), home.join("restore.json.new"));
    snapshot::store(&temporary, &serde_json::to_vec(&wish)?)?;
    fs::rename(temporary, path)?;
    sync(home)
}

/// Takes a wish back; there need not be one. Blocks.
pub(crate) fn withdraw() -> io::Result<()> {
    withdraw_at(Path::new(snapshot::HOME))
}

fn withdraw_at(home: &Path) -> io::Result<()> {
    match fs::remove_file(home.join(WISH)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync(home),
    }
}

/// Fulfils the wish, if there is one: the snapshot that was put back. The orchestrator
/// must not run. To do it again after an interruption comes to the same.
pub(super) async fn fulfil(
    init: &Init,
    payload: &Payload,
) -> Result<Option<Snapshot>, RestoreError> {
    fulfil_at(Path::new(snapshot::HOME), init, payload).await
}

async fn fulfil_at(
    home: &Path,
    init: &Init,
    payload: &Payload,
) -> Result<Option<Snapshot>, RestoreError> {
    let Some(name) = wish(&home.join(WISH))? else {
        return Ok(None);
    };
    let found = Snapshots::at(home).find(&name);
    let snapshot = found.ok_or(RestoreError::Missing(name))?;
    if snapshot.orchestrator != payload.name {
        let image = payload.name.clone();
        return Err(RestoreError::Other(snapshot.orchestrator, image));
    }
    match snapshot.form {
        Form::Etcd => {
            let flag = payload.data_dir.join(RESET_FLAG);
            let doing = format!("removing {}", flag.display());
            match fs::remove_file(flag) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error(doing, error).into());
                }
                _ => {}
            }
            let file = snapshot.etcd_file();
            let path = format!("--cluster-reset-restore-path={}", file.display());
            let args = ["server", "--cluster-reset", &path];
            oneshot::run(init, payload, "restore", &args, PATIENCE).await?;
        }
        Form::Files => {
            let (place, db) = (snapshot.place.clone(), payload.data_dir.join("server/db"));
            let work = move || {
                put_back(&place, &db)
                    .map_err(|error| file_error(format!("writing {}", db.display()), error))
            };
            snapshot::blocking(work).await?;
        }
    }
    withdraw_at(home).map_err(|error| file_error("removing the wish".into(), error))?;
    Ok(Some(snapshot))
}

fn file_error(doing: String, cause: io::Error) -> SnapshotError {
    SnapshotError::File { doing, cause }
}

fn wish(path: &Path) -> Result<Option<String>, RestoreError> {
    let wrong = |why: String| RestoreError::Wish {
        path: path.to_owned(),
        why,
    };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let wish: Wish = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    match wish.format_version {
        FORMAT => Ok(Some(wish.snapshot)),
        other => Err(wrong(format!("its format is {other}, not {FORMAT}"))),
    }
}

/// Puts the files of a snapshot where the datastore's are, and those aside.
fn put_back(place: &Path, db: &Path) -> io::Result<()> {
    let from = place.join(snapshot::FILES);
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let (staging, aside) = (db.join("restore.new"), db.join(format!("{ASIDE}{name}")));
    make(db)?;
    // Room for the copy: of what was set aside, one is enough.
    for entry in fs::read_dir(db)? {
        let path = entry?.path();
        let old = path.file_name().unwrap_or_default().to_string_lossy();
        if path == staging || (old.starts_with(ASIDE) && path != aside) {
            fs::remove_dir_all(&path)?;
        }
    }
    copy(&from, &staging)?;
    make(&aside)?;
    for kind in [Datastore::Etcd, Datastore::Sqlite] {
        for file in snapshot::files(db, kind)? {
            let kept = aside.join(file.file_name().unwrap_or_default());
            if !kept.exists() {
                fs::rename(&file, &kept)?;
            } else if file.is_dir() {
                // An earlier try got this far.
                fs::remove_dir_all(&file)?;
            } else {
                fs::remove_file(&file)?;
            }
        }
    }
    sync(&aside)?;
    for entry in fs::read_dir(&staging)? {
        let entry = entry?;
        fs::rename(entry.path(), db.join(entry.file_name()))?;
    }
    fs::remove_dir(&staging)?;
    sync(db)
}

#[cfg(test)]
mod tests;
