//! A time limit for clients that do not read their answers.
//!
//! While a client doesn't read, hyper waits for it without a limit. This stream
//! also detects by its first bytes which version of HTTP the client uses; hyper
//! then gets them in its first read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

use crate::net::idle::{Detected, Traffic};

/// The limit for a stalled write, as a multiple of the time limit of a head.
const STALL_PATIENCE: u32 = 6;

/// How a connection of HTTP/2 begins: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The size of a read; the same as hyper's.
const FIRST_READ_BYTES: usize = 8 * 1024;

/// For how long a client may read nothing that is there to be read.
pub(super) fn stall_max(opening_max: Duration) -> Duration {
    opening_max * STALL_PATIENCE
}

/// A stream with a time limit for each stall of a write.
pub(super) struct Patient<I> {
    inner: I,
    /// Bytes that were read for the detection, and not yet passed on.
    first: Bytes,
    /// While a write makes no progress.
    stall: Option<Pin<Box<Sleep>>>,
    stall_max: Duration,
    traffic: Arc<Traffic>,
    /// Its place among the connections that may be open, also once it is a `WebSocket`.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<I> Patient<I> {
    pub(super) fn new(
        inner: I,
        opening_max: Duration,
        traffic: Arc<Traffic>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let stall_max = stall_max(opening_max);
        Self { inner, first: Bytes::new(), stall: None, stall_max, traffic, _permit: permit }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(self.stall_max)));
        stall.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> Patient<I> {
    /// Waits until the version of HTTP is known. An earlier end of the stream is
    /// left to hyper.
    pub(super) async fn greeting(&mut self) -> io::Result<Detected> {
        let mut first = Vec::new();
        let speaks = loop {
            // On the stack, so that a client that sends nothing takes no memory.
            let read = poll_fn(|cx| {
                let mut bytes = [0; FIRST_READ_BYTES];
                let mut bytes = ReadBuf::new(&mut bytes);
                ready!(Pin::new(&mut self.inner).poll_read(cx, &mut bytes))?;
                first.extend_from_slice(bytes.filled());
                Poll::Ready(io::Result::Ok(bytes.filled().len()))
            });
            let is_ended = read.await? == 0;
            let matched = first.len().min(PREFACE.len());
            if is_ended || first[..matched] != PREFACE[..matched] {
                break Detected::Http1;
            }
            if matched == PREFACE.len() {
                break Detected::Http2;
            }
        };
        self.first = first.into();
        Ok(speaks)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.inner).poll_read(cx, buf);
            if buf.filled().len() > before {
                self.traffic.note_read();
            }
            return read;
        }
        self.traffic.note_read();
        let now = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..now]);
        self.first.advance(now);
        if self.first.is_empty() {
            // Also forgets the memory it was in.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    async fn heard(parts: &[&[u8]]) -> (Detected, Vec<u8>) {
        let (ours, mut theirs) = duplex(1 << 16);
        let mut ours = Patient::new(ours, Duration::from_secs(1), Arc::default(), None);
        let say = async {
            for part in parts {
                theirs.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(theirs);
        };
        let (speaks, ()) = tokio::join!(ours.greeting(), say);
        let mut all = Vec::new();
        ours.read_to_end(&mut all).await.unwrap();
        (speaks.unwrap(), all)
    }

    #[tokio::test]
    async fn the_first_bytes_tell_the_version_however_they_come_and_are_read_again() {
        let preface_and_more = [PREFACE, b"more".as_slice()].concat();
        for split in 0..preface_and_more.len() {
            let (one, two) = preface_and_more.split_at(split);
            assert_eq!(heard(&[one, two]).await, (Detected::Http2, preface_and_more.clone()), "{split}");
        }
        let large = [b"POST / HTTP/1.1\r\n\r\n".as_slice(), &[b'x'; FIRST_READ_BYTES]].concat();
        for other in [b"".as_slice(), b"P", b"PUT /", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &large] {
            assert_eq!(heard(&[other]).await, (Detected::Http1, other.to_vec()));
        }
    }
}
