//! A node as osctl sees it: the API over TLS on loopback, answering from a script.

use keelson_api::v1::{
    self as api, machine_service_server as machine, resource_service_server as resource,
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, crypto::ring::default_provider, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::Runtime,
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, transport::server::Connected};

/// What the node was told and what it says; shared with the test.
#[derive(Default)]
pub(crate) struct State {
    /// The configs that were sent.
    pub(crate) applied: Vec<api::ApplyConfigRequest>,
    /// How often a config that is tried was to be kept.
    pub(crate) confirms: usize,
    /// What the diagnostics of the next config are.
    pub(crate) diagnostics: Vec<api::Diagnostic>,
    /// The stored config; a stand-in for one if `None`.
    pub(crate) config: Option<String>,
    /// Whether somebody else has changed the config since it was read.
    pub(crate) changed: bool,
    /// What the health is, step by step; the last stays.
    pub(crate) health: Vec<api::HealthResponse>,
    /// The service that was restarted.
    pub(crate) restarted: Option<String>,
    /// Whether it was told to reboot.
    pub(crate) rebooted: bool,
    /// The server that was asked for in the kubeconfig.
    pub(crate) server: String,
}

/// How the node proves who it is, and whom it lets in.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ServerConfig>, pub(crate) String);

impl Tls {
    /// As a node without config: its own certificate, everybody is let in.
    pub(crate) fn maintenance() -> Tls {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["keelson-node".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        Tls::new(vec![cert.der().clone()], &key, None)
    }

    /// As a node with a config from these secrets (the text of secrets.yaml).
    pub(crate) fn configured(secrets: &str) -> Tls {
        let (root, issuer) = (pair(secrets, "ca"), pair(secrets, "serverIssuer"));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["keelson-node".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signer =
            Issuer::from_ca_cert_pem(&issuer.0, KeyPair::from_pem(&issuer.1).unwrap()).unwrap();
        let cert = params.signed_by(&key, &signer).unwrap();
        let chain = vec![cert.der().clone(), der(&issuer.0)];
        Tls::new(chain, &key, Some(der(&root.0)))
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &KeyPair,
        ca: Option<CertificateDer<'static>>,
    ) -> Tls {
        let digest = Sha256::digest(&chain[0]);
        let hex: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let builder = match ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(ca).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Tls(Arc::new(config), hex.join(":"))
    }
}

/// The certificate and the key of one part of the secrets.
pub(crate) fn pair(secrets: &str, part: &str) -> (String, String) {
    let secrets: serde_json::Value = serde_saphyr::from_str(secrets).unwrap();
    let text = |key: &str| secrets[part][key].as_str().unwrap().to_owned();
    (text("cert"), text("key"))
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A running node; gone when dropped.
pub(crate) struct Node {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// What it was told, and what it says.
    pub(crate) state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

impl Node {
    /// Starts one on a free port.
    pub(crate) fn start(tls: &Tls) -> Node {
        Node::start_at("127.0.0.1:0".parse().unwrap(), tls, Arc::default())
    }

    /// Starts one there.
    pub(crate) fn start_at(address: SocketAddr, tls: &Tls, state: Arc<Mutex<State>>) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(address))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let (send, connections) = mpsc::channel(8);
        let acceptor = TlsAcceptor::from(tls.0.clone());
        runtime.spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else {
                    return;
                };
                let (acceptor, send) = (acceptor.clone(), send.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        send.send(Ok::<_, std::io::Error>(Connection(stream)))
                            .await
                            .ok();
                    }
                });
            }
        });
        let script = Script(state.clone());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(machine::MachineServiceServer::new(script.clone()))
                .add_service(resource::ResourceServiceServer::new(script))
                .serve_with_incoming(ReceiverStream::new(connections)),
        );
        Node {
            address,
            state,
            runtime: Some(runtime),
        }
    }

    /// Where it is, as text.
    pub(crate) fn at(&self) -> String {
        self.address.to_string()
    }

    /// Ends it; connections break.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection that knows its caller's role.
struct Connection(TlsStream<TcpStream>);

#[derive(Clone)]
struct Caller(String);

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        use x509_parser::prelude::FromDer;
        let role = self
            .0
            .get_ref()
            .1
            .peer_certificates()
            .map_or_else(String::new, |chain| {
                let (_, cert) =
                    x509_parser::certificate::X509Certificate::from_der(&chain[0]).unwrap();
                let name = cert.subject().iter_organization().next().unwrap();
                name.as_str().unwrap().to_owned()
            });
        Caller(role)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }
    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// A health check.
pub(crate) fn check(
    name: &str,
    state: api::health_check::State,
    message: &str,
) -> api::HealthCheck {
    api::HealthCheck {
        name: name.to_owned(),
        state: state.into(),
        message: message.to_owned(),
    }
}

