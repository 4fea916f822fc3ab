//! The tap on an event stream: passes frames on, spots usage, ends the
//! reservation.
//!
//! Whatever happens to the stream, it ends the reservation once: at the last event,
//! at the end of the body, at an error, or when the client goes away, by reading on
//! to the end or by counting what has passed. After the last event the hold is gone,
//! though both sides may keep the connection open.

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
use crate::openai::sse::{self, Brought};
use crate::pricing::count::{self, Encoding};
use crate::pricing::turns::Turns;
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
    /// Where reading on is run.
    pub tracker: TaskTracker,
}

/// Where a stream is cut, because its hold ends there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cuts {
    /// Output tokens; only for models without a bound of their own.
    pub output_tokens: Option<u64>,
    /// Calls of hosted tools.
    pub hosted_calls: Option<u64>,
    /// What the turns between those calls read.
    pub turns: Option<Turns>,
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

/// A stream while it lasts.
#[derive(Debug)]
struct State {
    upstream: AnswerBody,
    sse: sse::Tap,
    open: Open,
    next_look: u64,
    /// Until the hold has ended.
    account: Option<Account>,
    recording: Option<Box<Recording>>,
    cuts: Cuts,
}

/// What ends with the hold.
#[derive(Debug)]
struct Account {
    reservation: Reservation,
    bill: Bill,
    exchange: Exchange,
    visit: Visit,
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
        mut sse: sse::Tap,
        reservation: Reservation,
        bill: Bill,
        exchange: Exchange,
        visit: Visit,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        manner: Manner,
        cuts: Cuts,
        recording: Option<Box<Recording>>,
    ) -> Self {
        if cuts.turns.is_some() {
            sse.watch_context();
        }
        let open = Open::new(metrics);
        let account = Some(Account { reservation, bill, exchange, visit });
        let state = State { upstream, sse, open, next_look: LOOK_EVERY_BYTES, account, recording, cuts };
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
                    let recorded = state.records();
                    if state.sse.is_accountable() {
                        state.settle();
                    } else if let Some(cut) = state.outgrows() {
                        return Poll::Ready(self.cut(&out, cut));
                    }
                    if let Some(recorded) = recorded {
                        self.held_back = Some(HeldBack { events: out, recorded });
                    } else if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out))));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.finish();
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    let rest = state.sse.finish();
                    self.finish();
                    let frame = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(frame);
                }
                Poll::Pending => {
                    if self.poll_silence(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.finish();
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

    fn finish(&mut self) {
        if let Some(mut state) = self.state.take() {
            state.settle();
        }
    }

    /// Ends a stream that has outgrown its hold with an error event.
    fn cut(&mut self, out: &Bytes, cut: Cut) -> Option<Result<Frame<Bytes>, AnswerError>> {
        let mut state = self.state.take()?;
        let endpoint = state.account.as_ref()?.bill.endpoint;
        let error = ErrorBody {
            message: cut.message(),
            kind: "insufficient_quota",
            param: None,
            code: Some("insufficient_quota"),
        };
        let event = match endpoint {
            Metered::Responses | Metered::Compact => stream_cut_responses(&error, u64::MAX >> 11),
            Metered::Chat | Metered::Completions | Metered::Embeddings => stream_cut_chat(&error),
        };
        // The client may have the start of an event but not its end.
        let gap: &[u8] = if state.sse.is_mid_event() { b"\n\n" } else { b"" };
        let last = [out.as_ref(), gap, event.as_bytes()].concat();
        state.settle();
        Some(Ok(Frame::data(last.into())))
    }
}

/// Why a stream is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Tokens,
    HostedCalls,
    Context,
}

impl Cut {
    const fn message(self) -> &'static str {
        match self {
            Self::Tokens => "The answer reached the amount that was reserved for it, so it was cut off here.",
            Self::HostedCalls => {
                "The answer called hosted tools more often than was reserved for, so it was cut off here."
            }
            Self::Context => {
                "Hosted tools brought more into the context than was reserved for, so the answer was cut off here. \
                 Ask for fewer tool calls, or have the operator raise guard.tool_context_max."
            }
        }
    }
}

