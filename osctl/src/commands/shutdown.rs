//! `osctl shutdown`.

use super::ending;
use crate::{
    app::{App, Maintenance},
    client::Session,
    error::Result,
};
use clap::Args;
use keelson_api::v1::ShutdownRequest;

/// Power a node off, in order
#[derive(Debug, Args)]
pub(crate) struct Shutdown {
    /// Do not evict pods and do not wait for them to stop
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
            let taken = format!("{} shuts down", target.endpoint);
            let call = session.call("shut down", machine.shutdown(request));
            ending::begin(&session, &taken, call).await?;
        }
        Ok(())
    }
}
