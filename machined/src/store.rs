//! The stored configs: the newest and the one before, as written, each with who
//! brought it and when. A cut of power at any instant leaves a whole one.

use bytes::Bytes;
use keelson_config::Machine;
use std::{sync::Arc, time::SystemTime};

/// A stored config.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// How many configs have been stored, this one included.
    pub generation: u64,
    /// As it was written. Secret.
    pub bytes: Bytes,
    /// When it was stored.
    pub applied: SystemTime,
    /// Who brought it, or where it was found.
    pub source: String,
    /// What it means.
    pub machine: Arc<Machine>,
}
