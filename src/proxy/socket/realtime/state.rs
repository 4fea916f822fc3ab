//! What a session has come to: its settings, its conversation, and what is open.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::protocol::openai::realtime::{Begun, Settings, Transcription};
use crate::proxy::socket::realtime::context::Context;
use crate::proxy::socket::turn::{Amount, Turn};

/// How long upstream may take to begin the answer to what was said.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The most responses, transcriptions and updates that are open at a time, each.
const OPEN_MAX: usize = 64;

pub(super) struct State {
    /// The settings that upstream has confirmed.
    confirmed: Settings,
    /// Updates that it has not answered, in order.
    pending: VecDeque<PendingUpdate>,
    /// The output bound that the client wants for its responses.
    pub(super) wanted: Option<u64>,
    /// The output bound of the last hold for a response that upstream begins by itself.
    pub(super) bound: Option<u64>,
    pub(super) context: Context,
    /// Responses that were asked for and have not begun.
    asked: Vec<AskedResponse>,
    /// Responses that have begun, by their ids.
    open: BTreeMap<String, OpenResponse>,
    /// Items that are being written down, by their ids.
    items: BTreeMap<String, Turn>,
    /// When upstream has taken what was said as an item, while it may be about to answer it.
    answer_due: Option<Duration>,
    /// Whether no other response has begun since, which the answer may read as well.
    is_answer_decided: bool,
    /// Whether upstream was asked to leave items of the conversation out: later it may read them again.
    leaves_out: bool,
    is_closed: bool,
    /// How upstream's side has ended, if it has.
    upstream_end: Option<UpstreamEnd>,
}

/// How upstream's side of a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamEnd {
    /// It has closed its socket, behind all that it had to say.
    Closed,
    /// Its socket has failed, and what it has said last is lost.
    Failed,
}

/// An update that was sent.
pub(super) struct PendingUpdate {
    pub(super) event_id: String,
    /// Whether the client has given it that name, or the guard.
    pub(super) is_named: bool,
    /// Whether the guard has sent it by itself.
    pub(super) is_own: bool,
    pub(super) settings: Settings,
    /// The output bound that the client wanted before it.
    pub(super) wanted_before: Option<u64>,
}

/// A response that was asked for.
pub(super) struct AskedResponse {
    pub(super) event_id: String,
    pub(super) is_named: bool,
    pub(super) turn: Turn,
    pub(super) of: Reading,
}

/// What a response has to do with the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It reads it and adds to it.
    Conversation,
    /// It reads something else and adds to it.
    Input,
    /// Nothing.
    Beside,
}

/// A response that has begun.
struct OpenResponse {
    turn: Turn,
    of: Reading,
}

