//! The orchestrator's payload: a folder of the root image with an `orchestrator.json` that tells
//! machined how to run what is in it. Comes from the pinned K3s release, from a K3s executable
//! that was given, or as a finished folder. machined must not be able to tell which.

pub mod payload;

use std::path::{Path, PathBuf};

use crate::inputs::{Inputs, Orchestrator};
use crate::report::Step;

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

/// Finds (fetches, unpacks) the payload that was asked for. `work` is kept between builds.
pub fn prepare(inputs: &Inputs, work: &Path, step: &Step<'_>) -> anyhow::Result<Option<Source>> {
    let _ = (work, step);
    match &inputs.orchestrator {
        Orchestrator::None => Ok(None),
        Orchestrator::Payload(folder) => {
            let description = payload::read(folder)?;
            let sha256 = payload::digest(folder)?;
            Ok(Some(Source {
                folder: folder.clone(),
                installed: Installed {
                    name: description.name.clone(),
                    version: description.version.clone(),
                    sha256,
                    description,
                },
            }))
        }
        Orchestrator::K3s | Orchestrator::Executable(_) => anyhow::bail!("not yet"),
    }
}
