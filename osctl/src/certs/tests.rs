//! What the certificates allow, judged by the verifiers that apid and osctl use.

use super::*;
use rcgen::SanType;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring::default_provider,
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use std::sync::Arc;

struct Cluster {
    root: Pair,
    issuer: Pair,
}

fn cluster() -> Cluster {
    let now = OffsetDateTime::now_utc();
    let root = root_ca("test", now).unwrap();
    let issuer = server_issuer(&root, "test", now).unwrap();
    Cluster { root, issuer }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

impl Cluster {
    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.root.cert)).unwrap();
        Arc::new(roots)
    }

    /// What osctl does with a machine's certificate.
    fn takes_server(&self, chain: &[&str]) -> bool {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots(), provider)
            .build()
            .unwrap();
        let (leaf, rest) = chain.split_first().unwrap();
        let rest: Vec<_> = rest.iter().map(|pem| der(pem)).collect();
        let name = ServerName::try_from("keelson-node").unwrap();
        verifier
            .verify_server_cert(&der(leaf), &rest, &name, &[], UnixTime::now())
            .is_ok()
    }

    /// What apid does with a person's certificate.
    fn takes_client(&self, chain: &[&str]) -> bool {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider)
            .build()
            .unwrap();
        let (leaf, rest) = chain.split_first().unwrap();
        let rest: Vec<_> = rest.iter().map(|pem| der(pem)).collect();
        verifier
            .verify_client_cert(&der(leaf), &rest, UnixTime::now())
            .is_ok()
    }
}

/// A certificate as a machine would make it, or a thief of its issuer.
fn leaf(signer: &Pair, uses: &[ExtendedKeyUsagePurpose], is_ca: bool) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("someone");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "os:admin");
    params.subject_alt_names = vec![SanType::DnsName("keelson-node".try_into().unwrap())];
    params.extended_key_usages = uses.to_vec();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    let cert = params.signed_by(&key, &issuer(signer).unwrap()).unwrap();
    pair(&cert, &key)
}

#[test]
fn the_issuer_makes_server_certificates() {
    let cluster = cluster();
    let server = leaf(
        &cluster.issuer,
        &[ExtendedKeyUsagePurpose::ServerAuth],
        false,
    );
    assert!(cluster.takes_server(&[&server.cert, &cluster.issuer.cert]));
    assert!(
        !cluster.takes_server(&[&server.cert]),
        "without the issuer there is no chain"
    );
}

#[test]
fn the_issuer_cannot_make_client_certificates() {
    let cluster = cluster();
    for uses in [
        &[ExtendedKeyUsagePurpose::ClientAuth][..],
        &[
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ],
        &[ExtendedKeyUsagePurpose::Any],
        // Without any EKU a certificate would be good for everything.
        &[],
    ] {
        let thief = leaf(&cluster.issuer, uses, false);
        assert!(
            !cluster.takes_client(&[&thief.cert, &cluster.issuer.cert]),
            "{uses:?}"
        );
        // The same below the root is taken, so the refusal is for the issuer's sake.
        if uses == [ExtendedKeyUsagePurpose::ClientAuth] {
            assert!(cluster.takes_client(&[&leaf(&cluster.root, uses, false).cert]));
        }
    }
}

#[test]
fn the_issuer_cannot_make_another_issuer() {
    let cluster = cluster();
    let sub = leaf(&cluster.issuer, &[], true);
    for uses in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ] {
        let thief = leaf(&sub, &[uses], false);
        let chain = [&*thief.cert, &sub.cert, &cluster.issuer.cert];
        assert!(!cluster.takes_server(&chain) && !cluster.takes_client(&chain));
    }
}

#[test]
fn a_client_certificate_is_a_client_certificate_only() {
    let cluster = cluster();
    let now = OffsetDateTime::now_utc();
    let admin = client(&cluster.root, "ana", "os:admin", Duration::days(365), now).unwrap();
    assert!(cluster.takes_client(&[&admin.cert]));
    assert!(!cluster.takes_server(&[&admin.cert]));
    let facts = read(&admin.cert).unwrap();
    assert_eq!((&*facts.name, &*facts.organisation), ("ana", "os:admin"));
    assert!((facts.not_after - now - Duration::days(365)).abs() < Duration::minutes(1));
    assert!(belongs(&admin.cert, &admin.key) && !belongs(&admin.cert, &cluster.root.key));
}

#[test]
fn another_clusters_certificates_are_refused() {
    let (ours, theirs) = (cluster(), cluster());
    let now = OffsetDateTime::now_utc();
    let admin = client(&theirs.root, "eve", "os:admin", Duration::days(1), now).unwrap();
    assert!(!ours.takes_client(&[&admin.cert]));
    let server = leaf(
        &theirs.issuer,
        &[ExtendedKeyUsagePurpose::ServerAuth],
        false,
    );
    assert!(!ours.takes_server(&[&server.cert, &theirs.issuer.cert]));
}

#[test]
fn a_client_certificate_never_outlives_its_ca() {
    let cluster = cluster();
    let now = OffsetDateTime::now_utc();
    let long = client(&cluster.root, "ana", "os:admin", Duration::days(36500), now).unwrap();
    assert_eq!(
        read(&long.cert).unwrap().not_after,
        read(&cluster.root.cert).unwrap().not_after
    );
    let expired = client(&cluster.root, "ana", "os:admin", Duration::days(-1), now).unwrap();
    assert!(!cluster.takes_client(&[&expired.cert]));
}
