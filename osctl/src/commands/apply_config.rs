//! `osctl apply-config`.

use crate::{
    app::{App, Maintenance},
    apply, check,
    client::{Session, Trust},
    error::Result,
    output,
};
use clap::Args;
use keelson_api::v1::ApplyConfigRequest;
use std::path::PathBuf;

/// Send a machine config to a node, which then follows it
///
/// The config is validated here first; if it is not valid nothing is sent. A node
/// without config is called with --insecure and recognised by the fingerprint that
/// its console shows; once it has the config, only certificates of the config's CA
/// are let in.
#[derive(Debug, Args)]
pub(crate) struct ApplyConfig {
    /// The config; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// Only tell what the node would do
    #[arg(long)]
    dry_run: bool,

    /// Refuse if the node's config is not of this generation any more; `osctl get
    /// config -o yaml` shows it
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    expected_generation: Option<u64>,

    #[command(flatten)]
    maintenance: Maintenance,
}

impl ApplyConfig {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let name = check::name(&self.file);
        let config = check::read(&self.file)?;
        check::check(&name, &config, false)
            .map_err(|error| error.hint("nothing was sent to any node"))?;
        let request = ApplyConfigRequest {
            config,
            dry_run: self.dry_run,
            file_name: name,
            expected_generation: self.expected_generation.unwrap_or(0),
        };
        for target in app.named_targets(&self.maintenance)? {
            let session = Session::open(&target).await?;
            let response = apply::send(&session, request.clone()).await?;
            apply::tell(&session, &response, self.dry_run)?;
            if let (Trust::Pinned(_), false) = (&*target.trust, self.dry_run) {
                output::note(format!(
                    "next: osctl config add NAME --secrets secrets.yaml --endpoint {}\n      osctl health",
                    target.endpoint
                ));
            }
        }
        Ok(())
    }
}
