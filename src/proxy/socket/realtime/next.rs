//! What is held for the next response and the next transcription, which upstream begins by itself.

use std::time::Duration;

use serde_json::json;

use crate::protocol::openai::realtime::{Settings, Update};
use crate::proxy::Failed;
use crate::proxy::refuse::Refusal;
use crate::proxy::socket::realtime::Running;
use crate::proxy::socket::realtime::state::{PendingUpdate, State};
use crate::proxy::socket::turn::{Amount, Asked, Held, Turn};

/// What may come that a hold is for as well, so that not each message needs another hold: a minute
/// of sound and the text around some items; where there is little room, five seconds.
const MORE: Amount = Amount { text: 256, sound: 600 };
const LESS: Amount = Amount { text: 64, sound: 50 };
/// The same of sound alone, in milliseconds.
const MORE_MS: u64 = 60_000;
const LESS_MS: u64 = 5_000;

/// What is held for what upstream may begin by itself.
#[derive(Default)]
pub(super) struct Next {
    pub(super) response: Option<Turn>,
    /// One for each model that may write down the next item.
    pub(super) transcriptions: Vec<Turn>,
}

/// Who writes the output bound of a hold into the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bounding {
    /// An update of the guard's own.
    Own,
    /// The update that the hold is for.
    Caller,
}

impl Next {
    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.response.is_none() && self.transcriptions.is_empty()
    }

    /// Ends what is held: it is charged where upstream may have begun it.
    pub(super) fn end(&mut self, state: &State, now: Duration) {
        let settings = state.settings();
        let pending_ms = state.context.pending_ms(&settings, now);
        let is_unheard = pending_ms > 0 && state.may_be_unheard();
        let end = |mut turn: Turn, may_have_begun: bool| {
            if may_have_begun {
                turn.begin();
                turn.lost(false);
            } else {
                turn.unused();
            }
        };
        if let Some(turn) = self.response.take() {
            end(turn, state.is_answer_due(now) || (is_unheard && settings.answers_by_itself));
        }
        for mut turn in self.transcriptions.drain(..) {
            // Where upstream finds no turns, it may write down all that it is sent, at once.
            if !settings.detects_speech && pending_ms > 0 {
                turn.begin();
                turn.end_counted(pending_ms);
            } else {
                end(turn, is_unheard);
            }
        }
    }
}

/// What the next response needs.
struct Need {
    settings: Settings,
    read: Amount,
    images: Vec<crate::domain::demand::Image>,
    wanted: Option<u64>,
}

/// Whether more has to be held for the next response.
enum Needed {
    /// Upstream begins none by itself.
    Nothing,
    /// No more than there is.
    Held,
    /// So much.
    More(Box<Need>),
}

impl Running {
    /// Holds what upstream may begin by itself, as the session stands.
    pub(super) async fn hold_next(&self, bounding: Bounding) -> Result<Held, Failed> {
        let mut next = self.next.lock().await;
        let of_response = self.hold_next_response(&mut next, bounding).await?;
        let of_transcription = self.hold_next_transcription(&mut next).await?;
        Ok(of_response.max(of_transcription))
    }

    async fn hold_next_response(&self, next: &mut Next, bounding: Bounding) -> Result<Held, Failed> {
        let need = match self.need(next.response.as_ref()) {
            Needed::Nothing => {
                if let Some(last) = next.response.take() {
                    last.unused();
                }
                return Ok(Held::Before);
            }
            Needed::Held => return Ok(Held::Before),
            Needed::More(need) => need,
        };
        let mut held = self.hold(&need, need.read.plus(MORE)).await;
        let had_room = |turn: &Turn| {
            let last = next.response.as_ref().and_then(|last| last.output_max);
            last.is_none_or(|last| turn.output_max.is_none_or(|most| most >= last))
        };
        let is_tight = match &held {
            Ok(turn) => !had_room(turn),
            Err((refusal, _)) => lacks_room(refusal),
        };
        if is_tight {
            // What was held for it leaves room for what is enough.
            match held {
                Ok(turn) => turn.unused(),
                Err((_, in_flight)) => in_flight.uncounted(),
            }
            if let Some(last) = next.response.take() {
                last.unused();
            }
            held = self.hold(&need, need.read.plus(LESS)).await;
        }
        let turn = held?;
        let output_max = turn.output_max;
        if let Some(last) = next.response.replace(turn) {
            last.unused();
        }
        self.state().bound = output_max;
        if bounding == Bounding::Own {
            self.bound_output(output_max).await;
        }
        Ok(Held::Now)
    }

