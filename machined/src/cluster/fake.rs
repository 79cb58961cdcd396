//! An API server on loopback for tests: TLS as an orchestrator's, answers as the test
//! says, and a record of what was asked.

use super::{
    access::{self, Role},
    client::Client,
};
use crate::testca::{Ca, private};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub method: String,
    pub path: String,
    /// The body; null if there was none.
    pub body: Value,
}

/// One answer.
pub(crate) enum Reply {
    /// This status and this body.
    Now(u16, String),
    /// None, but the connection stays.
    Never,
}

impl Reply {
    pub(crate) fn ok(body: &Value) -> Reply {
        Reply::status(200, body)
    }

    pub(crate) fn status(status: u16, body: &Value) -> Reply {
        Reply::Now(status, body.to_string())
    }
}

/// The server.
pub(crate) struct Api {
    address: SocketAddr,
    data_dir: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Api {
    pub(crate) async fn start(answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Api {
        let ca = Ca::new();
        let data_dir = tempfile::tempdir().unwrap();
        let tls = data_dir.path().join("server/tls");
        fs::create_dir_all(&tls).unwrap();
        let (admin, admin_key) = ca.issue(&[]);
        for (name, text) in [
            ("server-ca.crt", ca.pem()),
            ("client-admin.crt", admin.pem()),
            ("client-admin.key", admin_key.serialize_pem()),
        ] {
            fs::write(tls.join(name), text).unwrap();
        }

        let (cert, key) = ca.issue(&["127.0.0.1"]);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots.into(),
            provider.clone(),
        )
        .build()
        .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], private(&key))
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (record, answer) = (asked.clone(), Arc::new(Mutex::new(answer)));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, record, answer) = (acceptor.clone(), record.clone(), answer.clone());
                tokio::spawn(async move {
                    // A client that goes away is no matter here.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = hyper::service::service_fn(
                        move |request: http::Request<hyper::body::Incoming>| {
                            let (record, answer) = (record.clone(), answer.clone());
                            async move {
                                let (head, body) = request.into_parts();
                                let body = body.collect().await.unwrap().to_bytes();
                                let request = Asked {
                                    method: head.method.to_string(),
                                    path: head.uri.to_string(),
                                    body: serde_json::from_slice(&body).unwrap_or_default(),
                                };
                                let reply = answer.lock().unwrap()(&request);
                                record.lock().unwrap().push(request);
                                let Reply::Now(status, body) = reply else {
                                    return std::future::pending().await;
                                };
                                let mut response =
                                    http::Response::new(Full::new(Bytes::from(body)));
                                *response.status_mut() = status.try_into().unwrap();
                                Ok::<_, Infallible>(response)
                            }
                        },
                    );
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        Api {
            address,
            data_dir,
            asked,
            task,
        }
    }

    /// A client with the administrator's certificate, as it is read from disk.
    pub(crate) fn client(&self) -> Client {
        let mut client = access::client(self.data_dir.path(), Role::Server).unwrap();
        client.address = self.address;
        client
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Listens no more.
    pub(crate) fn stop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}
