//! The upgrade bundle: one file that holds a whole version of the system, and is read from front
//! to back without ever going back. Format 1:
//!
//! ```text
//!  0 magic "KEELBNDL" | 8 format u16 | 10 number of signatures u16 | 12 manifest bytes u32
//! 16 CRC-32 of everything before the UKI (this field zero) | 20 zero
//! 32 manifest (JSON, see `manifest`) | signatures, 72 bytes each: key id, Ed25519 signature
//!    UKI | root image: EROFS and its hash tree, one zstd frame
//! ```
//!
//! All numbers are little-endian. A signature is over the manifest's exact bytes, and the
//! manifest has the SHA-256 of what follows; so the signature, which is checked before anything
//! else is looked at, covers every byte. There may be several, so that keys can be rotated: one
//! by a key that is trusted is enough, those by unknown keys are passed over, and a wrong one by
//! a trusted key spoils the bundle. The CRC tells a download that went wrong from a wrong
//! signature; it proves nothing.
//!
//! Reading is three steps, and the types keep their order:
//!
//! ```text
//! Bundle::open(reader, keys) ──uki(sink)──> Bundle<_, AtImage> ──image(sink)──> Bundle<_, AtEnd> ──finish()
//! ```
//!
//! Everything is bounded before it is allocated. What a sink was given counts only once the step
//! has returned without an error, and the whole only after `finish`.

mod head;
pub mod key;
mod manifest;
mod read;
mod write;

use std::{fmt, io};

pub use head::{Head, MAX_SIGNATURES};
pub use key::{KeyId, Keys, PublicKey, SigningKey};
pub use manifest::{FORMAT, Image, MAX_IMAGE, MAX_MANIFEST, MAX_UKI, Manifest, Orchestrator, Uki};
pub use read::{AtEnd, AtImage, AtUki, Bundle, verify};
pub use write::{WriteError, digest, pack, write};

/// A part of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first 32 bytes.
    Header,
    /// The manifest.
    Manifest,
    /// The signatures.
    Signatures,
    /// The UKI.
    Uki,
    /// The root image.
    Image,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Header => "header",
            Part::Manifest => "manifest",
            Part::Signatures => "signatures",
            Part::Uki => "UKI",
            Part::Image => "root image",
        })
    }
}

/// Why a bundle is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It begins with something else.
    #[error("this is no Keelson upgrade bundle")]
    NotABundle,
    /// It has a format that is not known here.
    #[error(
        "the bundle has format {0}, and only format {FORMAT} is known here; use a newer osctl, or upgrade to a version in between first"
    )]
    Format(u64),
    /// It ends early.
    #[error("the bundle is cut off within its {0}; fetch it again")]
    Truncated(Part),
    /// A part is not what was made.
    #[error("the bundle's {0} is damaged; fetch it again")]
    Damaged(Part),
    /// A part claims more bytes than it may have.
    #[error("the bundle's {part} has {bytes} bytes, and {most} are the most")]
    TooLarge {
        /// The part.
        part: Part,
        /// What it claims.
        bytes: u64,
        /// What it may have.
        most: u64,
    },
    /// Nobody has signed it.
    #[error("the bundle is not signed")]
    Unsigned,
    /// Whoever has signed it is not trusted.
    #[error(
        "the bundle is signed by {}, and trusted is {}",
        list(signed),
        list(trusted)
    )]
    NoTrustedKey {
        /// The keys that have signed it.
        signed: Vec<KeyId>,
        /// The keys that would have been good.
        trusted: Vec<KeyId>,
    },
    /// A signature in the name of a trusted key is not that key's: the manifest or the signature
    /// was changed.
    #[error("the bundle's signature by {0} is wrong: it is not what the owner of that key signed")]
    BadSignature(KeyId),
    /// It is signed, and says something that cannot be: its maker's mistake.
    #[error("the bundle's manifest is not valid: {0}")]
    Manifest(String),
    /// The image is whole and unpacks to something else than the manifest says: its maker's
    /// mistake.
    #[error("the bundle's root image does not unpack to the {0} bytes that its manifest says")]
    Unpacked(u64),
    /// Something follows the end.
    #[error("something follows the end of the bundle")]
    Trailing,
    /// Where the bundle comes from cannot be read.
    #[error("cannot read the bundle")]
    Source(#[source] io::Error),
    /// Where a part goes to cannot be written.
    #[error("cannot write the {part}")]
    Sink {
        /// The part.
        part: Part,
        /// What the sink said.
        source: io::Error,
    },
}

fn list(ids: &[KeyId]) -> String {
    match ids {
        [] => "no key".to_string(),
        ids => {
            let ids: Vec<String> = ids.iter().map(KeyId::to_string).collect();
            ids.join(", ")
        }
    }
}

#[cfg(test)]
mod tests;
