//! `osctl upgrade`.

mod fleet;
mod follow;
mod send;

use crate::{
    age,
    app::{App, Maintenance},
    client::{Session, Target},
    error::{Error, Kind, Result},
    output,
};
use clap::{Args, Subcommand};
use keelson_api::v1::{CancelRequest, ForgiveRequest, PullRequest, UpgradeOptions};
use std::{path::PathBuf, time::Duration};
use tokio::time::Instant;

/// Upgrade nodes to the release in a bundle
///
/// The node checks the signature, writes the slot that does not run, reads it back,
/// reboots into it, and takes it for good once it is healthy; if it is not, the node
/// comes back to what it runs now by itself. The job is the node's: this command only
/// watches it, and `osctl get upgrade --watch` does the same later.
///
/// Several nodes are upgraded one after the other, servers first; the first that comes
/// back ends it.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  osctl upgrade --bundle keelson-0.2.0-amd64-cloud.bundle
  osctl upgrade --url https://mirror.example/keelson-0.2.0-amd64-cloud.bundle
  osctl upgrade -n 10.0.0.1,10.0.0.2,10.0.0.3 --bundle keelson-0.2.0-amd64-cloud.bundle
  osctl upgrade forgive 0.2.0"
)]
pub(crate) struct Upgrade {
    #[command(subcommand)]
    command: Option<Other>,

    #[command(flatten)]
    begin: Begin,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Stop an upgrade that is being fetched or written
    Cancel,
    /// Forget that a version has failed on a node, so that it may be tried again
    Forgive {
        /// The version
        version: String,
    },
}

#[derive(Debug, Args)]
struct Begin {
    /// Send this bundle
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    bundle: Option<PathBuf>,

    /// Have the node fetch the bundle itself
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Do not reboot: the next reboot, whenever that is, tries it
    #[arg(long, visible_alias = "no-reboot")]
    stage: bool,

    /// Take a version that has failed there before, and do not wait for pods to stop
    #[arg(long)]
    force: bool,

    /// Watch until it is good or came back: the default
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,

    /// Do not watch: return once the node has the bundle
    #[arg(long)]
    no_wait: bool,

    /// How long to watch each node
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = age::parse)]
    timeout: Duration,

    /// How many agents may be away at once; servers go one by one
    #[arg(long, value_name = "N", default_value_t = 1)]
    max_unavailable: u32,
}

impl Upgrade {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        match self.command {
            None => self.begin.run(app).await,
            Some(Other::Cancel) => {
                let session = app.session().await?;
                let mut upgrades = session.upgrades();
                let call = upgrades.cancel(CancelRequest {});
                session.call("cancel the upgrade", call).await?;
                output::note(format!("{} was told to stop", session.endpoint()));
                Ok(())
            }
            Some(Other::Forgive { version }) => {
                let session = app.session().await?;
                let mut upgrades = session.upgrades();
                let call = upgrades.forgive(ForgiveRequest {
                    version: version.clone(),
                });
                session.call("forgive the version", call).await?;
                output::note(format!("{} may try {version} again", session.endpoint()));
                Ok(())
            }
        }
    }
}

impl Begin {
    async fn run(&self, app: &App) -> Result<()> {
        if self.bundle.is_none() && self.url.is_none() {
            return Err(Error::input("which release?").hint(
                "give a bundle with --bundle FILE, or say where the node fetches it with --url URL",
            ));
        }
        let targets = app.named_targets(&Maintenance::default())?;
        match targets.as_slice() {
            [target] => self.one(target, None).await,
            _ => fleet::run(self, &targets).await,
        }
    }

    /// Upgrades one node. `name` is told with every line where there are several.
    async fn one(&self, target: &Target, name: Option<&str>) -> Result<()> {
        let mut shown = follow::Shown::new(name.map(str::to_owned));
        let begun = Instant::now();
        let before = follow::last(target).await?;
        let session = Session::open(target).await?;
        let options = UpgradeOptions {
            stage: self.stage,
            force: self.force,
        };
        match (&self.bundle, &self.url) {
            (Some(file), _) => {
                let version = send::send(&session, file, options, &mut shown).await?;
                shown.line(&format!("{version} is staged"));
            }
            (None, url) => {
                let mut upgrades = session.upgrades();
                let call = upgrades.pull(PullRequest {
                    options: Some(options),
                    url: url.clone().unwrap_or_default(),
                });
                session.call("have it fetch the bundle", call).await?;
            }
        }
        drop(session);
        if self.no_wait {
            return Ok(());
        }
        let deadline = begun + self.timeout;
        let goal = follow::Goal {
            before,
            staged_is_enough: self.stage,
        };
        let end = follow::follow(target, &goal, deadline, &mut shown).await;
        shown.close();
        match end? {
            follow::End::Good(text) => {
                let mut took = age::short(begun.elapsed());
                let parts = shown.times.words();
                if !parts.is_empty() {
                    took += &format!(": {parts}");
                }
                output::note(format!("{}: {text} ({took})", target.endpoint));
                Ok(())
            }
            follow::End::Bad(text, log) => Err(log.iter().fold(
                Error::new(
                    Kind::Failed,
                    format!("{} was not upgraded", target.endpoint),
                )
                .cause(text),
                |error, line| error.cause(line),
            )),
        }
    }
}
