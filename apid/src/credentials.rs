//! What apid serves with: certificates and keys, asked of machined over its
//! socket and kept in memory only. machined may go away: what was known last
//! stays in use until it is back.

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use keelson_api::internal::{
    CredentialsRequest, CredentialsResponse, apid_service_client::ApidServiceClient,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{path::Path, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::UnixStream, sync::watch, time::sleep};
use tonic::transport::{Channel, Endpoint};

/// Between two tries to reach machined: one costs little more than a system call.
const PAUSE: Duration = Duration::from_millis(100);

/// How to serve, as of now.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// TLS for the next connection.
    pub tls: Arc<ServerConfig>,
    /// Whether nobody is asked for a certificate, and only little is allowed.
    pub maintenance: bool,
    /// The port to listen on.
    pub port: u16,
}

/// Waits for the first credentials, then keeps them current in the background.
pub(crate) async fn watch(socket: &Path) -> watch::Receiver<Credentials> {
    let (first_sender, mut first) = watch::channel(None);
    tokio::spawn(follow(socket.to_owned(), first_sender));
    let now = loop {
        if let Some(now) = first.borrow_and_update().clone() {
            break now;
        }
        // The sender lives in a task that never ends.
        if first.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let (sender, receiver) = watch::channel(now);
    tokio::spawn(async move {
        while first.changed().await.is_ok() {
            if let Some(now) = first.borrow_and_update().clone() {
                sender.send_replace(now);
            }
        }
    });
    receiver
}

/// Asks machined again and again. At a boot both start together, and nobody can call
/// before this has an answer. What is the matter is told once.
async fn follow(socket: PathBuf, sender: watch::Sender<Option<Credentials>>) {
    let mut told = String::new();
    loop {
        match stream(&socket, &sender).await {
            Ok(()) => told.clear(),
            Err(error) => {
                let problem = format!("{error:#}");
                if problem != told {
                    tracing::info!("no credentials from machined for now: {problem}");
                    told = problem;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

/// Takes what machined sends until the stream ends.
async fn stream(socket: &Path, sender: &watch::Sender<Option<Credentials>>) -> Result<()> {
    let mut client = ApidServiceClient::new(connect(socket).await?);
    let mut answers = client
        .credentials(CredentialsRequest {})
        .await?
        .into_inner();
    while let Some(answer) = answers.message().await? {
        let credentials = build(answer).context("using the credentials from machined")?;
        tracing::info!(maintenance = credentials.maintenance, "new credentials");
        sender.send_replace(Some(credentials));
    }
    Ok(())
}

async fn connect(socket: &Path) -> Result<Channel> {
    let socket = socket.to_owned();
    // The URI is never resolved: the connector goes to the socket.
    let channel = Endpoint::from_static("http://machined")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        }))
        .await
        .context("connecting to machined")?;
    Ok(channel)
}

/// Makes the TLS configuration: TLS 1.3 only, client certificates unless in maintenance.
pub(crate) fn build(answer: CredentialsResponse) -> Result<Credentials> {
    let CredentialsResponse {
        chain,
        key,
        client_ca,
        port,
    } = answer;
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    ensure!(!chain.is_empty(), "there is no certificate in them");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let maintenance = client_ca.is_empty();
    let builder = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = if maintenance {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(client_ca))
            .context("reading the client CA")?;
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?)
    };
    let mut tls = builder.with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Credentials {
        tls: Arc::new(tls),
        maintenance,
        port: u16::try_from(port)?,
    })
}