/// Whose message an error is about.
pub(super) enum Erred {
    /// The client's, which has or has not named it.
    Client { is_named: bool },
    /// The guard's own.
    Own,
    /// One that is not known.
    Unknown,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            confirmed: settings,
            pending: VecDeque::new(),
            wanted: None,
            bound: None,
            context: Context::default(),
            asked: Vec::new(),
            open: BTreeMap::new(),
            items: BTreeMap::new(),
            answer_due: None,
            is_answer_decided: false,
            leaves_out: false,
            is_closed: false,
            upstream_end: None,
        }
    }

    /// The settings that upstream may work by, the dearest of each.
    pub(super) fn settings(&self) -> Settings {
        self.pending
            .iter()
            .fold(self.confirmed.clone(), |settings, update| settings.or_larger(&update.settings))
    }

    /// The ways in which upstream may write down the next item.
    pub(super) fn transcriptions(&self) -> Vec<Transcription> {
        let pending = self.pending.iter().map(|update| &update.settings);
        let mut all: Vec<Transcription> = Vec::new();
        for of in std::iter::once(&self.confirmed).chain(pending).filter_map(|of| of.transcription.as_ref()) {
            match all.iter_mut().find(|known| known.model == of.model) {
                Some(known) => known.text_bytes = known.text_bytes.max(of.text_bytes),
                None => all.push(of.clone()),
            }
        }
        all
    }

    /// The model that writes down what upstream has made an item now.
    pub(super) fn transcription_model(&self) -> Option<String> {
        self.confirmed.transcription.as_ref().map(|of| of.model.clone())
    }

    /// Output of responses that have not ended, which the next one may read.
    fn unread_output(&self) -> u64 {
        let asked = self.asked.iter().map(|asked| (&asked.turn, asked.of));
        let open = self.open.values().map(|open| (&open.turn, open.of));
        let joins = asked.chain(open).filter(|(_, of)| *of != Reading::Beside);
        joins.fold(0, |sum, (turn, _)| sum.saturating_add(turn.output_tokens()))
    }

    /// What the next response reads.
    pub(super) fn read(&self, settings: &Settings, now: Duration) -> Amount {
        let unread = Amount { text: 0, sound: self.unread_output() };
        self.context.read(settings, now).plus(unread)
    }

    /// Speech has become an item that upstream may answer.
    pub(super) fn expect_answer(&mut self, now: Duration) {
        self.answer_due = Some(now);
        self.is_answer_decided = true;
    }

    /// Upstream has begun a response by itself.
    pub(super) fn answered(&mut self) {
        self.answer_due = None;
    }

    /// Whether upstream may be about to answer what was said.
    pub(super) fn is_answer_due(&self, now: Duration) -> bool {
        self.answer_due.is_some_and(|since| now.saturating_sub(since) < ANSWER_MAX)
    }

    /// Whether it has been decided what that answer reads.
    pub(super) fn is_answer_decided(&self, now: Duration) -> bool {
        self.is_answer_decided && self.is_answer_due(now)
    }

    /// The settings once all updates are confirmed.
    pub(super) fn last_settings(&self) -> &Settings {
        self.pending.back().map_or(&self.confirmed, |update| &update.settings)
    }

    /// Notes an update that is about to be sent; false if too many are open.
    pub(super) fn update(&mut self, update: PendingUpdate) -> bool {
        let has_room = self.pending.len() < OPEN_MAX;
        if has_room {
            self.leaves_out |= update.settings.leaves_out;
            self.pending.push_back(update);
        }
        has_room
    }

    /// The output bound that is written into an update, where upstream begins responses by itself.
    pub(super) fn bound_of(&mut self, event_id: &str) -> Option<u64> {
        let (bound, wanted) = (self.bound, self.wanted);
        let update = self.pending.iter_mut().find(|update| update.event_id == event_id)?;
        let bound = bound.filter(|_| update.settings.answers_by_itself)?;
        let bound = wanted.map_or(bound, |wanted| wanted.min(bound));
        update.settings.output_max = Some(bound);
        Some(bound)
    }

    /// Takes an update back that has no effect.
    fn take_update(&mut self, event_id: &str) -> Option<PendingUpdate> {
        let place = self.pending.iter().position(|update| update.event_id == event_id)?;
        self.pending.remove(place)
    }

    /// Upstream shows the settings of a new session.
    pub(super) fn created(&mut self, session: &serde_json::Value) {
        self.confirmed = self.confirmed.with(session);
    }

    /// Upstream has taken an update; returns whether it was the guard's own.
    pub(super) fn updated(&mut self, session: &serde_json::Value) -> bool {
        let update = self.pending.pop_front();
        let is_own = update.as_ref().is_some_and(|update| update.is_own);
        let settings = update.map_or_else(|| self.confirmed.clone(), |update| update.settings);
        self.confirmed = settings.with(session);
        is_own
    }

    /// Whether a client's name is that of a message that is still open.
    pub(super) fn is_in_use(&self, event_id: &str) -> bool {
        self.pending.iter().any(|update| update.event_id == event_id)
            || self.asked.iter().any(|asked| asked.event_id == event_id)
    }

    pub(super) fn ask(&mut self, asked: AskedResponse) {
        self.asked.push(asked);
    }

    /// Whether another response, update or item may be begun.
    pub(super) fn has_room(&self) -> bool {
        !self.is_closed && self.asked.len() + self.open.len() < OPEN_MAX && self.items.len() < OPEN_MAX
    }

    /// Whether upstream may begin a response by itself: it has sound to answer, or asks after a silence.
    pub(super) fn may_answer(&self, settings: &Settings, now: Duration) -> bool {
        let is_due = self.is_answer_due(now) || self.context.pending_ms(settings, now) > 0;
        settings.answers_by_itself && (is_due || settings.asks_after_silence)
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Finds the response that was asked for and has begun now.
    pub(super) fn find_asked(&mut self, begun: &Begun) -> Option<(Turn, Reading)> {
        let is_it = |asked: &AskedResponse| {
            (asked.of == Reading::Beside) != begun.joins && admits(&asked.turn, begun.output_max)
        };
        let place = self.asked.iter().position(is_it)?;
        let asked = self.asked.remove(place);
        Some((asked.turn, asked.of))
    }

    /// Notes a response that has begun; false if its id is no new one.
    pub(super) fn begin(&mut self, id: String, turn: Turn, of: Reading) -> bool {
        if of == Reading::Conversation {
            self.context.begun();
        }
        self.is_answer_decided &= of == Reading::Beside;
        self.open.insert(id, OpenResponse { turn, of }).is_none()
    }

    pub(super) fn goes_on(&mut self, id: &str) {
        if let Some(open) = self.open.get_mut(id) {
            open.turn.answers();
        }
    }

    /// Ends a response by its answer; false if it has not begun.
    pub(super) fn end(&mut self, id: &str, answer: &[u8], disconnected: bool) -> bool {
        let Some(OpenResponse { turn, of }) = self.open.remove(id) else { return false };
        let output_max = turn.output_tokens();
        let (usage, has_read) = turn.end(answer, disconnected);
        match of {
            Reading::Conversation => {
                self.context.ended(usage.as_ref(), output_max, has_read && !self.leaves_out);
            }
            Reading::Input => self.context.written(usage.as_ref(), output_max),
            Reading::Beside => {}
        }
        true
    }

    pub(super) fn write_down(&mut self, item: String, turn: Turn) {
        self.items.insert(item, turn);
    }

    pub(super) fn written(&mut self, item: &str) -> Option<Turn> {
        self.items.remove(item)
    }

    /// Upstream has refused a message.
    pub(super) fn erred(&mut self, event_id: &str) -> Erred {
        if let Some(update) = self.take_update(event_id) {
            if update.is_own {
                return Erred::Own;
            }
            self.wanted = update.wanted_before;
            return Erred::Client { is_named: update.is_named };
        }
        if let Some(is_named) = self.context.uncut(event_id) {
            return Erred::Client { is_named };
        }
        let Some(place) = self.asked.iter().position(|asked| asked.event_id == event_id) else {
            return Erred::Unknown;
        };
        let asked = self.asked.remove(place);
        asked.turn.refused();
        Erred::Client { is_named: asked.is_named }
    }

    /// Whether something is open, or upstream may be about to begin it.
    pub(super) fn has_open(&self, now: Duration) -> bool {
        let is_quiet = self.asked.is_empty() && self.open.is_empty() && self.items.is_empty();
        let may_begin = self.is_answer_due(now) || (self.is_closed && self.context.is_clearing());
        !is_quiet || (may_begin && self.upstream_end.is_none())
    }

    /// Upstream's side has ended: no more is heard of it.
    pub(super) fn upstream_ended(&mut self, how: UpstreamEnd) {
        self.upstream_end = Some(how);
    }

    /// Whether upstream may have begun something with the sound that it was sent, though it was not
    /// heard of: the answer to a clear, behind which it can't, has not come.
    pub(super) fn may_be_unheard(&self) -> bool {
        match self.upstream_end {
            None => self.context.is_clearing(),
            Some(UpstreamEnd::Closed) => false,
            Some(UpstreamEnd::Failed) => true,
        }
    }

    /// Begins nothing more; returns the responses that run.
    pub(super) fn close(&mut self) -> Vec<String> {
        self.is_closed = true;
        self.open.keys().cloned().collect()
    }

    /// Nothing more is heard of what is open.
    pub(super) fn lose_all(&mut self, is_client: bool) {
        self.is_closed = true;
        let asked = self.asked.drain(..).map(|asked| asked.turn);
        let open = std::mem::take(&mut self.open).into_values().map(|open| open.turn);
        let items = std::mem::take(&mut self.items).into_values();
        asked.chain(open).chain(items).for_each(|turn| turn.lost(is_client));
    }
}

/// Whether a response with this output bound is within a hold.
pub(super) fn admits(turn: &Turn, output_max: Option<Option<u64>>) -> bool {
    let (Some(most), Some(given)) = (turn.output_max, output_max) else { return true };
    given.unwrap_or(u64::MAX) <= most.max(turn.output_tokens())
}
