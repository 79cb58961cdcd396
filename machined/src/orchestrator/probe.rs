//! Asks the running orchestrator how it is, over loopback: its supervisor's `/ping`,
//! the API server's `/readyz`, the kubelet's `/healthz`. It only looks.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of an answer is read.
const LARGEST: usize = 64 * 1024;

/// The port of the supervisor and the API server.
const API: u16 = 6443;

/// The port of the kubelet's health.
const KUBELET: u16 = 10248;

/// What an answer was: `Err` says what is wrong with it.
pub(crate) type Answer = Result<(), String>;

/// What the orchestrator answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probes {
    /// The supervisor; a server alone has one.
    pub ping: Option<Answer>,
    /// The API server; a server alone has one.
    pub ready: Option<Answer>,
    /// The kubelet.
    pub kubelet: Answer,
}

/// Asks all there is to ask.
pub(crate) async fn probe(data_dir: &Path, server: bool) -> Probes {
    let words = |result: Result<()>| result.map_err(|error| format!("{error:#}"));
    let tls = data_dir.join("server/tls");
    let ping = async {
        match server {
            true => Some(words(ping(&tls).await)),
            false => None,
        }
    };
    let ready = async {
        match server {
            true => Some(words(ready(&tls).await)),
            false => None,
        }
    };
    let (ping, ready, kubelet) = tokio::join!(ping, ready, async { words(kubelet().await) });
    Probes {
        ping,
        ready,
        kubelet,
    }
}

async fn ping(tls: &Path) -> Result<()> {
    let answer = https(tls, "/ping", false).await?;
    if answer.as_ref().trim_ascii() != b"pong" {
        bail!(
            "/ping was answered with {:?}",
            String::from_utf8_lossy(&answer[..answer.len().min(80)])
        );
    }
    Ok(())
}

async fn ready(tls: &Path) -> Result<()> {
    https(tls, "/readyz", true).await.map(drop)
}

async fn kubelet() -> Result<()> {
    let exchange = async {
        let stream = connect(KUBELET).await?;
        get(stream, "/healthz").await
    };
    timeout(PATIENCE, exchange)
        .await
        .context("the kubelet does not answer")?
        .map(drop)
}

async fn https(tls: &Path, path: &str, authenticate: bool) -> Result<Bytes> {
    let config = Arc::new(client(tls, authenticate)?);
    let exchange = async {
        let stream = connect(API).await?;
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .context("the TLS handshake")?;
        get(stream, path).await
    };
    timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("{path} is not answered"))?
}

async fn connect(port: u16) -> Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("connecting to port {port}"))
}

/// Trusts the cluster's own CA alone, and shows its administrator's certificate.
fn client(tls: &Path, authenticate: bool) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.join("server-ca.crt"))? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    if !authenticate {
        return Ok(builder.with_no_client_auth());
    }
    let key = tls.join("client-admin.key");
    let key =
        PrivateKeyDer::from_pem_file(&key).with_context(|| format!("reading {}", key.display()))?;
    Ok(builder.with_client_auth_cert(certificates(&tls.join("client-admin.crt"))?, key)?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let reading = || format!("reading {}", path.display());
    CertificateDer::pem_file_iter(path)
        .with_context(reading)?
        .collect::<Result<_, _>>()
        .with_context(reading)
}

/// One GET; anything but 200 is an error.
async fn get<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    path: &str,
) -> Result<Bytes> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path)
        .header(http::header::HOST, "127.0.0.1")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        if status != http::StatusCode::OK {
            bail!("{path} was answered with {status}");
        }
        Ok(body)
    };
    tokio::pin!(connection, exchange);
    let mut open = true;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            ended = &mut connection, if open => {
                ended?;
                open = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    async fn answer(response: &'static str) -> Result<Bytes> {
        let (ours, mut theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(4096);
        let server = async move {
            let mut request = [0; 1024];
            let length = theirs.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            theirs.write_all(response.as_bytes()).await.unwrap();
        };
        tokio::join!(get(ours, "/healthz"), server).0
    }

    #[tokio::test]
    async fn answers() {
        let ok = answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        assert_eq!(ok, "ok");
        let cases = [
            (
                "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
                "500",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort", ""),
            ("SSH-2.0-x\r\n", ""),
            ("", ""),
        ];
        for (response, wanted) in cases {
            let error = format!("{:#}", answer(response).await.unwrap_err());
            assert!(error.contains(wanted), "{response:?}: {error}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            theirs.write_all(head.as_bytes()).await?;
            loop {
                theirs.write_all(b"400\r\n").await?;
                theirs.write_all(&[b'x'; 0x400]).await?;
                theirs.write_all(b"\r\n").await?;
            }
            #[allow(unreachable_code)]
            std::io::Result::Ok(())
        });
        assert!(get(ours, "/healthz").await.is_err());
        assert!(server.await.unwrap().is_err());
    }
}
