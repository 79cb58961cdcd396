//! The head of a bundle: header, manifest and signatures, as they are before anyone has looked
//! into the manifest.

use std::io::Read;

use super::key::{KeyId, Keys, SIGNATURE};
use super::manifest::{FORMAT, MAX_MANIFEST, Manifest, within};
use super::read::fill;
use super::{Error, Part};

/// The most signatures that a bundle may have.
pub const MAX_SIGNATURES: u16 = 16;

const MAGIC: &[u8; 8] = b"KEELBNDL";
const HEADER: usize = 32;
/// Key id and signature.
const ENTRY: usize = 8 + SIGNATURE;

/// What stands before the UKI. It is not checked against any key until [`Head::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    manifest: Vec<u8>,
    signatures: Vec<(KeyId, [u8; SIGNATURE])>,
}

impl Head {
    /// Of these parts.
    pub(super) fn new(manifest: Vec<u8>, signatures: Vec<(KeyId, [u8; SIGNATURE])>) -> Head {
        Head {
            manifest,
            signatures,
        }
    }

    /// Reads header, manifest and signatures, and not one byte more.
    pub fn read(source: &mut impl Read) -> Result<Head, Error> {
        let mut header = [0; HEADER];
        read_magic(source, &mut header)?;
        fill(source, &mut header[MAGIC.len()..], Part::Header)?;
        // The format first: another one may have another header.
        let format = u16_at(&header, 8);
        if u32::from(format) != FORMAT {
            return Err(Error::Format(format.into()));
        }
        let (signatures, length) = (u16_at(&header, 10), u32_at(&header, 12));
        within(Part::Signatures, signatures.into(), MAX_SIGNATURES.into())?;
        within(Part::Manifest, length.into(), MAX_MANIFEST.into())?;
        let mut manifest = vec![0; length as usize];
        fill(source, &mut manifest, Part::Manifest)?;
        let mut table = vec![0; usize::from(signatures) * ENTRY];
        fill(source, &mut table, Part::Signatures)?;
        if header[20..].iter().any(|byte| *byte != 0)
            || u32_at(&header, 16) != sum(&header, &manifest, &table)
        {
            return Err(Error::Damaged(Part::Header));
        }
        let signatures = table.chunks(ENTRY).map(|entry| {
            let (mut id, mut signature) = ([0; 8], [0; SIGNATURE]);
            id.copy_from_slice(&entry[..8]);
            signature.copy_from_slice(&entry[8..]);
            (KeyId(id), signature)
        });
        Ok(Head {
            manifest,
            signatures: signatures.collect(),
        })
    }

    /// The head's own bytes; [`Head::read`] reads them back.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(self.signatures.len() * ENTRY);
        for (id, signature) in &self.signatures {
            table.extend_from_slice(&id.0);
            table.extend_from_slice(signature);
        }
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..10].copy_from_slice(&(FORMAT as u16).to_le_bytes());
        header[10..12].copy_from_slice(&(self.signatures.len() as u16).to_le_bytes());
        header[12..16].copy_from_slice(&(self.manifest.len() as u32).to_le_bytes());
        let crc = sum(&header, &self.manifest, &table);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        [&header[..], &self.manifest, &table].concat()
    }

    /// How many bytes the head has.
    pub(super) fn bytes(&self) -> u64 {
        (HEADER + self.manifest.len() + self.signatures.len() * ENTRY) as u64
    }

    /// Proves that a key which is trusted has signed the manifest, and says which have.
    pub fn check(&self, keys: &Keys) -> Result<Vec<KeyId>, Error> {
        if self.signatures.is_empty() {
            return Err(Error::Unsigned);
        }
        let mut by = Vec::new();
        for (id, signature) in &self.signatures {
            let mut known = keys.with_id(*id).peekable();
            if known.peek().is_none() {
                continue;
            }
            if !known.any(|key| key.verifies(&self.manifest, signature)) {
                return Err(Error::BadSignature(*id));
            }
            by.push(*id);
        }
        if by.is_empty() {
            return Err(Error::NoTrustedKey {
                signed: self.signers(),
                trusted: keys.ids(),
            });
        }
        Ok(by)
    }

    /// The keys that the signatures claim to be by.
    pub fn signers(&self) -> Vec<KeyId> {
        self.signatures.iter().map(|(id, _)| *id).collect()
    }

    /// The manifest; only [`Head::check`] says whether to believe it.
    pub fn manifest(&self) -> Result<Manifest, Error> {
        Manifest::parse(&self.manifest)
    }

    /// The manifest's bytes as they were signed.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest
    }
}

/// Reads the magic byte by byte in effect: something else is told even where it is shorter.
fn read_magic(source: &mut impl Read, header: &mut [u8; HEADER]) -> Result<(), Error> {
    for (byte, want) in header.iter_mut().zip(MAGIC) {
        fill(source, std::slice::from_mut(byte), Part::Header)?;
        if byte != want {
            return Err(Error::NotABundle);
        }
    }
    Ok(())
}

/// The checksum of the head, its own field taken as zero.
fn sum(header: &[u8; HEADER], manifest: &[u8], table: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..16]);
    crc.update(&[0; 4]);
    crc.update(&header[20..]);
    crc.update(manifest);
    crc.update(table);
    crc.finalize()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
