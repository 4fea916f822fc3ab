//! Reads events: which ones end the stream, report usage, or contain text.
//!
//! An ordinary chunk or delta is searched, not parsed: its text is lifted out,
//! and it is read further only if it has a member that tells something new.

use serde::Deserialize;

use super::brought::Brought;
use super::chunk::{Members, UsageMember, Walk};
use super::events::Event;
use super::media::Completed;
use super::text::Transcript;
use crate::domain::Quantities;
use crate::domain::usage::ToolUse;
use crate::protocol::openai::json::{Loose, Object, member, string_at};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::{
    Answer, AnswerForm, Body, Call, Calls, Counted, Finish, Item, Outcome, Sides, Source, with_reported,
};

/// How many events of a response are parsed in search of its id and its model.
const INTRODUCTIONS_MAX: u8 = 4;
/// The longest name of a tier that is remembered, in bytes.
const TIER_BYTES_MAX: usize = 32;

/// The answer by the events so far.
#[derive(Debug)]
pub(super) struct Observer {
    form: EventForm,
    answers: AnswerForm,
    chunks: Walk,
    /// Names only; the rest is put together when it is asked for.
    named: Answer,
    /// The tier as the last chunk that was parsed wrote it.
    tier_written: Vec<u8>,
    calls: Calls,
    tools_reported: ToolUse,
    reported: Option<Reported>,
    transcript: Transcript,
    /// Bytes of text that had come when the last output item was done.
    item_at_bytes: u64,
    introductions_left: u8,
    has_begun: bool,
    outcome: Outcome,
    /// The usage of parts of a stream of images or sound.
    completed: Completed,
    /// Results of hosted tools that were not taken yet; `None` if they are not kept.
    brought: Option<Vec<Brought>>,
}

/// The usage reported so far.
#[derive(Debug)]
struct Reported {
    tokens: Quantities,
    sides: Sides,
    hides_cache_life: bool,
    /// Whether it came by itself, as OpenAI's does at the end.
    alone: bool,
    /// Bytes of text that had come by then.
    at_bytes: u64,
}

/// An event of the responses stream.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseEvent<'a> {
    #[serde(borrow)]
    response: Loose<Body<'a>>,
    #[serde(borrow)]
    item: Loose<Item<'a>>,
}

impl Observer {
    pub(super) fn new(form: EventForm, answers: AnswerForm) -> Self {
        Self {
            form,
            answers,
            chunks: Walk::default(),
            named: Answer::default(),
            tier_written: Vec::new(),
            calls: Calls::default(),
            tools_reported: ToolUse::default(),
            reported: None,
            transcript: Transcript::default(),
            item_at_bytes: 0,
            introductions_left: INTRODUCTIONS_MAX,
            has_begun: false,
            outcome: Outcome::Open,
            completed: Completed::default(),
            brought: None,
        }
    }

    pub(super) fn watch_context(&mut self) {
        self.brought.get_or_insert_default();
    }

