//! What machined says to the person in front of the machine.

use std::{fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _};

/// Writes one message to the console. A console that takes nothing is left alone.
pub(crate) fn say(text: &str) {
    if let Err(error) = write(text) {
        tracing::debug!("writing to the console: {error}");
    }
}

fn write(text: &str) -> io::Result<()> {
    use rustix::fs::OFlags;
    let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits().cast_signed();
    let mut console = fs::File::options()
        .write(true)
        .custom_flags(flags)
        .open("/dev/console")?;
    let lines = text
        .lines()
        .map(|line| format!("keelson: {line}\r\n"))
        .collect::<String>();
    console.write_all(lines.as_bytes())
}
