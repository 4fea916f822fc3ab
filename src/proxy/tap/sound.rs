//! The tap on raw sound: passes bytes on, measures them, ends the reservation.
//!
//! Raw sound reports no usage. Its length says how much of it the model made, as far as its
//! frames can be read; where they can't, the hold is charged.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::{Account, Cuts, Open, Silence, StreamPolicy};
use crate::guard::{Guard, Reservation};
use crate::media::SoundMeter;
use crate::pricing::bound::speech_tokens;
use crate::protocol::openai::usage::Outcome;
use crate::proxy::bill::{Bill, Exchange};
use crate::proxy::body::AnswerError;
use crate::proxy::in_flight::InFlight;
use crate::upstream::AnswerBody;

/// An answer of raw sound on its way through.
#[derive(Debug)]
pub struct SoundTap {
    /// Until the hold has ended.
    state: Option<State>,
    upstream: Option<AnswerBody>,
    silence: Silence,
    guard: Arc<Guard>,
    policy: StreamPolicy,
}

/// The state that ends with the hold.
#[derive(Debug)]
struct State {
    account: Account,
    meter: SoundMeter,
    /// Whether it is cut where its hold ends, as a cap applies.
    is_cut: bool,
    open: Open,
}

impl SoundTap {
    /// A tap on sound that upstream has begun to send.
    pub fn new(
        upstream: AnswerBody,
        (reservation, bill, exchange): (Reservation, Bill, Exchange),
        cuts: &Cuts,
        in_flight: InFlight,
        guard: Arc<Guard>,
        policy: StreamPolicy,
    ) -> Self {
        let open = Open::new(Arc::clone(guard.metrics()));
        let meter = SoundMeter::new(bill.spoken_plain);
        let account = Account { reservation, bill, exchange, in_flight };
        let state = State { account, meter, is_cut: cuts.output_tokens.is_some(), open };
        let silence = Silence::of(policy.idle, guard.clock());
        Self { state: Some(state), upstream: Some(upstream), silence, guard, policy }
    }

    /// The next frame for the client.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        loop {
            let Some(upstream) = self.upstream.as_mut() else { return Poll::Ready(None) };
            match Pin::new(upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.end(self.guard.clock());
                    let Ok(part) = frame.into_data() else { continue };
                    return Poll::Ready(Some(self.pass(part).map(Frame::data)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end(Ended::Early);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    self.end(Ended::Whole);
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    if self.silence.poll(self.guard.clock(), cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.end(Ended::Early);
                    return Poll::Ready(Some(Err("upstream fell silent".into())));
                }
            }
        }
    }

    /// What is known of the length of the rest.
    pub fn size_hint(&self) -> SizeHint {
        self.upstream.as_ref().map(AnswerBody::size_hint).unwrap_or_default()
    }

    /// Measures a part; an error if the sound has outgrown its hold.
    fn pass(&mut self, part: Bytes) -> Result<Bytes, AnswerError> {
        if let Some(state) = &mut self.state {
            state.take(&part);
            if state.is_outgrown() {
                self.end(Ended::Early);
                return Err("spendguard ended this speech: it is longer than what was reserved".into());
            }
        }
        // A client that knows the length does not wait for the end.
        if self.upstream.as_ref().is_some_and(AnswerBody::is_end_stream) {
            self.end(Ended::Whole);
        }
        Ok(part)
    }

    fn end(&mut self, ended: Ended) {
        self.upstream = None;
        if let Some(state) = self.state.take() {
            state.settle(ended);
        }
    }
}

/// How the sound ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// By upstream.
    Whole,
    /// Before its end, or unknown.
    Early,
}

impl State {
    /// Takes up a part.
    fn take(&mut self, part: &[u8]) {
        let Account { reservation, exchange, .. } = &mut self.account;
        if exchange.ttft.is_none() {
            let age = reservation.age();
            exchange.ttft = Some(age);
            self.open.0.first_token(age);
        }
        self.meter.feed(part);
    }

    /// Whether there is more sound than the hold allows for. A model that is billed by
    /// characters may speak as long as it likes.
    fn is_outgrown(&self) -> bool {
        let most = self.account.bill.spoken_tokens_max().filter(|_| self.is_cut);
        most.zip(self.meter.millis()).is_some_and(|(most, millis)| speech_tokens(millis) > most)
    }

    fn settle(mut self, ended: Ended) {
        self.meter.finish();
        let Account { reservation, bill, exchange, mut in_flight } = self.account;
        let whole_ms = self.meter.millis().filter(|_| ended == Ended::Whole);
        let label = Outcome::Open.label(exchange.disconnected);
        in_flight.settled(&bill.end_sound(reservation, whole_ms, exchange));
        in_flight.ended(label);
    }

    /// Reads on to the end after the client has disconnected.
    async fn drain(mut self, mut upstream: AnswerBody, most: Duration) {
        let reading = async {
            while let Some(frame) = upstream.frame().await {
                let Ok(frame) = frame else { return Ended::Early };
                if let Ok(part) = frame.into_data() {
                    self.take(&part);
                }
                if self.is_outgrown() {
                    return Ended::Early;
                }
            }
            Ended::Whole
        };
        let ended = tokio::time::timeout(most, reading).await.unwrap_or(Ended::Early);
        self.settle(ended);
    }
}

impl Drop for SoundTap {
    fn drop(&mut self) {
        let (Some(mut state), Some(upstream)) = (self.state.take(), self.upstream.take()) else { return };
        state.account.exchange.disconnected = true;
        match (self.policy.drain, tokio::runtime::Handle::try_current()) {
            (Some(most), Ok(runtime)) => {
                self.policy.tracker.spawn_on(state.drain(upstream, most), &runtime);
            }
            _ => state.settle(Ended::Early),
        }
    }
}
