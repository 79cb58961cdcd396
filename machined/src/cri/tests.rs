//! The end of pods, against a container runtime that the test plays.

use super::*;
use keelson_api::cri::{
    ListContainersResponse, ListPodSandboxResponse, PodSandboxMetadata, StopContainerResponse,
    StopPodSandboxResponse,
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

fn sandbox(id: &str, namespace: &str, source: &str) -> PodSandbox {
    PodSandbox {
        id: id.into(),
        metadata: Some(PodSandboxMetadata {
            name: id.into(),
            uid: format!("uid-{id}"),
            namespace: namespace.into(),
        }),
        state: 0,
        annotations: BTreeMap::from([(SOURCE.into(), source.into())]),
    }
}

fn container(id: &str, pod: &str, grace: Option<&str>) -> Container {
    let annotations = grace.map(|grace| (TERMINATION.to_owned(), grace.to_owned()));
    Container {
        id: id.into(),
        pod_sandbox_id: pod.into(),
        state: 1,
        annotations: annotations.into_iter().collect(),
    }
}

fn known(id: &str, critical: bool, grace: u64) -> Pod {
    Pod {
        namespace: "x".into(),
        name: id.into(),
        uid: format!("uid-{id}"),
        critical,
        grace: Some(grace),
        evictable: true,
        ending: false,
    }
}

#[test]
fn who_is_stopped_when_and_with_which_grace() {
    let cases = [
        // The name, its sandbox, its container's own grace, what the API said; group and grace.
        (
            "plain",
            sandbox("p", "default", "api"),
            Some("7"),
            None,
            0,
            7,
        ),
        (
            "a long grace is cut",
            sandbox("p", "default", "api"),
            Some("3600"),
            None,
            0,
            30,
        ),
        (
            "nothing is told",
            sandbox("p", "default", "api"),
            None,
            None,
            0,
            30,
        ),
        (
            "the API tells",
            sandbox("p", "default", "api"),
            None,
            Some(known("p", false, 4)),
            0,
            4,
        ),
        (
            "the API says critical",
            sandbox("p", "default", "api"),
            Some("5"),
            Some(known("p", true, 4)),
            1,
            5,
        ),
        (
            "a system pod unknown to us",
            sandbox("p", "kube-system", "api"),
            Some("60"),
            None,
            1,
            10,
        ),
        (
            "a system pod that is ordinary",
            sandbox("p", "kube-system", "api"),
            Some("60"),
            Some(known("p", false, 4)),
            0,
            30,
        ),
        (
            "static",
            sandbox("p", "default", "file"),
            Some("2"),
            None,
            1,
            2,
        ),
    ];
    for (name, sandbox, grace, known, group, wanted) in cases {
        let known: Vec<_> = known.into_iter().collect();
        let groups = order(vec![sandbox], vec![container("c", "p", grace)], &known);
        assert_eq!(groups[group].len(), 1, "{name}");
        assert_eq!(groups[group][0].grace, wanted, "{name}");
        assert_eq!(groups[group][0].containers, ["c"], "{name}");
    }
}

/// A runtime that notes what it is told, and does not end one of the pods.
struct Runtime {
    told: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        assert!(request.into_inner().filter.unwrap().state.is_some());
        Ok(Response::new(ListPodSandboxResponse {
            items: vec![
                sandbox("static", "kube-system", "file"),
                sandbox("web", "default", "api"),
                sandbox("stuck", "default", "api"),
            ],
        }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let state = request.into_inner().filter.unwrap().state.unwrap();
        assert_eq!(state.state(), ContainerState::ContainerRunning);
        Ok(Response::new(ListContainersResponse {
            containers: vec![
                container("static-1", "static", Some("1")),
                container("web-1", "web", Some("5")),
                container("stuck-1", "stuck", Some("1")),
            ],
        }))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        let StopContainerRequest {
            container_id,
            timeout,
        } = request.into_inner();
        // What holds it is stopped all the same.
        let late = container_id == "web-1";
        self.told
            .lock()
            .unwrap()
            .push(format!("{container_id} {timeout}"));
        match late {
            true => Err(Status::internal("it has not ended yet")),
            false => Ok(Response::new(StopContainerResponse {})),
        }
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Result<Response<StopPodSandboxResponse>, Status> {
        let id = request.into_inner().pod_sandbox_id;
        self.told.lock().unwrap().push(id.clone());
        match id.as_str() {
            "stuck" => Err(Status::internal("it does not end")),
            _ => Ok(Response::new(StopPodSandboxResponse {})),
        }
    }
}

#[tokio::test]
async fn pods_are_stopped_through_the_socket_and_the_critical_ones_last() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("containerd.sock");
    let told = Arc::new(Mutex::new(Vec::new()));
    let runtime = Runtime { told: told.clone() };
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(runtime))
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);

    let stopped = stop_pods(&socket, &[]).await.unwrap();
    assert_eq!(stopped.pods, 2);
    assert!(stopped.failed[0].contains("default/stuck"), "{stopped:?}");
    let mut told = told.lock().unwrap().clone();
    assert_eq!(told.split_off(4), ["static-1 1", "static"]);
    told.sort();
    assert_eq!(told, ["stuck", "stuck-1 1", "web", "web-1 5"]);
    server.abort();
}

#[tokio::test]
async fn a_runtime_that_is_away_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = stop_pods(&dir.path().join("none.sock"), &[])
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("none.sock"), "{error:#}");
}
