//! The orchestrator's payload: a folder of the root image with an `orchestrator.json` that tells
//! machined how to run what is in it. Comes from the pinned K3s release, from a K3s executable
//! that was given, or as a finished folder. machined must not be able to tell which.
//!
//! ```text
//! rootfs/k3s.yaml ── release ──> the release's executable ─┐
//! --orchestrator FILE ─────────────────────────────────────┼─ embedded ──> tar.zst ── unpack ──> folder
//! --orchestrator FOLDER ────────────────────── payload ────┴──────────────────────────────────> folder
//! ```

mod embedded;
mod k3s;
pub mod payload;
mod release;
mod unpack;

use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::inputs::{Inputs, Orchestrator};
use crate::report::{Report, Step};

/// Where the payload lies in the root, without a leading slash.
pub const FOLDER: &str = "usr/lib/orchestrator";

/// What was put into the image; ends in release.json and in the bill of materials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its name: `k3s`.
    pub name: String,
    /// Its version: `v1.36.4+k3s1`.
    pub version: String,
    /// The digest of what was given: the release's executable, or the whole payload folder.
    pub sha256: String,
    /// What the payload says of itself.
    pub description: payload::Description,
}

/// Where the payload of this build comes from, ready to be copied.
#[derive(Clone, Debug)]
pub struct Source {
    /// A folder with an `orchestrator.json`.
    pub folder: PathBuf,
    /// What it is.
    pub installed: Installed,
}

/// What can go wrong with an orchestrator, by what a caller or a person would do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The release could not be downloaded; see [`is_unreachable`].
    #[error(
        "cannot download {url} ({reason}); give a K3s executable with --orchestrator FILE, or \
         build with another orchestrator"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// In a few words.
        reason: String,
    },
    /// `--offline`, and the release is not in the cache.
    #[error("{0} is not in the cache, and --offline forbids to download it")]
    NotCached(String),
    /// What was downloaded is not what is locked.
    #[error(
        "{file} has the sha256 {found}, but {authority} says {wanted}: it was changed under its \
         own name. Do not use it before you know why"
    )]
    Digest {
        /// What was downloaded.
        file: String,
        /// Its digest.
        found: String,
        /// Who says otherwise.
        authority: String,
        /// The digest it should have.
        wanted: String,
    },
    /// The release's list of sums does not name the file.
    #[error("{url} names no sum of {file}")]
    NoSum {
        /// The list.
        url: String,
        /// The file.
        file: String,
    },
    /// The lock names no file for the architecture.
    #[error("rootfs/k3s.yaml names no file for {0}")]
    NoArchitecture(&'static str),
    /// A file that is no K3s release.
    #[error("{path} is no K3s release executable: {reason}")]
    NotK3s {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The archive in the executable is not what K3s ships, or hostile.
    #[error("the archive in the K3s executable is refused: {0}")]
    Archive(#[from] unpack::Error),
    /// Reading or writing a file.
    #[error("{path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// True if the build failed only because the release cannot be had (its server is out of reach,
/// or it may not be asked), so that another orchestrator may be tried.
pub fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<Error>(),
        Some(Error::Unreachable { .. } | Error::NotCached(_))
    )
}

/// Finds (downloads, unpacks) the payload that was asked for; what is unpacked is kept in the cache.
pub fn prepare(
    inputs: &Inputs,
    arch: Arch,
    report: &Report,
    step: &Step<'_>,
) -> anyhow::Result<Option<Source>> {
    let folder = match &inputs.orchestrator {
        Orchestrator::None => return Ok(None),
        Orchestrator::Payload(folder) => folder.clone(),
        Orchestrator::K3s | Orchestrator::Executable(_) => {
            let path = inputs.source.join("rootfs/k3s.yaml");
            let lock: release::Lock = crate::rootfs::recipe::read(&path)?;
            let (executable, version) = match &inputs.orchestrator {
                Orchestrator::Executable(file) => (file.clone(), None),
                _ => {
                    let fetched = release::fetch(&lock, arch, &inputs.cache, inputs.offline, step)?;
                    if fetched.unlocked {
                        lock_digest(&path, &lock, arch, &fetched.sha256, report)?;
                    }
                    (fetched.path, Some(lock.version.clone()))
                }
            };
            step.detail("unpacking K3s");
            let keep = lock.keep();
            return Ok(Some(k3s::source(
                &executable,
                version,
                arch,
                &keep,
                &inputs.cache,
            )?));
        }
    };
    let description = payload::read(&folder)?;
    let sha256 = payload::digest(&folder)?;
    Ok(Some(Source {
        folder,
        installed: Installed {
            name: description.name.clone(),
            version: description.version.clone(),
            sha256,
            description,
        },
    }))
}

/// The first download of a release writes its digest into the lock, and says so.
fn lock_digest(
    path: &Path,
    lock: &release::Lock,
    arch: Arch,
    sha256: &str,
    report: &Report,
) -> Result<(), Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let text = lock.with_digest(&text, arch, sha256);
    std::fs::write(path, text).map_err(Error::io(path))?;
    report.warn(&format!(
        "locked K3s {} for {} as sha256 {sha256} in {}; commit that file",
        lock.version,
        arch.name(),
        path.display()
    ));
    Ok(())
}
