//! What a machine proves of itself: made, kept, renewed, refused.

use super::*;
use keelson_config::{Issuer as ConfigIssuer, Secret};
use rcgen::{BasicConstraints, CertifiedIssuer};
use std::os::unix::fs::PermissionsExt as _;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// A CA, and below it an issuer of server certificates, as `osctl gen secrets` makes them.
pub(crate) fn api() -> Api {
    let authority = |name: &str, path: u8| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ca = CertifiedIssuer::self_signed(authority("ca", 1), key()).unwrap();
    let mut below = authority("issuer", 0);
    below.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let issuer = CertifiedIssuer::signed_by(below, key(), &ca).unwrap();
    let secret = Secret::new(issuer.key().serialize_pem());
    Api {
        ca: ca.pem(),
        issuer: ConfigIssuer {
            cert: issuer.pem(),
            key: secret,
        },
        sans: Vec::new(),
    }
}

fn verify(
    api: &Api,
    credentials: &Credentials,
    name: &str,
    at: SystemTime,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(api.ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let chain: Vec<_> = credentials
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    verifier
        .verify_server_cert(
            &chain[0],
            &chain[1..],
            &ServerName::try_from(name).unwrap(),
            &[],
            at,
        )
        .map(drop)
}

/// Shows: machine.api.issuer.cert, machine.api.issuer.key, machine.api.sans
#[test]
fn the_leaf_chains_to_the_ca_and_names_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity::load(Some(dir.path().join("identity")), now()).unwrap();
    let mut names = Names::new(identity.machine_id());
    for name in ["server-1", "10.0.2.15", "no name", ""] {
        names.add(name);
    }
    let api = api();
    let (credentials, _) = identity.serving(&api, &names, Fit::Exact, now()).unwrap();
    for name in [
        "server-1",
        "10.0.2.15",
        "keelson-node",
        "localhost",
        "127.0.0.1",
        "::1",
        identity.machine_id(),
    ] {
        verify(&api, &credentials, name, now()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(verify(&api, &credentials, "server-2", now()).is_err());
    // A caller's clock that is behind, and one that is far ahead.
    assert!(verify(&api, &credentials, "server-1", now() - DAY / 2).is_ok());
    assert!(verify(&api, &credentials, "server-1", now() + YEAR * 2).is_err());
}

#[test]
fn the_identity_stays_and_only_root_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    let api = api();
    let mut first = Identity::load(Some(dir.clone()), now()).unwrap();
    let names = Names::new(first.machine_id());
    let (serving, reason) = first.serving(&api, &names, Fit::Exact, now()).unwrap();
    assert_eq!(reason, Some("there was none"));
    let mut second = Identity::load(Some(dir.clone()), now() + DAY).unwrap();
    assert_eq!(second.machine_id(), first.machine_id());
    assert_eq!(second.maintenance(), first.maintenance());
    assert_eq!(
        second
            .serving(&api, &names, Fit::Exact, now() + DAY)
            .unwrap(),
        (serving, None)
    );
    for name in ["machine-id", "maintenance.pem", "node.pem"] {
        assert_eq!(
            fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn when_a_leaf_is_made_anew() {
    let mut identity = Identity::load(None, now()).unwrap();
    let names = Names::new(identity.machine_id());
    let mut more = names.clone();
    more.add("10.0.0.9");
    let (one, other) = (api(), api());
    identity.serving(&one, &names, Fit::Exact, now()).unwrap();
    let mut reason =
        |api: &Api, names: &Names, at| identity.serving(api, names, Fit::Exact, at).unwrap().1;
    assert_eq!(reason(&one, &names, now() + DAY), None);
    assert_eq!(reason(&one, &names, now() + DAY * 240), None);
    assert_eq!(
        reason(&one, &names, now() + DAY * 245),
        Some("two thirds of its life are over")
    );
    assert_eq!(reason(&one, &names, now()), Some("the clock was set back"));
    assert_eq!(
        reason(&one, &more, now()),
        Some("the machine's names or addresses changed")
    );
    assert_eq!(reason(&other, &more, now()), Some("the issuer changed"));
}

#[test]
fn while_the_machine_comes_up_a_leaf_with_more_names_serves() {
    let mut identity = Identity::load(None, now()).unwrap();
    let few = Names::new(identity.machine_id());
    let mut all = few.clone();
    all.add("10.0.2.15");
    let api = api();
    let mut reason = |names: &Names, fit| identity.serving(&api, names, fit, now()).unwrap().1;
    assert!(reason(&all, Fit::Covering).is_some());
    assert_eq!(reason(&few, Fit::Covering), None);
    assert!(reason(&few, Fit::Exact).is_some());
    assert!(reason(&all, Fit::Covering).is_some());
}

#[test]
fn what_is_damaged_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = Identity::load(Some(dir.path().into()), now()).unwrap();
    for name in ["machine-id", "maintenance.pem", "node.pem"] {
        fs::write(dir.path().join(name), "-----BEGIN PRIVATE KEY-----\n!!!").unwrap();
    }
    let second = Identity::load(Some(dir.path().into()), now()).unwrap();
    assert_ne!(first.machine_id(), second.machine_id());
    assert_eq!(
        Identity::load(Some(dir.path().into()), now())
            .unwrap()
            .maintenance(),
        second.maintenance()
    );
}

#[test]
fn a_bad_issuer_is_named() {
    let mut identity = Identity::load(None, now()).unwrap();
    let mut api = api();
    api.issuer.key = Secret::new("no key".into());
    let error = identity
        .serving(&api, &Names::default(), Fit::Exact, now())
        .unwrap_err();
    assert_eq!(error.to_string(), "machine.api.issuer.key cannot be used");
}

#[test]
fn what_would_lock_everybody_out_is_noticed() {
    check(&api()).unwrap();
    let what = |api: &Api| match check(api).unwrap_err() {
        IdentityError::Config { what, .. } => what,
        other => panic!("{other}"),
    };
    let pem = |label: &str| format!("-----BEGIN {label}-----\nMAMCAQE=\n-----END {label}-----\n");
    let mut wrong = api();
    wrong.ca = pem("CERTIFICATE");
    assert_eq!(what(&wrong), "ca");
    let mut wrong = api();
    wrong.issuer.cert = pem("CERTIFICATE");
    assert_eq!(what(&wrong), "issuer.cert");
    let mut wrong = api();
    wrong.issuer.key = Secret::new(pem("PRIVATE KEY"));
    assert_eq!(what(&wrong), "issuer.key");
    // Each part is good, but they do not belong together.
    let mut wrong = api();
    wrong.ca = api().ca;
    assert_eq!(what(&wrong), "issuer.cert");
    let mut wrong = api();
    wrong.issuer.key = api().issuer.key;
    assert_eq!(what(&wrong), "issuer.cert");
    // Another CA beside the right one, as while CAs are changed, is fine.
    let mut two = api();
    two.ca = api().ca + &two.ca;
    check(&two).unwrap();
}

#[test]
fn a_clock_that_was_never_set_counts_as_the_build_time() {
    let build = 1_790_000_000;
    assert_eq!(sane(SystemTime::UNIX_EPOCH, build), now());
    assert_eq!(sane(now() + DAY, build), now() + DAY);
    let far = SystemTime::UNIX_EPOCH + YEAR * 100_000;
    assert!(leaf_params(&Names::default(), sane(far, build)).is_ok());
}

#[test]
fn neither_key_nor_certificate_is_in_the_debug_text() {
    let identity = Identity::load(None, now()).unwrap();
    let text = format!("{:?}", identity.maintenance());
    assert_eq!(
        text,
        format!(
            "Credentials {{ fingerprint: {:?}, .. }}",
            identity.maintenance().fingerprint()
        )
    );
    assert_eq!(identity.maintenance().fingerprint().len(), 95);
}
