//! Says READY=1 to whoever started this program (sd_notify(3)).

use std::{ffi::OsString, os::unix::net::UnixDatagram};

/// Where to say it; nothing if nobody asked.
pub(crate) struct Notifier(Option<OsString>);

impl Notifier {
    /// Takes the socket's path from `NOTIFY_SOCKET`.
    pub(crate) fn from_env() -> Self {
        Notifier(std::env::var_os("NOTIFY_SOCKET"))
    }

    /// Says that the program serves. A failure is logged: serving matters more.
    pub(crate) fn ready(&self) {
        let Some(path) = &self.0 else { return };
        let said = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", path));
        if let Err(error) = said {
            tracing::warn!(%error, "could not say READY=1");
        }
    }
}
