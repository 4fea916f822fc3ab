//! Reads events: which are the end, which say what was used, which are text.

use std::borrow::Cow;

use serde::Deserialize;

use super::events::Event;
use super::hide::{UsageMember, usage_member};
use super::text::Transcript;
use crate::domain::tokens::ToolUse;
use crate::openai::endpoint::Metered;
use crate::openai::json::{Loose, Object, Raw, skip_space, string_end};
use crate::openai::usage::{Answer, Body, Calls, Item};

/// How many chunks are parsed in search of the id and the model.
const INTRODUCTIONS_MAX: u8 = 4;

/// What the events have said so far.
#[derive(Debug)]
pub(super) struct Observer {
    endpoint: Metered,
    answer: Answer,
    calls: Calls,
    transcript: Transcript,
    introductions_left: u8,
    is_done: bool,
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

#[derive(Deserialize, Default)]
#[serde(default)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
}

impl Observer {
    pub(super) fn new(endpoint: Metered) -> Self {
        Self {
            endpoint,
            answer: Answer::default(),
            calls: Calls::default(),
            transcript: Transcript::default(),
            introductions_left: INTRODUCTIONS_MAX,
            is_done: false,
        }
    }

    pub(super) const fn answer(&self) -> &Answer {
        &self.answer
    }

    pub(super) const fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    pub(super) const fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes up an event, and says what a chunk's `usage` member is.
    pub(super) fn see(&mut self, event: &Event<'_>) -> UsageMember {
        if event.data.is_empty() {
            return UsageMember::Absent;
        }
        match self.endpoint {
            Metered::Responses | Metered::Compact => {
                self.see_response(event);
                UsageMember::Absent
            }
            Metered::Chat | Metered::Completions | Metered::Embeddings => self.see_chunk(event),
        }
    }

    fn see_chunk(&mut self, event: &Event<'_>) -> UsageMember {
        let data = &*event.data;
        if data.trim_ascii() == b"[DONE]" || event.name == Some(b"error") || is_error(data) {
            self.is_done = true;
            return UsageMember::Absent;
        }
        self.transcript.add_chunk(data);
        let member = usage_member(data);
        if member == UsageMember::Given || self.wants_introduction() {
            self.introductions_left = self.introductions_left.saturating_sub(1);
            if let Ok(Object(body)) = serde_json::from_slice::<Object<Body<'_>>>(data) {
                self.learn(body);
            }
        }
        member
    }

    fn see_response(&mut self, event: &Event<'_>) {
        let data = &*event.data;
        let known = event.name.or_else(|| leading_type(data));
        let kind = known.map_or_else(|| Cow::Owned(any_type(data)), Cow::Borrowed);
        match &*kind {
            b"response.audio.delta" | b"response.image_generation_call.partial_image" => {
                self.transcript.add_other();
            }
            b"response.completed" | b"response.incomplete" | b"response.failed" => {
                self.is_done = true;
                self.see_parsed(data);
            }
            b"error" => self.is_done = true,
            b"response.output_item.done" => self.see_parsed(data),
            b"response.created" | b"response.in_progress" if self.wants_introduction() => {
                self.introductions_left -= 1;
                self.see_parsed(data);
            }
            kind if kind.ends_with(b".delta") => self.transcript.add_delta(data),
            _ => {}
        }
    }

    fn see_parsed(&mut self, data: &[u8]) {
        if let Ok(Object(event)) = serde_json::from_slice::<Object<ResponseEvent<'_>>>(data) {
            self.calls.add(&event.item.0);
            self.learn(event.response.0);
            self.answer.tools_seen = larger(&self.answer.tools_seen, &self.calls.tool_use());
            self.answer.made.merge(std::mem::take(&mut self.calls.made));
        }
    }

    fn wants_introduction(&self) -> bool {
        self.introductions_left > 0 && (self.answer.object_id.is_none() || self.answer.model.is_none())
    }

    /// Takes up what a body says; what it doesn't say stays as it was.
    fn learn(&mut self, body: Body<'_>) {
        let Answer { usage, model, tier, object_id, tools_seen, made } = body.answer(self.endpoint);
        let mine = &mut self.answer;
        mine.usage = usage.or(mine.usage.take());
        mine.model = model.or(mine.model.take());
        mine.tier = tier.or(mine.tier.take());
        mine.object_id = object_id.or(mine.object_id.take());
        mine.tools_seen = larger(&mine.tools_seen, &tools_seen);
        mine.made.merge(made);
    }
}

fn larger(known: &ToolUse, new: &ToolUse) -> ToolUse {
    ToolUse {
        web_searches: known.web_searches.max(new.web_searches),
        file_searches: known.file_searches.max(new.file_searches),
        containers: known.containers.max(new.containers),
        image: if new.image.total() > known.image.total() { new.image } else { known.image },
    }
}

/// Whether a chunk is an error: it then starts with that member.
fn is_error(data: &[u8]) -> bool {
    member_at_start(data).is_some_and(|(key, _)| key == b"error")
}

/// The `type` of an event that starts with it.
fn leading_type(data: &[u8]) -> Option<&[u8]> {
    let (key, value) = member_at_start(data)?;
    let inside = (key == b"type" && data.get(value) == Some(&b'"')).then_some(value + 1)?;
    data.get(inside..string_end(data, inside).checked_sub(1)?)
}

/// The first key of an object, and where its value starts.
fn member_at_start(data: &[u8]) -> Option<(&[u8], usize)> {
    let open = skip_space(data, 0);
    let quote = skip_space(data, open + 1);
    if data.get(open) != Some(&b'{') || data.get(quote) != Some(&b'"') {
        return None;
    }
    let end = string_end(data, quote + 1);
    let colon = skip_space(data, end);
    let key = data.get(quote + 1..end - 1)?;
    (data.get(colon) == Some(&b':')).then(|| (key, skip_space(data, colon + 1)))
}

fn any_type(data: &[u8]) -> Vec<u8> {
    let typed = serde_json::from_slice::<Object<Typed<'_>>>(data).unwrap_or_default();
    typed.0.kind.string().map(|kind| kind.as_bytes().to_vec()).unwrap_or_default()
}
