//! A client of the Kubernetes API, as small as this machine needs it: one request a
//! connection, each with a bound, and JSON both ways.

use super::http::exchange;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// How long one request may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How much of an answer is read: the pods of a crowded node are a few megabytes.
const LARGEST: usize = 32 << 20;

/// How much of a refusal is told, in characters.
const TOLD: usize = 300;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API server was not reached, or gave no answer that could be read.
    #[error("the API server does not answer: {0}")]
    Away(String),
    /// It said no.
    #[error("the API server refused ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
}

impl Failure {
    /// The HTTP status, if there was an answer.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Failure::Away(_) => None,
            Failure::Refused { status, .. } => Some(*status),
        }
    }
}

/// Where the API server is, and who asks it.
#[derive(Clone)]
pub(crate) struct Client {
    pub(super) address: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
    /// How long one request may take.
    pub(super) patience: Duration,
}

impl Client {
    /// Reads an object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let body = self.raw(Method::GET, path, None).await?;
        serde_json::from_slice(&body).map_err(|error| Failure::Away(format!("{path}: {error}")))
    }

    /// Reads an answer as it is.
    pub(crate) async fn text(&self, path: &str) -> Result<Bytes, Failure> {
        self.raw(Method::GET, path, None).await
    }

    /// Changes fields of an object: a JSON merge patch (RFC 7386).
    pub(crate) async fn patch(&self, path: &str, patch: &Value) -> Result<(), Failure> {
        let body = ("application/merge-patch+json", patch);
        self.raw(Method::PATCH, path, Some(body)).await.map(drop)
    }

    /// Creates an object.
    pub(crate) async fn post(&self, path: &str, object: &Value) -> Result<(), Failure> {
        let body = ("application/json", object);
        self.raw(Method::POST, path, Some(body)).await.map(drop)
    }

    async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Bytes, Failure> {
        let response = match timeout(self.patience, self.exchange(method, path, body)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::Away(format!("{error:#}"))),
            Err(_) => {
                return Err(Failure::Away(format!("{path} was not answered in time")));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        Err(Failure::Refused {
            status: status.as_u16(),
            message: refusal(response.body(), path),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<http::Response<Bytes>> {
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("connecting to {}", self.address))?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(ServerName::from(self.address.ip()), stream)
            .await
            .context("the TLS handshake")?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("keelson/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONNECTION, "close");
        let mut bytes = Bytes::new();
        if let Some((kind, value)) = body {
            request = request.header(header::CONTENT_TYPE, kind);
            bytes = value.to_string().into();
        }
        exchange(stream, request.body(Full::new(bytes))?, LARGEST).await
    }
}

/// What a `Status` object says, or what was asked if it is none.
fn refusal(body: &[u8], path: &str) -> String {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    match status["message"].as_str() {
        Some(message) => message.chars().take(TOLD).collect(),
        None => path.to_owned(),
    }
}
