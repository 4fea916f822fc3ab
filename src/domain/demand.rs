//! What a request asks for, as far as its cost depends on it.
//!
//! `openai::request` reads a body into a `Demand`; `pricing::bound` turns it
//! into the most it can cost. Nothing here is a guess: a field that could not
//! be understood is an error long before it becomes a demand.

use crate::domain::object::ObjectReference;
use crate::domain::tokens::ContainerMemory;

/// The service tier a request asks for or an answer was served at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
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
    /// The tier by its name on the wire; `None` if there is no such tier.
    ///
    /// `auto` is no tier: it leaves the choice to upstream.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "flex" => Self::Flex,
            "default" | "standard" => Self::Standard,
            "scale" => Self::Scale,
            "priority" | "fast" => Self::Priority,
            "ultrafast" => Self::Ultrafast,
            _ => return None,
        })
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
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

/// The image generation tool of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTool {
    /// The image model named, if any.
    pub model: Option<String>,
}

/// Hosted tools that a request offers; each may cost fees or extra turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolDemand {
    /// A web search tool.
    pub web_search: Option<WebSearch>,
    /// Whether file search is offered.
    pub file_search: bool,
    /// Containers that code interpreter or shell tools may start.
    pub containers: Vec<ContainerMemory>,
    /// An image generation tool.
    pub image: Option<ImageTool>,
    /// Whether a tool runs on upstream's side, so that the model may take
    /// several turns, each reading the whole context again.
    pub loops: bool,
    /// `max_tool_calls`, if the request bounds its hosted calls.
    pub calls_max: Option<u64>,
}

/// Input that isn't text in the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// Images, inline or by reference, at full detail.
    pub images: u64,
    /// Images asked for at low detail.
    pub images_low: u64,
    /// Bytes of base64 that inline images, audio and files take in the body.
    pub inline_bytes: u64,
    /// Bytes of base64 of inline audio, a part of `inline_bytes`.
    pub audio_bytes: u64,
    /// Files and audio that only upstream can see the size of, or whose inline
    /// bytes tell nothing of their tokens (a PDF).
    pub opaque: u64,
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
    /// Whether upstream adds context that we can't see (a previous response,
    /// a conversation, a stored prompt).
    pub server_context: bool,
    /// The objects at upstream that the body names, in the order of the body.
    pub references: Vec<ObjectReference>,
    /// Whether upstream keeps the answer and names it by an id.
    pub stored: bool,
    /// The most output tokens for one choice, as asked.
    pub output_max: Option<u64>,
    /// How many choices are generated: `n` or `best_of`, times the prompts.
    pub choices: u64,
    /// Whether the output may contain audio.
    pub audio_output: bool,
    /// Whether the prompt comes back as part of the output (`echo`).
    pub echo: bool,
    /// Whether cache writes may have the long life.
    pub cache_12h: bool,
    /// Hosted tools.
    pub tools: ToolDemand,
    /// `safety_identifier`, else `user`.
    pub end_user: Option<String>,
}

/// The upper bound of what a request can use, the amounts a hold reserves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The most it can cost.
    pub cost: crate::domain::Money,
    /// The most input tokens it can be billed for.
    pub input_tokens: u64,
    /// The most output tokens it can be billed for, all choices together.
    pub output_tokens: u64,
}
