//! Who calls, as apid says, and what machined itself checks about it.

use crate::engine::{Error, Handle};
use tonic::{Request, Status, service::Interceptor};

/// The role apid gives to anybody while the machine waits for its first config.
const MAINTENANCE: &str = "os:maintenance";
/// The role that may read secrets.
const ADMIN: &str = "os:admin";

/// Refuses what came in under the rules of maintenance once there is a config:
/// a connection may be older than the config.
#[derive(Clone)]
pub(super) struct Guard(pub(super) Handle);

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if is_maintenance(&request) && self.0.config().is_some() {
            return Err(Status::unauthenticated(
                "this machine has a config now: connect with a client certificate",
            ));
        }
        Ok(request)
    }
}

/// Whether the call came in while the machine waited for its first config.
pub(super) fn is_maintenance<T>(request: &Request<T>) -> bool {
    role(request) == MAINTENANCE
}

/// Whether the caller may read secrets.
pub(super) fn is_admin<T>(request: &Request<T>) -> bool {
    role(request) == ADMIN
}

/// Who calls, for the record.
pub(super) fn source<T>(request: &Request<T>) -> String {
    match text(request, keelson_api::PEER_KEY) {
        "" if is_maintenance(request) => "maintenance".to_owned(),
        "" => "machined's socket".to_owned(),
        peer => peer.to_owned(),
    }
}

fn role<T>(request: &Request<T>) -> &str {
    text(request, keelson_api::ROLE_KEY)
}

fn text<'a, T>(request: &'a Request<T>, key: &str) -> &'a str {
    request
        .metadata()
        .get(key)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::InvalidConfig(_) | Error::InvalidArgument(_) => Status::invalid_argument(text),
            Error::FailedPrecondition(_) => Status::failed_precondition(text),
            Error::Conflict(_) => Status::aborted(text),
            Error::NotFound(_) => Status::not_found(text),
            Error::Unavailable(_) => Status::unavailable(text),
            Error::Internal(_) => Status::internal(text),
        }
    }
}