    pub(super) fn brought(&mut self) -> Vec<Brought> {
        self.brought.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The answer that the stream describes.
    pub(super) fn answer(&self) -> Answer {
        let mut answer = self.answer_so_far();
        if self.form == EventForm::Media {
            self.completed.put_on(&mut answer);
        }
        answer
    }

    fn answer_so_far(&self) -> Answer {
        let tools = with_reported(&self.calls.tool_use(), &self.tools_reported);
        let known = self.reported.as_ref().filter(|reported| self.is_last_word(reported));
        let usage = known.map(|reported| reported.tokens);
        Answer {
            used_so_far: self.reported.as_ref().filter(|_| usage.is_none()).map(|reported| reported.tokens),
            usage,
            hides_cache_life: self.reported.as_ref().is_some_and(|reported| reported.hides_cache_life),
            tools_seen: tools,
            image_calls: self.calls.images(),
            has_unplaced_shell: self.calls.has_unplaced_shell(),
            outcome: self.outcome,
            has_begun: self.has_begun || self.transcript.has_output(),
            is_at_output_bound: self.named.is_at_output_bound || self.transcript.finish() == Finish::Bound,
            ..self.named.clone()
        }
    }

    /// Usage may be that of the stream so far: it is the whole usage only if it has
    /// both sides, nothing was written after it, and, if it came beside choices,
    /// they have ended. A stream that failed was cut short: reasoning may have
    /// continued unseen.
    fn is_last_word(&self, reported: &Reported) -> bool {
        let has_ended = matches!(self.outcome, Outcome::Completed | Outcome::Stopped)
            || self.transcript.finish() != Finish::None;
        reported.sides.are_known()
            && reported.at_bytes == self.transcript.bytes()
            && (reported.alone || has_ended)
    }

    /// Whether the whole usage is known.
    pub(super) fn has_usage(&self) -> bool {
        self.reported.as_ref().is_some_and(|reported| self.is_last_word(reported))
    }

    pub(super) const fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    pub(super) const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Notes that upstream has ended the stream. One of images ends without saying so.
    pub(super) fn finish(&mut self) {
        if self.form == EventForm::Media && self.completed.is_any() {
            self.end(Outcome::Completed);
        }
    }

    /// Calls of hosted tools that have started.
    pub(super) fn hosted_calls(&self) -> u64 {
        self.calls.started()
    }

    /// Notes an event that was too large to be read.
    pub(super) fn pass_unread(&mut self) {
        self.named.is_partly_unread = true;
        self.has_begun = true;
    }

    /// Reads an event, and returns the state of a chunk's `usage` member.
    pub(super) fn see(&mut self, event: &Event<'_>) -> UsageMember {
        if event.data.is_empty() {
            return UsageMember::Absent;
        }
        match self.form {
            EventForm::Typed => {
                self.see_response(event);
                UsageMember::Absent
            }
            EventForm::Chunks => self.see_chunk(event),
            EventForm::Media => {
                self.see_media(event);
                UsageMember::Absent
            }
        }
    }

    /// Reads an event that carries an image or sound.
    fn see_media(&mut self, event: &Event<'_>) {
        let data = &*event.data;
        match event.kind() {
            b"error" => self.end(Outcome::Failed),
            kind if kind.ends_with(b".completed") => self.complete(data),
            b"speech.audio.done" | b"transcript.text.done" => {
                self.complete(data);
                self.end(Outcome::Completed);
            }
            b"transcript.text.delta" => self.transcript.add_delta(data),
            _ if has_error(data) => self.end(Outcome::Failed),
            _ => self.has_begun = true,
        }
    }

    /// Takes up the end of an image, of a speech or of a transcript.
    fn complete(&mut self, data: &[u8]) {
        self.has_begun = true;
        match serde_json::from_slice::<Object<Body<'_>>>(data) {
            Ok(Object(body)) => {
                body.name(&mut self.named);
                self.completed.add(body.counted(self.answers));
            }
            Err(_) => self.pass_unread(),
        }
    }

