//! The manifest: what a bundle says of itself. JSON, since people and other tools read it; the
//! signature is over its bytes as they are.
//!
//! ```json
//! { "formatVersion": 1, "version": "0.2.0", "arch": "amd64", "variant": "cloud",
//!   "root": { "rootHash": "…64 hex digits", "dataBlocks": 25000, "salt": "…64 hex digits" },
//!   "uki": { "bytes": 31457280, "sha256": "…" },
//!   "image": { "bytes": 90000000, "sha256": "…", "unpackedBytes": 103226368 },
//!   "orchestrator": { "name": "k3s", "version": "v1.36.3+k3s1" },
//!   "securityFloor": "0.1.0", "buildTime": 1790000000 }
//! ```
//!
//! A later builder may add keys: those that are not known here are passed over. What changes the
//! meaning of a bundle gets a new format version instead.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Error, Part};
use crate::verity::{self, RootSpec};
use crate::version::Version;

/// The version of the format.
pub const FORMAT: u32 = 1;
/// The most bytes of a manifest.
pub const MAX_MANIFEST: u32 = 64 << 10;
/// The most bytes of a UKI.
pub const MAX_UKI: u64 = 512 << 20;
/// The most bytes of a root image, packed or not. A slot has less.
pub const MAX_IMAGE: u64 = 8 << 30;

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format_version: u32,
    /// The version of Keelson.
    pub version: Version,
    /// Debian's name of the architecture: "amd64".
    pub arch: String,
    /// The kernel flavour: "cloud" or "metal".
    pub variant: String,
    /// What names the root.
    #[serde(with = "Root")]
    pub root: RootSpec,
    /// The UKI.
    pub uki: Uki,
    /// The root image.
    pub image: Image,
    /// The orchestrator in the root, if there is one.
    #[serde(default)]
    pub orchestrator: Option<Orchestrator>,
    /// The lowest version that may still be installed once this one is known to be good.
    pub security_floor: Version,
    /// When it was built, Unix seconds.
    pub build_time: u64,
}

/// The UKI as it is in the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uki {
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 of its bytes.
    #[serde(with = "hash")]
    pub sha256: [u8; 32],
}

/// The root image as it is in the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its length, packed.
    pub bytes: u64,
    /// The SHA-256 of the packed bytes.
    #[serde(with = "hash")]
    pub sha256: [u8; 32],
    /// Its length in a slot: data, superblock and hash tree.
    pub unpacked_bytes: u64,
}

/// The orchestrator that an image carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orchestrator {
    /// Its name, as the config must say it.
    pub name: String,
    /// Its version, in its own words.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "RootSpec", rename_all = "camelCase")]
struct Root {
    #[serde(with = "hash")]
    root_hash: [u8; 32],
    data_blocks: u64,
    #[serde(with = "hash")]
    salt: [u8; 32],
}

/// 32 bytes as 64 hex digits.
mod hash {
    use super::*;

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&verity::hex(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        verity::parse_hash(&text).ok_or_else(|| D::Error::custom("this is not 64 hex digits"))
    }
}

impl Manifest {
    /// Reads a manifest and checks it. Whether it may be believed is the signature's to say.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Format {
            format_version: u64,
        }
        let invalid = |error: serde_json::Error| Error::Manifest(error.to_string());
        // First the format alone: another one may have other keys.
        let Format { format_version } = serde_json::from_slice(bytes).map_err(invalid)?;
        if format_version != u64::from(FORMAT) {
            return Err(Error::Format(format_version));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(invalid)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes to sign.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|error| Error::Manifest(error.to_string()))?;
        bytes.push(b'\n');
        within(Part::Manifest, bytes.len() as u64, MAX_MANIFEST.into())?;
        Ok(bytes)
    }

    fn check(&self) -> Result<(), Error> {
        if self.format_version != FORMAT {
            return Err(Error::Format(self.format_version.into()));
        }
        within(Part::Uki, self.uki.bytes, MAX_UKI)?;
        within(Part::Image, self.image.bytes, MAX_IMAGE)?;
        within(Part::Image, self.image.unpacked_bytes, MAX_IMAGE)?;
        let orchestrator = self.orchestrator.iter();
        let words = [("arch", &self.arch), ("variant", &self.variant)].into_iter();
        let words = words.chain(orchestrator.flat_map(|orchestrator| {
            [
                ("orchestrator.name", &orchestrator.name),
                ("orchestrator.version", &orchestrator.version),
            ]
        }));
        for (key, word) in words {
            if !is_word(word) {
                return Err(Error::Manifest(format!("{key} is no plain word")));
            }
        }
        if self.uki.bytes == 0 {
            return Err(Error::Manifest("the UKI is empty".to_string()));
        }
        let bytes = self.root.image_blocks().saturating_mul(verity::BLOCK);
        if self.root.data_blocks == 0 || bytes != self.image.unpacked_bytes {
            return Err(Error::Manifest(format!(
                "a root of {} blocks has {bytes} bytes with its hash tree, not {}",
                self.root.data_blocks, self.image.unpacked_bytes
            )));
        }
        Ok(())
    }
}

pub(super) fn within(part: Part, bytes: u64, most: u64) -> Result<(), Error> {
    if bytes > most {
        return Err(Error::TooLarge { part, bytes, most });
    }
    Ok(())
}

/// What can be shown on any console and compared letter by letter.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
