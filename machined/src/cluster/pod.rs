//! A pod as far as its end is concerned. Pure.

use serde::Deserialize;
use std::collections::BTreeMap;

/// From this priority on a pod is `system-cluster-critical` or `system-node-critical`
/// (Kubernetes reserves everything above a billion for them).
const CRITICAL: i64 = 2_000_000_000;

/// The kubelet's mark on the image of a static pod in the API.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What tells it from a later one of the same name.
    pub uid: String,
    /// Whether the cluster or the node lives by it.
    pub critical: bool,
    /// How long it may take to end, in seconds.
    pub grace: Option<u64>,
    /// Whether the eviction API can end it for longer than a moment, and needs to: not
    /// one of a DaemonSet (it comes back at once), a static one, or a finished one.
    pub evictable: bool,
    /// Whether it has been told to end.
    pub ending: bool,
}

impl Pod {
    /// Its name in full.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The answer to a list.
#[derive(Deserialize)]
#[serde(from = "Raw")]
pub(crate) struct Pods(pub Vec<Pod>);

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    owner_references: Vec<Owner>,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    priority: Option<i64>,
    termination_grace_period_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
}

impl From<Raw> for Pods {
    fn from(raw: Raw) -> Pods {
        Pods(raw.items.into_iter().map(Pod::from).collect())
    }
}

impl From<Item> for Pod {
    fn from(item: Item) -> Pod {
        let Item {
            metadata,
            spec,
            status,
        } = item;
        let daemon = metadata
            .owner_references
            .iter()
            .any(|owner| owner.controller && owner.kind == "DaemonSet");
        let fixed = metadata.annotations.contains_key(MIRROR);
        let finished = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        Pod {
            critical: fixed || spec.priority.is_some_and(|priority| priority >= CRITICAL),
            grace: spec.termination_grace_period_seconds,
            evictable: !daemon && !fixed && !finished,
            ending: metadata.deletion_timestamp.is_some(),
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(pod: Value) -> Pod {
        serde_json::from_value::<Pods>(json!({"items": [pod]}))
            .unwrap()
            .0
            .remove(0)
    }

    #[test]
    fn who_is_evicted_and_who_is_critical() {
        let owner = |kind: &str, controller: bool| json!([{"kind": kind, "name": "x", "controller": controller}]);
        let cases = [
            ("a bare pod", json!({}), json!({}), "Running", true, false),
            (
                "of a ReplicaSet",
                json!({"ownerReferences": owner("ReplicaSet", true)}),
                json!({}),
                "Running",
                true,
                false,
            ),
            (
                "of a DaemonSet",
                json!({"ownerReferences": owner("DaemonSet", true)}),
                json!({}),
                "Running",
                false,
                false,
            ),
            (
                "only mentioned by one",
                json!({"ownerReferences": owner("DaemonSet", false)}),
                json!({}),
                "Running",
                true,
                false,
            ),
            (
                "static",
                json!({"annotations": {MIRROR: "x"}}),
                json!({}),
                "Running",
                false,
                true,
            ),
            ("done", json!({}), json!({}), "Succeeded", false, false),
            ("failed", json!({}), json!({}), "Failed", false, false),
            ("waits", json!({}), json!({}), "Pending", true, false),
            (
                "critical",
                json!({}),
                json!({"priority": 2_000_001_000}),
                "Running",
                true,
                true,
            ),
            (
                "important",
                json!({}),
                json!({"priority": 1_000_000_000}),
                "Running",
                true,
                false,
            ),
        ];
        for (name, mut metadata, spec, phase, evictable, critical) in cases {
            metadata["name"] = "p".into();
            metadata["namespace"] = "n".into();
            let pod = read(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}}));
            assert_eq!(
                (pod.evictable, pod.critical),
                (evictable, critical),
                "{name}"
            );
        }
    }

    #[test]
    fn one_that_ends() {
        let pod = read(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "deletionTimestamp": "2027-01-01T00:00:00Z"},
            "spec": {"terminationGracePeriodSeconds": 7},
        }));
        assert_eq!(
            (pod.ending, pod.grace, pod.title()),
            (true, Some(7), "n/p".into())
        );
    }
}
