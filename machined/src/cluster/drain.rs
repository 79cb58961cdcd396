//! Empties the node through the eviction API, so that disruption budgets are kept and
//! the kubelet ends each pod with its hooks. It has a bound, and says what stayed.

use super::{
    client::{Client, Failure},
    pod::{Pod, Pods},
};
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep};

/// The first pause between two rounds; it doubles while nothing moves …
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(4);

/// How long the API server may be silent before it is given up.
const SILENCE: Duration = Duration::from_secs(15);

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Drained {
    /// The pods that the node had at the beginning.
    pub pods: Vec<Pod>,
    /// The pods that should have gone and did not, and why if it was told.
    pub left: BTreeMap<String, String>,
    /// Why it was given up before its time.
    pub trouble: Option<String>,
}

/// Evicts what can be evicted and waits until it is gone, no longer than the bound.
pub(crate) async fn drain(client: &Client, node: &str, bound: Duration) -> Drained {
    let begin = Instant::now();
    let mut work = Work {
        client,
        node,
        end: begin + bound,
        version: None,
        refused: BTreeMap::new(),
        drained: Drained::default(),
    };
    let (mut pause, mut heard, mut before) = (FIRST_PAUSE, begin, usize::MAX);
    loop {
        // What the others need to end well goes after them, but not never.
        let critical_too = begin.elapsed() * 2 > bound;
        let trouble = match work.round(critical_too).await {
            Ok(0) => return work.finish(None),
            Ok(left) => {
                heard = Instant::now();
                if left < before {
                    pause = FIRST_PAUSE;
                }
                before = left;
                None
            }
            // It will not say anything else in a moment.
            Err(failure) if matches!(failure.status(), Some(401 | 403)) => {
                return work.finish(Some(failure));
            }
            Err(failure) if heard.elapsed() >= SILENCE => return work.finish(Some(failure)),
            Err(failure) => {
                tracing::warn!("draining: {failure}");
                Some(failure)
            }
        };
        if begin.elapsed() + pause >= bound {
            return work.finish(trouble);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// A drain that is under way.
struct Work<'a> {
    client: &'a Client,
    node: &'a str,
    end: Instant,
    /// Of the eviction API; `None` until it was asked for.
    version: Option<String>,
    /// By uid, what will not be evicted however often it is asked: nobody waits for it.
    refused: BTreeMap<String, (String, String)>,
    drained: Drained,
}

impl Work<'_> {
    /// One look at the node and one try at each pod; how many pods are still to go.
    async fn round(&mut self, critical_too: bool) -> Result<usize, Failure> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node);
        let Pods(pods) = self.client.get(&path).await?;
        let version = match self.version.clone() {
            Some(version) => version,
            None => eviction_version(self.client).await?,
        };
        self.version = Some(version.clone());
        if self.drained.pods.is_empty() {
            self.drained.pods.clone_from(&pods);
        }
        let mut go = pods;
        go.retain(|pod| pod.evictable && !self.refused.contains_key(&pod.uid));
        let ordinary = go.iter().any(|pod| !pod.critical);
        self.drained.left = go.iter().map(|pod| (pod.title(), String::new())).collect();
        for pod in &go {
            if pod.ending || (pod.critical && ordinary && !critical_too) {
                continue;
            }
            if Instant::now() >= self.end {
                break;
            }
            match self.evict(pod, &version).await {
                Ok(()) => {}
                Err(failure) => match failure.status() {
                    None => return Err(failure),
                    // It is gone already.
                    Some(404) => drop(self.drained.left.remove(&pod.title())),
                    Some(400 | 401 | 403 | 405 | 422) => {
                        let refusal = (pod.title(), failure.to_string());
                        self.refused.insert(pod.uid.clone(), refusal);
                        self.drained.left.remove(&pod.title());
                    }
                    // 429 is a disruption budget's no; it may say yes in a moment.
                    Some(_) => {
                        drop(self.drained.left.insert(pod.title(), failure.to_string()));
                    }
                },
            }
        }
        Ok(self.drained.left.len())
    }

    async fn evict(&self, pod: &Pod, version: &str) -> Result<(), Failure> {
        let Pod {
            namespace, name, ..
        } = pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let eviction = json!({
            "apiVersion": version,
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        });
        self.client.post(&path, &eviction).await
    }

    fn finish(mut self, trouble: Option<Failure>) -> Drained {
        self.drained.left.extend(self.refused.into_values());
        self.drained.trouble = trouble.map(|failure| failure.to_string());
        self.drained
    }
}

/// The API version of evictions: `policy/v1` since Kubernetes 1.22, `policy/v1beta1`
/// before. The server says it itself where it lists what pods can be asked for.
async fn eviction_version(client: &Client) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct List {
        resources: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        #[serde(default)]
        group: String,
        #[serde(default)]
        version: String,
    }
    let list: List = client.get("/api/v1").await?;
    let eviction = list
        .resources
        .into_iter()
        .find(|entry| entry.name == "pods/eviction" && !entry.version.is_empty());
    Ok(eviction.map_or("policy/v1".into(), |entry| {
        format!("{}/{}", entry.group, entry.version)
    }))
}

#[cfg(test)]
mod tests;
