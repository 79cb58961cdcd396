//! `image.json`: what was built, from what, and the digest of every file. Other tools read it, so
//! it has a version.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::Root;
use crate::inputs::Release;

/// The version of the format.
pub const FORMAT: u32 = 1;

/// The manifest's name in the folder of the image.
pub const FILE_NAME: &str = "image.json";

/// A file that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its length.
    pub bytes: u64,
    /// The bytes it takes on the disk it was built on: less, if it has holes. Not in the
    /// manifest, since it depends on that disk.
    #[serde(skip)]
    pub stored: u64,
    /// The SHA-256 of its content, hex. A raw disk has none: the digests of root image and
    /// UKI say all that is on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Artifact {
    /// The digest, or nothing.
    pub(super) fn sum(&self) -> &str {
        self.sha256.as_deref().unwrap_or_default()
    }
}

/// The manifest of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format_version: u32,
    /// The image's version.
    pub version: String,
    /// Debian's name of the architecture.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// The one clock of the build, Unix seconds.
    pub build_time: u64,
    /// `standard` or `compact`.
    pub layout: String,
    /// What the image says of itself; nothing if its root tree came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// What names the root.
    pub root: Root,
    /// The kernel command line in the UKI.
    pub command_line: String,
    /// Every file by its name.
    pub artifacts: BTreeMap<String, Artifact>,
}

impl Manifest {
    /// Reads the manifest of the image that was built into `folder`.
    pub fn read(folder: &Path) -> anyhow::Result<Manifest> {
        let path = folder.join(FILE_NAME);
        let text = std::fs::read(&path)
            .with_context(|| format!("cannot read {}: build the image first", path.display()))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            manifest.format_version == FORMAT,
            "{} has format {}, and only format {FORMAT} is known here",
            path.display(),
            manifest.format_version
        );
        Ok(manifest)
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