    /// What the next response needs, if what is held is not enough.
    fn need(&self, held: Option<&Turn>) -> Needed {
        let (state, now) = (self.state(), self.now());
        let settings = state.settings();
        if state.is_closed() {
            return Needed::Held;
        }
        if !state.may_answer(&settings, now) {
            return Needed::Nothing;
        }
        let read = state.read(&settings, now);
        let images = state.context.image_count();
        let is_enough = |turn: &Turn| turn.serves(read, images, state.wanted, settings.speaks);
        // What an answer reads is decided when what was said has become an item.
        let is_decided = state.is_answer_decided(now) && held.is_some();
        if is_decided || held.is_some_and(is_enough) {
            return Needed::Held;
        }
        Needed::More(Box::new(Need { settings, read, images: state.context.images(), wanted: state.wanted }))
    }

    async fn hold(&self, need: &Need, read: Amount) -> Result<Turn, Failed> {
        let Need { settings, images, wanted, .. } = need;
        let asked = Asked { settings, read, images, wanted: *wanted, speaks: settings.speaks };
        self.session.hold_response(asked).await
    }

    /// Writes the output bound of the next response into the session, if it has another.
    async fn bound_output(&self, output_max: Option<u64>) {
        let Some(most) = output_max else { return };
        let message = {
            let mut state = self.state();
            let last = state.last_settings();
            if last.output_max == Some(most) {
                return;
            }
            let session = json!({ "type": "realtime", "max_output_tokens": most });
            let (settings, wanted_before) = (last.with(&session), state.wanted);
            let event_id = self.session.new_id();
            let message = Update::own(&session).sent_as(&event_id, None);
            state.update(PendingUpdate { event_id, is_named: false, is_own: true, settings, wanted_before });
            message
        };
        let _ = self.to_upstream(message).await;
    }

    /// Holds what it may cost to write down the sound that is no item yet, by each model that may.
    async fn hold_next_transcription(&self, next: &mut Next) -> Result<Held, Failed> {
        let mut held = Held::Before;
        let (models, millis) = {
            let (state, now) = (self.state(), self.now());
            if state.is_closed() {
                return Ok(held);
            }
            (state.transcriptions(), state.context.pending_ms(&state.settings(), now))
        };
        let is_needed = |turn: &Turn| millis > 0 && models.iter().any(|of| of.model == turn.model);
        let (kept, unneeded) = next.transcriptions.drain(..).partition(is_needed);
        next.transcriptions = kept;
        let unneeded: Vec<Turn> = unneeded;
        unneeded.into_iter().for_each(Turn::unused);
        for of in models.iter().filter(|_| millis > 0) {
            let place = next.transcriptions.iter().position(|turn| turn.model == of.model);
            if place.is_some_and(|place| next.transcriptions[place].sound_ms >= millis) {
                continue;
            }
            let more_ms = millis.saturating_add(MORE_MS);
            let turn = match self.session.hold_sound(self.transcription, of, more_ms).await {
                Err((refusal, in_flight)) if lacks_room(&refusal) => {
                    in_flight.uncounted();
                    if let Some(place) = place {
                        next.transcriptions.remove(place).unused();
                    }
                    self.session.hold_sound(self.transcription, of, millis.saturating_add(LESS_MS)).await?
                }
                held => held?,
            };
            if let Some(place) = next.transcriptions.iter().position(|turn| turn.model == of.model) {
                next.transcriptions.remove(place).unused();
            }
            next.transcriptions.push(turn);
            held = Held::Now;
        }
        Ok(held)
    }
}

/// Whether less might be admitted.
const fn lacks_room(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Denied(..))
}
