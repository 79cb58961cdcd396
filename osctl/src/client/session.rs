//! One connection to one node, opened in full before it is used, never opened
//! again behind the caller's back: what failed is known where it failed.

use super::{
    Endpoint, Trust, failure,
    tls::{self, Seen},
    witness::{Testimony, Witness},
};
use crate::error::{Error, Kind, Result};
use hyper_util::rt::TokioIo;
use keelson_api::v1::{
    machine_service_client::MachineServiceClient, resource_service_client::ResourceServiceClient,
    upgrade_service_client::UpgradeServiceClient,
};
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{io::AsyncBufReadExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{Response, Status, Streaming, transport::Channel};

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait for a node's first word. One that says nothing is spoken to.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// How long one call may take.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A node, and how it is recognised.
#[derive(Clone)]
pub(crate) struct Target {
    /// Where it is.
    pub(crate) endpoint: Endpoint,
    /// Which one it must be.
    pub(crate) trust: Arc<Trust>,
}

/// An open connection.
pub(crate) struct Session {
    target: Target,
    channel: Channel,
    testimony: Testimony,
}

impl Session {
    /// Connects, and makes sure that it is the right node.
    pub(crate) async fn open(target: &Target) -> Result<Session> {
        timeout(CONNECT_DEADLINE, Session::connect(target))
            .await
            .unwrap_or_else(|_| Err(failure::no_answer(&target.endpoint, CONNECT_DEADLINE)))
    }

    async fn connect(target: &Target) -> Result<Session> {
        let endpoint = &target.endpoint;
        let seen = Seen::default();
        let config = tls::config(&target.trust, &seen)?;
        let name = endpoint
            .server_name()
            .ok_or_else(|| Error::input(format!("{endpoint} cannot be named in TLS")))?;
        let tcp = TcpStream::connect((endpoint.host(), endpoint.port()))
            .await
            .map_err(|error| failure::connect(endpoint, &error))?;
        tcp.set_nodelay(true)
            .map_err(|error| failure::connect(endpoint, &error))?;
        let refused = |error| failure::handshake(target, seen.get(), &error);
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(refused)?;
        // In TLS 1.3 our side of the handshake ends before the node has looked at our
        // certificate. Were we to write now, its refusal could be lost in a reset
        // connection. A node speaks first (HTTP/2 SETTINGS), or refuses.
        if let Ok(spoken) = timeout(FIRST_WORD, stream.fill_buf()).await {
            spoken.map_err(refused)?;
        }
        let testimony = Testimony::default();
        let channel = channel(endpoint, Witness::new(stream, testimony.clone()))
            .await
            .map_err(|error| failure::lost(target, &testimony).chain(&error))?;
        Ok(Session {
            target: target.clone(),
            channel,
            testimony,
        })
    }

    /// Where it is connected to.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.target.endpoint
    }

    /// The machine's calls.
    pub(crate) fn machine(&self) -> MachineServiceClient<Channel> {
        MachineServiceClient::new(self.channel.clone())
    }

    /// The resources' calls.
    pub(crate) fn resources(&self) -> ResourceServiceClient<Channel> {
        ResourceServiceClient::new(self.channel.clone())
    }

    /// The calls for upgrades.
    pub(crate) fn upgrades(&self) -> UpgradeServiceClient<Channel> {
        UpgradeServiceClient::new(self.channel.clone())
    }

    /// Waits for a call's answer, at most [`CALL_DEADLINE`]. `what` completes "cannot …".
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.call_within(CALL_DEADLINE, what, call).await
    }

    /// Waits for a call's answer, at most this long.
    pub(crate) async fn call_within<T>(
        &self,
        deadline: Duration,
        what: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        match timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(what, &status)),
            Err(_) => Err(self.too_slow(what, deadline)),
        }
    }

    /// The next message of a stream; `None` at its end. Waits at most `deadline`, if any.
    pub(crate) async fn next<T>(
        &self,
        what: &str,
        stream: &mut Streaming<T>,
        deadline: Option<Duration>,
    ) -> Result<Option<T>> {
        let message = match deadline {
            Some(deadline) => timeout(deadline, stream.message())
                .await
                .map_err(|_| self.too_slow(what, deadline))?,
            None => stream.message().await,
        };
        message.map_err(|status| self.failure(what, &status))
    }

    fn failure(&self, what: &str, status: &Status) -> Error {
        failure::status(&self.target, what, status, &self.testimony)
    }

    fn too_slow(&self, what: &str, deadline: Duration) -> Error {
        Error::new(
            Kind::Timeout,
            format!("cannot {what} on {}", self.endpoint()),
        )
        .cause(format!(
            "it has not answered within {} s",
            deadline.as_secs()
        ))
        .hint("try again; `osctl health --no-wait` tells how the node is")
    }
}

/// A channel over a stream that is open already.
async fn channel(
    endpoint: &Endpoint,
    stream: Witness<tokio_rustls::client::TlsStream<TcpStream>>,
) -> Result<Channel, tonic::transport::Error> {
    let stream = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            stream
                .map(TokioIo::new)
                .ok_or_else(|| std::io::Error::other("the connection was lost"))
        }
    });
    // The scheme of the address only says that TLS is done here; the origin is
    // what the node is told.
    let mut builder = tonic::transport::Endpoint::from_static("http://node")
        .user_agent(concat!("osctl/", env!("CARGO_PKG_VERSION")))?
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    if let Ok(origin) = format!("https://{endpoint}").parse() {
        builder = builder.origin(origin);
    }
    builder.connect_with_connector(connector).await
}
