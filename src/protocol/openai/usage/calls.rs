//! Calls of hosted tools, counted once however they are reported.
//!
//! A stream reports a call when it starts, while it runs and when it is done, and
//! the answer lists it again at the end; any of these may be missing. A call with
//! an id is one call wherever it is seen. Those without an id are counted for each
//! source apart, and the largest count stands.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Made;
use crate::domain::Class;
use crate::domain::usage::ToolUse;
use crate::protocol::openai::json::{Loose, Raw, scalars_default};

/// The most calls and containers of one answer that are counted by id. Calls beyond
/// that count as calls without an id.
const IDS_MAX: usize = 10_000;

/// A hosted tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    WebSearch,
    FileSearch,
    Code,
    Shell,
    Image,
    /// Costs tokens only.
    Other,
}

impl Tool {
    /// The tool by the `type` of its call; `None` for what a client runs.
    fn named(kind: &[u8]) -> Option<Self> {
        Some(match kind {
            b"web_search_call" => Self::WebSearch,
            b"file_search_call" => Self::FileSearch,
            b"code_interpreter_call" => Self::Code,
            b"shell_call" => Self::Shell,
            b"image_generation_call" => Self::Image,
            b"mcp_call" | b"tool_search_call" => Self::Other,
            _ => return None,
        })
    }
}

/// Where a call was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::openai) enum Source {
    /// An output item that was begun.
    Started,
    /// An event about a call that is running.
    Running,
    /// An output item that is done.
    Done,
    /// The output of a whole answer.
    Listed,
}

const SOURCES: [Source; 4] = [Source::Started, Source::Running, Source::Done, Source::Listed];

impl Source {
    const fn bit(self) -> u8 {
        match self {
            Self::Started => 1,
            Self::Running => 2,
            Self::Done => 4,
            Self::Listed => 8,
        }
    }
}

/// A report of one call.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol::openai) struct Call {
    tool: Tool,
    /// Hash of the id.
    id: Option<u64>,
    /// Whether it is a kind of call that is not billed, if the report says so.
    free: Option<bool>,
    /// Hash of the id of the container it ran in.
    container: Option<u64>,
}

impl Call {
    /// A call by the tool part of an event's type, such as `web_search_call`.
    pub(in crate::protocol::openai) fn running(kind: &[u8], id: Option<&[u8]>) -> Option<Self> {
        let tool = Tool::named(kind)?;
        Some(Self { tool, id: id.and_then(hashed), free: None, container: None })
    }
}

/// A call with an id, and the sources that have reported it.
#[derive(Clone, Copy, Debug)]
struct ReportedCall {
    tool: Tool,
    sources: u8,
    free: bool,
}

/// The calls of one answer.
#[derive(Debug, Default)]
pub(in crate::protocol::openai) struct Calls {
    by_id: HashMap<u64, ReportedCall>,
    unnamed: Vec<(Tool, Source, bool, u64)>,
    containers: HashSet<u64>,
}

impl Calls {
    /// Adds a report of a call.
    pub(in crate::protocol::openai) fn add(&mut self, call: Call, source: Source) {
        let Call { tool, id, free, container } = call;
        if self.containers.len() < IDS_MAX {
            self.containers.extend(container);
        }
        let is_full = self.by_id.len() >= IDS_MAX;
        if let Some(id) = id.filter(|id| !is_full || self.by_id.contains_key(id)) {
            let call = self.by_id.entry(id).or_insert(ReportedCall { tool, sources: 0, free: false });
            call.sources |= source.bit();
            call.free = free.unwrap_or(call.free);
            return;
        }
        let free = free.unwrap_or(false);
        let same =
            |tally: &&mut (Tool, Source, bool, u64)| (tally.0, tally.1, tally.2) == (tool, source, free);
        match self.unnamed.iter_mut().find(same) {
            Some(tally) => tally.3 = tally.3.saturating_add(1),
            None => self.unnamed.push((tool, source, free, 1)),
        }
    }

    /// Whether a source has reported a call before.
    pub(in crate::protocol::openai) fn has(&self, call: Call, source: Source) -> bool {
        let reported = call.id.and_then(|id| self.by_id.get(&id));
        reported.is_some_and(|reported| reported.sources & source.bit() != 0)
    }

    /// Calls that were started, billed or not.
    pub(in crate::protocol::openai) fn started(&self) -> u64 {
        let unnamed = |source| self.unnamed_of(|_, of, _| of == source);
        let most = SOURCES.into_iter().map(unnamed).max().unwrap_or(0);
        count(self.by_id.len()).saturating_add(most)
    }

