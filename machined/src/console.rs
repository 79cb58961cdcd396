//! What machined says to the person in front of the machine.

use rustix::fs::OFlags;
use std::{fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

/// The console, or what stands for it.
#[derive(Clone, Debug)]
pub(crate) struct Console(PathBuf);

impl Console {
    /// The console at this place.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Console(path.into())
    }

    /// Writes one message. A console that takes nothing is left alone.
    pub(crate) fn say(&self, text: &str) {
        if let Err(error) = self.write(text) {
            tracing::debug!("writing to the console: {error}");
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let flags = (OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::APPEND)
            .bits()
            .cast_signed();
        let mut console = fs::File::options()
            .write(true)
            .custom_flags(flags)
            .open(&self.0)?;
        let lines: String = text
            .lines()
            .map(|line| format!("keelson: {line}\r\n"))
            .collect();
        console.write_all(lines.as_bytes())
    }
}
