//! One HTTP request over a stream that is open already.

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The whole answer, whatever its status; at most `largest` bytes of it.
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
    largest: usize,
) -> Result<Response<Bytes>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, largest).collect().await;
        let body = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
        Ok(Response::from_parts(head, body))
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
