//! The demand of a request: the parts that its cost depends on.
//!
//! `protocol::openai::request` reads a body into a `Demand`; `pricing::bound` turns it
//! into the most it can cost. A field that could not be understood is an error, and
//! never becomes part of a demand.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::domain::object::ObjectReference;
use crate::domain::quantity::{Class, Quantities};
use crate::domain::usage::ContainerMemory;

/// The service tier a request asks for or an answer was served at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// That of decisions, whose output costs nothing.
    Decisions,
    /// That of a line of a batch: half price, within a day.
    Batch,
    /// Half price, slower.
    Flex,
    /// `default`, and what an absent tier means.
    #[default]
    Standard,
    /// Committed capacity; metered at the standard rates.
    Scale,
    /// `priority`, also called `fast`.
    Priority,
    /// The dearest and fastest.
    Ultrafast,
}

impl Tier {
    /// Whether a kind of request is billed at it whatever tier up to standard serves it; no
    /// field of a request names it.
    pub const fn is_implied(self) -> bool {
        matches!(self, Self::Decisions | Self::Batch)
    }

    /// The tier by its name on the wire; `None` if there is no such tier.
    ///
    /// `auto` is no tier: it leaves the choice to upstream.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "decisions" => Self::Decisions,
            "batch" => Self::Batch,
            "flex" => Self::Flex,
            "default" | "standard" => Self::Standard,
            "scale" => Self::Scale,
            "priority" | "fast" => Self::Priority,
            "ultrafast" => Self::Ultrafast,
            _ => return None,
        })
    }

    /// The tier at which the models of tools are billed: no price of theirs within a batch is
    /// published, so they cost as outside of it.
    #[must_use]
    pub fn of_tools(self) -> Self {
        if self == Self::Batch { Self::Standard } else { self }
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Batch => "batch",
            Self::Flex => "flex",
            Self::Standard => "default",
            Self::Scale => "scale",
            Self::Priority => "priority",
            Self::Ultrafast => "ultrafast",
        }
    }
}

/// Which of the two web search tools a request offers the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSearch {
    /// `web_search`: content is billed as input.
    Current,
    /// `web_search_preview`: dearer per call on models that don't reason.
    Preview,
    /// `web_search_options` of chat completions: one search per request.
    Chat,
}

/// The requested quality of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageQuality {
    /// `low`.
    Low,
    /// `medium`.
    Medium,
    /// `high`, which `auto` may become.
    #[default]
    High,
    /// Any other name.
    Other,
}

/// The images that a request has made, by the image generation tool or by the model that
/// it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDemand {
    /// The model that the tool names, if it names one.
    pub model: Option<String>,
    /// The quality of each image.
    pub quality: ImageQuality,
    /// Pixels of each image; `None` leaves the size to upstream.
    pub pixels: Option<u64>,
    /// Previews that a stream shows of each image.
    pub partial_images: u64,
    /// Frames of each image beyond its first, as a GIF has them.
    pub extra_frames: u64,
}

/// A container that a hosted tool may run in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerDemand {
    /// One that upstream makes for the request.
    Made(ContainerMemory),
    /// An existing one of which only the id is known.
    Existing(String),
    /// An existing one, by its memory.
    Found(ContainerMemory),
}

impl ContainerDemand {
    /// The most memory that it may have.
    pub const fn memory_max(&self) -> ContainerMemory {
        match self {
            Self::Made(memory) | Self::Found(memory) => *memory,
            Self::Existing(_) => ContainerMemory::G64,
        }
    }
}

/// Hosted tools that a request offers; each may cost fees or extra turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolDemand {
    /// A web search tool.
    pub web_search: Option<WebSearch>,
    /// Whether file search is offered.
    pub file_search: bool,
    /// Containers that code interpreter or shell tools may run in.
    pub containers: Vec<ContainerDemand>,
    /// The largest memory of the containers that the context names: a tool that lets
    /// upstream choose may run in one of them.
    pub context_container: Option<ContainerMemory>,
    /// An image generation tool.
    pub image: Option<ImageDemand>,
    /// MCP servers, each of which puts a list of its tools into the context.
    pub mcp_servers: u64,
    /// Whether a tool runs on upstream's side, so that the model may take
    /// several turns, each reading the whole context again.
    pub loops: bool,
    /// `max_tool_calls`, if the request bounds its hosted calls.
    pub calls_max: Option<u64>,
}

/// The detail at which an image is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// `low`.
    Low,
    /// `high`.
    High,
    /// `auto`, `original`, absent, or a name that is not known.
    #[default]
    Auto,
}

/// An image of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Width and height in pixels, by the header of an inline image; `None`
    /// if only upstream can see them.
    pub size: Option<(u32, u32)>,
    /// The detail asked for.
    pub detail: Detail,
}

/// The declared kind of a document, by its name and its media type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DocumentKind {
    /// A PDF, or no declaration of another kind.
    #[default]
    Pdf,
    /// Plain text.
    Text,
    /// Another kind, or its name and its media type contradict each other.
    Other,
}

