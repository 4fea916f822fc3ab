//! What surrounds a request: the day, the region, what upstream keeps, and what is assumed of it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::prices::{Memory, Place, Tier};

/// Paths that are metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the paths")]
pub enum Endpoint {
    Chat,
    Completions,
    Responses,
    Compact,
    Embeddings,
}

impl Endpoint {
    /// All endpoints.
    pub const ALL: [Self; 5] =
        [Self::Chat, Self::Completions, Self::Responses, Self::Compact, Self::Embeddings];

    /// Its path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Compact => "/v1/responses/compact",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// What the ids of its answers begin with; `None` if they have none.
    pub const fn id_prefix(self) -> Option<&'static str> {
        match self {
            Self::Chat => Some("chatcmpl-"),
            Self::Completions => Some("cmpl-"),
            Self::Responses | Self::Compact => Some("resp_"),
            Self::Embeddings => None,
        }
    }

    /// The id of its answer of that name.
    pub(crate) fn answer_id(self, name: &str) -> String {
        format!("{}{name}", self.id_prefix().unwrap_or_default())
    }

    /// Whether it takes `stream`.
    pub const fn streams(self) -> bool {
        match self {
            Self::Chat | Self::Completions | Self::Responses => true,
            Self::Compact | Self::Embeddings => false,
        }
    }
}

/// A file that upstream keeps.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the variants say it")]
pub enum File {
    Picture {
        width: u64,
        height: u64,
    },
    /// Tokens that its text and pages have.
    Document {
        tokens: u64,
    },
}

/// A prompt that upstream keeps, with what it carries.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// Model of requests that name none.
    pub model: Option<String>,
    /// Tokens of its text.
    pub tokens: u64,
    /// Its pictures: width and height.
    pub pictures: Vec<(u64, u64)>,
    /// Its tools, as in a request.
    pub tools: Vec<Value>,
}

/// A response that upstream keeps, by what its model made of it and what others make of it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Model that answered.
    pub model: String,
    /// Tokens that this model read and wrote.
    pub tokens: u64,
    /// Width and height of its pictures, where they are known, and their detail.
    pub pictures: Vec<(Option<(u64, u64)>, String)>,
    /// The largest container that its calls, or those before it, ran in: later ones may run there.
    pub container: Option<(String, Memory)>,
}

/// How the tokens of a text are counted where the vocabulary is not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextCount {
    /// A token for each byte of UTF-8: the most that a byte-level vocabulary can make of it.
    Bytes,
    /// A token for each word and each three digits: the fewest that o200k and cl100k make of it.
    Pieces,
}

/// What a bound may rest on. Nothing documents these figures.
#[derive(Clone, Copy, Debug)]
pub struct Assumptions {
    /// How text counts.
    pub text: TextCount,
    /// Tokens that one hosted call adds to the context, the words that asked for it included.
    pub call_tokens_max: u64,
    /// Tokens that the tools of one MCP server add to the context.
    pub mcp_tokens_max: u64,
    /// Hosted calls of a request that bounds none.
    pub calls_max: u64,
    /// Tokens of a picture that the request only names, by URL or file.
    pub picture_tokens_max: u64,
    /// Whether the long rates follow from the largest prompt of a turn, not from their sum.
    pub is_long_by_turn: bool,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            text: TextCount::Bytes,
            call_tokens_max: 16_000,
            mcp_tokens_max: 16_000,
            calls_max: 128,
            picture_tokens_max: 15_000,
            is_long_by_turn: true,
        }
    }
}

/// An assumption that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Hosted calls add more to the context than was assumed.
    CallTokens,
    /// There are more hosted calls than the request allows.
    Calls,
    /// A picture that was only named is larger than was assumed.
    Picture,
    /// The answer is longer than the request allows.
    Output,
    /// A tool loses its container and starts another one within a request.
    Sessions,
    /// MCP servers list more tools than was assumed.
    Lists,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::CallTokens, Self::Calls, Self::Picture, Self::Output, Self::Sessions, Self::Lists];
}

/// Everything outside of a request that its cost depends on.
#[derive(Clone, Debug)]
pub struct World {
    /// Day, as `YYYY-MM-DD`.
    pub date: String,
    /// Whether requests go to a regional base URL.
    pub is_regional: bool,
    /// Tier of requests that name none.
    pub project_tier: Tier,
    /// Tokens of context behind each response id.
    pub responses: BTreeMap<String, u64>,
    /// Responses that were made here, by id; other models read them otherwise.
    pub kept: BTreeMap<String, Kept>,
    /// Tokens of each conversation.
    pub conversations: BTreeMap<String, u64>,
    /// Tokens of each item that can be referred to by id.
    pub items: BTreeMap<String, u64>,
    /// Files, by id.
    pub files: BTreeMap<String, File>,
    /// Containers, by id.
    pub containers: BTreeMap<String, Memory>,
    /// Stored prompts, by id.
    pub prompts: BTreeMap<String, Template>,
    /// What is assumed of upstream.
    pub assumed: Assumptions,
    /// What of it does not hold.
    pub broken: Option<Broken>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            date: "2026-11-28".to_owned(),
            is_regional: false,
            project_tier: Tier::Standard,
            responses: BTreeMap::new(),
            kept: BTreeMap::new(),
            conversations: BTreeMap::new(),
            items: BTreeMap::new(),
            files: BTreeMap::new(),
            containers: BTreeMap::new(),
            prompts: BTreeMap::new(),
            assumed: Assumptions::default(),
            broken: None,
        }
    }
}

impl World {
    /// A world in which some of each kind of object exists. Their ids are what `draw` names.
    pub fn furnished() -> Self {
        let mut world = Self::default();
        world.responses = [("resp_small", 900), ("resp_large", 90_000)].map(of_id).into();
        world.conversations = [("conv_small", 700), ("conv_large", 150_000)].map(of_id).into();
        world.items = [("msg_small", 80), ("rs_large", 20_000), ("audio_one", 400)].map(of_id).into();
        world.files = [
            ("file-picture", File::Picture { width: 1_024, height: 768 }),
            ("file-document", File::Document { tokens: 40_000 }),
        ]
        .map(|(id, file)| (id.to_owned(), file))
        .into();
        let sizes = ["cntr_1g", "cntr_4g", "cntr_16g", "cntr_64g"].into_iter().zip(Memory::ALL);
        world.containers = sizes.map(|(id, memory)| (id.to_owned(), memory)).collect();
        let shell = serde_json::json!({ "type": "shell", "environment": { "type": "container_auto", "memory_limit": "64g" } });
        let tools = vec![
            serde_json::json!({ "type": "web_search" }),
            serde_json::json!({ "type": "image_generation", "model": "gpt-image-1.5" }),
            shell,
        ];
        let plain = Template { tokens: 500, model: Some("gpt-5-mini".to_owned()), ..Template::default() };
        let laden = Template { tokens: 2_000, pictures: vec![(2_048, 2_048)], tools, ..Template::default() };
        world.prompts = [("pmpt_plain", plain), ("pmpt_laden", laden)]
            .map(|(id, template)| (id.to_owned(), template))
            .into();
        world
    }

    /// When and where requests are served.
    pub fn place(&self) -> Place<'_> {
        Place { date: &self.date, is_regional: self.is_regional }
    }
}

fn of_id((id, tokens): (&str, u64)) -> (String, u64) {
    (id.to_owned(), tokens)
}
