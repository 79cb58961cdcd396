//! The drain against an API server that the test plays.

use super::*;
use crate::cluster::fake::{Api, Asked, Reply};
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// Longer than any of these takes: none of them waits for it but the last.
const BOUND: Duration = Duration::from_secs(60);

/// A node with pods; an eviction takes a pod away if `rule` has no other answer.
struct Node {
    pods: Vec<Value>,
    version: &'static str,
    rule: Box<dyn FnMut(&str) -> Option<Reply> + Send>,
}

fn pod(name: &str, priority: i64) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"priority": priority, "terminationGracePeriodSeconds": 5},
        "status": {"phase": "Running"},
    })
}

fn daemon(name: &str) -> Value {
    let mut pod = pod(name, 0);
    pod["metadata"]["ownerReferences"] = json!([{"kind": "DaemonSet", "controller": true}]);
    pod
}

async fn serve(
    pods: Vec<Value>,
    version: &'static str,
    rule: impl FnMut(&str) -> Option<Reply> + Send + 'static,
) -> Api {
    let node = Arc::new(Mutex::new(Node {
        pods,
        version,
        rule: Box::new(rule),
    }));
    Api::start(move |request: &Asked| {
        let mut node = node.lock().unwrap();
        let path = request.path.as_str();
        if path == "/api/v1" {
            return Reply::ok(&json!({"resources": [
                {"name": "pods", "kind": "Pod"},
                {"name": "pods/eviction", "group": "policy", "version": node.version, "kind": "Eviction"},
            ]}));
        }
        if path == "/api/v1/pods?fieldSelector=spec.nodeName%3Dn" {
            return Reply::ok(&json!({"items": node.pods}));
        }
        let name = path
            .strip_prefix("/api/v1/namespaces/default/pods/")
            .and_then(|rest| rest.strip_suffix("/eviction"))
            .expect("nothing else is asked")
            .to_owned();
        if let Some(reply) = (node.rule)(&name) {
            return reply;
        }
        node.pods.retain(|pod| pod["metadata"]["name"] != name);
        Reply::status(201, &json!({}))
    })
    .await
}

fn evicted(api: &Api) -> Vec<String> {
    let posts = api.requests().into_iter().filter(|r| r.method == "POST");
    posts
        .map(|request| {
            request.body["metadata"]["name"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[tokio::test]
async fn everything_that_can_go_goes_and_the_critical_ones_last() {
    let pods = vec![
        pod("dns", 2_000_000_000),
        pod("a", 0),
        daemon("d"),
        pod("b", 0),
    ];
    let api = serve(pods, "v1", |_| None).await;
    let drained = drain(&api.client(), "n", BOUND).await;
    assert_eq!(evicted(&api), ["a", "b", "dns"]);
    assert_eq!((drained.left, drained.trouble), (BTreeMap::new(), None));
    assert_eq!(drained.pods.len(), 4);
    let post = api.requests().into_iter().find(|r| r.method == "POST");
    assert_eq!(post.unwrap().body["apiVersion"], "policy/v1");
}

#[tokio::test]
async fn an_older_server_knows_the_beta_alone() {
    let api = serve(vec![pod("a", 0)], "v1beta1", |_| None).await;
    drain(&api.client(), "n", BOUND).await;
    let post = api.requests().into_iter().find(|r| r.method == "POST");
    assert_eq!(post.unwrap().body["apiVersion"], "policy/v1beta1");
}

#[tokio::test]
async fn a_disruption_budget_is_asked_again() {
    let mut asked = 0;
    let api = serve(vec![pod("a", 0)], "v1", move |_| {
        asked += 1;
        let no =
            json!({"message": "Cannot evict pod as it would violate the pod's disruption budget."});
        (asked < 3).then(|| Reply::status(429, &no))
    })
    .await;
    let drained = drain(&api.client(), "n", BOUND).await;
    assert_eq!(evicted(&api).len(), 3);
    assert_eq!(drained.left, BTreeMap::new());
}

#[tokio::test]
async fn a_disruption_budget_that_never_allows_it_ends_with_the_bound() {
    let api = serve(vec![pod("a", 0)], "v1", |_| {
        Some(Reply::status(429, &json!({"message": "the budget"})))
    })
    .await;
    let drained = drain(&api.client(), "n", Duration::from_secs(2)).await;
    assert!(
        drained.left["default/a"].contains("the budget"),
        "{drained:?}"
    );
}

#[tokio::test]
async fn what_may_not_be_evicted_is_told_and_not_waited_for() {
    let api = serve(vec![pod("a", 0), pod("b", 0)], "v1", |name| {
        (name == "a").then(|| Reply::status(403, &json!({"message": "not yours"})))
    })
    .await;
    let drained = drain(&api.client(), "n", BOUND).await;
    assert_eq!(evicted(&api), ["a", "b"]);
    let left: Vec<_> = drained.left.into_iter().collect();
    let why = "the API server refused (403): not yours";
    assert_eq!(left, [("default/a".into(), why.into())]);
}

#[tokio::test]
async fn an_agent_that_may_not_list_pods_goes_on() {
    let api = Api::start(|_| Reply::status(403, &json!({"message": "forbidden"}))).await;
    let drained = drain(&api.client(), "n", BOUND).await;
    assert!(drained.trouble.unwrap().contains("forbidden"));
}

#[tokio::test]
async fn an_api_server_that_is_away_is_given_up() {
    let mut api = Api::start(|_| Reply::ok(&json!({}))).await;
    let client = api.client();
    api.stop();
    let drained = drain(&client, "n", Duration::from_secs(2)).await;
    assert!(drained.trouble.is_some());
    assert!(drained.pods.is_empty());
}

#[tokio::test]
async fn an_api_server_that_hangs_is_given_up() {
    let api = Api::start(|_| Reply::Never).await;
    let mut client = api.client();
    client.patience = Duration::from_millis(100);
    let drained = drain(&client, "n", Duration::from_secs(1)).await;
    assert!(drained.trouble.unwrap().contains("was not answered"));
}