    fn see_chunk(&mut self, event: &Event<'_>) -> UsageMember {
        let data = &*event.data;
        if data.trim_ascii() == b"[DONE]" {
            self.end(self.transcript.finish().outcome());
            return UsageMember::Absent;
        }
        if event.name == Some(b"error") {
            self.end(Outcome::Failed);
        }
        let transcript = &mut self.transcript;
        let members = self.chunks.members(data, |choices| transcript.add_choices(data, choices));
        let usage = members.usage(data);
        if matches!(usage, UsageMember::Given(_)) || self.tells_something_new(&members, data) {
            match serde_json::from_slice::<Object<Body<'_>>>(data) {
                Ok(Object(body)) => self.learn_chunk(&body, &members, data),
                Err(_) => self.named.is_partly_unread = true,
            }
        }
        usage
    }

    /// Whether a chunk has a member that must be read: an error, or a name that
    /// isn't known yet.
    fn tells_something_new(&self, members: &Members, data: &[u8]) -> bool {
        (self.named.object_id.is_none() && members.id.is_some())
            || (self.named.model.is_none() && members.model.is_some())
            || tier_written(members, data).is_some_and(|tier| tier != self.tier_written)
            || members.error.is_some()
    }

    fn learn_chunk(&mut self, body: &Body<'_>, members: &Members, data: &[u8]) {
        body.name(&mut self.named);
        if let Some(tier) = tier_written(members, data) {
            self.tier_written = tier.to_vec();
        }
        if body.is_error() {
            self.end(Outcome::Failed);
        }
        self.report(body, !body.has_output());
    }

    fn see_response(&mut self, event: &Event<'_>) {
        let data = &*event.data;
        let kind = event.kind();
        if kind.ends_with(b".delta") && kind.starts_with(b"response.") {
            self.has_begun = true;
            return match kind {
                b"response.audio.delta" => self.transcript.add_other(),
                _ => self.transcript.add_delta(data),
            };
        }
        match kind {
            b"response.created" | b"response.queued" | b"response.in_progress" => self.introduce(data),
            b"response.completed" => self.end_response(data, Outcome::Completed),
            b"response.incomplete" | b"response.cancelled" => self.end_response(data, Outcome::Stopped),
            b"response.failed" => self.end_response(data, Outcome::Failed),
            b"error" => self.end(Outcome::Failed),
            b"response.output_item.added" => self.see_item(data, Source::Started),
            b"response.output_item.done" => self.see_item(data, Source::Done),
            // It is about further input, and says nothing of output.
            kind if kind.starts_with(b"response.steer.") => {}
            kind if kind.starts_with(b"response.") => self.see_output(kind, data),
            _ if has_error(data) => self.end(Outcome::Failed),
            _ => {}
        }
    }

    /// Takes up an event of output, of whatever kind.
    fn see_output(&mut self, kind: &[u8], data: &[u8]) {
        self.has_begun = true;
        let tool = kind["response.".len()..].split(|byte| *byte == b'.').next().unwrap_or_default();
        if tool.ends_with(b"_call") {
            let id = member(data, b"item_id").and_then(|at| string_at(data, at));
            if let Some(call) = Call::running(tool, id) {
                self.calls.add(call, Source::Running);
            }
        }
    }

    fn see_item(&mut self, data: &[u8], source: Source) {
        self.has_begun = true;
        match serde_json::from_slice::<Object<ResponseEvent<'_>>>(data) {
            Ok(Object(event)) => {
                let call = event.item.0.call();
                // While it runs, its container is billed already.
                event.item.0.add_container_to(&mut self.named.made);
                if source == Source::Done {
                    event.item.0.add_to(&mut self.named.made);
                    if !call.is_some_and(|call| self.calls.has(call, source)) {
                        self.keep_brought(data);
                    }
                }
                if let Some(call) = call {
                    self.calls.add(call, source);
                } else if source == Source::Done {
                    self.add_unreported(data);
                }
            }
            Err(_) => self.named.is_partly_unread = true,
        }
    }

    fn keep_brought(&mut self, data: &[u8]) {
        if let Some(kept) = &mut self.brought {
            kept.extend(Brought::of(data));
        }
    }

    /// Counts a completed item as text of the model if no delta has reported it.
    fn add_unreported(&mut self, data: &[u8]) {
        if self.transcript.bytes() == self.item_at_bytes {
            self.transcript.add_form(data);
        }
        self.item_at_bytes = self.transcript.bytes();
    }

    fn introduce(&mut self, data: &[u8]) {
        let is_known = self.named.object_id.is_some() && self.named.model.is_some();
        if is_known || self.introductions_left == 0 {
            return;
        }
        self.introductions_left -= 1;
        if let Ok(Object(event)) = serde_json::from_slice::<Object<ResponseEvent<'_>>>(data) {
            event.response.0.name(&mut self.named);
        }
    }

    /// Takes up the last event of a response; `outcome` is what its type says.
    fn end_response(&mut self, data: &[u8], outcome: Outcome) {
        self.end(outcome);
        let Ok(Object(event)) = serde_json::from_slice::<Object<ResponseEvent<'_>>>(data) else {
            self.named.is_partly_unread = true;
            return;
        };
        let Loose(mut body) = event.response;
        self.named.made.merge(body.take_made());
        self.end(body.outcome());
        body.name(&mut self.named);
        body.add_calls_to(&mut self.calls);
        if body.has_output() {
            self.has_begun = true;
            if !self.transcript.has_output() {
                self.transcript.add_form(data);
            }
        }
        self.named.is_at_output_bound |= body.is_at_output_bound();
        self.report(&body, true);
    }

    /// Takes up the usage in a body, if there is any.
    fn report(&mut self, body: &Body<'_>, alone: bool) {
        self.tools_reported = with_reported(&self.tools_reported, &body.reported_tools());
        let Some(Counted { tokens, sides, hides_cache_life }) = body.counted(self.answers) else {
            return;
        };
        let before = self.reported.as_ref();
        self.reported = Some(Reported {
            tokens: before.map_or(tokens, |before| before.tokens.or_larger(&tokens)),
            sides: sides.or(before.map(|before| before.sides).unwrap_or_default()),
            hides_cache_life,
            alone,
            at_bytes: self.transcript.bytes(),
        });
    }

    /// Notes an end; of several the worst stands.
    fn end(&mut self, outcome: Outcome) {
        self.outcome = self.outcome.max(outcome);
    }
}

/// The tier that a chunk names, as it is written there.
fn tier_written<'a>(members: &Members, data: &'a [u8]) -> Option<&'a [u8]> {
    let tier = string_at(data, members.tier?)?;
    Some(&tier[..tier.len().min(TIER_BYTES_MAX)])
}

/// Whether an event of an unknown kind carries an error.
fn has_error(data: &[u8]) -> bool {
    member(data, b"error").is_some_and(|at| !data[at..].starts_with(b"null"))
}
