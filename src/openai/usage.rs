//! Reads what an answer cost, from any of the usage shapes.
//!
//! Upstream's figures overlap: cached and cache-write tokens are inside the
//! input, reasoning is inside the output. Here each token lands in exactly
//! one class, and the classes add up to the reported totals whatever the
//! details claim. What is absent, null or odd counts as nothing.

mod figures;
mod made;

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use self::figures::{Figures, ToolFigures};
pub use self::made::{Made, MadeItem};
use super::endpoint::Metered;
use super::json::{Loose, Object, Raw, scalars_default};
use crate::domain::Usage;
use crate::domain::demand::Tier;
use crate::domain::tokens::ToolUse;

/// What an answer says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What was used; `None` if the answer doesn't say. Zero is an answer.
    pub usage: Option<Usage>,
    /// The model that served it.
    pub model: Option<String>,
    /// The tier it was served at.
    pub tier: Option<Tier>,
    /// The id to settle once by.
    pub object_id: Option<String>,
    /// Hosted tools seen at work, even in an answer without usage.
    pub tools_seen: ToolUse,
    /// What upstream made beside the answer itself.
    pub made: Made,
}

/// Reads a whole JSON answer. What isn't JSON says nothing.
///
/// Web searches of chat completions are not in the usage; a caller that
/// offered them adds one.
///
/// ```
/// use spendguard::openai::{Metered, usage};
/// let body = br#"{"usage":{"prompt_tokens":19,"completion_tokens":10}}"#;
/// let used = usage::of_json(Metered::Chat, body).usage.expect("it is there");
/// assert_eq!((used.tokens.input, used.tokens.output), (19, 10));
/// ```
pub fn of_json(endpoint: Metered, body: &[u8]) -> Answer {
    // Checked as text once, not with each value that is borrowed from it.
    let read = std::str::from_utf8(body).ok().and_then(|text| serde_json::from_str(text).ok());
    read.map(|Object(body): Object<Body<'_>>| body.answer(endpoint)).unwrap_or_default()
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
    output: Calls,
}

impl Body<'_> {
    /// What it says.
    pub(super) fn answer(self, endpoint: Metered) -> Answer {
        let tools = self.tool_use();
        let made = self.output.made;
        let named = |raw: Raw<'_>| raw.string().filter(|name| !name.is_empty()).map(String::from);
        let figures = self.usage.value().and_then(|text| serde_json::from_str::<Loose<Figures>>(text).ok());
        let tokens = figures.and_then(|Loose(figures)| figures.tokens(endpoint));
        Answer {
            usage: tokens.map(|tokens| Usage { tokens, tools: tools.clone(), largest_prompt: None }),
            model: named(self.model),
            tier: self.service_tier.string().and_then(|name| Tier::named(&name)),
            object_id: named(self.id),
            tools_seen: tools,
            made,
        }
    }

    fn tool_use(&self) -> ToolUse {
        let mut tools = self.output.tool_use();
        let Loose(reported) = &self.tool_usage;
        if let Some(searches) = reported.web_searches() {
            tools.web_searches = searches;
        }
        tools.image = reported.image();
        tools
    }
}

/// Containers that are told apart in one answer.
const CONTAINERS_MAX: usize = 10_000;

/// Calls of hosted tools among output items.
#[derive(Debug, Default)]
pub(super) struct Calls {
    web_searches: u64,
    file_searches: u64,
    containers: HashSet<String>,
    /// Items and containers by their ids.
    pub(in crate::openai) made: Made,
}

/// One output item, as far as its call is billed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    action: Loose<Typed<'a>>,
    #[serde(borrow)]
    container_id: Raw<'a>,
    #[serde(borrow)]
    environment: Loose<Environment<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Environment<'a> {
    #[serde(borrow)]
    container_id: Raw<'a>,
}

impl Calls {
    /// Takes up one output item.
    pub(super) fn add(&mut self, item: &Item<'_>) {
        let kind = item.kind.string();
        self.made.item(item.id, kind.as_deref());
        match kind.as_deref() {
            Some("web_search_call") => {
                let searched = item.action.0.kind.string().as_deref() == Some("search");
                self.web_searches += u64::from(searched);
            }
            Some("file_search_call") => self.file_searches += 1,
            Some("code_interpreter_call" | "shell_call") => {
                let id = item.container_id.string().or_else(|| item.environment.0.container_id.string());
                self.made.container(id.as_deref());
                if self.containers.len() < CONTAINERS_MAX {
                    self.containers.extend(id.map(String::from));
                }
            }
            Some(_) | None => {}
        }
    }

    /// What the calls come to.
    pub(super) fn tool_use(&self) -> ToolUse {
        ToolUse {
            web_searches: self.web_searches,
            file_searches: self.file_searches,
            containers: u64::try_from(self.containers.len()).unwrap_or(u64::MAX),
            ..ToolUse::default()
        }
    }
}

impl<'de> Deserialize<'de> for Calls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CallsVisitor)
    }
}

struct CallsVisitor;

impl<'de> Visitor<'de> for CallsVisitor {
    type Value = Calls;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("output items")
    }

    fn visit_str<E>(self, _: &str) -> Result<Calls, E> {
        Ok(Calls::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Calls, A::Error> {
        let mut calls = Calls::default();
        while let Some(Loose(item)) = seq.next_element::<Loose<Item<'de>>>()? {
            calls.add(&item);
        }
        Ok(calls)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Calls, A::Error> {
        while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
        Ok(Calls::default())
    }
}

#[cfg(test)]
mod tests;
