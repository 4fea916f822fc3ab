//! What a request asks for, read as OpenAI reads it.
//!
//! Content parts are media only where the API takes media; anywhere else the same members are text.

use serde_json::Value;

use crate::prices::{Memory, Model, Tier, find};
use crate::text::Text;
use crate::tools::Tools;
use crate::world::{Endpoint, World};

mod parts;

use parts::Parts;

/// The most tokens that a prompt or an answer of any model may have: where the catalogue has no figure.
const INPUT_MAX: u64 = 1_050_000;
const OUTPUT_MAX: u64 = 272_000;
/// Tokens around each message, and before the answer.
const MESSAGE_TOKENS: u64 = 4;
const ANSWER_TOKENS: u64 = 3;
/// Limits of /embeddings: tokens of all inputs.
const EMBEDDED_MAX: u64 = 300_000;

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Where it was sent.
    pub endpoint: Endpoint,
    /// Model of the catalogue.
    pub model: &'static Model,
    /// Model as named.
    pub model_named: String,
    /// Text of the prompt.
    pub text: Text,
    /// Tokens of the prompt that are counted exactly: framing, token arrays.
    pub exact: u64,
    /// Tokens of pictures in the request, by their measured size.
    pub pictures: Vec<u64>,
    /// Tokens of pictures that are only named, at the most.
    pub pictures_named: Vec<u64>,
    /// Tokens of audio.
    pub audio: u64,
    /// Tokens of documents, at the most.
    pub documents: u64,
    /// Tokens that upstream adds from what it keeps.
    pub kept: u64,
    /// Size, where it is known, and detail of each picture, those of kept context first.
    pub sizes: Vec<(Option<(u64, u64)>, String)>,
    /// Prompts of a request, each with an answer of its own.
    pub prompts: u64,
    /// Tokens of one answer, at the most.
    pub output_max: u64,
    /// Tokens of one turn, at the most.
    pub output_turn_max: u64,
    /// Context at which it is compacted before the next turn, if at all.
    pub compacted_at: Option<u64>,
    /// Answers to each prompt.
    pub choices: u64,
    /// Text that was predicted: rejected tokens of it are billed beside the answer.
    pub predicted: Text,
    /// Whether answers repeat the prompt.
    pub echo: bool,
    /// Whether the answer may be spoken.
    pub audio_out: bool,
    /// Whether cache writes are kept for twelve hours.
    pub ttl_12h: bool,
    /// Tiers at which it may be served.
    pub tiers: Vec<Tier>,
    /// Hosted tools.
    pub tools: Tools,
    /// Hosted calls, at the most.
    pub calls_max: u64,
    /// Whether it leaves its cost open: hosted tools without a bound of calls, or of output
    /// within what the model makes in one turn.
    pub is_open: bool,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether a chat stream ends with usage.
    pub usage_asked: bool,
    /// Whether upstream could serve it at all: it names nothing that does not exist.
    pub is_possible: bool,
}

impl Ask {
    /// Reads a body as upstream receives it; none if its JSON or its model is unknown.
    pub fn read(world: &World, endpoint: Endpoint, body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let template = body["prompt"]["id"].as_str().filter(|_| endpoint == Endpoint::Responses);
        let template = template.map(|id| world.prompts.get(id));
        let model_named = match body["model"].as_str() {
            Some(name) => name,
            None => template.flatten()?.model.as_deref()?,
        };
        let model = find(model_named)?;
        let mut parts = Parts::new(world, model);
        parts.read(endpoint, &body);
        let mut tools = Tools::read(world, endpoint, &body, model);
        parts.is_possible &= template.is_none_or(|found| found.is_some());
        if let Some(template) = template.flatten() {
            parts.kept += template.tokens;
            parts.pictures.extend(
                template.pictures.iter().map(|size| parts.picture(*size, "auto")).collect::<Vec<_>>(),
            );
            for tool in &template.tools {
                tools.add(world, tool, model);
            }
        }
        let mut ask = Self {
            endpoint,
            model,
            model_named: model_named.to_owned(),
            text: parts.text,
            exact: parts.exact,
            pictures: parts.pictures,
            pictures_named: parts.pictures_named,
            audio: parts.audio,
            documents: parts.documents,
            kept: parts.kept,
            sizes: parts.sizes,
            prompts: parts.prompts,
            output_max: output_max(endpoint, &body, model),
            output_turn_max: model.output_max.unwrap_or(OUTPUT_MAX),
            compacted_at: compacted_at(endpoint, &body),
            choices: choices(endpoint, &body),
            predicted: predicted(endpoint, &body),
            echo: endpoint == Endpoint::Completions && body["echo"] == true,
            audio_out: endpoint == Endpoint::Chat && speaks(&body),
            ttl_12h: parts.ttl_12h || body["prompt_cache_options"]["ttl"] == "12h",
            tiers: match endpoint {
                Endpoint::Completions | Endpoint::Embeddings => vec![Tier::Standard],
                Endpoint::Chat | Endpoint::Responses | Endpoint::Compact => {
                    tiers(world, model, &body["service_tier"])
                }
            },
            is_open: false,
            calls_max: body["max_tool_calls"].as_u64().unwrap_or(world.assumed.calls_max),
            is_possible: parts.is_possible && tools.is_possible,
            tools,
            stream: body["stream"] == true && endpoint.streams(),
            usage_asked: body["stream_options"]["include_usage"] == true,
        };
        ask.kept += ask.tools.mcp_servers * world.assumed.mcp_tokens_max;
        ask.bound_turns(&body);
        Some(ask)
    }

