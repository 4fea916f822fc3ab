//! Bodies that are passed on as they arrive, and the body of a request to upstream: one of those, or
//! whole in memory.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A body that is passed on part by part. If its [`Source`] is dropped before the end, the
/// request is broken off, so that upstream never takes a part of it for the whole.
#[derive(Debug)]
pub struct Passing {
    parts: mpsc::Receiver<Piece>,
    /// The length that the head announces; `None` if it is sent in chunks.
    length: Option<u64>,
    is_over: bool,
    latest: LatestPart,
}

/// When the latest part of a body that was taken out of it had come: the running time.
#[derive(Clone, Debug, Default)]
pub struct LatestPart(Arc<AtomicU64>);

impl LatestPart {
    fn set(&self, came: Duration) {
        self.0.store(u64::try_from(came.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The time; `None` before the first part.
    pub fn came(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.0.load(Ordering::Relaxed))).filter(|came| !came.is_zero())
    }
}

/// Brings the parts of a [`Passing`] body.
#[derive(Debug)]
pub struct Source(mpsc::Sender<Piece>);

#[derive(Debug)]
enum Piece {
    /// With the time at which it came, if that is asked for.
    Part(Bytes, Option<Duration>),
    End,
}

/// Upstream takes no more of the body: it has answered, or the connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Passing {
    /// A body of that length, if it is known, and what brings its parts: one at a time.
    pub fn new(length: Option<u64>) -> (Source, Self) {
        let (source, body) = Self::of_parts(1);
        (source, Self { length, ..body })
    }

    /// A body of unknown length, of which so many parts may wait to be read.
    pub fn of_parts(waiting_max: usize) -> (Source, Self) {
        let (source, parts) = mpsc::channel(waiting_max);
        (Source(source), Self { parts, length: None, is_over: false, latest: LatestPart::default() })
    }

    /// What says when the latest part that was taken had come.
    pub fn latest(&self) -> LatestPart {
        self.latest.clone()
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let piece = ready!(self.parts.poll_recv(cx));
        self.is_over = !matches!(piece, Some(Piece::Part(..)));
        Poll::Ready(match piece {
            Some(Piece::Part(part, came)) => {
                if let Some(came) = came {
                    self.latest.set(came);
                }
                Some(Ok(Frame::data(part)))
            }
            Some(Piece::End) => None,
            None => Some(Err(BrokenOff)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Source {
    /// Brings a part, once upstream has taken the one before.
    pub async fn send(&self, part: Bytes) -> Result<(), Closed> {
        self.0.send(Piece::Part(part, None)).await.map_err(|_| Closed)
    }

    /// Brings a part that came at a running time.
    pub async fn send_come(&self, part: Bytes, came: Duration) -> Result<(), Closed> {
        self.0.send(Piece::Part(part, Some(came))).await.map_err(|_| Closed)
    }

    /// Waits until the body is read no more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Ends the body, which is whole.
    pub async fn end(&self) -> Result<(), Closed> {
        self.0.send(Piece::End).await.map_err(|_| Closed)
    }
}

/// A body broke off.
#[derive(Debug)]
pub struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body broke off")
    }
}

impl std::error::Error for BrokenOff {}

/// A body that records when it is first polled.
#[derive(Debug)]
pub(super) struct Outgoing {
    content: Content,
    was_polled: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Content {
    /// `None` once it was sent.
    Whole(Option<Bytes>),
    Passing(Passing),
}

impl Outgoing {
    pub(super) fn whole(bytes: Bytes, was_polled: &Arc<AtomicBool>) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self { content: Content::Whole(bytes), was_polled: Arc::clone(was_polled) }
    }

    pub(super) fn passing(body: Passing, was_polled: &Arc<AtomicBool>) -> Self {
        Self { content: Content::Passing(body), was_polled: Arc::clone(was_polled) }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.was_polled.store(true, Ordering::Release);
        match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Passing(passing) => Pin::new(passing).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_none(),
            Content::Passing(passing) => passing.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Content::Passing(passing) => passing.size_hint(),
        }
    }
}
