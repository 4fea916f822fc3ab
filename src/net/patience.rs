//! A connection that neither side may leave hanging.
//!
//! Before a client has shown which HTTP it speaks, hyper waits for ever; and
//! while a client doesn't read, nothing asks whether there is more to write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The bytes that tell HTTP/2 from HTTP/1.1; the first alone tells the most.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client may read nothing for so many times what it may take to greet.
const STALL_PATIENCE: u32 = 6;

/// For how long a client may read nothing that is there to be read.
pub(super) fn stall_max(opening_max: Duration) -> Duration {
    opening_max * STALL_PATIENCE
}

/// A stream with a time limit for its first bytes, and for each stall of a
/// write.
pub(super) struct Patient<I> {
    inner: I,
    /// Until the first bytes are there.
    opening: Option<Pin<Box<Sleep>>>,
    seen: usize,
    /// While a write makes no progress.
    stall: Option<Pin<Box<Sleep>>>,
    stall_max: Duration,
}

impl<I> Patient<I> {
    pub(super) fn new(inner: I, opening_max: Duration) -> Self {
        let opening = Some(Box::pin(sleep(opening_max)));
        Self { inner, opening, seen: 0, stall: None, stall_max: stall_max(opening_max) }
    }

    fn note(&mut self, read: &[u8]) {
        let told = self.seen == 0 && read.first() != PREFACE.first();
        self.seen += read.len();
        if told || self.seen >= PREFACE.len() {
            self.opening = None;
        }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(self.stall_max)));
        expired(stall, cx)
    }
}

fn expired<T>(limit: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    limit.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        match (&read, self.opening.as_mut()) {
            (Poll::Pending, Some(opening)) => expired(opening, cx),
            (Poll::Ready(Ok(())), Some(_)) => {
                self.note(&buf.filled()[before..]);
                read
            }
            _ => read,
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watched(cx, shut)
    }
}
