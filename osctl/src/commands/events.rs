//! `osctl events`.

use crate::{
    age,
    app::App,
    client::Session,
    error::{Kind, Result},
    output,
};
use clap::Args;
use keelson_api::v1::{Event, EventsRequest};
use std::time::Duration;

/// Without --follow the end is where nothing more comes for this long: the stream
/// itself has none.
const QUIET: Duration = Duration::from_secs(1);

/// Show what happened on a node: the events that it keeps
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on with what happens later
    #[arg(short, long)]
    follow: bool,
}

impl Events {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        const WHAT: &str = "read the events";
        let targets = if self.follow {
            vec![app.target(&Default::default())?]
        } else {
            app.targets()?
        };
        for target in &targets {
            let session = Session::open(target).await?;
            let mut machine = session.machine();
            // The answer's head comes with the first event, or not at all: wait as for one.
            let call = machine.events(EventsRequest { replay: true });
            let mut stream = match self.follow {
                true => session.call_within(Duration::MAX, WHAT, call).await?,
                false => session.call(WHAT, call).await?,
            };
            let prefix = if targets.len() > 1 {
                format!("{}: ", target.endpoint)
            } else {
                String::new()
            };
            let deadline = (!self.follow).then_some(QUIET);
            loop {
                match session.next(WHAT, &mut stream, deadline).await {
                    Ok(Some(event)) => output::line(format!("{prefix}{}", text(&event)))?,
                    Ok(None) => break,
                    Err(error) if error.kind() == Kind::Timeout && !self.follow => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn text(event: &Event) -> String {
    let time = age::rfc3339(event.time.as_ref());
    format!(
        "{time:20}  {}: {}",
        event.subject,
        event.message.replace(char::is_control, " ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_in_one_line() {
        let event = Event {
            sequence: 1,
            time: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 5,
            }),
            subject: "service/k3s".to_owned(),
            message: "started\nagain".to_owned(),
        };
        assert_eq!(
            text(&event),
            "2027-01-15T08:00:00Z  service/k3s: started again"
        );
    }
}
