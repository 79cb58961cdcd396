//! `osctl dmesg`.

use crate::{
    app::App,
    client::{CALL_DEADLINE, Session},
    error::Result,
    output,
};
use clap::Args;
use keelson_api::v1::{DmesgRequest, DmesgResponse};

/// Show the kernel's log
#[derive(Debug, Args)]
pub(crate) struct Dmesg {
    /// Go on with what is written later
    #[arg(short, long)]
    follow: bool,
}

impl Dmesg {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        const WHAT: &str = "read the kernel's log";
        let targets = if self.follow {
            vec![app.target(&Default::default())?]
        } else {
            app.targets()?
        };
        let colour = output::colour_stdout();
        for target in &targets {
            let session = Session::open(target).await?;
            let mut machine = session.machine();
            let request = DmesgRequest {
                follow: self.follow,
            };
            let mut stream = session.call(WHAT, machine.dmesg(request)).await?;
            let prefix = if targets.len() > 1 {
                format!("{}: ", target.endpoint)
            } else {
                String::new()
            };
            let deadline = (!self.follow).then_some(CALL_DEADLINE);
            while let Some(record) = session.next(WHAT, &mut stream, deadline).await? {
                output::line(text(&record, &prefix, colour))?;
            }
        }
        Ok(())
    }
}

/// As dmesg(1) shows it: seconds since the start, then the text.
fn text(record: &DmesgResponse, prefix: &str, colour: bool) -> String {
    let seconds = record.timestamp_us / 1_000_000;
    let micros = record.timestamp_us % 1_000_000;
    // What the kernel writes may hold what a device said: keep it off the terminal.
    let message: String = record
        .message
        .chars()
        .map(|c| if c.is_control() && c != '\t' { ' ' } else { c })
        .collect();
    let (on, off) = match (colour, record.priority) {
        (true, 0..=3) => ("\x1b[31m", "\x1b[0m"),
        (true, 4) => ("\x1b[33m", "\x1b[0m"),
        _ => ("", ""),
    };
    format!("{prefix}[{seconds:5}.{micros:06}] {on}{message}{off}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_as_dmesg_shows_it() {
        let record = |priority, message: &str| DmesgResponse {
            sequence: 1,
            timestamp_us: 1_000_042,
            priority,
            message: message.to_owned(),
        };
        assert_eq!(
            text(&record(6, "eth0: up"), "", false),
            "[    1.000042] eth0: up"
        );
        assert_eq!(
            text(&record(3, "bad"), "n: ", true),
            "n: [    1.000042] \x1b[31mbad\x1b[0m"
        );
        assert_eq!(
            text(&record(6, "a\x1b[2Jb"), "", true),
            "[    1.000042] a [2Jb"
        );
    }
}
