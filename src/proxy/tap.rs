//! The tap on an event stream: passes frames on, spots usage, ends the
//! reservation.
//!
//! Whatever happens to the stream, the reservation ends once: at the last event, at
//! the end of the body, at an error, or when the client goes away, by reading on to
//! the end or by counting what has passed. After the last event the hold is gone,
//! though both sides may keep the connection open.

mod cuts;
mod silence;
mod sound;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use tokio_util::task::TaskTracker;

use crate::guard::{Guard, Reservation};
use crate::metrics::Metrics;
use crate::pricing::count::Encoding;
use crate::pricing::turns::{Added, Turns};
use crate::protocol::openai::sse::{self, Brought};
use crate::proxy::bill::{Bill, Exchange};
use crate::proxy::body::AnswerError;
use crate::proxy::in_flight::InFlight;
use crate::proxy::record::{Recorded, Recording};
use crate::upstream::AnswerBody;

pub use self::cuts::Cuts;
use self::cuts::{Cut, counted};
pub(in crate::proxy) use self::silence::Silence;
pub use self::sound::SoundTap;

/// The amount of text between two checks whether an unbounded stream outgrows its hold.
const LOOK_EVERY_BYTES: u64 = 4_096;
/// Text of hosted tools up to this size is counted on the thread that serves the request:
/// it takes a few milliseconds.
const COUNTED_HERE_BYTES_MAX: usize = 64 << 10;

/// Counts what hosted tools have brought, on another thread.
type Counting = Pin<Box<dyn Future<Output = Vec<Added>> + Send>>;

/// How a tap handles idle streams and absent clients.
#[derive(Clone, Debug)]
pub struct StreamPolicy {
    /// Whether to keep reading when the client has disconnected, and for how long at most.
    pub drain: Option<Duration>,
    /// The longest silence of a stream.
    pub idle: Duration,
    /// Runs the tasks that keep reading.
    pub tracker: TaskTracker,
}

/// An answer's event stream on its way through.
#[derive(Debug)]
pub struct Tap {
    state: Option<State>,
    silence: Silence,
    guard: Arc<Guard>,
    policy: StreamPolicy,
    /// Events that are held back.
    held_back: Option<HeldBack>,
    /// What ended the stream, if there were events to pass on before it.
    error: Option<AnswerError>,
}

/// Events that may be passed on when the results of hosted tools are counted, and the
/// objects that they name are recorded.
struct HeldBack {
    events: Bytes,
    recorded: Option<Recorded>,
}

impl std::fmt::Debug for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldBack").field("bytes", &self.events.len()).finish_non_exhaustive()
    }
}

/// A stream while it lasts.
struct State {
    upstream: AnswerBody,
    sse: sse::Tap,
    open: Open,
    next_look: u64,
    /// Until the hold has ended.
    account: Option<Account>,
    recording: Option<Box<Recording>>,
    cuts: Cuts,
    counting: Option<Counting>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("account", &self.account)
            .field("cuts", &self.cuts)
            .finish_non_exhaustive()
    }
}

