//! A stream that remembers why it broke. HTTP/2 keeps only the text of an error,
//! and what the node says in a TLS alert decides what we tell the person.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The TLS error that ended the stream, once there is one.
pub(super) type Testimony = Arc<OnceLock<rustls::Error>>;

/// The stream inside, watched.
pub(super) struct Witness<S> {
    inner: S,
    testimony: Testimony,
}

impl<S> Witness<S> {
    /// Watches a stream.
    pub(super) fn new(inner: S, testimony: Testimony) -> Self {
        Witness { inner, testimony }
    }

    fn note<T>(&self, result: io::Result<T>) -> Poll<io::Result<T>> {
        if let Err(error) = &result
            && let Some(error) = tls_error(error)
        {
            // The first error is the cause, the others follow from it.
            self.testimony.get_or_init(|| error.clone());
        }
        Poll::Ready(result)
    }
}

/// The TLS error in an I/O error, if it is one.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

impl<S: AsyncRead + Unpin> AsyncRead for Witness<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.inner).poll_read(context, buffer));
        this.note(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Witness<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.inner).poll_write(context, buffer));
        this.note(result)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.inner).poll_flush(context));
        this.note(result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.inner).poll_shutdown(context));
        this.note(result)
    }
}