    /// Calls of the image tool.
    pub(in crate::protocol::openai) fn images(&self) -> u64 {
        self.billed(Tool::Image)
    }

    /// Whether a shell ran, and nothing says in which container or that it was
    /// the client's.
    pub(in crate::protocol::openai) fn has_unplaced_shell(&self) -> bool {
        self.containers.is_empty() && self.billed(Tool::Shell) > 0
    }

    /// The usage of all calls. Code always runs in a container, so it used one even
    /// if no report names it.
    pub(in crate::protocol::openai) fn tool_use(&self) -> ToolUse {
        ToolUse {
            quantities: [
                (Class::WebSearchCalls, self.billed(Tool::WebSearch)),
                (Class::FileSearchCalls, self.billed(Tool::FileSearch)),
            ]
            .into(),
            containers: count(self.containers.len()).max(self.billed(Tool::Code).min(1)),
        }
    }

    fn billed(&self, tool: Tool) -> u64 {
        let named = |bits: u8| {
            let fits = |call: &&ReportedCall| call.tool == tool && !call.free && call.sources & bits != 0;
            count(self.by_id.values().filter(fits).count())
        };
        let of_source = |source: Source| {
            let unnamed = self.unnamed_of(|other, of, free| other == tool && of == source && !free);
            named(source.bit()).saturating_add(unnamed)
        };
        SOURCES.into_iter().map(of_source).max().unwrap_or(0).max(named(u8::MAX))
    }

    fn unnamed_of(&self, fits: impl Fn(Tool, Source, bool) -> bool) -> u64 {
        let tallies = self.unnamed.iter().filter(|(tool, source, free, _)| fits(*tool, *source, *free));
        tallies.map(|tally| tally.3).fold(0, u64::saturating_add)
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// An id as a number, so that ids of any length take the same memory.
fn hashed(id: &[u8]) -> Option<u64> {
    if id.is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    Some(hasher.finish())
}

/// One output item, as far as its call is billed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::protocol::openai) struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
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
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    container_id: Raw<'a>,
}

impl Item<'_> {
    /// Adds what the item is called, and the container it ran in.
    pub(in crate::protocol::openai) fn add_to(&self, made: &mut Made) {
        made.item(self.id, self.kind.string().as_deref());
        self.add_container_to(made);
    }

    /// Adds the container that the item ran in, or runs in.
    pub(in crate::protocol::openai) fn add_container_to(&self, made: &mut Made) {
        if matches!(self.kind.string().as_deref(), Some("code_interpreter_call" | "shell_call")) {
            let container = self.container_id.string().or_else(|| self.environment.0.container_id.string());
            made.container(container.as_deref());
        }
    }

    /// The hosted call that the item is, if it is one.
    pub(in crate::protocol::openai) fn call(&self) -> Option<Call> {
        let tool = Tool::named(self.kind.string()?.as_bytes())?;
        let environment = &self.environment.0;
        if tool == Tool::Shell && environment.kind.string().as_deref() == Some("local") {
            return None;
        }
        let hash = |raw: Raw<'_>| raw.string().and_then(|id| hashed(id.as_bytes()));
        let container = match tool {
            Tool::Code | Tool::Shell => hash(self.container_id).or_else(|| hash(environment.container_id)),
            Tool::WebSearch | Tool::FileSearch | Tool::Image | Tool::Other => None,
        };
        // Opening a page that was found, or searching within it, is not billed.
        let action = self.action.0.kind.string().filter(|_| tool == Tool::WebSearch);
        let free = action.map(|action| matches!(&*action, "open_page" | "find_in_page" | "find"));
        Some(Call { tool, id: hash(self.id), free, container })
    }
}

/// The output of a whole answer.
#[derive(Debug, Default)]
pub(in crate::protocol::openai) struct Output {
    /// Whether there is any.
    pub(in crate::protocol::openai) has_items: bool,
    /// Its calls.
    pub(in crate::protocol::openai) calls: Vec<Call>,
    /// What it names.
    pub(in crate::protocol::openai) made: Made,
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutputVisitor)
    }
}

struct OutputVisitor;

impl<'de> Visitor<'de> for OutputVisitor {
    type Value = Output;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("output items")
    }

    fn visit_str<E>(self, _: &str) -> Result<Output, E> {
        Ok(Output::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Output, A::Error> {
        let mut output = Output::default();
        while let Some(Loose(item)) = seq.next_element::<Loose<Item<'de>>>()? {
            output.has_items = true;
            output.calls.extend(item.call());
            item.add_to(&mut output.made);
        }
        Ok(output)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Output, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Output::default())
    }
}
