//! Speaking to one node: where it is, whom to trust, one connection, and what its
//! failures mean in words. No command's logic lives here.

mod endpoint;
mod failure;
mod session;
mod tls;
mod witness;

pub(crate) use endpoint::Endpoint;
pub(crate) use session::{CALL_DEADLINE, Session, Target};
pub(crate) use tls::{Fingerprint, Identity, Trust};
