//! How an answer ended, by its own statement.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::protocol::openai::json::{Loose, Raw, scalars_default};

/// How an answer ended, by its own statement; worse outcomes are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It has not said so: more is to come, or it was cut off.
    #[default]
    Open,
    /// The model was done.
    Completed,
    /// It ended before the model was done: at its output bound, by a filter,
    /// cancelled.
    Stopped,
    /// It ended with an error.
    Failed,
}

impl Outcome {
    /// The label that metrics and the log have for it.
    pub const fn label(self, client_has_gone: bool) -> &'static str {
        match self {
            _ if client_has_gone => "disconnected",
            Self::Failed => "upstream_error",
            Self::Open | Self::Completed | Self::Stopped => "ok",
        }
    }
}

/// The worst `finish_reason` among choices; worse ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finish {
    /// No choice has ended.
    #[default]
    None,
    /// The model was done, or calls a tool.
    Natural,
    /// By a filter.
    Filtered,
    /// At the output bound.
    Bound,
    /// With an error.
    Error,
}

impl Finish {
    /// The reason by its name on the wire. Servers have names of their own for
    /// a model that is done.
    pub(in crate::protocol::openai) fn named(name: &[u8]) -> Self {
        match name {
            b"" => Self::None,
            b"length" | b"max_tokens" => Self::Bound,
            b"content_filter" => Self::Filtered,
            b"error" => Self::Error,
            _ => Self::Natural,
        }
    }

    /// How an answer with such choices ends, if nothing else is said.
    pub(in crate::protocol::openai) const fn outcome(self) -> Outcome {
        match self {
            Self::None | Self::Natural => Outcome::Completed,
            Self::Filtered | Self::Bound => Outcome::Stopped,
            Self::Error => Outcome::Failed,
        }
    }
}

/// The outcome by the `status` of a response; `None` if it isn't one.
pub(super) fn of_status(status: &str) -> Option<Outcome> {
    Some(match status {
        "completed" => Outcome::Completed,
        "incomplete" | "cancelled" => Outcome::Stopped,
        "failed" => Outcome::Failed,
        "queued" | "in_progress" => Outcome::Open,
        _ => return None,
    })
}

/// Whether a member `error` says that there was one. Some servers write an empty
/// one into every answer.
pub(super) fn is_error(error: Raw<'_>) -> bool {
    error.value().is_some_and(|text| {
        let inside = text.trim_matches(|c: char| c.is_ascii_whitespace() || "{}[]\"".contains(c));
        !matches!(inside, "" | "false" | "0")
    })
}

/// Why a response is incomplete.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Incomplete<'a> {
    #[serde(borrow)]
    pub(super) reason: Raw<'a>,
}

/// The choices of an answer or a chunk, as far as they tell how they ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choices {
    /// Whether there are any.
    pub(super) has_any: bool,
    /// The worst of their reasons.
    pub(super) finish: Finish,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Choice<'a> {
    #[serde(borrow)]
    finish_reason: Raw<'a>,
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoicesVisitor)
    }
}

struct ChoicesVisitor;

impl<'de> Visitor<'de> for ChoicesVisitor {
    type Value = Choices;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of choices")
    }

    fn visit_str<E>(self, _: &str) -> Result<Choices, E> {
        Ok(Choices::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Choices, A::Error> {
        let mut choices = Choices::default();
        while let Some(Loose(choice)) = seq.next_element::<Loose<Choice<'de>>>()? {
            let reason = choice.finish_reason.string();
            let finish = reason.map_or(Finish::None, |name| Finish::named(name.as_bytes()));
            choices = Choices { has_any: true, finish: choices.finish.max(finish) };
        }
        Ok(choices)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Choices, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Choices::default())
    }
}