/// A document in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where its string stands in the body, quotes included.
    pub span: Range<usize>,
    /// The declared kind.
    pub kind: DocumentKind,
}

/// Input that isn't text in the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// Images, inline or by reference.
    pub images: Vec<Image>,
    /// The longest that inline audio can last, in milliseconds.
    pub audio_ms: u64,
    /// Inline documents. Their pages are counted only if a bound without them is too
    /// loose.
    pub documents: Vec<Document>,
    /// Files and audio whose size only upstream knows.
    pub opaque: u64,
    /// Where the strings of inline images, audio and documents stand in the
    /// body, quotes included, in ascending order: these bytes are not text.
    pub inline: Vec<Range<usize>>,
}

impl Media {
    /// Bytes of the body that are inline media.
    pub fn inline_bytes(&self) -> u64 {
        let bytes = |span: &Range<usize>| u64::try_from(span.len()).unwrap_or(u64::MAX);
        self.inline.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Whether the input is text of the body alone.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.audio_ms == 0 && self.documents.is_empty() && self.opaque == 0
    }
}

/// A recording that is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// Whether its length was measured, and is not the longest that its bytes can last.
    pub is_measured: bool,
    /// Whether it is cut into chunks, each of which fills the model's window by itself.
    pub in_chunks: bool,
}

/// A text that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speech {
    /// Its Unicode characters.
    pub characters: u64,
    /// Whether the sound is asked for as plain samples, without a head.
    pub is_plain: bool,
}

/// The fields of a body by which clients group their requests, each as a value that a tag may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// `prompt_cache_key`.
    pub prompt_cache_key: Option<String>,
    /// `safety_identifier`.
    pub safety_identifier: Option<String>,
    /// `user`.
    pub user: Option<String>,
    /// `metadata`, by name.
    pub metadata: BTreeMap<String, String>,
}

/// A metered request, as far as its cost depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The model asked for, as written.
    pub model: String,
    /// Whether the answer is to be an event stream.
    pub stream: bool,
    /// Whether the client itself asked for usage in the stream.
    pub usage_asked: bool,
    /// The tier asked for; `None` leaves it to upstream (`auto` or absent).
    pub tier: Option<Tier>,
    /// Bytes of the whole body.
    pub body_bytes: u64,
    /// Input that isn't text.
    pub media: Media,
    /// Whether upstream adds context of unknown size.
    pub server_context: bool,
    /// Whether a stored prompt fills in what the body does not say: text, media,
    /// tools, even the model.
    pub stored_prompt: bool,
    /// The objects at upstream that the body names, in the order of the body.
    pub references: Vec<ObjectReference>,
    /// The options that decide how much of kept context is read, in one text; empty
    /// if the request leaves them to the model.
    pub rendering: String,
    /// Whether upstream may truncate context that does not fit into the window.
    pub truncates: bool,
    /// Whether upstream keeps the answer and names it by an id.
    pub stored: bool,
    /// Whether the answer is made in the background: it goes on without its request.
    pub background: bool,
    /// The most output tokens for one choice, as asked.
    pub output_max: Option<u64>,
    /// How many choices are generated: `n` or `best_of`, times the prompts.
    pub choices: u64,
    /// Whether more choices are generated than returned.
    pub has_unseen_choices: bool,
    /// Whether the output may contain audio.
    pub audio_output: bool,
    /// Bytes of a prediction, whose rejected tokens are billed as output.
    pub prediction_bytes: u64,
    /// Whether the prompt comes back as part of the output (`echo`).
    pub echo: bool,
    /// Whether cache writes may have the long life.
    pub cache_12h: bool,
    /// Whether upstream may run any number of agents beside the one that answers.
    pub subagents: bool,
    /// The context, in tokens, from which upstream compacts it before it goes on; `None`
    /// if it doesn't.
    pub compacted_at: Option<u64>,
    /// Hosted tools.
    pub tools: ToolDemand,
    /// The images that the model makes, each of its choices one; `None` if it makes none.
    pub drawing: Option<ImageDemand>,
    /// The model that writes an image as SVG, after another image.
    pub svg_model: Option<String>,
    /// The recording that the model writes down; `None` if it is sent none for that.
    pub transcript: Option<Transcript>,
    /// The text that the model speaks; `None` if it is sent none for that.
    pub speech: Option<Speech>,
    /// What is made or read at most, other than tokens: a model may be billed by it.
    pub units: Quantities,
    /// `safety_identifier`, else `user`.
    pub end_user: Option<String>,
    /// What may become tags of it.
    pub labels: Labels,
}

/// The upper bound of a request: the amounts that a hold reserves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The most it can cost.
    pub cost: crate::domain::Money,
    /// The most input tokens it can be billed for.
    pub input_tokens: u64,
    /// The most output tokens it can be billed for, all choices together.
    pub output_tokens: u64,
}

impl Bound {
    /// Its tokens by class, as an entry that charges all of it has them.
    pub fn quantities(&self) -> Quantities {
        [(Class::Input, self.input_tokens), (Class::Output, self.output_tokens)].into()
    }
}
