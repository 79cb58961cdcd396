//! PEM texts (RFC 7468): whether they have the form of certificates or of a key.

use super::Wrong;
use crate::tree::quote;
use base64::Engine as _;

/// What a PEM text should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pem {
    /// One certificate or more.
    Certificates,
    /// Exactly one certificate.
    Certificate,
    /// Exactly one PKCS#8 private key.
    PrivateKey,
}

/// Looks at the form of a PEM text (RFC 7468): labels, base64, and that each
/// block is one DER sequence. What is in it is not looked at.
pub(crate) fn pem(text: &str, want: Pem) -> Result<(), Wrong> {
    let (label, noun) = match want {
        Pem::Certificates | Pem::Certificate => ("CERTIFICATE", "certificate"),
        Pem::PrivateKey => ("PRIVATE KEY", "private key"),
    };
    let form = format!("it begins with -----BEGIN {label}-----");
    let mut count = 0;
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(found) = line.strip_prefix("-----BEGIN ") else {
            if line.starts_with("-----") {
                return Err(Wrong::new("the PEM block has no beginning").hint(form));
            }
            continue;
        };
        let found = found
            .strip_suffix("-----")
            .ok_or_else(|| Wrong::new("the first line of the PEM block is cut"))?;
        let mut body = String::new();
        loop {
            match lines.next() {
                Some(line) if line.starts_with("-----") => {
                    if line != format!("-----END {found}-----") {
                        return Err(Wrong::new(
                            "the last line of the PEM block does not match its first",
                        ));
                    }
                    break;
                }
                Some(line) => body.push_str(line),
                None => {
                    return Err(Wrong::new("the PEM block has no end").hint("was it copied whole?"));
                }
            }
        }
        if found != label {
            return Err(wrong_label(found, noun));
        }
        let der = base64::engine::general_purpose::STANDARD.decode(&body);
        let der = der
            .map_err(|_| Wrong::new("the PEM block is not base64").hint("was it copied whole?"))?;
        if !is_sequence(&der) {
            return Err(Wrong::new(format!("the PEM block does not hold a {noun}"))
                .hint("was it copied whole?"));
        }
        count += 1;
    }
    match (count, want) {
        (0, _) => Err(Wrong::new(format!("is not a {noun} in PEM form")).hint(form)),
        (1, _) | (_, Pem::Certificates) => Ok(()),
        (more, _) => Err(Wrong::new(format!("expected one {noun}, found {more}"))),
    }
}

fn wrong_label(found: &str, noun: &str) -> Wrong {
    match (found, noun) {
        ("ENCRYPTED PRIVATE KEY", "private key") => Wrong::new("the private key is encrypted")
            .hint("nobody is there to type the passphrase when the machine boots"),
        ("EC PRIVATE KEY" | "RSA PRIVATE KEY", "private key") => {
            Wrong::new("the private key is not in PKCS#8 form")
                .hint("`openssl pkcs8 -topk8 -nocrypt` converts it")
        }
        (found, noun) if found.contains("PRIVATE KEY") => {
            Wrong::new(format!("expected a {noun}, found a private key"))
        }
        ("CERTIFICATE", noun) => Wrong::new(format!("expected a {noun}, found a certificate")),
        (found, noun) => Wrong::new(format!(
            "expected a {noun}, found a PEM block {}",
            quote(found)
        )),
    }
}

/// Whether bytes are one DER sequence and nothing behind it: X.690, section 8.1.
fn is_sequence(der: &[u8]) -> bool {
    let (length, header) = match der {
        [0x30, short @ 0..=0x7f, ..] => (usize::from(*short), 2),
        [0x30, 0x81, a, ..] => (usize::from(*a), 3),
        [0x30, 0x82, a, b, ..] => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        _ => return false,
    };
    length > 0 && der.len() == header + length
}
