//! HTTP/2's streams: answers that nobody reads, and connections without any.
//!
//! A client can shut a stream's window and keep the connection lively. hyper
//! then waits within the stream's task and doesn't ask the answer's body, so
//! that no timer in the body would help. But the task is ours to run: it knows
//! that the body gave a frame and wasn't asked for another. Only then is there
//! a timer; a stream that is read costs a flag for each frame.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Sleep, sleep};

thread_local! {
    /// What bodies have said since the stream that is being polled began to be.
    /// A stream polls its body within its own poll, so they can't mix.
    static SAID: Cell<Said> = const { Cell::new(Said::Nothing) };
}

#[derive(Clone, Copy)]
enum Said {
    /// It wasn't asked.
    Nothing,
    /// There is nothing to send yet.
    Wait,
    /// Here is a frame, or the end.
    Frame,
}

/// Runs streams, and gives up those whose answer is not read for so long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watching {
    pub(super) stall_max: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Watching {
    fn execute(&self, stream: F) {
        TokioExecutor::new().execute(watched(stream, self.stall_max));
    }
}

/// Polls a stream to its end, or until it has stalled for too long. Dropped, it
/// resets itself, and its body ends as for a client that has gone.
async fn watched<F: Future<Output = ()>>(stream: F, stall_max: Duration) {
    let mut stream = pin!(stream);
    let mut is_stalled = false;
    // Made at the first stall, and kept for the next.
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        SAID.set(Said::Nothing);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match SAID.get() {
            Said::Nothing => {}
            Said::Wait => is_stalled = false,
            Said::Frame => {
                is_stalled = true;
                match &mut timer {
                    Some(timer) => timer.set(sleep(stall_max)),
                    None => timer = Some(Box::pin(sleep(stall_max))),
                }
            }
        }
        match timer.as_mut().filter(|_| is_stalled) {
            Some(timer) => timer.as_mut().poll(cx).map(|()| tracing::debug!("an answer was not read")),
            None => Poll::Pending,
        }
    })
    .await;
}

/// The requests of one connection, counted.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Traffic {
    /// A request has come; it lasts as long as what is returned.
    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Waits until there has been no request within `first_max`, or none since for
    /// `idle_max` or up to twice as long.
    pub(super) async fn idle(&self, first_max: Duration, idle_max: Duration) {
        let mut begun = 0;
        let mut wait = first_max;
        loop {
            let was_idle = begun == self.ended.load(Ordering::Relaxed);
            sleep(wait).await;
            let now_begun = self.begun.load(Ordering::Relaxed);
            if was_idle && begun == now_begun {
                return;
            }
            (begun, wait) = (now_begun, idle_max);
        }
    }
}

/// A request that has not ended.
#[derive(Debug)]
pub(super) struct Open(Arc<Traffic>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer's body that tells its stream what it said.
#[derive(Debug)]
pub(super) struct Heard<B> {
    body: B,
    _open: Open,
}

impl<B> Heard<B> {
    pub(super) fn new(body: B, open: Open) -> Self {
        Self { body, _open: open }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Heard<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        SAID.set(if polled.is_ready() { Said::Frame } else { Said::Wait });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
