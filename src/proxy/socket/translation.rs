//! Sessions that translate: the sound that a client sends is held by the minute before it is passed
//! on, and booked by its length.

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::stream::SplitStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::realtime::{SoundFormat, Transcription, TranslationEvent, translation_event};
use crate::proxy::Failed;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::socket::pair::{FromClient, FromUpstream, Pair, Traffic, next_event};
use crate::proxy::socket::session::{Session, not_binary};
use crate::proxy::socket::turn::{Held, Turn};
use crate::proxy::socket::wire::{pass, send};
use crate::proxy::socket::{ClientSocket, UpstreamSocket};
use crate::sync::unpoisoned;

/// The least sound that is held at a time, in milliseconds.
const HELD_MS: u64 = 60_000;

/// A session that translates.
pub(super) struct Running {
    session: Session,
    pair: Pair,
    /// The operation of what is written down.
    transcription: &'static Operation,
    state: Mutex<State>,
}

struct State {
    /// The model that translates, and the one that writes down what is said, if one does.
    meters: Vec<Meter>,
    /// All sound so far, in bytes of samples.
    sent_bytes: u64,
}

/// A model that is billed by the sound of the session.
struct Meter {
    operation: &'static Operation,
    model: String,
    /// Up to where the sound was booked, in milliseconds, and the hold for what follows.
    booked_ms: u64,
    held: Option<(Turn, u64)>,
}

impl State {
    fn sent_ms(&self) -> u64 {
        SoundFormat::Samples.millis(self.sent_bytes)
    }

    /// Books what was sent to a model.
    fn book(sent_ms: u64, meter: &mut Meter) {
        let Some((turn, _)) = meter.held.take() else { return };
        let millis = sent_ms.saturating_sub(meter.booked_ms);
        meter.booked_ms = sent_ms;
        if millis > 0 { turn.end_counted(millis) } else { turn.unused() }
    }
}

impl Running {
    pub(super) fn new(
        session: Session,
        transcription: &'static Operation,
        model: String,
        pair: Pair,
    ) -> Self {
        let meters = vec![Meter { operation: session.operation, model, booked_ms: 0, held: None }];
        let state = Mutex::new(State { meters, sent_bytes: 0 });
        Self { session, pair, transcription, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    async fn receive(&self, text: Utf8Bytes) {
        let came = self.session.now();
        let body = Bytes::from(text.clone());
        let read = |body: &Bytes| translation_event(std::str::from_utf8(body).unwrap_or_default());
        let event = match self.session.shard.guard.parsed(&body, read).await {
            Ok(event) => event,
            Err(invalid) => {
                return self.session.refuse_message(&self.pair, refuse_invalid(invalid), None).await;
            }
        };
        let held = match event {
            TranslationEvent::Append(bytes) => self.hold(bytes).await,
            TranslationEvent::Update(transcriber) => self.transcribe(transcriber).await,
            TranslationEvent::Close => Ok(Held::Before),
        };
        let sent = match held {
            Ok(Held::Before) => pass(&self.pair.to_upstream, text, came).await,
            Ok(Held::Now) => send(&self.pair.to_upstream, text).await,
            Err(failed) => {
                self.session.refuse(&self.pair, failed, None).await;
                return self.pair.fail(CloseCode::Policy, "what follows can't be held; see the error event");
            }
        };
        if sent.is_err() {
            self.pair.fail(CloseCode::Error, "upstream does not read");
        }
    }

    /// Has another model write down what is said from now on, or none.
    async fn transcribe(&self, transcriber: Option<Option<String>>) -> Result<Held, Failed> {
        let Some(model) = transcriber else { return Ok(Held::Before) };
        {
            let mut state = self.state();
            let sent_ms = state.sent_ms();
            let is_same = |meter: &Meter| model.as_ref() == Some(&meter.model);
            if state.meters.get(1).is_some_and(is_same) {
                return Ok(Held::Before);
            }
            state.meters.drain(1..).for_each(|mut meter| State::book(sent_ms, &mut meter));
            let operation = self.transcription;
            state.meters.extend(model.map(|model| Meter {
                operation,
                model,
                booked_ms: sent_ms,
                held: None,
            }));
        }
        self.hold(0).await
    }

    /// Holds so much more sound for each model that it goes to, and counts it as sent.
    async fn hold(&self, bytes: u64) -> Result<Held, Failed> {
        let mut held = Held::Before;
        let until_ms = {
            let state = self.state();
            SoundFormat::Samples.millis(state.sent_bytes.saturating_add(bytes))
        };
        for place in 0.. {
            let needed = {
                let mut state = self.state();
                let sent_ms = state.sent_ms();
                let Some(meter) = state.meters.get_mut(place) else { break };
                let is_enough = |(_, held_ms): &(Turn, u64)| meter.booked_ms + held_ms >= until_ms;
                if meter.held.as_ref().is_some_and(is_enough) {
                    continue;
                }
                State::book(sent_ms, meter);
                let millis = until_ms.saturating_sub(meter.booked_ms).max(HELD_MS);
                (meter.operation, meter.model.clone(), millis)
            };
            let (operation, model, millis) = needed;
            let of = Transcription { model, text_bytes: 0 };
            let mut turn = self.session.hold_sound(operation, &of, millis).await?;
            turn.begin();
            held = Held::Now;
            if let Some(meter) = self.state().meters.get_mut(place) {
                meter.held = Some((turn, millis));
            }
        }
        let mut state = self.state();
        state.sent_bytes = state.sent_bytes.saturating_add(bytes);
        Ok(held)
    }
}

impl Traffic for Running {
    fn pair(&self) -> &Pair {
        &self.pair
    }

    async fn listen(&self, from_client: &mut SplitStream<ClientSocket>) -> Option<CloseFrame> {
        loop {
            match self.pair.next(from_client, &self.session.budget).await {
                FromClient::Text(text, _room) => self.receive(text).await,
                FromClient::Binary => {
                    self.session.refuse_message(&self.pair, not_binary(), None).await;
                }
                FromClient::Closed(close) => return close,
            }
        }
    }

    async fn relay(&self, mut from_upstream: SplitStream<UpstreamSocket>) -> Option<CloseFrame> {
        loop {
            let text = match next_event(&mut from_upstream).await {
                FromUpstream::Event(text) => text,
                FromUpstream::Closed(close) => return close,
                FromUpstream::Failed(close) => return Some(close),
            };
            let came = self.session.now();
            let Some(text) = self.session.masked(text) else { continue };
            self.pair.pass_to_client(text, came).await;
        }
    }

    async fn close(&self) {}

    /// What was sent is booked.
    fn cut(&self) {
        let mut state = self.state();
        let sent_ms = state.sent_ms();
        state.meters.iter_mut().for_each(|meter| State::book(sent_ms, meter));
    }

    async fn all_ended(&self) {
        self.cut();
    }
}
