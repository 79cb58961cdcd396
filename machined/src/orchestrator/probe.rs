//! Asks the running orchestrator how it is, over loopback: its supervisor's `/ping`,
//! the API server's `/readyz`, the kubelet's `/healthz`. It only looks.

use crate::cluster::{
    access::{self, Role},
    http::exchange,
};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use std::{net::Ipv4Addr, path::Path, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of the kubelet's answer is read.
const LARGEST: usize = 64 * 1024;

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
    let ping = async {
        match server {
            true => Some(words(ping(data_dir).await)),
            false => None,
        }
    };
    let ready = async {
        match server {
            true => Some(words(ready(data_dir).await)),
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

async fn ping(data_dir: &Path) -> Result<()> {
    let answer = access::anonymous(data_dir)?.text("/ping").await?;
    if answer.as_ref().trim_ascii() != b"pong" {
        bail!(
            "/ping was answered with {:?}",
            String::from_utf8_lossy(&answer[..answer.len().min(80)])
        );
    }
    Ok(())
}

async fn ready(data_dir: &Path) -> Result<()> {
    let client = access::client(data_dir, Role::Server)?;
    client.text("/readyz").await?;
    Ok(())
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

async fn connect(port: u16) -> Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("connecting to port {port}"))
}

/// One GET; anything but 200 is an error.
async fn get<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    path: &str,
) -> Result<Bytes> {
    let request = http::Request::get(path)
        .header(http::header::HOST, "127.0.0.1")
        .header(http::header::CONNECTION, "close")
        .body(Full::default())?;
    let response = exchange(stream, request, LARGEST).await?;
    if response.status() != http::StatusCode::OK {
        bail!("{path} was answered with {}", response.status());
    }
    Ok(response.into_body())
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
