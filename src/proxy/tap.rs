//! The tap on an event stream: passes frames on, spots usage, ends the
//! reservation.
//!
//! Whatever happens to the stream, it ends the reservation once: at the end of
//! the body, at an error, or when the client goes away, by reading on to the end
//! or by counting what has passed.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::guard::Reservation;
use crate::metrics::Metrics;
use crate::openai::endpoint::Metered;
use crate::openai::refusal::{ErrorBody, stream_cut_chat, stream_cut_responses};
use crate::openai::sse;
use crate::proxy::bill::{Bill, Exchange};
use crate::proxy::body::AnswerError;
use crate::proxy::record::{Recorded, Recording};
use crate::proxy::visit::Visit;
use crate::upstream::AnswerBody;

/// Text between two looks at whether an unbounded stream outgrows its hold.
const LOOK_EVERY_BYTES: u64 = 4_096;

/// What a tap does beside passing frames on.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Whether to read on when the client has gone, and for how long at most.
    pub drain: Option<Duration>,
    /// The longest silence of a stream.
    pub idle: Duration,
    /// Output tokens at which the stream is cut; only for models without a
    /// bound of their own.
    pub cut_at_tokens: Option<u64>,
    /// Where reading on is run.
    pub tracker: TaskTracker,
}

/// An answer's event stream on its way through.
#[derive(Debug)]
pub struct Tap {
    state: Option<State>,
    idle: Pin<Box<Sleep>>,
    last_frame: Duration,
    clock: Arc<Clock>,
    manner: Manner,
    /// Events that name an object, which may pass when it is recorded.
    held_back: Option<HeldBack>,
}

/// Events, and what they wait for.
struct HeldBack {
    events: Bytes,
    recorded: Recorded,
}

impl std::fmt::Debug for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldBack").field("bytes", &self.events.len()).finish_non_exhaustive()
    }
}

/// What ends with the stream.
#[derive(Debug)]
struct State {
    upstream: AnswerBody,
    sse: sse::Tap,
    reservation: Reservation,
    bill: Bill,
    exchange: Exchange,
    visit: Visit,
    open: Open,
    next_look: u64,
    recording: Option<Box<Recording>>,
}

/// Counts a stream as open as long as it lives.
#[derive(Debug)]
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.streams_open().inc();
        Self(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams_open().dec();
    }
}

impl Tap {
    /// A tap on an answer that upstream has begun.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that ends with the stream")]
    pub fn new(
        upstream: AnswerBody,
        sse: sse::Tap,
        reservation: Reservation,
        bill: Bill,
        exchange: Exchange,
        visit: Visit,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        manner: Manner,
        recording: Option<Box<Recording>>,
    ) -> Self {
        let (open, next_look) = (Open::new(metrics), LOOK_EVERY_BYTES);
        let state = State { upstream, sse, reservation, bill, exchange, visit, open, next_look, recording };
        let idle = Box::pin(tokio::time::sleep(manner.idle));
        Self { state: Some(state), idle, last_frame: clock.running(), clock, manner, held_back: None }
    }

