//! Answers on HTTP/2 streams that are not read.
//!
//! A client can close a stream's flow-control window and keep the connection
//! active. hyper then waits within the stream's task and doesn't poll the answer's
//! body, so a timer in the body would not help. But the guard polls that task, and
//! knows that the body gave a frame and wasn't polled for another. Only then a
//! timer runs; a stream that is read costs a flag for each frame.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Sleep, sleep};

use crate::net::idle::Open;

thread_local! {
    /// The state of the body during the present poll of its stream. A stream polls
    /// its body within its own poll, so states of two streams can't mix.
    static SAID: Cell<Said> = const { Cell::new(Said::Nothing) };
}

#[derive(Clone, Copy)]
enum Said {
    /// It wasn't polled.
    Nothing,
    /// It is pending.
    Wait,
    /// It returned a frame, or the end.
    Frame,
}

/// Runs streams, and gives up those whose answer is not read in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct StallWatch {
    pub(super) stall_max: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StallWatch {
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
            Some(timer) => timer
                .as_mut()
                .poll(cx)
                .map(|()| tracing::debug!(event = "answer_not_read", "an answer was not read")),
            None => Poll::Pending,
        }
    })
    .await;
}

/// An answer's body that reports its state to its stream.
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
