//! `osctl shutdown`.

use crate::{
    app::{App, Maintenance},
    client::Session,
    error::Result,
    output,
};
use clap::Args;
use keelson_api::v1::ShutdownRequest;

/// Power a node off, in order
#[derive(Debug, Args)]
pub(crate) struct Shutdown {
    /// Do not wait for pods to stop
    #[arg(long)]
    force: bool,
}

impl Shutdown {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        for target in app.named_targets(&Maintenance::default())? {
            let session = Session::open(&target).await?;
            let mut machine = session.machine();
            let request = ShutdownRequest { force: self.force };
            session.call("shut down", machine.shutdown(request)).await?;
            output::note(format!("{} shuts down", target.endpoint));
        }
        Ok(())
    }
}
