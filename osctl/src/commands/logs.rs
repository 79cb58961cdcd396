//! `osctl logs`.

use crate::{
    app::App,
    client::{CALL_DEADLINE, Session},
    error::Result,
    lines::Prefixed,
    output,
};
use clap::Args;
use keelson_api::v1::LogsRequest;

/// Show a service's log
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The service; `osctl service` lists them
    service: String,

    /// Go on with what is written later
    #[arg(short, long)]
    follow: bool,

    /// Begin with that many of the last lines [default: all that is kept]
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
}

impl Logs {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let targets = if self.follow {
            vec![app.target(&Default::default())?]
        } else {
            app.targets()?
        };
        let what = format!("read the log of {}", self.service);
        for target in &targets {
            let session = Session::open(target).await?;
            let request = LogsRequest {
                service: self.service.clone(),
                tail_lines: self.tail.unwrap_or(0),
                follow: self.follow,
            };
            let mut machine = session.machine();
            let mut stream = session.call(&what, machine.logs(request)).await?;
            let mut lines = Prefixed::new((targets.len() > 1).then(|| target.endpoint.to_string()));
            let deadline = (!self.follow).then_some(CALL_DEADLINE);
            while let Some(piece) = session.next(&what, &mut stream, deadline).await? {
                output::bytes(&lines.push(&piece.data))?;
            }
        }
        Ok(())
    }
}
