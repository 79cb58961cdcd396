//! What makes a second build fast: beside each artifact lies a stamp with the digest of
//! everything it was made from. If that has not changed, the artifact is fresh and stays.
//!
//! An artifact is written under another name and renamed when it is whole, and its stamp is
//! written last: whatever interrupts a build, no half artifact ever counts.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::{self, Digest};
use super::manifest::Artifact;

/// The stamp of an artifact.
#[derive(Serialize, Deserialize)]
struct Stamp<T> {
    inputs: String,
    artifact: Artifact,
    facts: T,
}

/// An artifact that is to be built, or kept.
pub struct State {
    path: PathBuf,
    digested: bool,
}

/// An artifact that is there.
#[derive(Clone, Debug)]
pub struct Built<T> {
    /// Where.
    pub path: PathBuf,
    /// Nothing had to be done.
    pub fresh: bool,
    /// Its size and digest.
    pub artifact: Artifact,
    /// What building it found out.
    pub facts: T,
}

impl State {
    /// The artifact at `path`.
    pub fn new(path: PathBuf) -> State {
        State {
            path,
            digested: true,
        }
    }

    /// Leaves out the digest of the artifact.
    pub fn without_digest(self) -> State {
        State {
            digested: false,
            ..self
        }
    }

    /// Keeps the artifact if it was made from `inputs`; else lets `make` write it.
    pub fn build<T: Serialize + DeserializeOwned>(
        self,
        inputs: Digest,
        make: impl FnOnce(&mut File) -> anyhow::Result<T>,
    ) -> anyhow::Result<Built<T>> {
        let inputs = inputs.finish();
        let stamp_path = stamp_path(&self.path);
        if let Some(stamp) = read::<T>(&stamp_path)
            && stamp.inputs == inputs
            && fs::metadata(&self.path).is_ok_and(|m| m.len() == stamp.artifact.bytes)
        {
            let stored = digest::stored(&self.path)
                .with_context(|| format!("cannot read {}", self.path.display()))?;
            return Ok(Built {
                path: self.path,
                fresh: true,
                artifact: Artifact {
                    stored,
                    ..stamp.artifact
                },
                facts: stamp.facts,
            });
        }
        remove(&self.path)?;
        let partial = beside(&self.path, ".partial");
        let write = || format!("cannot write {}", partial.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)
            .with_context(write)?;
        let facts = match make(&mut file) {
            Ok(facts) => facts,
            Err(error) => {
                remove(&partial)?;
                return Err(error);
            }
        };
        drop(file);
        fs::rename(&partial, &self.path).with_context(write)?;
        let stamp = Stamp {
            inputs,
            artifact: measure(&self.path, self.digested)?,
            facts,
        };
        let text = serde_json::to_vec_pretty(&stamp)?;
        fs::write(&stamp_path, text)
            .with_context(|| format!("cannot write {}", stamp_path.display()))?;
        Ok(Built {
            path: self.path,
            fresh: false,
            artifact: stamp.artifact,
            facts: stamp.facts,
        })
    }
}

/// Removes an artifact and its stamp, if they are there.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    for path in [stamp_path(path), path.to_path_buf()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A stamp that cannot be read is as good as none.
fn read<T: DeserializeOwned>(path: &Path) -> Option<Stamp<T>> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn stamp_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.stamp"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}{suffix}"))
}

/// Measures a file.
fn measure(path: &Path, digested: bool) -> anyhow::Result<Artifact> {
    let read = || format!("cannot read {}", path.display());
    let (bytes, sha256) = match digested {
        true => digest::of_file(path).map(|(bytes, sum)| (bytes, Some(sum)))?,
        false => (fs::metadata(path).with_context(read)?.len(), None),
    };
    Ok(Artifact {
        bytes,
        stored: digest::stored(path).with_context(read)?,
        sha256,
    })
}

impl Artifact {
    /// Measures and digests a file.
    pub fn of(path: &Path) -> anyhow::Result<Artifact> {
        measure(path, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_artifact_is_made_again_only_for_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thing");
        let build = |inputs: &str| {
            State::new(path.clone()).build(Digest::new(inputs), |file| {
                file.write_all(inputs.as_bytes())?;
                Ok(7)
            })
        };
        assert!(!build("a").unwrap().fresh);
        let again = build("a").unwrap();
        assert!(again.fresh);
        assert_eq!((again.facts, again.artifact.bytes), (7, 1));
        assert!(!build("b").unwrap().fresh, "other inputs");
        fs::remove_file(&path).unwrap();
        assert!(!build("b").unwrap().fresh, "the artifact is gone");
        fs::write(stamp_path(&path), "{").unwrap();
        assert!(!build("b").unwrap().fresh, "the stamp is damaged");
        let failed = State::new(path.clone()).build(Digest::new("c"), |_| -> anyhow::Result<u8> {
            anyhow::bail!("no")
        });
        assert!(failed.is_err());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing half is left"
        );
    }
}