/// The state that ends with the hold.
#[derive(Debug)]
struct Account {
    reservation: Reservation,
    bill: Bill,
    exchange: Exchange,
    in_flight: InFlight,
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
        in_flight: InFlight,
        guard: Arc<Guard>,
        policy: StreamPolicy,
        cuts: Cuts,
        recording: Option<Box<Recording>>,
    ) -> Self {
        if cuts.turns.is_some() {
            sse.watch_context();
        }
        let open = Open::new(Arc::clone(guard.metrics()));
        let account = Some(Account { reservation, bill, exchange, in_flight });
        let (next_look, counting) = (LOOK_EVERY_BYTES, None);
        let state = State { upstream, sse, open, next_look, account, recording, cuts, counting };
        let silence = Silence::of(policy.idle, guard.clock());
        Self { state: Some(state), silence, guard, policy, held_back: None, error: None }
    }

    /// The next frame for the client.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        loop {
            if let Some(events) = std::task::ready!(self.poll_held_back(cx)) {
                return Poll::Ready(Some(Ok(events)));
            }
            let Some(state) = self.state.as_mut() else { return Poll::Ready(self.error.take().map(Err)) };
            match Pin::new(&mut state.upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.end(self.guard.clock());
                    let Ok(part) = frame.into_data() else { continue };
                    state.note_first_byte();
                    let mut out = state.sse.feed(part);
                    let recorded = state.records();
                    if state.sse.is_accountable() {
                        out = joined(out, state.settle());
                    } else {
                        state.note_brought(&self.guard);
                        if let Some(cut) = state.outgrows() {
                            return Poll::Ready(self.cut(&out, cut).map(Ok));
                        }
                    }
                    if recorded.is_some() || state.counting.is_some() {
                        self.held_back = Some(HeldBack { events: out, recorded });
                    } else if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out))));
                    }
                }
                Poll::Ready(Some(Err(error))) => return self.fail(error),
                Poll::Ready(None) => {
                    let rest = state.sse.finish();
                    let rest = joined(rest, self.finish());
                    let frame = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(frame);
                }
                Poll::Pending => {
                    if self.silence.poll(self.guard.clock(), cx).is_pending() {
                        return Poll::Pending;
                    }
                    return self.fail("upstream fell silent".into());
                }
            }
        }
    }

    /// The events that were held back, once they may be passed on.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some(held_back) = &mut self.held_back else { return Poll::Ready(None) };
        if let Some(recorded) = &mut held_back.recorded {
            std::task::ready!(recorded.as_mut().poll(cx));
            held_back.recorded = None;
        }
        let cut = match &mut self.state {
            Some(state) => std::task::ready!(state.poll_counted(cx)),
            None => None,
        };
        let events = self.held_back.take().map(|held_back| held_back.events).unwrap_or_default();
        if let Some(cut) = cut {
            return Poll::Ready(self.cut(&events, cut));
        }
        Poll::Ready(Some(events).filter(|events| !events.is_empty()).map(Frame::data))
    }

    /// Ends the hold and the stream; returns the events that waited for the cost.
    fn finish(&mut self) -> Bytes {
        self.state.take().map(|mut state| state.settle()).unwrap_or_default()
    }

    /// Ends the stream with an error, behind the events that waited for the cost.
    fn fail(&mut self, error: AnswerError) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let rest = self.finish();
        if rest.is_empty() {
            return Poll::Ready(Some(Err(error)));
        }
        self.error = Some(error);
        Poll::Ready(Some(Ok(Frame::data(rest))))
    }

    /// Ends a stream that has outgrown its hold with an error event.
    fn cut(&mut self, out: &Bytes, cut: Cut) -> Option<Frame<Bytes>> {
        let mut state = self.state.take()?;
        let event = cut.event(state.account.as_ref()?.bill.operation);
        // The client may have the start of an event but not its end.
        let gap: &[u8] = if state.sse.is_mid_event() { b"\n\n" } else { b"" };
        let last = [out.as_ref(), &state.settle(), gap, event.as_bytes()].concat();
        Some(Frame::data(last.into()))
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

    /// Records the objects that the stream has named.
    fn records(&mut self) -> Option<Recorded> {
        let sse = &self.sse;
        let recording = self.recording.as_mut()?;
        if sse.is_done() {
            find_reused(self.account.as_mut(), recording, sse);
        }
        recording.heard(sse.is_done(), || sse.answer())
    }

    /// Adds the results of hosted tools to the context; begins to count long texts.
    fn note_brought(&mut self, guard: &Arc<Guard>) {
        let (Some(turns), Some(account)) = (&mut self.cuts.turns, &self.account) else { return };
        let brought = self.sse.brought();
        let bytes = brought.iter().map(Brought::bytes).sum();
        let (encoding, most) = (account.bill.encoding.unwrap_or(Encoding::O200k), turns.countable());
        if bytes <= COUNTED_HERE_BYTES_MAX {
            for added in counted(brought, encoding, most) {
                turns.take(added);
            }
            return;
        }
        let guard = Arc::clone(guard);
        let count = move || counted(brought, encoding, most);
        self.counting = Some(Box::pin(async move { guard.offload(bytes, count).await }));
    }

    /// Adds a count, and returns whether the stream outgrows its hold.
    fn poll_counted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Cut>> {
        let Some(counting) = &mut self.counting else { return Poll::Ready(None) };
        let added = std::task::ready!(counting.as_mut().poll(cx));
        self.counting = None;
        if let Some(turns) = &mut self.cuts.turns {
            for added in added {
                turns.take(added);
            }
        }
        Poll::Ready(self.outgrows())
    }

    fn outgrows(&mut self) -> Option<Cut> {
        let account = self.account.as_ref()?;
        if self.cuts.hosted_calls.is_some_and(|most| self.sse.hosted_calls() > most) {
            return Some(Cut::HostedCalls);
        }
        if self.cuts.turns.as_ref().is_some_and(Turns::are_outgrown) {
            return Some(Cut::Context);
        }
        let most = self.cuts.output_tokens?;
        if self.sse.transcript_bytes() < self.next_look {
            return None;
        }
        self.next_look = self.sse.transcript_bytes() + LOOK_EVERY_BYTES;
        (account.bill.count_output(self.sse.transcript()) > most).then_some(Cut::Tokens)
    }

    /// Ends the hold by the answer so far, if it hasn't ended; returns the events that waited
    /// for the cost.
    fn settle(&mut self) -> Bytes {
        let Some(mut account) = self.account.take() else { return self.sse.release(None) };
        if let Some(recording) = self.recording.take() {
            find_reused(Some(&mut account), &recording, &self.sse);
            drop(recording.over(&self.sse.answer()));
        }
        let Account { reservation, bill, exchange, mut in_flight } = account;
        let sse = &self.sse;
        let answer = sse.answer();
        let label = answer.outcome.label(exchange.disconnected);
        let settled = bill.end(reservation, &answer, exchange, || {
            let (text, bytes) = (sse.transcript(), sse.transcript_bytes());
            // Text beyond what is kept counts by its bytes.
            let beyond = bytes.saturating_sub(u64::try_from(text.len()).unwrap_or(0));
            bill.count_output(text).saturating_add(beyond)
        });
        in_flight.settled(&settled);
        in_flight.ended(label);
        self.sse.release(Some(settled.cost))
    }

    /// Keeps reading to the end for the exact usage, after the client has disconnected.
    async fn drain(mut self, guard: Arc<Guard>, most: Duration) {
        let reading = async {
            loop {
                let cut = std::future::poll_fn(|cx| self.poll_counted(cx)).await;
                if cut.is_some() || self.sse.is_accountable() || self.outgrows().is_some() {
                    return;
                }
                let frame = match self.upstream.frame().await {
                    Some(Ok(frame)) => frame,
                    Some(Err(_)) => return,
                    None => break,
                };
                if let Ok(part) = frame.into_data() {
                    let _ = self.sse.feed(part);
                    self.note_brought(&guard);
                }
            }
            let _ = self.sse.finish();
        };
        // At the time limit, the part that has passed is counted.
        let _ = tokio::time::timeout(most, reading).await;
        let _ = self.settle();
    }
}

/// What may pass, and what was held back until now.
pub(in crate::proxy) fn joined(out: Bytes, released: Bytes) -> Bytes {
    if released.is_empty() { out } else { [out, released].concat().into() }
}

/// Finds the containers of an answer that existed before. Only the first call does:
/// afterwards the answer's own containers are recorded.
fn find_reused(account: Option<&mut Account>, recording: &Recording, sse: &sse::Tap) {
    if let Some(Account { bill, .. }) = account.filter(|account| account.bill.reused.is_none()) {
        bill.reused = Some(recording.reused(&sse.answer()));
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        let Some(account) = state.account.as_mut() else { return };
        if state.sse.is_done() {
            // All events were sent; the client only did not wait for the end of the connection.
            let _ = state.settle();
            return;
        }
        account.exchange.disconnected = true;
        match (self.policy.drain, tokio::runtime::Handle::try_current()) {
            (Some(most), Ok(runtime)) => {
                self.policy.tracker.spawn_on(state.drain(Arc::clone(&self.guard), most), &runtime);
            }
            _ => drop(state.settle()),
        }
    }
}