/// All checks at one moment.
pub(crate) fn health(checks: Vec<api::HealthCheck>) -> api::HealthResponse {
    let healthy = checks
        .iter()
        .all(|it| it.state() == api::health_check::State::Healthy);
    api::HealthResponse { checks, healthy }
}

/// A kubeconfig as K3s writes it.
pub(crate) const KUBECONFIG: &str = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: QUJD
    server: https://10.0.2.15:6443
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
preferences: {}
users:
- name: default
  user:
    client-certificate-data: REVG
    client-key-data: R0hJ
";

#[derive(Clone)]
struct Script(Arc<Mutex<State>>);

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn all<T: Send + 'static>(items: Vec<T>) -> Answer<Messages<T>> {
    Ok(Response::new(Box::pin(tokio_stream::iter(items).map(Ok))))
}

fn endless<T: Send + 'static>(items: Vec<T>) -> Answer<Messages<T>> {
    Ok(Response::new(Box::pin(
        tokio_stream::iter(items)
            .map(Ok)
            .chain(tokio_stream::pending()),
    )))
}

#[tonic::async_trait]
impl machine::MachineService for Script {
    async fn version(&self, _: Request<api::VersionRequest>) -> Answer<api::VersionResponse> {
        Ok(Response::new(api::VersionResponse {
            version: "1.2.3".to_owned(),
            arch: "amd64".to_owned(),
            kernel: "6.12.0".to_owned(),
            root_hash: "ab".repeat(32),
            orchestrator_name: "k3s".to_owned(),
            orchestrator_version: "v1.36.3+k3s1".to_owned(),
            maintenance: false,
            machine_id: "0".repeat(32),
        }))
    }

    async fn apply_config(
        &self,
        request: Request<api::ApplyConfigRequest>,
    ) -> Answer<api::ApplyConfigResponse> {
        let mut state = self.0.lock().unwrap();
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let expected = request.expected_generation;
        if (state.changed || expected != 7) && expected != 0 {
            return Err(Status::aborted(format!(
                "the config is not generation {expected} any more but 9, stored by CN=other"
            )));
        }
        let is_tried = request.mode() == api::apply_config_request::Mode::Try;
        state.applied.push(request);
        let step = api::PlannedStep {
            noun: "sysctl".to_owned(),
            step: "set vm.max_map_count to 262144".to_owned(),
        };
        Ok(Response::new(api::ApplyConfigResponse {
            diagnostics: state.diagnostics.clone(),
            steps: vec![step],
            generation: match (dry_run, expected) {
                (true, _) => 0,
                _ if is_tried => 0,
                (false, 0) => 7,
                (false, before) => before + 1,
            },
            ..Default::default()
        }))
    }

    async fn confirm_config(
        &self,
        _: Request<api::ConfirmConfigRequest>,
    ) -> Answer<api::ConfirmConfigResponse> {
        let mut state = self.0.lock().unwrap();
        state.confirms += 1;
        // Not before the config has been followed.
        if state.confirms == 1 {
            return Err(Status::unavailable("not followed yet"));
        }
        Ok(Response::new(api::ConfirmConfigResponse { generation: 8 }))
    }

    async fn revert_config(
        &self,
        _: Request<api::RevertConfigRequest>,
    ) -> Answer<api::RevertConfigResponse> {
        Ok(Response::new(api::RevertConfigResponse {
            tried: true,
            staged: 9,
        }))
    }

