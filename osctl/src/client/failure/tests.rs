//! Every failure's text, as a person sees it.

use super::*;
use crate::client::{Fingerprint, Target, Trust};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

fn target(trust: Trust) -> Target {
    Target {
        endpoint: "10.0.0.5".parse().unwrap(),
        trust: Arc::new(trust),
    }
}

fn fingerprint(byte: u8) -> Fingerprint {
    Fingerprint::of(&CertificateDer::from(vec![byte]))
}

fn context() -> Trust {
    let secrets = crate::secrets::tests::sample();
    let (cert, key) = (&secrets.root.cert, &secrets.root.key);
    Trust::Context(crate::client::Identity::new("demo", cert, cert, key).unwrap())
}

fn tls(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[test]
fn texts() {
    let demo = target(context());
    let pinned = target(Trust::Pinned(fingerprint(1)));
    let nobody = target(Trust::Nobody);
    let own = Shown {
        fingerprint: fingerprint(2),
        self_signed: true,
    };
    let issued = Shown {
        fingerprint: fingerprint(2),
        self_signed: false,
    };
    let invalid = |reason: CertificateError| tls(rustls::Error::InvalidCertificate(reason));
    let alert = |alert| tls(rustls::Error::AlertReceived(alert));
    let other = || invalid(CertificateError::ApplicationVerificationFailure);
    let none = Testimony::default();
    let said = |code, message: &str| status(&demo, "reboot", &Status::new(code, message), &none);
    let texts = [
        (
            "refused",
            connect(&demo.endpoint, &io::ErrorKind::ConnectionRefused.into()),
        ),
        (
            "no answer",
            no_answer(&demo.endpoint, Duration::from_secs(10)),
        ),
        (
            "closed",
            handshake(&demo, None, &io::ErrorKind::UnexpectedEof.into()),
        ),
        (
            "not TLS",
            handshake(
                &demo,
                None,
                &tls(rustls::Error::General("garbage".to_owned())),
            ),
        ),
        (
            "wrong CA",
            handshake(
                &demo,
                Some(&issued),
                &invalid(CertificateError::UnknownIssuer),
            ),
        ),
        (
            "in maintenance",
            handshake(&demo, Some(&own), &invalid(CertificateError::UnknownIssuer)),
        ),
        (
            "expired",
            handshake(&demo, Some(&issued), &invalid(CertificateError::Expired)),
        ),
        (
            "not yet",
            handshake(
                &demo,
                Some(&issued),
                &invalid(CertificateError::NotValidYet),
            ),
        ),
        (
            "name",
            handshake(
                &demo,
                Some(&issued),
                &invalid(CertificateError::NotValidForName),
            ),
        ),
        (
            "wrong fingerprint",
            handshake(&pinned, Some(&own), &other()),
        ),
        ("no fingerprint", handshake(&nobody, Some(&own), &other())),
        (
            "no certificate",
            handshake(
                &pinned,
                Some(&own),
                &alert(AlertDescription::CertificateRequired),
            ),
        ),
        (
            "our certificate",
            handshake(&demo, Some(&issued), &alert(AlertDescription::UnknownCA)),
        ),
        (
            "our certificate ended",
            handshake(
                &demo,
                Some(&issued),
                &alert(AlertDescription::CertificateExpired),
            ),
        ),
        ("lost", lost(&demo, &none)),
        (
            "denied",
            said(Code::PermissionDenied, "Reboot needs the role os:operator"),
        ),
        (
            "denied in maintenance",
            status(
                &pinned,
                "reboot",
                &Status::permission_denied("not without a config"),
                &none,
            ),
        ),
        ("not ready", said(Code::Unavailable, "machined is starting")),
        ("too late", said(Code::DeadlineExceeded, "took too long")),
        ("invalid", said(Code::InvalidArgument, "no such thing")),
        ("unknown call", said(Code::Unimplemented, "")),
        ("failed", said(Code::Internal, "disk is full")),
    ];
    let all: String = texts
        .iter()
        .map(|(name, error)| {
            format!(
                "== {name} (exit {})\n{}\n",
                error.kind().code(),
                error.render(false)
            )
        })
        .collect();
    insta::assert_snapshot!(all);
}
