//! The keys of bundles: Ed25519 (RFC 8032), in the files that every tool knows: a public key as
//! SubjectPublicKeyInfo, a private one as PKCS#8, both in PEM (RFC 8410, RFC 7468).

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

/// The most that a key file may have.
pub const MAX_FILE: u64 = 16 << 10;
/// Bytes of a signature.
pub(super) const SIGNATURE: usize = 64;
/// What stands before the 32 bytes of an Ed25519 public key in DER.
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not a PEM file.
    #[error("this is no PEM file with one key")]
    Pem,
    /// It is a PEM file of something else.
    #[error("this is a {found}, and a {wanted} is needed")]
    Kind {
        /// What it is.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// It is a key of another kind, or a damaged one.
    #[error("this is no Ed25519 key")]
    Algorithm,
    /// The system gave no randomness.
    #[error("cannot make a key: the system has no randomness")]
    Random,
}

/// What tells keys apart: the first 8 bytes of the SHA-256 of the public key's 32 bytes. It only
/// says which key to try; what proves a signature is the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::verity::hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A key that signatures are checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a `.pub` file's text.
    pub fn from_pem(text: &str) -> Result<PublicKey, Error> {
        let der = contents(text, PUBLIC)?;
        let key = der.strip_prefix(&SPKI).ok_or(Error::Algorithm)?;
        Ok(PublicKey(key.try_into().map_err(|_| Error::Algorithm)?))
    }

    /// The text of a `.pub` file.
    pub fn to_pem(&self) -> String {
        pem(PUBLIC, [&SPKI[..], &self.0].concat())
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&Sha256::digest(self.0)[..8]);
        KeyId(id)
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}

/// The keys that are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<PublicKey>);

impl Keys {
    /// The ids, in the order of the keys.
    pub fn ids(&self) -> Vec<KeyId> {
        self.0.iter().map(PublicKey::id).collect()
    }

    /// Whether none is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys with this id: one, but for a coincidence.
    pub(super) fn with_id(&self, id: KeyId) -> impl Iterator<Item = &PublicKey> {
        self.0.iter().filter(move |key| key.id() == id)
    }
}

impl FromIterator<PublicKey> for Keys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Keys {
        Keys(keys.into_iter().collect())
    }
}

/// A key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a new key: the text of a `.key` file, which is a secret.
    pub fn generate() -> Result<String, Error> {
        let der =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| Error::Random)?;
        Ok(pem(PRIVATE, der.as_ref().to_vec()))
    }

    /// Reads a `.key` file's text, one that openssl made too.
    pub fn from_pem(text: &str) -> Result<SigningKey, Error> {
        let der = contents(text, PRIVATE)?;
        // openssl writes the public key only on request, so it may be absent.
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der);
        Ok(SigningKey(key.map_err(|_| Error::Algorithm)?))
    }

    /// The key that checks what this one signs.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let mut bytes = [0; SIGNATURE];
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        bytes
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

fn contents(text: &str, wanted: &'static str) -> Result<Vec<u8>, Error> {
    let pem = pem::parse(text).map_err(|_| Error::Pem)?;
    if pem.tag() != wanted {
        return Err(Error::Kind {
            found: pem.tag().to_string(),
            wanted,
        });
    }
    Ok(pem.into_contents())
}

fn pem(tag: &str, der: Vec<u8>) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example key of RFC 8410, section 10.3, in the form that openssl writes too.
    const EXAMPLE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

    #[test]
    fn keys_go_through_their_files() {
        let text = SigningKey::generate().unwrap();
        let key = SigningKey::from_pem(&text).unwrap();
        let public = PublicKey::from_pem(&key.public().to_pem()).unwrap();
        assert_eq!(public, key.public());
        assert!(public.verifies(b"x", &key.sign(b"x")));
        assert!(!public.verifies(b"y", &key.sign(b"x")));
        let debug = format!("{key:?}");
        assert_eq!(debug, format!("SigningKey({})", public.id()));
    }

    #[test]
    fn a_key_without_its_public_half_is_taken() {
        let key = SigningKey::from_pem(EXAMPLE).unwrap();
        // Section 10.1 of the RFC.
        assert_eq!(
            key.public().to_pem(),
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
        );
    }

    #[test]
    fn what_is_no_key_is_told() {
        let kind = |found: &str, wanted| Error::Kind {
            found: found.to_string(),
            wanted,
        };
        let public = SigningKey::from_pem(EXAMPLE).unwrap().public().to_pem();
        assert_eq!(PublicKey::from_pem(EXAMPLE), Err(kind(PRIVATE, PUBLIC)));
        assert_eq!(
            SigningKey::from_pem(&public).err(),
            Some(kind(PUBLIC, PRIVATE))
        );
        assert_eq!(PublicKey::from_pem("hello"), Err(Error::Pem));
        let short = pem(PUBLIC, SPKI.to_vec());
        assert_eq!(PublicKey::from_pem(&short), Err(Error::Algorithm));
    }

    proptest! {
        #[test]
        fn never_panics(text: String, der: Vec<u8>) {
            PublicKey::from_pem(&text).ok();
            PublicKey::from_pem(&pem(PUBLIC, der.clone())).ok();
            SigningKey::from_pem(&pem(PRIVATE, der)).ok();
        }
    }
}
