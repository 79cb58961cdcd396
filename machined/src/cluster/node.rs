//! The node out of service and back: `spec.unschedulable`, and an annotation that says
//! that it was this machine's doing. What a person cordoned stays cordoned.

use super::client::{Client, Failure};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

/// Says who cordoned the node.
const ANNOTATION: &str = "keelson.dev/cordoned-by";

/// Its value: the end of a run.
const REBOOT: &str = "reboot";

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    unschedulable: bool,
}

/// Takes no new pods from now on; whether that is a change.
pub(crate) async fn cordon(client: &Client, name: &str) -> Result<bool, Failure> {
    let path = path(name);
    let node: Node = client.get(&path).await?;
    if node.spec.unschedulable {
        return Ok(false);
    }
    let patch = json!({
        "metadata": {"annotations": {ANNOTATION: REBOOT}},
        "spec": {"unschedulable": true},
    });
    client.patch(&path, &patch).await.map(|()| true)
}

/// Takes pods again, if [`cordon`] was why not; whether that is a change.
pub(crate) async fn uncordon(client: &Client, name: &str) -> Result<bool, Failure> {
    let path = path(name);
    let node: Node = client.get(&path).await?;
    if node
        .metadata
        .annotations
        .get(ANNOTATION)
        .map(String::as_str)
        != Some(REBOOT)
    {
        return Ok(false);
    }
    let patch = json!({
        "metadata": {"annotations": {ANNOTATION: null}},
        "spec": {"unschedulable": null},
    });
    client
        .patch(&path, &patch)
        .await
        .map(|()| node.spec.unschedulable)
}

/// How many servers the cluster has, as far as it calls them so.
pub(crate) async fn servers(client: &Client) -> Result<usize, Failure> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<serde::de::IgnoredAny>,
    }
    let path = "/api/v1/nodes?labelSelector=node-role.kubernetes.io%2Fcontrol-plane";
    Ok(client.get::<List>(path).await?.items.len())
}

fn path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::{Api, Reply};
    use serde_json::Value;

    async fn patches(node: Value, back: bool) -> (bool, Vec<Value>) {
        let api = Api::start(move |request| match request.method.as_str() {
            "GET" => Reply::ok(&node),
            _ => Reply::ok(&json!({})),
        })
        .await;
        let client = api.client();
        let changed = match back {
            true => uncordon(&client, "n").await,
            false => cordon(&client, "n").await,
        };
        let sent = api.requests().into_iter().filter(|r| r.method == "PATCH");
        (changed.unwrap(), sent.map(|r| r.body).collect())
    }

    #[tokio::test]
    async fn the_servers_are_counted() {
        let two = json!({"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]});
        let api = Api::start(move |_| Reply::ok(&two)).await;
        assert_eq!(servers(&api.client()).await.unwrap(), 2);
        let asked = &api.requests()[0].path;
        assert!(asked.contains("control-plane"), "{asked}");
    }

    #[tokio::test]
    async fn only_what_this_machine_did_is_undone() {
        let free = json!({"metadata": {}, "spec": {}});
        let theirs = json!({"metadata": {}, "spec": {"unschedulable": true}});
        let ours = json!({
            "metadata": {"annotations": {ANNOTATION: REBOOT}},
            "spec": {"unschedulable": true},
        });
        let freed = json!({"metadata": {"annotations": {ANNOTATION: REBOOT}}, "spec": {}});
        let done = json!({
            "metadata": {"annotations": {ANNOTATION: REBOOT}},
            "spec": {"unschedulable": true},
        });
        let undone = json!({
            "metadata": {"annotations": {ANNOTATION: null}},
            "spec": {"unschedulable": null},
        });
        let cases = [
            ("free, cordon", &free, false, true, Some(&done)),
            ("theirs, cordon", &theirs, false, false, None),
            ("ours, cordon", &ours, false, false, None),
            ("free, back", &free, true, false, None),
            ("theirs, back", &theirs, true, false, None),
            ("ours, back", &ours, true, true, Some(&undone)),
            (
                "freed by a person, back",
                &freed,
                true,
                false,
                Some(&undone),
            ),
        ];
        for (name, node, back, changed, patch) in cases {
            let (was, sent) = patches(node.clone(), back).await;
            assert_eq!(was, changed, "{name}");
            assert_eq!(sent.first(), patch, "{name}");
        }
    }
}
