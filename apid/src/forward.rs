//! Passes whole calls on to machined, undecoded: headers, body and trailers as
//! they came, but for the two headers that say who calls.

use crate::role::{Caller, Verdict, decide};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::Connected},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::net::UnixStream;
use tonic::Code;

/// What is answered: machined's own stream, or nothing but a status.
pub(crate) type Body = Either<Incoming, Empty<Bytes>>;

/// Passes calls on to machined. Cheap to clone; all clones share a connection.
#[derive(Clone)]
pub(crate) struct Forwarder {
    client: Client<UnixConnector, Incoming>,
}

impl Forwarder {
    /// Forwards to the socket at this path; connects when the first call comes.
    pub(crate) fn new(socket: &Path) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .pool_timer(TokioTimer::new())
            .build(UnixConnector(socket.to_owned()));
        Forwarder { client }
    }

    /// Answers one call.
    pub(crate) async fn call(
        &self,
        caller: &Caller,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let method = request.uri().path().to_owned();
        if let Verdict::Denied(why) = decide(caller, &method) {
            tracing::warn!(%method, peer = caller.subject(), "denied: {why}");
            return status(Code::PermissionDenied, &why);
        }
        name_caller(request.headers_mut(), caller);
        match Uri::builder()
            .scheme("http")
            .authority("machined")
            .path_and_query(method.as_str())
            .build()
        {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => return status(Code::Unimplemented, "this is no gRPC method"),
        }
        match self.client.request(request).await {
            Ok(response) => response.map(Either::Left),
            Err(error) => {
                tracing::warn!(%method, %error, "machined did not answer");
                status(
                    Code::Unavailable,
                    "the machine daemon is starting; try again in a moment",
                )
            }
        }
    }
}

/// Takes away whatever the caller says about itself and writes down what is known.
fn name_caller(headers: &mut HeaderMap, caller: &Caller) {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("keelson-"))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    // A subject may hold letters that a header cannot: they become '?'.
    let subject: String = caller
        .subject()
        .chars()
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .collect();
    for (key, value) in [
        (keelson_api::ROLE_KEY, caller.role_text()),
        (keelson_api::PEER_KEY, subject),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(key), value);
        }
    }
}

/// An answer that is nothing but a gRPC status ("trailers only").
fn status(code: Code, message: &str) -> Response<Body> {
    tonic::Status::new(code, message)
        .into_http::<Empty<Bytes>>()
        .map(Either::Right)
}

/// Connects to machined's socket whatever the URI says.
#[derive(Clone)]
pub(crate) struct UnixConnector(PathBuf);

impl tower_service::Service<Uri> for UnixConnector {
    type Response = Connection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(Connection(TokioIo::new(UnixStream::connect(path).await?))) })
    }
}

/// A connection to machined.
pub(crate) struct Connection(TokioIo<UnixStream>);

impl hyper_util::client::legacy::connect::Connection for Connection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;

    #[test]
    fn a_caller_cannot_say_who_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert("keelson-role", HeaderValue::from_static("os:admin"));
        headers.insert("keelson-peer", HeaderValue::from_static("somebody else"));
        headers.insert("keelson-other", HeaderValue::from_static("x"));
        let caller = Caller::Known {
            role: Role::Reader,
            subject: "CN=anna, O=os:reader".to_owned(),
        };
        name_caller(&mut headers, &caller);
        assert_eq!(headers["keelson-role"], "os:reader");
        assert_eq!(headers["keelson-peer"], "CN=anna, O=os:reader");
        assert!(!headers.contains_key("keelson-other"));
    }

    #[test]
    fn a_subject_with_other_letters_is_still_told() {
        let mut headers = HeaderMap::new();
        let caller = Caller::Known {
            role: Role::Reader,
            subject: "CN=Jürgen\n".to_owned(),
        };
        name_caller(&mut headers, &caller);
        assert_eq!(headers["keelson-peer"], "CN=J?rgen?");
    }
}
