//! Who this machine is: its id, its keys and its certificates. No private key
//! leaves this file but in [`Credentials`], for apid.

use std::fmt;
use zeroize::Zeroizing;

/// What apid serves with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The certificate chain, the leaf first, each DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// The CA that client certificates chain to, DER; `None` in maintenance.
    pub client_ca: Option<Vec<u8>>,
}

impl Credentials {
    /// The SHA-256 of the leaf's DER: lower-case hex in pairs with colons.
    pub(crate) fn fingerprint(&self) -> String {
        String::new()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}