    /// The output of all turns, where hosted tools make several.
    fn bound_turns(&mut self, body: &Value) {
        if self.endpoint != Endpoint::Responses || !self.tools.loops() {
            return;
        }
        let asked = body["max_output_tokens"].as_u64();
        let is_bounded = asked.is_some_and(|asked| self.model.output_max.is_none_or(|most| asked <= most));
        self.is_open = !(is_bounded && body["max_tool_calls"].is_u64());
        // The model's maximum is that of one turn; what is asked for bounds all of them.
        let turns = self.output_turn_max.saturating_mul(self.calls_max.saturating_add(1));
        self.output_max = match (asked, self.model.output_max) {
            (Some(asked), Some(_)) => asked.min(turns),
            (Some(asked), None) => asked,
            (None, _) => turns,
        };
    }

    /// Tokens that one prompt may have.
    pub fn window(&self) -> u64 {
        self.model.input_max.unwrap_or(INPUT_MAX)
    }

    /// Tokens of the first prompt, at the most, before the model's own limit.
    pub fn prompt_max(&self, world: &World) -> u64 {
        let named = self.pictures_named.iter().sum::<u64>();
        let pictures = self.pictures.iter().fold(0_u64, |sum, tokens| sum.saturating_add(*tokens));
        let text = self.text.tokens(world.assumed.text) + self.exact + self.kept + self.documents;
        let sum = text.saturating_add(pictures).saturating_add(named).saturating_add(self.audio);
        if self.endpoint == Endpoint::Embeddings { sum.min(EMBEDDED_MAX) } else { sum }
    }
}

/// How many answers are made.
fn choices(endpoint: Endpoint, body: &Value) -> u64 {
    let answers = |name: &str| body[name].as_u64().unwrap_or(1).max(1);
    match endpoint {
        Endpoint::Chat => answers("n"),
        Endpoint::Completions => answers("n").max(answers("best_of")),
        Endpoint::Responses | Endpoint::Compact | Endpoint::Embeddings => 1,
    }
}

/// Tokens of the context at which upstream compacts it; none where it was not asked to.
fn compacted_at(endpoint: Endpoint, body: &Value) -> Option<u64> {
    let entries = body["context_management"].as_array().filter(|_| endpoint == Endpoint::Responses)?;
    let compacting = entries.iter().filter(|entry| entry["type"] == "compaction");
    compacting.map(|entry| entry["compact_threshold"].as_u64().unwrap_or(0)).min()
}

/// Whether the answer may be sound.
fn speaks(body: &Value) -> bool {
    body["modalities"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "audio"))
}

/// Tokens of one answer, at the most.
fn output_max(endpoint: Endpoint, body: &Value, model: &Model) -> u64 {
    let most = model.output_max.unwrap_or(OUTPUT_MAX);
    let asked = match endpoint {
        Endpoint::Chat => body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64()),
        Endpoint::Completions => Some(body["max_tokens"].as_u64().unwrap_or(16)),
        Endpoint::Responses => body["max_output_tokens"].as_u64(),
        // Compaction takes no bound.
        Endpoint::Compact => None,
        Endpoint::Embeddings => Some(0),
    };
    // A model without a maximum gives whatever is asked for.
    match (asked, model.output_max) {
        (Some(asked), None) => asked,
        (Some(asked), Some(most)) => asked.min(most),
        (None, _) => most,
    }
}

fn predicted(endpoint: Endpoint, body: &Value) -> Text {
    let mut text = Text::default();
    if endpoint == Endpoint::Chat {
        match &body["prediction"]["content"] {
            Value::String(content) => text.add(Text::of(content)),
            Value::Array(parts) => {
                parts
                    .iter()
                    .filter_map(|part| part["text"].as_str())
                    .for_each(|part| text.add(Text::of(part)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
        }
    }
    text
}

/// Tiers at which a request may be served: the one that was asked for, or the standard one.
fn tiers(world: &World, model: &Model, asked: &Value) -> Vec<Tier> {
    let tier = match asked.as_str() {
        Some("default") => Tier::Standard,
        Some("flex") => Tier::Flex,
        Some("scale") => Tier::Scale,
        Some("priority" | "fast") => Tier::Priority,
        Some("ultrafast") if model.publishes(Tier::Ultrafast, false) => Tier::Ultrafast,
        Some("ultrafast") => Tier::Priority,
        _ => world.project_tier,
    };
    let mut tiers = vec![tier, Tier::Standard];
    if tier == Tier::Ultrafast {
        tiers.push(Tier::Priority);
    }
    tiers.dedup();
    tiers
}

/// Memory that an object asks for; a container has 1 GB where it asks for none.
pub(crate) fn memory_of(value: &Value) -> Option<Memory> {
    match &value["memory_limit"] {
        Value::Null => Some(Memory::G1),
        limit => Memory::of(limit.as_str()?),
    }
}
