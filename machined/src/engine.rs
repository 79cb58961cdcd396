//! The one task that owns the config and what follows from it. Others send it
//! messages through a [`Handle`] and read what it publishes.

mod handle;
mod views;

pub(crate) use handle::{Applied, Apply, Error, Handle, Power};
use std::sync::Arc;
use tokio::sync::Notify;

/// Wakes the loop: whoever sees that the machine may have changed calls
/// `notify_one`. Many wakes before a pass are one pass.
pub(crate) type Wake = Arc<Notify>;
