//! What a failed connection or call means, in words, and what to do about it.
//! Pure: errors in, errors for a person out.

use super::{
    Endpoint, Target, Trust,
    tls::Shown,
    witness::{Testimony, tls_error},
};
use crate::error::{Error, Kind};
use rustls::{AlertDescription, CertificateError};
use std::{io, time::Duration};
use tonic::{Code, Status};

const FIRST_CONFIG: &str = "a node that waits for its first config has such a certificate: \
use `osctl apply-config --insecure` with the fingerprint that its console shows";
const CLOCKS: &str = "compare the clocks of this computer and of the node";

fn unreachable(endpoint: &Endpoint) -> Error {
    Error::new(
        Kind::Unreachable,
        format!("cannot reach the node {endpoint}"),
    )
}

/// Nothing came back in time.
pub(super) fn no_answer(endpoint: &Endpoint, deadline: Duration) -> Error {
    unreachable(endpoint)
        .cause(format!(
            "it has not answered within {} s",
            deadline.as_secs()
        ))
        .hint("is it on, and is this its address? Its console shows it")
}

/// The TCP connection failed.
pub(super) fn connect(endpoint: &Endpoint, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the machine is on, but nothing listens there: it may still be starting, or the port is another"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "is this computer in a network that reaches it?"
        }
        io::ErrorKind::TimedOut => "is it on, and is this its address? Its console shows it",
        _ => "is the name right? The node's console shows its address",
    };
    unreachable(endpoint).cause(error).hint(hint)
}

/// The TLS handshake failed.
pub(super) fn handshake(target: &Target, shown: Option<&Shown>, error: &io::Error) -> Error {
    let Some(tls) = tls_error(error) else {
        return unreachable(&target.endpoint)
            .cause(error)
            .hint("it closed the connection: is it the API's port? The node may also be starting");
    };
    match tls {
        rustls::Error::InvalidCertificate(reason) => certificate(target, shown, reason),
        rustls::Error::AlertReceived(alert) => refused(target, *alert),
        other => unreachable(&target.endpoint)
            .cause(format!("it does not speak TLS 1.3 as a node does: {other}"))
            .hint("is it the API's port? By default it is 50000"),
    }
}

/// The node's certificate is not the right one.
fn certificate(target: &Target, shown: Option<&Shown>, reason: &CertificateError) -> Error {
    let endpoint = &target.endpoint;
    let fingerprint =
        shown.map(|shown| format!("its certificate has the fingerprint {}", shown.fingerprint));
    let fingerprint = fingerprint.unwrap_or_else(|| "it shows no certificate".to_owned());
    let identity = match &*target.trust {
        Trust::Nobody => {
            let option = shown.map_or_else(String::new, |shown| shown.fingerprint.to_string());
            return Error::input(format!(
                "the node {endpoint} is not trusted without its fingerprint"
            ))
            .cause(fingerprint)
            .hint(format!(
                "if the node's console shows the same, add: --cert-fingerprint {option}"
            ));
        }
        Trust::Pinned(pin) => {
            return Error::new(
                Kind::Unreachable,
                format!("{endpoint} is not the node with the fingerprint given"),
            )
            .passing(false)
            .cause(format!("the fingerprint given is {pin}"))
            .cause(shown.map_or(fingerprint, |it| {
                format!("the fingerprint shown is {}", it.fingerprint)
            }))
            .hint(
                "the node's console shows its fingerprint; once it has a config, it is reached \
without --insecure",
            );
        }
        Trust::Context(identity) => identity,
    };
    let untrusted = Error::new(
        Kind::Unreachable,
        format!("the node {endpoint} is not trusted"),
    );
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            untrusted.cause("its certificate has expired").hint(CLOCKS)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            untrusted.cause("its certificate is not valid yet").hint(CLOCKS)
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            untrusted
                .cause(format!("its certificate is neither for {} nor for a node", endpoint.host()))
                .hint("is it another service of this cluster?")
                .passing(false)
        }
        _ if shown.is_some_and(|shown| shown.self_signed) => untrusted
            .cause("it signed its certificate itself")
            .cause(fingerprint)
            .hint(FIRST_CONFIG),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => untrusted
            .cause(format!(
                "its certificate was not issued by the CA of context {:?}",
                identity.context
            ))
            .hint("does it belong to another cluster? `osctl config list` shows the contexts, --context picks one")
            .passing(false),
        other => untrusted.cause(format!("its certificate is not valid: {other}")),
    }
}

/// The node said in a TLS alert that it does not take our certificate.
fn refused(target: &Target, alert: AlertDescription) -> Error {
    let denied = Error::new(
        Kind::Denied,
        format!("the node {} does not let us in", target.endpoint),
    );
    match alert {
        AlertDescription::CertificateRequired => denied
            .cause("it wants a client certificate")
            .hint("it has a config already: call it with a context, without --insecure"),
        AlertDescription::CertificateExpired => denied
            .cause("our client certificate has expired, or is not valid yet on the node's clock")
            .hint("`osctl config list` shows when it ends; `osctl config add --force` makes a new one")
            // A node without a clock of its own asks the network for the time first.
            .passing(true),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::DecryptError
        | AlertDescription::AccessDenied => denied
            .cause(format!("it does not take our client certificate ({alert:?})"))
            .hint("was it issued from the secrets of this node's cluster? --context picks another"),
        other => unreachable(&target.endpoint)
            .cause(format!("it ended the TLS connection: {other:?}"))
            .hint("is it the API's port? By default it is 50000"),
    }
}

/// The connection broke.
pub(super) fn lost(target: &Target, testimony: &Testimony) -> Error {
    match testimony.get() {
        Some(rustls::Error::AlertReceived(alert)) => refused(target, *alert),
        Some(other) => unreachable(&target.endpoint).cause(other),
        None => Error::new(
            Kind::Unreachable,
            format!("lost the connection to {}", target.endpoint),
        )
        .hint("the node may be restarting; try again"),
    }
}

/// A call failed. `what` completes "cannot …".
pub(super) fn status(target: &Target, what: &str, status: &Status, testimony: &Testimony) -> Error {
    // A status with a source was made on our side: the connection is gone.
    if testimony.get().is_some() || std::error::Error::source(status).is_some() {
        return lost(target, testimony);
    }
    let new = |kind| {
        Error::new(kind, format!("cannot {what} on {}", target.endpoint)).cause(status.message())
    };
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => new(Kind::Denied).hint(match &*target.trust {
            Trust::Context(identity) => format!(
                "`osctl config list` shows the role of context {:?}; the call needs a higher one",
                identity.context
            ),
            _ => "a node without config does little more than take its first one".to_owned(),
        }),
        Code::Unavailable => new(Kind::Unreachable)
            .hint("the node is there but not ready; `osctl health` waits until it is"),
        Code::DeadlineExceeded => new(Kind::Timeout),
        Code::Aborted => new(Kind::Failed)
            .hint("somebody else changed it in the meantime: look at it again and repeat the change"),
        Code::InvalidArgument | Code::OutOfRange => new(Kind::Input),
        Code::Unimplemented => new(Kind::Failed)
            .hint("this node does not know the call: compare the versions with `osctl version`"),
        Code::Unknown if status.message().is_empty() => new(Kind::Failed).cause("no reason given"),
        _ => new(Kind::Failed),
    }
}

#[cfg(test)]
mod tests;
