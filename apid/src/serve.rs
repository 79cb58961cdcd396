//! Accepts connections, does TLS, finds out who calls, and hands each call to the
//! forwarder. A slow or hostile peer costs a bounded number of connections and
//! streams, nothing else.

use crate::{credentials::Credentials, forward::Forwarder, peer, role::Caller};
use anyhow::{Context, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// Calls at once on one connection.
const STREAMS: u32 = 64;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long calls may go on after the credentials they came with are void.
const GRACE: Duration = Duration::from_secs(10);

/// Listens on all addresses, IPv6 and IPv4.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    bind(SocketAddr::from(([0u16; 8], port)))
        // A kernel without IPv6 still has IPv4.
        .or_else(|_| bind(SocketAddr::from(([0u8; 4], port))))
        .with_context(|| format!("listening on port {port}"))
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        TcpSocket::new_v6()?
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

/// Serves for ever.
pub(crate) async fn run(
    listener: TcpListener,
    credentials: watch::Receiver<Credentials>,
    forwarder: Forwarder,
) -> Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await?;
        match listener.accept().await {
            Ok((stream, address)) => {
                tokio::spawn(connection(
                    stream,
                    address,
                    credentials.clone(),
                    forwarder.clone(),
                    place,
                ));
            }
            Err(error) => {
                // Out of file descriptors or the like: it passes.
                tracing::warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    mut credentials: watch::Receiver<Credentials>,
    forwarder: Forwarder,
    _place: OwnedSemaphorePermit,
) {
    let now = credentials.borrow_and_update().clone();
    let stream = match timeout(HANDSHAKE, TlsAcceptor::from(now.tls).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%address, "TLS handshake failed: {error}"),
        Err(_) => return tracing::info!(%address, "TLS handshake took too long"),
    };
    let caller = if now.maintenance {
        Caller::Maintenance
    } else {
        peer::caller(stream.get_ref().1.peer_certificates())
    };
    if !now.maintenance && caller == Caller::Maintenance {
        // Cannot be: the verifier asks for a certificate. If it ever is, nobody gets in.
        return tracing::error!(%address, "a connection without a client certificate");
    }
    let caller = Arc::new(caller);
    let service = service_fn(|request| {
        let (caller, forwarder) = (caller.clone(), forwarder.clone());
        async move { Ok::<_, Infallible>(forwarder.call(&caller, request).await) }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = voided(&mut credentials, now.maintenance) => {
            served.as_mut().graceful_shutdown();
            match timeout(GRACE, served.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, "connection ended: {error}");
    }
}

/// Comes back when a connection made under the old rules must not go on.
async fn voided(credentials: &mut watch::Receiver<Credentials>, maintenance: bool) {
    loop {
        if credentials.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if credentials.borrow_and_update().maintenance != maintenance {
            return;
        }
    }
}
