//! Reads the usage of an answer, in any of its shapes, and how the answer ended.
//!
//! Upstream's figures overlap: cached and cache-write tokens are inside the input,
//! reasoning is inside the output. Here each token lands in exactly one class, and
//! the classes add up to the reported totals whatever the details claim. Absent,
//! null or malformed figures count as zero.

mod calls;
mod figures;
mod images;
mod made;
mod outcome;
mod transcripts;

use std::borrow::Cow;

use serde::Deserialize;

use self::calls::Output;
pub(in crate::protocol::openai) use self::calls::{Call, Calls, Item, Source};
pub(in crate::protocol::openai) use self::figures::{Counted, Sides};
use self::figures::{Figures, ToolFigures};
pub use self::made::{Made, MadeItem};
use self::outcome::{Choices, Incomplete};
pub use self::outcome::{Finish, Outcome};
use super::json::{Loose, Object, Raw};
use crate::domain::demand::Tier;
use crate::domain::usage::ToolUse;
use crate::domain::{Class, Quantities};

/// The content of an answer that its cost depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The tokens that the model used; `None` if the answer doesn't say. Zero is an answer.
    pub usage: Option<Quantities>,
    /// Usage that is not all: reported before more output came, or of one side
    /// only. It used at least so much.
    pub used_so_far: Option<Quantities>,
    /// Whether the usage has cache writes and not how long they live.
    pub hides_cache_life: bool,
    /// The model that served it.
    pub model: Option<String>,
    /// The tier it was served at.
    pub tier: Option<Tier>,
    /// Upstream's id of what it made.
    pub object_id: Option<String>,
    /// Hosted tools seen at work, even in an answer without usage.
    pub tools_seen: ToolUse,
    /// Calls of the image tool; their tokens may be in `tools_seen` or not.
    pub image_calls: u64,
    /// Whether a shell ran at an unknown place: in a container if the request
    /// offered one, else at the client.
    pub has_unplaced_shell: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the model may have begun to answer.
    pub has_begun: bool,
    /// Whether it ended because of its output bound.
    pub is_at_output_bound: bool,
    /// Whether a part of it was too large to be read.
    pub is_partly_unread: bool,
    /// The objects that upstream created in addition to the answer.
    pub made: Made,
    /// The model that the tokens of `tools_seen` are of, if the answer names it.
    pub tool_model: Option<String>,
    /// What it has made, where that may be billed by the unit instead of by tokens.
    pub units: Quantities,
}

impl Answer {
    /// Whether it failed before the model had made anything.
    pub fn failed_at_once(&self) -> bool {
        self.outcome == Outcome::Failed && !self.has_begun && self.tools_seen == ToolUse::default()
    }
}

/// The content of an operation's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerForm {
    /// Text of a model, which is its output.
    Text,
    /// Vectors: there is no output that costs.
    Vectors,
    /// Images.
    Images,
    /// The text of a recording.
    Transcript,
    /// Sound.
    Speech,
}

/// Reads a whole JSON answer.
pub(super) fn of_json(form: AnswerForm, body: &[u8]) -> Answer {
    // Checked as text once, not with each value that is borrowed from it.
    let Ok(text) = std::str::from_utf8(body) else { return Answer::default() };
    if form == AnswerForm::Images {
        return images::of_json(text);
    }
    if form == AnswerForm::Transcript {
        return transcripts::of_text(text);
    }
    let read = serde_json::from_str(text).ok();
    read.map(|Object(body): Object<Body<'_>>| body.answer(form)).unwrap_or_default()
}

/// What the model has written in a whole answer.
pub(super) fn output_text(form: AnswerForm, body: &[u8]) -> Cow<'_, str> {
    match form {
        AnswerForm::Vectors => Cow::Borrowed(""),
        AnswerForm::Transcript => transcripts::written(body),
        AnswerForm::Text | AnswerForm::Images | AnswerForm::Speech => String::from_utf8_lossy(body),
    }
}

/// Whether the body of an error is OpenAI's: an object `error` with a `message` and
/// a `type`. Gateways answer in other forms.
pub fn is_error_envelope(body: &[u8]) -> bool {
    let read = serde_json::from_slice::<Object<Envelope<'_>>>(body);
    read.is_ok_and(|Object(Envelope { error: Loose(error) })| {
        let kind = error.kind.text().is_some_and(|text| text == "null" || text.starts_with('"'));
        error.message.string().is_some() && kind
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(borrow)]
    error: Loose<ErrorMembers<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorMembers<'a> {
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
}

/// A whole answer, a chat chunk, or the `response` of a response event.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    service_tier: Raw<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    tool_usage: Loose<ToolFigures>,
    output: Output,
    #[serde(borrow)]
    status: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
    #[serde(borrow)]
    incomplete_details: Loose<Incomplete<'a>>,
    choices: Choices,
}

