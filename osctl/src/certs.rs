//! Certificates made at the desk: the root CA, the issuer that a machine makes
//! its server certificates with, and client certificates. All keys are ECDSA
//! P-256: what every TLS library takes.
//!
//!     root CA ─┬─ client certificates: O= is the role, EKU clientAuth
//!              └─ server issuer (pathlen 0, EKU serverAuth) ── machines' server certificates
//!
//! A stolen issuer can pretend to be a machine, but cannot make itself an
//! administrator: verifiers refuse a client certificate below an EKU that lacks
//! clientAuth.

use crate::error::{Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    x509::AttributeTypeAndValue,
};
use zeroize::Zeroizing;

/// How long the CA and the issuer are valid.
const CA_VALIDITY: Duration = Duration::days(3653);

/// Certificates are valid from this long before they were made, for machines whose
/// clock is behind.
const BACKDATE: Duration = Duration::days(1);

/// A certificate and its key, both PEM.
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) cert: String,
    /// The key, PKCS#8.
    pub(crate) key: Zeroizing<String>,
}

/// Makes the root CA of a cluster.
pub(crate) fn root_ca(cluster_id: &str, now: OffsetDateTime) -> Result<Pair> {
    let key = generate_key()?;
    let params = ca_params(&format!("keelson root {cluster_id}"), 1, now);
    let cert = params.self_signed(&key).map_err(making("the root CA"))?;
    Ok(pair(&cert, &key))
}

/// Makes the issuer of machines' server certificates.
pub(crate) fn server_issuer(root: &Pair, cluster_id: &str, now: OffsetDateTime) -> Result<Pair> {
    let key = generate_key()?;
    let mut params = ca_params(&format!("keelson servers {cluster_id}"), 0, now);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = issuer(root)?;
    let cert = params
        .signed_by(&key, &issuer)
        .map_err(making("the server issuer"))?;
    Ok(pair(&cert, &key))
}

/// Makes a client certificate: `name` is its common name, `role` its organisation.
pub(crate) fn client(
    root: &Pair,
    name: &str,
    role: &str,
    validity: Duration,
    now: OffsetDateTime,
) -> Result<Pair> {
    let key = generate_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, role);
    params.not_before = now - BACKDATE;
    // Not past the CA's own end: no verifier would take it then.
    params.not_after = (now + validity).min(read(&root.cert)?.not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let cert = params
        .signed_by(&key, &issuer(root)?)
        .map_err(making("the client certificate"))?;
    Ok(pair(&cert, &key))
}

/// What a person wants to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The subject's common name.
    pub(crate) name: String,
    /// The subject's organisation: the role, in a client certificate.
    pub(crate) organisation: String,
    /// When it ends.
    pub(crate) not_after: OffsetDateTime,
}

/// Reads the first certificate of a PEM text.
pub(crate) fn read(pem: &str) -> Result<Facts> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let invalid = || Error::input("this is not a certificate in PEM form");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| invalid())?;
    let (_, cert) = X509Certificate::from_der(&der).map_err(|_| invalid())?;
    let subject = cert.subject();
    let first = |attribute: Option<&AttributeTypeAndValue<'_>>| {
        attribute
            .and_then(|value| value.as_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Facts {
        name: first(subject.iter_common_name().next()),
        organisation: first(subject.iter_organization().next()),
        not_after: cert.validity().not_after.to_datetime(),
    })
}

/// Whether a key in PEM form belongs to the first certificate of a PEM text.
pub(crate) fn belongs(cert: &str, key: &str) -> bool {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let (Ok(der), Ok(key)) = (
        CertificateDer::from_pem_slice(cert.as_bytes()),
        KeyPair::from_pem(key),
    ) else {
        return false;
    };
    X509Certificate::from_der(&der)
        .is_ok_and(|(_, cert)| *cert.public_key().subject_public_key.data == *key.public_key_raw())
}

fn ca_params(name: &str, path_length: u8, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.not_before = now - BACKDATE;
    params.not_after = now + CA_VALIDITY;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn issuer(pair: &Pair) -> Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::from_pem(&pair.key)
        .map_err(|_| Error::input("the root CA's key cannot be read"))?;
    Issuer::from_ca_cert_pem(&pair.cert, key)
        .map_err(|_| Error::input("the root CA's certificate cannot be read"))
}

fn generate_key() -> Result<KeyPair> {
    KeyPair::generate().map_err(making("a key"))
}

fn pair(cert: &rcgen::Certificate, key: &KeyPair) -> Pair {
    Pair {
        cert: unix_lines(cert.pem()),
        key: Zeroizing::new(unix_lines(key.serialize_pem())),
    }
}

/// PEM from the library may end its lines as on Windows; YAML would keep that.
fn unix_lines(pem: String) -> String {
    if pem.contains('\r') {
        pem.replace('\r', "")
    } else {
        pem
    }
}

fn making(what: &str) -> impl Fn(rcgen::Error) -> Error {
    move |error| Error::failed(format!("cannot make {what}")).cause(error)
}

#[cfg(test)]
mod tests;
