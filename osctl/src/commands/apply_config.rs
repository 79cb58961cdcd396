//! `osctl apply-config`.

use crate::{
    app::{App, Maintenance},
    apply::{self, Mode},
    check,
    client::{Session, Trust},
    error::Result,
    output,
};
use clap::Args;
use keelson_api::v1::{ApplyConfigRequest, RevertConfigRequest};
use std::path::PathBuf;

/// Send a machine config to a node, which then follows it
///
/// The config is validated here first; if it is not valid nothing is sent. A node
/// without config is called with --insecure and recognised by the fingerprint that
/// its console shows; once it has the config, only certificates of the config's CA
/// are let in.
///
/// With --mode try the node follows it without storing it, and goes back to the
/// stored config by itself unless it is confirmed: a change that cuts the node off
/// undoes itself.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  osctl apply-config -f server-1.yaml --dry-run
  osctl apply-config -f server-1.yaml --mode try --try-for 2m
  osctl apply-config -f server-1.yaml --mode staged
  osctl apply-config --revert")]
pub(crate) struct ApplyConfig {
    /// The config; `-` is stdin
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["confirm", "revert"])]
    file: Option<PathBuf>,

    /// Only tell what the node would do
    #[arg(long)]
    dry_run: bool,

    /// Refuse if the node's config is not of this generation any more; `osctl get
    /// config -o yaml` shows it
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    expected_generation: Option<u64>,

    #[command(flatten)]
    when: apply::When,

    /// With --mode try: keep the config as soon as the node answers under it, without
    /// asking
    #[arg(short, long)]
    yes: bool,

    /// Keep the config that the node tries
    #[arg(long, conflicts_with_all = ["file", "dry_run", "revert", "mode", "try_for", "insecure"])]
    confirm: bool,

    /// Call off the config that the node tries, or that waits for its next boot
    #[arg(long, conflicts_with_all = ["file", "dry_run", "mode", "try_for", "insecure"])]
    revert: bool,

    #[command(flatten)]
    maintenance: Maintenance,
}

impl ApplyConfig {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let Some(file) = &self.file else {
            return self.settle(app).await;
        };
        self.when.check()?;
        let name = check::name(file);
        let config = check::read(file)?;
        check::check(&name, &config, false)
            .map_err(|error| error.hint("nothing was sent to any node"))?;
        let request = self.when.on(ApplyConfigRequest {
            config,
            dry_run: self.dry_run,
            file_name: name,
            expected_generation: self.expected_generation.unwrap_or(0),
            ..Default::default()
        });
        for target in app.named_targets(&self.maintenance)? {
            let session = Session::open(&target).await?;
            let response = apply::send(&session, request.clone()).await?;
            apply::tell(&session, &response, self.when.mode, self.dry_run)?;
            if self.dry_run {
                continue;
            }
            if self.when.mode == Mode::Try {
                apply::keep(&target, &self.when, self.yes).await?;
            }
            if let Trust::Pinned(_) = &*target.trust {
                output::note(format!(
                    "next: osctl config add NAME --secrets secrets.yaml --endpoint {}\n      osctl health",
                    target.endpoint
                ));
            }
        }
        Ok(())
    }

    /// Keeps or calls off what is there already.
    async fn settle(&self, app: &App) -> Result<()> {
        for target in app.named_targets(&self.maintenance)? {
            let node = &target.endpoint;
            if self.confirm {
                let generation = apply::confirm(&target).await?;
                output::line(format!("{node} keeps it: config {generation}"))?;
                continue;
            }
            let session = Session::open(&target).await?;
            let mut machine = session.machine();
            let revert = machine.revert_config(RevertConfigRequest {});
            let reverted = session.call("call off the config", revert).await?;
            if reverted.tried {
                output::line(format!("{node} goes back to the stored config"))?;
            }
            if reverted.staged != 0 {
                output::line(format!("{node} forgets config {}", reverted.staged))?;
            }
        }
        Ok(())
    }
}