impl Body<'_> {
    /// The answer, read as a whole one.
    pub(super) fn answer(self, form: AnswerForm) -> Answer {
        let mut calls = Calls::default();
        self.add_calls_to(&mut calls);
        let tools = with_reported(&calls.tool_use(), &self.reported_tools());
        let counted = self.counted(form);
        let is_whole = counted.is_some_and(|counted| counted.sides.are_known());
        let tokens = counted.map(|counted| counted.tokens);
        let status = self.status.string().and_then(|status| outcome::of_status(&status));
        Answer {
            usage: tokens.filter(|_| is_whole),
            used_so_far: tokens.filter(|_| !is_whole),
            hides_cache_life: counted.is_some_and(|counted| counted.hides_cache_life),
            model: named(self.model),
            tier: self.service_tier.string().and_then(|name| Tier::named(&name)),
            object_id: named(self.id),
            tools_seen: tools,
            image_calls: calls.images(),
            has_unplaced_shell: calls.has_unplaced_shell(),
            outcome: self.outcome(),
            // A response that failed lists no output even if there was some.
            has_begun: self.has_output() || status.is_some(),
            is_at_output_bound: self.is_at_output_bound(),
            is_partly_unread: false,
            made: self.output.made,
            tool_model: None,
            units: Quantities::default(),
        }
    }

    /// Its usage; `None` if it has none.
    pub(super) fn counted(&self, form: AnswerForm) -> Option<Counted> {
        let usage = self.usage.value()?;
        if form == AnswerForm::Transcript {
            return transcripts::counted(usage);
        }
        let Loose(figures) = serde_json::from_str::<Loose<Figures>>(usage).ok()?;
        figures.counted(form)
    }

    /// The calls that its output lists.
    pub(super) fn add_calls_to(&self, calls: &mut Calls) {
        for call in &self.output.calls {
            calls.add(*call, Source::Listed);
        }
    }

    /// The figures of `tool_usage`.
    pub(super) fn reported_tools(&self) -> ToolUse {
        let Loose(reported) = &self.tool_usage;
        let mut quantities = reported.image();
        quantities[Class::WebSearchCalls] = reported.web_searches();
        quantities[Class::FileSearchCalls] = reported.file_searches();
        ToolUse { quantities, containers: 0 }
    }

    /// Whether it has choices or output items.
    pub(super) const fn has_output(&self) -> bool {
        self.output.has_items || self.choices.has_any
    }

    /// Takes over what its output names.
    pub(super) fn take_made(&mut self) -> Made {
        std::mem::take(&mut self.output.made)
    }

    /// Whether it says that there was an error.
    pub(super) fn is_error(&self) -> bool {
        outcome::is_error(self.error)
    }

    /// How it ended, if it is a whole answer.
    pub(super) fn outcome(&self) -> Outcome {
        if self.is_error() {
            return Outcome::Failed;
        }
        let status = self.status.string().and_then(|status| outcome::of_status(&status));
        status.unwrap_or_else(|| self.choices.finish.outcome())
    }

    pub(super) fn is_at_output_bound(&self) -> bool {
        let reason = self.incomplete_details.0.reason.string();
        self.choices.finish == Finish::Bound || reason.as_deref() == Some("max_output_tokens")
    }

    /// Takes the names that it contains; others stay as they were.
    pub(super) fn name(&self, answer: &mut Answer) {
        answer.model = named(self.model).or(answer.model.take());
        answer.object_id = named(self.id).or(answer.object_id.take());
        let tier = self.service_tier.string().and_then(|name| Tier::named(&name));
        answer.tier = tier.or(answer.tier.take());
    }
}

fn named(raw: Raw<'_>) -> Option<String> {
    raw.string().filter(|name| !name.is_empty()).map(String::from)
}

/// The larger of what was seen and what was reported: of each class of calls by itself, of
/// the image tool's tokens in all.
pub(super) fn with_reported(seen: &ToolUse, reported: &ToolUse) -> ToolUse {
    let (seen_tokens, reported_tokens) = (&seen.quantities, &reported.quantities);
    let is_more = reported_tokens.tokens_total() > seen_tokens.tokens_total();
    let mut quantities = if is_more { reported_tokens } else { seen_tokens }.only(Class::is_token);
    for class in Class::ALL.into_iter().filter(|class| !class.is_token()) {
        quantities[class] = seen.quantities[class].max(reported.quantities[class]);
    }
    ToolUse { quantities, containers: seen.containers.max(reported.containers) }
}

#[cfg(test)]
mod tests;