    /// The next frame for the client.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        loop {
            if let Some(events) = std::task::ready!(self.poll_held_back(cx)) {
                return Poll::Ready(Some(Ok(Frame::data(events))));
            }
            let Some(state) = self.state.as_mut() else { return Poll::Ready(None) };
            match Pin::new(&mut state.upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.last_frame = self.clock.running();
                    let Ok(part) = frame.into_data() else { continue };
                    state.note_first_byte();
                    let out = state.sse.feed(part);
                    if state.outgrows(self.manner.cut_at_tokens) {
                        return Poll::Ready(self.cut(&out));
                    }
                    if let Some(recorded) = state.records() {
                        self.held_back = Some(HeldBack { events: out, recorded });
                    } else if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out))));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.finish(false);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    let rest = state.sse.finish();
                    self.finish(false);
                    let frame = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(frame);
                }
                Poll::Pending => {
                    if self.poll_silence(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.finish(false);
                    return Poll::Ready(Some(Err("upstream fell silent".into())));
                }
            }
        }
    }

    /// What was held back until an object was recorded, once it is.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(held_back) = &mut self.held_back {
            std::task::ready!(held_back.recorded.as_mut().poll(cx));
        }
        Poll::Ready(
            self.held_back.take().map(|held_back| held_back.events).filter(|events| !events.is_empty()),
        )
    }

    /// Whether the stream has been silent for too long. The timer is moved only
    /// when it goes off, not with every frame.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            std::task::ready!(self.idle.as_mut().poll(cx));
            let silent = self.clock.running().saturating_sub(self.last_frame);
            if silent >= self.manner.idle {
                return Poll::Ready(());
            }
            self.idle.set(tokio::time::sleep(self.manner.idle.saturating_sub(silent)));
        }
    }

    fn finish(&mut self, disconnected: bool) {
        if let Some(state) = self.state.take() {
            state.end(disconnected);
        }
    }

    /// Ends a stream that has outgrown its hold with an error event.
    fn cut(&mut self, out: &Bytes) -> Option<Result<Frame<Bytes>, AnswerError>> {
        let state = self.state.take()?;
        let error = ErrorBody {
            message: "The answer reached the amount that was reserved for it, so it was cut off here.",
            kind: "insufficient_quota",
            param: None,
            code: Some("insufficient_quota"),
        };
        let event = match state.bill.endpoint {
            Metered::Responses => stream_cut_responses(&error, u64::MAX >> 11),
            Metered::Chat | Metered::Completions | Metered::Compact | Metered::Embeddings => {
                stream_cut_chat(&error)
            }
        };
        // The client may have the start of an event but not its end.
        let gap: &[u8] = if state.sse.is_mid_event() { b"\n\n" } else { b"" };
        let last = [out.as_ref(), gap, event.as_bytes()].concat();
        state.end(false);
        Some(Ok(Frame::data(last.into())))
    }
}

impl State {
    fn note_first_byte(&mut self) {
        if self.exchange.ttft.is_none() {
            let age = self.reservation.age();
            self.exchange.ttft = Some(age);
            self.open.0.first_token(age);
        }
    }

    /// Takes up the objects that the stream has named.
    fn records(&mut self) -> Option<Recorded> {
        self.recording.as_mut()?.heard(self.sse.answer(), self.sse.is_done())
    }

    fn outgrows(&mut self, cut_at_tokens: Option<u64>) -> bool {
        let Some(most) = cut_at_tokens else { return false };
        if self.sse.transcript_bytes() < self.next_look {
            return false;
        }
        self.next_look = self.sse.transcript_bytes() + LOOK_EVERY_BYTES;
        self.bill.count_output(self.sse.transcript()) > most
    }

    /// Ends the reservation by what the stream has told.
    fn end(self, disconnected: bool) {
        let Self { sse, reservation, bill, mut exchange, mut visit, recording, .. } = self;
        exchange.disconnected |= disconnected;
        let answer = sse.answer();
        drop(recording.and_then(|recording| recording.over(answer)));
        let outcome = if exchange.disconnected { "disconnected" } else { "ok" };
        let settled = bill.end(reservation, answer, exchange, sse.is_done(), || {
            let (text, bytes) = (sse.transcript(), sse.transcript_bytes());
            // Text beyond what is kept counts by its bytes.
            let beyond = bytes.saturating_sub(u64::try_from(text.len()).unwrap_or(0));
            bill.count_output(text).saturating_add(beyond)
        });
        visit.ended(outcome, Some(settled.cost));
    }

    /// Reads on to the end for the exact usage, the client being gone.
    async fn drain(mut self, most: Duration, cut_at_tokens: Option<u64>) {
        let reading = async {
            while let Some(Ok(frame)) = self.upstream.frame().await {
                if let Ok(part) = frame.into_data() {
                    let _ = self.sse.feed(part);
                }
                if self.outgrows(cut_at_tokens) {
                    break;
                }
                if self.sse.is_done() && self.sse.answer().usage.is_some() {
                    break;
                }
            }
        };
        // At the bound, what has passed until then is counted.
        let _ = tokio::time::timeout(most, reading).await;
        self.end(true);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        if state.sse.is_done() {
            // All events went out; the client just did not wait for the end.
            state.end(false);
            return;
        }
        state.exchange.disconnected = true;
        match (self.manner.drain, tokio::runtime::Handle::try_current()) {
            (Some(most), Ok(runtime)) => {
                self.manner.tracker.spawn_on(state.drain(most, self.manner.cut_at_tokens), &runtime);
            }
            _ => state.end(true),
        }
    }
}
