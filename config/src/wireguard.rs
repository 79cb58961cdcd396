//! What a WireGuard link is: its keys and its peers, as values that were checked. See
//! wg(8) for what each means.

use crate::{Cidr, Wrong, tree::quote};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{fmt, net::SocketAddr, str::FromStr};
use zeroize::Zeroizing;

/// The length of every key, in bytes.
pub const KEY: usize = 32;

/// A WireGuard link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wireguard {
    /// Who the link is.
    pub private_key: SecretKey,
    /// Where it hears its peers, a UDP port; `None` leaves it to the kernel.
    pub listen_port: Option<u16>,
    /// The mark of the packets that it sends; 0 is none.
    pub fw_mark: u32,
    /// Whom it talks to. No two have the same key.
    pub peers: Vec<Peer>,
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub public_key: PublicKey,
    /// What only the two of them know besides.
    pub preshared_key: Option<SecretKey>,
    /// Where it is looked for; `None` waits for it.
    pub endpoint: Option<SocketAddr>,
    /// The networks behind it: what is sent to it, and taken from it. In order.
    pub allowed_ips: Vec<Cidr>,
    /// Every how many seconds it hears something even if there is nothing to say; 0 is never.
    pub persistent_keepalive: u16,
}

/// A key that everybody may know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; KEY]);

/// A key that nobody may know.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<[u8; KEY]>);

impl SecretKey {
    /// Wraps a key that must not be shown.
    pub fn new(key: [u8; KEY]) -> Self {
        SecretKey(Zeroizing::new(key))
    }

    /// The key itself. Call it where the key is used, not where it is passed on.
    pub fn reveal(&self) -> &[u8; KEY] {
        &self.0
    }

    /// The key as Curve25519 takes it (RFC 7748, section 5), which is what the kernel makes
    /// of a private one.
    pub fn clamped(&self) -> SecretKey {
        let mut key = self.clone();
        key.0[0] &= 248;
        key.0[KEY - 1] = key.0[KEY - 1] & 127 | 64;
        key
    }
}

/// 32 bytes in 44 letters of base64; none that is nothing but zeros, which the kernel takes for
/// no key at all. The text is not in the message: it may be a private one.
fn bytes(text: &str) -> Result<Zeroizing<[u8; KEY]>, Wrong> {
    let mut buffer = Zeroizing::new([0; KEY + 4]);
    let length = STANDARD.decode_slice(text.trim(), &mut *buffer).ok();
    let key = length
        .filter(|length| *length == KEY)
        .and_then(|_| buffer.first_chunk::<KEY>())
        .map(|key| Zeroizing::new(*key))
        .ok_or_else(|| Wrong::new("is not a key of WireGuard"))?;
    if *key == [0; KEY] {
        return Err(Wrong::new("is not a key but zeros"));
    }
    Ok(key)
}

impl FromStr for PublicKey {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let hint = "44 letters and digits, the last one =, as `wg pubkey` prints them";
        match bytes(text) {
            Ok(key) => Ok(PublicKey(*key)),
            Err(wrong) => Err(Wrong::new(format!("{} {}", quote(text), wrong.message)).hint(hint)),
        }
    }
}

impl FromStr for SecretKey {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let hint = "44 letters and digits, the last one =, as `wg genkey` prints them";
        match bytes(text) {
            Ok(key) => Ok(SecretKey(key)),
            Err(wrong) => Err(wrong.hint(hint)),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1.
    const ALICE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";

    #[test]
    fn what_is_a_key() {
        let parse = |text: &str| text.parse::<PublicKey>().map_err(|wrong| wrong.message);
        assert_eq!(parse(ALICE).unwrap().to_string(), ALICE);
        assert_eq!(parse(&format!("{ALICE}\n")).unwrap().to_string(), ALICE);
        for text in [
            "",
            "abc",
            &ALICE[..43],
            &ALICE[4..],
            &format!("AAAA{ALICE}"),
            "***",
        ] {
            assert!(
                parse(text)
                    .unwrap_err()
                    .ends_with("is not a key of WireGuard"),
                "{text}"
            );
        }
        let zeros = PublicKey([0; KEY]).to_string();
        assert!(
            parse(&zeros)
                .unwrap_err()
                .ends_with("is not a key but zeros")
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        let key: SecretKey = ALICE.parse().unwrap();
        assert_eq!(format!("{key:?}"), "***");
        let wrong = ALICE[..40].parse::<SecretKey>().unwrap_err();
        assert!(!format!("{wrong:?}").contains("dwdt"), "{wrong:?}");
    }

    #[test]
    fn a_clamped_key_stays_as_it_is() {
        let key = SecretKey::new([0xff; KEY]).clamped();
        assert_eq!((key.reveal()[0], key.reveal()[31]), (0xf8, 0x7f));
        assert_eq!(key.clamped(), key);
    }
}
