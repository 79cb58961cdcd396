//! Ends pods through the container runtime, in the order that their importance asks
//! for: what is left when nobody can evict any more. Which pods there are is asked of
//! the runtime itself, so it works without an API server.

use crate::cluster::pod::Pod;
use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use hyper_util::rt::TokioIo;
use keelson_api::cri::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    StopContainerRequest, StopPodSandboxRequest, runtime_service_client::RuntimeServiceClient,
};
use std::{collections::HashMap, path::Path, time::Duration};
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint};

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a pod may take to end, whatever it asks for: the ordinary ones, then the
/// critical ones.
const GRACE: [u64; 2] = [30, 10];

/// How much longer the runtime may take than the pod.
const MARGIN: Duration = Duration::from_secs(3);

/// The grace of a pod that does not tell: Kubernetes' own default.
const USUAL: u64 = 30;

/// How long all of it may take.
pub(crate) const BOUND: Duration = Duration::from_secs(
    2 * PATIENCE.as_secs() + GRACE[0] + GRACE[1] + 2 * MARGIN.as_secs() + PATIENCE.as_secs(),
);

/// The kubelet's note of where a pod comes from; "api" for all but static ones.
const SOURCE: &str = "kubernetes.io/config.source";

/// The kubelet's note of a container's grace, in seconds.
const TERMINATION: &str = "io.kubernetes.pod.terminationGracePeriod";

/// A pod to be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stop {
    title: String,
    sandbox: String,
    containers: Vec<String>,
    grace: u64,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// How many pods were stopped.
    pub pods: usize,
    /// What could not be stopped, and why.
    pub failed: Vec<String>,
}

/// Stops every pod of the runtime that listens there. `known` is what the API server
/// said of them.
pub(crate) async fn stop_pods(socket: &Path, known: &[Pod]) -> Result<Stopped> {
    let client = timeout(PATIENCE, connect(socket))
        .await
        .context("the container runtime does not answer")??;
    let (sandboxes, containers) = timeout(PATIENCE, list(&client))
        .await
        .context("the container runtime does not tell what runs")??;
    let mut stopped = Stopped::default();
    for (group, limit) in order(sandboxes, containers, known).into_iter().zip(GRACE) {
        let patience = Duration::from_secs(limit) + MARGIN;
        let stops = group
            .iter()
            .map(|pod| timeout(patience, stop(&client, pod)));
        for (pod, outcome) in group.iter().zip(join_all(stops).await) {
            match outcome {
                Ok(Ok(())) => stopped.pods += 1,
                Ok(Err(error)) => stopped.failed.push(format!("{}: {error:#}", pod.title)),
                Err(_) => stopped.failed.push(format!("{}: too slow", pod.title)),
            }
        }
    }
    Ok(stopped)
}

async fn connect(socket: &Path) -> Result<RuntimeServiceClient<Channel>> {
    let path = socket.to_owned();
    // The URI is never resolved: the connector goes to the socket.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }))
        .await
        .with_context(|| format!("connecting to {}", socket.display()))?;
    Ok(RuntimeServiceClient::new(channel).max_decoding_message_size(32 << 20))
}

async fn list(client: &RuntimeServiceClient<Channel>) -> Result<(Vec<PodSandbox>, Vec<Container>)> {
    let mut client = client.clone();
    let ready = PodSandboxFilter {
        state: Some(PodSandboxStateValue {
            state: PodSandboxState::SandboxReady.into(),
        }),
    };
    let sandboxes = client
        .list_pod_sandbox(ListPodSandboxRequest {
            filter: Some(ready),
        })
        .await
        .context("listing pods")?;
    let running = ContainerFilter {
        state: Some(ContainerStateValue {
            state: ContainerState::ContainerRunning.into(),
        }),
    };
    let containers = client
        .list_containers(ListContainersRequest {
            filter: Some(running),
        })
        .await
        .context("listing containers")?;
    Ok((
        sandboxes.into_inner().items,
        containers.into_inner().containers,
    ))
}

/// Ends a pod's containers, each with the pod's grace, and then what holds them.
async fn stop(client: &RuntimeServiceClient<Channel>, pod: &Stop) -> Result<()> {
    let stops = pod.containers.iter().map(|container| {
        let mut client = client.clone();
        let request = StopContainerRequest {
            container_id: container.clone(),
            timeout: i64::try_from(pod.grace).unwrap_or(i64::MAX),
        };
        async move { client.stop_container(request).await }
    });
    let outcomes = join_all(stops).await;
    let request = StopPodSandboxRequest {
        pod_sandbox_id: pod.sandbox.clone(),
    };
    // It ends what a stop before it did not: whether it works is what counts.
    client.clone().stop_pod_sandbox(request).await?;
    for status in outcomes.into_iter().filter_map(Result::err) {
        tracing::warn!("a container of {}: {}", pod.title, status.message());
    }
    Ok(())
}

/// The pods in the order to stop them: the ordinary ones, then those that others live by.
fn order(sandboxes: Vec<PodSandbox>, containers: Vec<Container>, known: &[Pod]) -> [Vec<Stop>; 2] {
    let mut of: HashMap<String, Vec<Container>> = HashMap::new();
    for container in containers {
        of.entry(container.pod_sandbox_id.clone())
            .or_default()
            .push(container);
    }
    let mut groups = [Vec::new(), Vec::new()];
    for sandbox in sandboxes {
        let metadata = sandbox.metadata.unwrap_or_default();
        let known = known.iter().find(|pod| pod.uid == metadata.uid);
        let fixed = sandbox
            .annotations
            .get(SOURCE)
            .is_some_and(|source| source != "api");
        let critical =
            fixed || known.map_or(metadata.namespace == "kube-system", |pod| pod.critical);
        let containers = of.remove(&sandbox.id).unwrap_or_default();
        let told = containers
            .iter()
            .filter_map(|container| container.annotations.get(TERMINATION)?.parse().ok())
            .max()
            .or_else(|| known?.grace);
        let group = usize::from(critical);
        groups[group].push(Stop {
            title: format!("{}/{}", metadata.namespace, metadata.name),
            sandbox: sandbox.id,
            containers: containers.into_iter().map(|it| it.id).collect(),
            grace: told.unwrap_or(USUAL).min(GRACE[group]),
        });
    }
    groups
}

#[cfg(test)]
mod tests;
