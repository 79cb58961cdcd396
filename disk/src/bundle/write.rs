//! Writing a bundle. The manifest stands before what it has the digests of, so there are two
//! steps: [`pack`] and [`digest`] say what goes into the manifest, [`write()`] puts the parts in
//! their order and holds them against it.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use zstd::stream::write::Encoder;

use super::head::{Head, MAX_SIGNATURES};
use super::key::SigningKey;
use super::manifest::{Image, Manifest, Uki, within};
use super::{Error, Part};

/// The memory that unpacking may take: 8 MiB, which a small machine can spare.
pub(super) const WINDOW_LOG: u32 = 23;

/// Why no bundle was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no key to sign with, or more than a bundle can have signatures.
    #[error("a bundle is signed by 1 to {MAX_SIGNATURES} keys, and these are {0}")]
    Keys(usize),
    /// The manifest says something that no reader would take.
    #[error(transparent)]
    Manifest(#[from] Error),
    /// A part is not what the manifest says: it changed meanwhile.
    #[error("the {0} is not what the manifest says: did something else write to it?")]
    Changed(Part),
    /// A part cannot be read, or the bundle cannot be written.
    #[error("cannot copy into the bundle")]
    Io(#[from] io::Error),
}

/// Packs a root image (with its hash tree) and says what the manifest has to say of it. `level`
/// is zstd's, up to 19.
pub fn pack(image: &mut impl Read, level: i32, packed: &mut impl Write) -> io::Result<Image> {
    let mut encoder = Encoder::new(Digested::new(packed), level)?;
    encoder.window_log(WINDOW_LOG)?;
    let unpacked_bytes = io::copy(image, &mut encoder)?;
    let mut packed = encoder.finish()?;
    packed.flush()?;
    Ok(Image {
        bytes: packed.bytes,
        sha256: packed.hash.finalize().into(),
        unpacked_bytes,
    })
}

/// Reads a UKI and says what the manifest has to say of it.
pub fn digest(uki: &mut impl Read) -> io::Result<Uki> {
    let mut digested = Digested::new(io::sink());
    io::copy(uki, &mut digested)?;
    Ok(Uki {
        bytes: digested.bytes,
        sha256: digested.hash.finalize().into(),
    })
}

/// Signs the manifest and writes the bundle. `packed` is what [`pack`] wrote. The same manifest,
/// keys and parts give the same bytes.
pub fn write(
    manifest: &Manifest,
    keys: &[SigningKey],
    uki: &mut impl Read,
    packed: &mut impl Read,
    bundle: &mut impl Write,
) -> Result<(), WriteError> {
    if keys.is_empty() {
        return Err(WriteError::Keys(0));
    }
    within(Part::Signatures, keys.len() as u64, MAX_SIGNATURES.into())
        .map_err(|_| WriteError::Keys(keys.len()))?;
    let bytes = manifest.to_bytes()?;
    let signatures = keys
        .iter()
        .map(|key| (key.public().id(), key.sign(&bytes)))
        .collect();
    bundle.write_all(&Head::new(bytes, signatures).to_bytes())?;
    let parts: [(Part, &mut dyn Read, u64, [u8; 32]); 2] = [
        (Part::Uki, uki, manifest.uki.bytes, manifest.uki.sha256),
        (
            Part::Image,
            packed,
            manifest.image.bytes,
            manifest.image.sha256,
        ),
    ];
    for (part, from, bytes, sha256) in parts {
        let mut to = Digested::new(&mut *bundle);
        io::copy(from, &mut to)?;
        if to.bytes != bytes || to.hash.finalize()[..] != sha256[..] {
            return Err(WriteError::Changed(part));
        }
    }
    Ok(bundle.flush()?)
}

/// Counts and digests what passes.
struct Digested<W> {
    to: W,
    bytes: u64,
    hash: Sha256,
}

impl<W> Digested<W> {
    fn new(to: W) -> Digested<W> {
        Digested {
            to,
            bytes: 0,
            hash: Sha256::new(),
        }
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