impl State {
    fn note_first_byte(&mut self) {
        if let Some(account) = self.account.as_mut().filter(|account| account.exchange.ttft.is_none()) {
            let age = account.reservation.age();
            account.exchange.ttft = Some(age);
            self.open.0.first_token(age);
        }
    }

    /// Takes up the objects that the stream has named.
    fn records(&mut self) -> Option<Recorded> {
        let sse = &self.sse;
        self.recording.as_mut()?.heard(sse.is_done(), || sse.answer())
    }

    fn outgrows(&mut self) -> Option<Cut> {
        let account = self.account.as_ref()?;
        if self.cuts.hosted_calls.is_some_and(|most| self.sse.hosted_calls() > most) {
            return Some(Cut::HostedCalls);
        }
        let encoding = account.bill.encoding.unwrap_or(Encoding::O200k);
        if let Some(turns) = &mut self.cuts.turns {
            note_brought(turns, self.sse.brought(), encoding);
            if turns.are_outgrown() {
                return Some(Cut::Context);
            }
        }
        let most = self.cuts.output_tokens?;
        if self.sse.transcript_bytes() < self.next_look {
            return None;
        }
        self.next_look = self.sse.transcript_bytes() + LOOK_EVERY_BYTES;
        (account.bill.count_output(self.sse.transcript()) > most).then_some(Cut::Tokens)
    }

    /// Ends the hold by what the stream has told, if it hasn't ended.
    fn settle(&mut self) {
        let Some(account) = self.account.take() else { return };
        if let Some(recording) = self.recording.take() {
            drop(recording.over(&self.sse.answer()));
        }
        let Account { reservation, bill, exchange, mut visit } = account;
        let sse = &self.sse;
        let answer = sse.answer();
        let label = answer.outcome.label(exchange.disconnected);
        let settled = bill.end(reservation, &answer, exchange, || {
            let (text, bytes) = (sse.transcript(), sse.transcript_bytes());
            // Text beyond what is kept counts by its bytes.
            let beyond = bytes.saturating_sub(u64::try_from(text.len()).unwrap_or(0));
            bill.count_output(text).saturating_add(beyond)
        });
        visit.ended(label, Some(settled.cost));
    }

    /// Reads on to the end for the exact usage, the client being gone.
    async fn drain(mut self, most: Duration) {
        let reading = async {
            while let Some(Ok(frame)) = self.upstream.frame().await {
                if let Ok(part) = frame.into_data() {
                    let _ = self.sse.feed(part);
                }
                if self.sse.is_accountable() || self.outgrows().is_some() {
                    return;
                }
            }
            let _ = self.sse.finish();
        };
        // At the bound, what has passed until then is counted.
        let _ = tokio::time::timeout(most, reading).await;
        self.settle();
    }
}

/// Counts what hosted tools have brought into the context.
fn note_brought(turns: &mut Turns, brought: Vec<Brought>, encoding: Encoding) {
    let most = turns.countable();
    let tokens = |text: &str| count::text_within(encoding, text, most).unwrap_or(u64::MAX);
    for brought in brought {
        match brought {
            Brought::ByCall(shown) => turns.call(shown.as_deref().map(tokens)),
            Brought::ByOutput(text) => turns.add(tokens(&text)),
            Brought::ByList(text) => turns.list(tokens(&text)),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        let Some(account) = state.account.as_mut() else { return };
        if state.sse.is_done() {
            // All events went out; the client just did not wait for the end.
            return state.settle();
        }
        account.exchange.disconnected = true;
        match (self.manner.drain, tokio::runtime::Handle::try_current()) {
            (Some(most), Ok(runtime)) => {
                self.manner.tracker.spawn_on(state.drain(most), &runtime);
            }
            _ => state.settle(),
        }
    }
}
