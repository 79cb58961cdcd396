//! Sending a config to a node and telling its answer, for the commands that do.

use crate::{check, client::Session, error::Result, output};
use keelson_api::v1::{
    ApplyConfigRequest, ApplyConfigResponse, GetConfigRequest, GetConfigResponse,
    diagnostic::Severity,
};
use std::time::Duration;

/// Storing and the first steps may take the machine this long.
const DEADLINE: Duration = Duration::from_secs(120);

/// The stored config with its secrets.
pub(crate) async fn stored(session: &Session) -> Result<GetConfigResponse> {
    let request = GetConfigRequest { show_secrets: true };
    let mut machine = session.machine();
    session
        .call("get the config", machine.get_config(request))
        .await
}

/// Sends a config.
pub(crate) async fn send(
    session: &Session,
    request: ApplyConfigRequest,
) -> Result<ApplyConfigResponse> {
    let mut machine = session.machine();
    session
        .call_within(DEADLINE, "apply the config", machine.apply_config(request))
        .await
}

/// Whether the node refuses the config.
pub(crate) fn is_refused(response: &ApplyConfigResponse) -> bool {
    response
        .diagnostics
        .iter()
        .any(|it| it.severity() == Severity::Error)
}

/// Tells what the node found, and what it does or would do.
pub(crate) fn tell(session: &Session, response: &ApplyConfigResponse, dry_run: bool) -> Result<()> {
    for diagnostic in &response.diagnostics {
        output::note(diagnostic.rendered.trim_end());
    }
    if is_refused(response) {
        return Err(check::refused_by_node());
    }
    let node = session.endpoint();
    let steps = &response.steps;
    let head = match (dry_run, steps.is_empty()) {
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
