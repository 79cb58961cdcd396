//! `osctl rollback`.

use crate::{app::App, error::Result, output};
use clap::Args;
use keelson_api::v1::RollbackRequest;
use std::time::Duration;

/// How long the node may take to prove that the other release is whole.
const PATIENCE: Duration = Duration::from_secs(600);

/// Go back to the release before
///
/// The node proves that the other slot is whole, and reboots into it. Kubernetes cannot
/// go back a minor version: where the other release brings an older one, the datastore's
/// snapshot from before the upgrade must be restored with it, and what the cluster was
/// told since is lost.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Do not wait for pods to stop; restore the snapshot even if nobody can tell whether
    /// the cluster has other servers
    #[arg(long)]
    force: bool,

    /// Restore the snapshot of the datastore that was taken before the upgrade
    #[arg(long)]
    restore_snapshot: bool,
}

impl Rollback {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let session = app.session().await?;
        let mut upgrades = session.upgrades();
        let call = upgrades.rollback(RollbackRequest {
            force: self.force,
            restore_snapshot: self.restore_snapshot,
        });
        let answer = session.call_within(PATIENCE, "roll it back", call).await?;
        output::note(format!(
            "{} goes back to {}; `osctl health` waits for it",
            session.endpoint(),
            answer.version
        ));
        Ok(())
    }
}
