//! Whom to trust: TLS 1.3 only, and either a context's CA or one pinned
//! certificate. There is no way to trust everybody.

use crate::error::{Error, Result};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring::default_provider, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The name that every node's certificate carries, whatever its address.
const NODE_NAME: &str = "keelson-node";

/// The SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    pub(crate) fn of(cert: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(cert).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            "a fingerprint is 64 hexadecimal digits, with or without colons, as the node's console shows them"
                .to_owned()
        };
        let digits: Vec<u8> = text
            .strip_prefix("sha256:")
            .unwrap_or(text)
            .chars()
            .filter(|&c| c != ':')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .ok_or_else(invalid)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |n, d| n * 16 + d))
            .collect();
        let exact = digits.len() == 64;
        bytes
            .try_into()
            .ok()
            .filter(|_| exact)
            .map(Fingerprint)
            .ok_or_else(invalid)
    }
}

/// Which node is the right one.
pub(crate) enum Trust {
    /// One whose certificate chains to a context's CA; it learns who we are.
    Context(Identity),
    /// One with exactly this certificate. It learns nothing of us.
    Pinned(Fingerprint),
    /// None: only to tell the fingerprint that a node shows.
    Nobody,
}

/// What a context holds, read.
pub(crate) struct Identity {
    /// The context's name, for messages.
    pub(crate) context: String,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads a context's PEM texts.
    pub(crate) fn new(context: &str, ca: &str, cert: &str, key: &str) -> Result<Identity> {
        let invalid = |what: &str| {
            Error::input(format!("the {what} of context {context:?} cannot be read"))
                .hint("it must be PEM; `osctl config add --force` makes the context anew")
        };
        let certs = |pem: &str, what| -> Result<Vec<CertificateDer<'static>>> {
            let certs: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| invalid(what))?;
            if certs.is_empty() {
                Err(invalid(what))
            } else {
                Ok(certs)
            }
        };
        let mut roots = RootCertStore::empty();
        for root in certs(ca, "CA")? {
            roots.add(root).map_err(|_| invalid("CA"))?;
        }
        Ok(Identity {
            context: context.to_owned(),
            roots: Arc::new(roots),
            chain: certs(cert, "certificate")?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| invalid("key"))?,
        })
    }
}

/// What the node showed, whether it was trusted or not.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Of its certificate.
    pub(crate) fingerprint: Fingerprint,
    /// It names itself as its issuer, as nodes without config do.
    pub(crate) self_signed: bool,
}

/// Where the verifier leaves what it saw.
pub(crate) type Seen = Arc<OnceLock<Shown>>;

/// The TLS settings for one connection.
pub(crate) fn config(trust: &Trust, seen: &Seen) -> Result<ClientConfig> {
    let provider = Arc::new(default_provider());
    let broken = |error: &dyn fmt::Display| Error::failed("cannot set up TLS").cause(error);
    let rule = match trust {
        Trust::Context(identity) => Rule::Chain(
            WebPkiServerVerifier::builder_with_provider(identity.roots.clone(), provider.clone())
                .build()
                .map_err(|error| broken(&error))?,
        ),
        Trust::Pinned(fingerprint) => Rule::Pin(*fingerprint),
        Trust::Nobody => Rule::Nobody,
    };
    let verifier = Verifier {
        rule,
        seen: seen.clone(),
        provider: provider.clone(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match trust {
        Trust::Context(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| {
                Error::input(format!("context {:?} cannot be used", identity.context)).cause(error)
            })?,
        Trust::Pinned(_) | Trust::Nobody => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Debug)]
enum Rule {
    /// It chains to the CA and names the host that was called, or [`NODE_NAME`].
    Chain(Arc<WebPkiServerVerifier>),
    /// It is this one.
    Pin(Fingerprint),
    /// Never.
    Nobody,
}

#[derive(Debug)]
struct Verifier {
    rule: Rule,
    seen: Seen,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Shown {
            fingerprint: Fingerprint::of(leaf),
            self_signed: X509Certificate::from_der(leaf)
                .is_ok_and(|(_, cert)| cert.issuer() == cert.subject()),
        };
        let matches = matches!(self.rule, Rule::Pin(pin) if pin == shown.fingerprint);
        // One connection, one handshake: it is set once.
        self.seen.get_or_init(|| shown);
        match &self.rule {
            Rule::Chain(chain) => {
                match chain.verify_server_cert(leaf, intermediates, host, ocsp, now) {
                    Err(rustls::Error::InvalidCertificate(
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. },
                    )) => {
                        let name = ServerName::try_from(NODE_NAME)
                            .map_err(|_| rustls::Error::General(NODE_NAME.to_owned()))?;
                        chain.verify_server_cert(leaf, intermediates, &name, ocsp, now)
                    }
                    other => other,
                }
            }
            Rule::Pin(_) if matches => Ok(ServerCertVerified::assertion()),
            Rule::Pin(_) | Rule::Nobody => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is never spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_shown_and_as_tools_print_it() {
        let cert = CertificateDer::from(b"any bytes".to_vec());
        let shown = Fingerprint::of(&cert).to_string();
        assert_eq!((shown.len(), shown.matches(':').count()), (95, 31));
        for text in [
            shown.clone(),
            shown.to_uppercase(),
            shown.replace(':', ""),
            format!("sha256:{shown}"),
        ] {
            assert_eq!(text.parse::<Fingerprint>().unwrap(), Fingerprint::of(&cert));
        }
        for wrong in [
            "",
            "ab:cd",
            &shown[..94],
            &format!("{shown}:00"),
            &shown.replace(':', "g"),
        ] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