    async fn get_config(
        &self,
        request: Request<api::GetConfigRequest>,
    ) -> Answer<api::GetConfigResponse> {
        let shown = if request.into_inner().show_secrets {
            "s3cret"
        } else {
            "***"
        };
        let stored = self.0.lock().unwrap().config.clone();
        Ok(Response::new(api::GetConfigResponse {
            config: stored
                .unwrap_or_else(|| format!("token: {shown}\n"))
                .into_bytes(),
            generation: 7,
            applied: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 0,
            }),
            source: "O=os:admin, CN=demo".to_owned(),
            tried: None,
            staged: Some(api::StagedConfig {
                generation: 9,
                applied: Some(prost_types::Timestamp {
                    seconds: 1_800_000_060,
                    nanos: 0,
                }),
                source: "O=os:admin, CN=other".to_owned(),
            }),
        }))
    }

    async fn list_services(
        &self,
        _: Request<api::ListServicesRequest>,
    ) -> Answer<api::ListServicesResponse> {
        let service = api::Service {
            name: "k3s".to_owned(),
            state: api::service::State::Running.into(),
            pid: 42,
            restarts: 1,
            ..Default::default()
        };
        Ok(Response::new(api::ListServicesResponse {
            services: vec![service],
        }))
    }

    async fn restart_service(
        &self,
        request: Request<api::RestartServiceRequest>,
    ) -> Answer<api::RestartServiceResponse> {
        let name = request.into_inner().name;
        if name != "k3s" {
            return Err(Status::not_found(format!("there is no service {name:?}")));
        }
        self.0.lock().unwrap().restarted = Some(name);
        Ok(Response::new(api::RestartServiceResponse {}))
    }

    type LogsStream = Messages<api::LogsResponse>;
    async fn logs(&self, request: Request<api::LogsRequest>) -> Answer<Self::LogsStream> {
        let tail = request.into_inner().tail_lines;
        let pieces = if tail == 1 {
            vec!["two\n"]
        } else {
            vec!["o", "ne\ntw", "o\n"]
        };
        all(pieces
            .into_iter()
            .map(|it| api::LogsResponse {
                data: it.as_bytes().to_vec(),
            })
            .collect())
    }

    type DmesgStream = Messages<api::DmesgResponse>;
    async fn dmesg(&self, _: Request<api::DmesgRequest>) -> Answer<Self::DmesgStream> {
        all(vec![api::DmesgResponse {
            sequence: 1,
            timestamp_us: 1_500_000,
            priority: 6,
            message: "hello".to_owned(),
        }])
    }

    async fn kubeconfig(
        &self,
        request: Request<api::KubeconfigRequest>,
    ) -> Answer<api::KubeconfigResponse> {
        let server = request.into_inner().server;
        let text = if server.is_empty() {
            KUBECONFIG.to_owned()
        } else {
            KUBECONFIG.replace("https://10.0.2.15:6443", &server)
        };
        self.0.lock().unwrap().server = server;
        Ok(Response::new(api::KubeconfigResponse {
            kubeconfig: text.into_bytes(),
        }))
    }

    async fn reboot(&self, request: Request<api::RebootRequest>) -> Answer<api::RebootResponse> {
        let role = request
            .extensions()
            .get::<Caller>()
            .map(|caller| caller.0.clone())
            .unwrap_or_default();
        if role != "os:admin" {
            return Err(Status::permission_denied(format!(
                "Reboot needs os:operator, not {role}"
            )));
        }
        self.0.lock().unwrap().rebooted = true;
        Ok(Response::new(api::RebootResponse {}))
    }

    async fn shutdown(&self, _: Request<api::ShutdownRequest>) -> Answer<api::ShutdownResponse> {
        Err(Status::unavailable("machined is starting"))
    }

    type HealthStream = Messages<api::HealthResponse>;
    async fn health(&self, request: Request<api::HealthRequest>) -> Answer<Self::HealthStream> {
        let script = self.0.lock().unwrap().health.clone();
        if !request.into_inner().watch {
            return all(script.into_iter().take(1).collect());
        }
        endless(script)
    }

    type EventsStream = Messages<api::Event>;
    async fn events(&self, _: Request<api::EventsRequest>) -> Answer<Self::EventsStream> {
        let event = |sequence, subject: &str, message: &str| api::Event {
            sequence,
            time: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 0,
            }),
            subject: subject.to_owned(),
            message: message.to_owned(),
        };
        endless(vec![
            event(1, "config", "applied"),
            event(2, "power", "drain: 1 evicted"),
            event(3, "power", "all is down, init goes on"),
        ])
    }
}

fn link(name: &str, phase: api::Phase) -> api::Resource {
    let up = prost_types::Value {
        kind: Some(prost_types::value::Kind::BoolValue(true)),
    };
    api::Resource {
        kind: "link".to_owned(),
        name: name.to_owned(),
        version: 3,
        phase: phase.into(),
        spec: Some(prost_types::Struct {
            fields: [("up".to_owned(), up)].into(),
        }),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl resource::ResourceService for Script {
    async fn get(&self, request: Request<api::GetRequest>) -> Answer<api::GetResponse> {
        let api::GetRequest { kind, name } = request.into_inner();
        if name != "eth0" {
            return Err(Status::not_found(format!("there is no {kind} {name:?}")));
        }
        Ok(Response::new(api::GetResponse {
            resource: Some(link("eth0", api::Phase::Ready)),
        }))
    }

    async fn list(&self, _: Request<api::ListRequest>) -> Answer<api::ListResponse> {
        let resources = vec![
            link("eth0", api::Phase::Ready),
            link("lo", api::Phase::Pending),
        ];
        Ok(Response::new(api::ListResponse { resources }))
    }

    type WatchStream = Messages<api::WatchResponse>;
    async fn watch(&self, _: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        use api::watch_response::Type;
        let change = |r#type: Type, resource| api::WatchResponse {
            r#type: r#type.into(),
            resource,
        };
        all(vec![
            change(Type::Added, Some(link("eth0", api::Phase::Ready))),
            change(Type::Synced, None),
            change(Type::Added, Some(link("enp1s0", api::Phase::Pending))),
            change(Type::Updated, Some(link("enp1s0", api::Phase::Ready))),
            change(Type::Removed, Some(link("eth0", api::Phase::Ready))),
        ])
    }

    async fn kinds(&self, _: Request<api::KindsRequest>) -> Answer<api::KindsResponse> {
        Ok(Response::new(api::KindsResponse {
            kinds: vec!["address".to_owned(), "link".to_owned()],
        }))
    }
}
