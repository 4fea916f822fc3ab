//! What is held for the next response and the next transcription, which upstream begins by itself.

use serde_json::json;

use crate::protocol::openai::realtime::{Settings, Update};
use crate::proxy::Failed;
use crate::proxy::refuse::Refusal;
use crate::proxy::socket::realtime::Running;
use crate::proxy::socket::realtime::state::{PendingUpdate, State};
use crate::proxy::socket::turn::{Amount, Asked, Turn};

/// What may come that a hold is for as well, so that not each message needs another hold: a minute
/// of sound, in tokens and in milliseconds, and the text around some items.
const MORE: Amount = Amount { text: 256, sound: 600 };
const MORE_MS: u64 = 60_000;

#[derive(Default)]
pub(super) struct Next {
    pub(super) response: Option<Turn>,
    pub(super) transcription: Option<Turn>,
}

impl Next {
    /// Ends what is held: it is charged where upstream may have begun it.
    pub(super) fn end(&mut self, state: &State) {
        let settings = state.settings();
        if let Some(mut turn) = self.response.take() {
            if state.is_answer_due {
                turn.begin();
                turn.lost(false);
            } else {
                turn.unused();
            }
        }
        if let Some(mut turn) = self.transcription.take() {
            // Without turns that upstream finds, it may write down all that it is sent.
            let pending_ms = state.context.pending_ms(&settings);
            if !settings.detects_speech && pending_ms > 0 {
                turn.begin();
                turn.end_counted(pending_ms);
            } else {
                turn.unused();
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
    pub(super) async fn hold_next(&self) -> Result<(), Failed> {
        let mut next = self.next.lock().await;
        self.hold_next_response(&mut next).await?;
        self.hold_next_transcription(&mut next).await
    }

    async fn hold_next_response(&self, next: &mut Next) -> Result<(), Failed> {
        let need = match self.need(next.response.as_ref()) {
            Needed::Nothing => {
                if let Some(last) = next.response.take() {
                    last.unused();
                }
                return Ok(());
            }
            Needed::Held => return Ok(()),
            Needed::More(need) => need,
        };
        let mut held = self.hold(&need, need.read.plus(MORE)).await;
        let had_room = |turn: &Turn| {
            let last = next.response.as_ref().and_then(|last| last.output_max);
            last.is_none_or(|last| turn.output_max.is_none_or(|most| most >= last))
        };
        let is_tight = match &held {
            Ok(turn) => !had_room(turn),
            Err((refusal, _)) => is_for_want_of_room(refusal),
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
            held = self.hold(&need, need.read).await;
        }
        let turn = held?;
        let output_max = turn.output_max;
        if let Some(last) = next.response.replace(turn) {
            last.unused();
        }
        self.bound_output(output_max).await;
        Ok(())
    }

    /// What the next response needs, if what is held is not enough.
    fn need(&self, held: Option<&Turn>) -> Needed {
        let state = self.state();
        let settings = state.settings();
        if state.is_closed() || !state.may_answer(&settings) {
            return Needed::Nothing;
        }
        let read = state.context.read(&settings);
        let is_enough = |turn: &Turn| {
            turn.covers.covers(read)
                && turn.images == state.context.images.len()
                && (turn.speaks || !settings.speaks)
                && turn.wanted == state.wanted
        };
        // Upstream begins no other response while one of the conversation runs, and what that one
        // reads is decided when what was said has become an item.
        let is_begun = state.is_answering() || (state.is_answer_due && held.is_some());
        if is_begun || held.is_some_and(is_enough) {
            return Needed::Held;
        }
        Needed::More(Box::new(Need {
            settings,
            read,
            images: state.context.images.clone(),
            wanted: state.wanted,
        }))
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
            state.bound = Some(most);
            let last = state.last_settings();
            if last.output_max == Some(most) {
                return;
            }
            let session = json!({ "type": "realtime", "max_output_tokens": most });
            let settings = last.with(&session);
            let event_id = self.session.new_id();
            let message = Update::own(&session).sent_as(&event_id, None);
            state.update(PendingUpdate { event_id, is_named: false, is_own: true, settings });
            message
        };
        let _ = self.to_upstream(message).await;
    }

    /// Holds what it may cost to write down the sound that is no item yet.
    pub(super) async fn hold_next_transcription(&self, next: &mut Next) -> Result<(), Failed> {
        let (of, millis) = {
            let state = self.state();
            let settings = state.settings();
            let of = settings.transcription.clone().filter(|_| !state.is_closed());
            (of, state.context.pending_ms(&settings))
        };
        let Some(of) = of.filter(|_| millis > 0) else {
            if let Some(last) = next.transcription.take() {
                last.unused();
            }
            return Ok(());
        };
        let needed = Amount { text: of.text_bytes, sound: millis };
        let is_enough = |turn: &Turn| turn.model == of.model && turn.covers.covers(needed);
        if next.transcription.as_ref().is_some_and(is_enough) {
            return Ok(());
        }
        let turn =
            match self.session.hold_sound(self.transcription, &of, millis.saturating_add(MORE_MS)).await {
                Ok(turn) => turn,
                Err((refusal, in_flight)) if is_for_want_of_room(&refusal) => {
                    in_flight.uncounted();
                    if let Some(last) = next.transcription.take() {
                        last.unused();
                    }
                    self.session.hold_sound(self.transcription, &of, millis).await?
                }
                Err(failed) => return Err(failed),
            };
        if let Some(last) = next.transcription.replace(turn) {
            last.unused();
        }
        Ok(())
    }
}

/// Whether less might be admitted.
const fn is_for_want_of_room(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Denied(..))
}
