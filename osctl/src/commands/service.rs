//! `osctl service`.

use crate::{
    age,
    app::{App, Maintenance, each},
    client::Session,
    error::Result,
    output::{self, FormatArg},
};
use clap::{Args, Subcommand};
use keelson_api::v1::{
    ListServicesRequest, RestartServiceRequest, Service as Entry, service::State,
};
use serde_json::json;
use time::OffsetDateTime;

/// Show the services of a node, or restart one
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Service {
    #[command(subcommand)]
    action: Option<Action>,

    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the services: what `osctl service` does
    List {
        #[command(flatten)]
        format: FormatArg,
    },
    /// Stop a service in order and start it again
    Restart {
        /// The service's name
        name: String,
    },
}

impl Service {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        match self.action {
            None => list(app, self.format).await,
            Some(Action::List { format }) => list(app, format).await,
            Some(Action::Restart { name }) => restart(app, name).await,
        }
    }
}

async fn restart(app: &App, name: String) -> Result<()> {
    for target in app.named_targets(&Maintenance::default())? {
        let session = Session::open(&target).await?;
        let mut machine = session.machine();
        let request = RestartServiceRequest { name: name.clone() };
        session
            .call(&format!("restart {name}"), machine.restart_service(request))
            .await?;
        output::note(format!("{} restarts {name}", target.endpoint));
    }
    Ok(())
}

async fn list(app: &App, format: FormatArg) -> Result<()> {
    let targets = app.targets()?;
    let (nodes, result) = each(&targets, async |session| {
        let mut machine = session.machine();
        let call = machine.list_services(ListServicesRequest {});
        Ok(session.call("list the services", call).await?.services)
    })
    .await;
    if nodes.is_empty() {
        return result;
    }
    let now = OffsetDateTime::now_utc();
    let mut data = Vec::new();
    let mut rows = Vec::new();
    for (node, services) in &nodes {
        for it in services {
            data.push(json!({
                "node": node.to_string(),
                "name": it.name,
                "state": state(it),
                "pid": it.pid,
                "started": age::rfc3339(it.started.as_ref()),
                "restarts": it.restarts,
                "message": it.message,
            }));
            rows.push(row(&node.to_string(), it, now));
        }
    }
    output::data(format.format, &data, || {
        let headers = ["node", "name", "state", "pid", "age", "restarts", "message"];
        output::node_table(targets.len(), &headers, &rows)
    })?;
    result
}

fn row(node: &str, it: &Entry, now: OffsetDateTime) -> Vec<String> {
    vec![
        node.to_owned(),
        it.name.clone(),
        state(it).to_owned(),
        if it.pid == 0 {
            "-".to_owned()
        } else {
            it.pid.to_string()
        },
        age::since(it.started.as_ref(), now),
        it.restarts.to_string(),
        it.message.clone(),
    ]
}

fn state(service: &Entry) -> &'static str {
    match service.state() {
        State::Unspecified => "unknown",
        State::Stopped => "stopped",
        State::Starting => "starting",
        State::Running => "running",
        State::Stopping => "stopping",
        State::Backoff => "backoff",
    }
}
