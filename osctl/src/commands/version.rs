//! `osctl version`.

use crate::{
    app::{App, Maintenance, each},
    error::Result,
    output::{self, FormatArg},
};
use clap::Args;
use keelson_api::v1::{VersionRequest, VersionResponse};
use serde_json::{Value, json};

/// Show the version of osctl and of the nodes
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Only osctl's own; needs no node
    #[arg(long, conflicts_with_all = ["insecure", "endpoint"])]
    client: bool,

    #[command(flatten)]
    maintenance: Maintenance,

    #[command(flatten)]
    format: FormatArg,
}

impl Version {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let (nodes, result) = if self.client {
            (Vec::new(), Ok(()))
        } else {
            let targets = app.targets_or_insecure(&self.maintenance)?;
            each(&targets, async |session| {
                let mut machine = session.machine();
                session
                    .call("ask for the version", machine.version(VersionRequest {}))
                    .await
            })
            .await
        };
        let client = env!("CARGO_PKG_VERSION");
        let data = json!({
            "client": { "version": client },
            "nodes": nodes.iter().map(|(node, it)| json_of(&node.to_string(), it)).collect::<Vec<_>>(),
        });
        output::data(self.format.format, &data, || {
            let mut rows = vec![row("osctl", client, &VersionResponse::default())];
            rows.extend(
                nodes
                    .iter()
                    .map(|(node, it)| row(&node.to_string(), &it.version, it)),
            );
            if nodes.is_empty() {
                return format!("osctl {client}\n");
            }
            let headers = [
                "name",
                "version",
                "arch",
                "kernel",
                "orchestrator",
                "root",
                "state",
            ];
            output::table(&headers, &rows)
        })?;
        result
    }
}

fn row(name: &str, version: &str, it: &VersionResponse) -> Vec<String> {
    let state = match (it.arch.is_empty(), it.maintenance) {
        (true, _) => "",
        (false, true) => "maintenance",
        (false, false) => "configured",
    };
    vec![
        name.to_owned(),
        version.to_owned(),
        it.arch.clone(),
        it.kernel.clone(),
        format!("{} {}", it.orchestrator_name, it.orchestrator_version)
            .trim()
            .to_owned(),
        it.root_hash.chars().take(12).collect(),
        state.to_owned(),
    ]
}

fn json_of(node: &str, it: &VersionResponse) -> Value {
    let orchestrator = (!it.orchestrator_name.is_empty())
        .then(|| json!({ "name": it.orchestrator_name, "version": it.orchestrator_version }));
    json!({
        "node": node,
        "version": it.version,
        "arch": it.arch,
        "kernel": it.kernel,
        "rootHash": it.root_hash,
        "orchestrator": orchestrator,
        "maintenance": it.maintenance,
        "machineId": it.machine_id,
    })
}
