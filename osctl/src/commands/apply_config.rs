//! `osctl apply-config`.

use crate::{
    app::{App, Maintenance},
    check,
    client::{Session, Trust},
    error::Result,
    output,
};
use clap::Args;
use keelson_api::v1::{ApplyConfigRequest, ApplyConfigResponse, diagnostic::Severity};
use std::{path::PathBuf, time::Duration};

/// Storing and the first steps may take the machine this long.
const DEADLINE: Duration = Duration::from_secs(120);

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
            expected_generation: 0,
        };
        for target in app.named_targets(&self.maintenance)? {
            let session = Session::open(&target).await?;
            let mut machine = session.machine();
            let response = session
                .call_within(
                    DEADLINE,
                    "apply the config",
                    machine.apply_config(request.clone()),
                )
                .await?;
            self.tell(&session, &response)?;
            if let (Trust::Pinned(_), false) = (&*target.trust, self.dry_run) {
                output::note(format!(
                    "next: osctl config add NAME --secrets secrets.yaml --endpoint {}\n      osctl health",
                    target.endpoint
                ));
            }
        }
        Ok(())
    }

    fn tell(&self, session: &Session, response: &ApplyConfigResponse) -> Result<()> {
        let mut refused = false;
        for diagnostic in &response.diagnostics {
            refused |= diagnostic.severity() == Severity::Error;
            output::note(diagnostic.rendered.trim_end());
        }
        if refused {
            return Err(check::refused_by_node());
        }
        let node = session.endpoint();
        let steps = &response.steps;
        let head = match (self.dry_run, steps.is_empty()) {
            (true, true) => format!("{node} would do nothing: it matches the config already"),
            (true, false) => format!("{node} would do this:"),
            (false, true) => {
                format!(
                    "{node} stored config {} and has nothing to do",
                    response.generation
                )
            }
            (false, false) => format!(
                "{node} stored config {} and does this:",
                response.generation
            ),
        };
        output::line(head)?;
        if !steps.is_empty() {
            let rows: Vec<_> = steps
                .iter()
                .map(|step| vec![step.noun.clone(), step.step.clone()])
                .collect();
            output::bytes(output::table(&["noun", "step"], &rows).as_bytes())?;
        }
        Ok(())
    }
}
