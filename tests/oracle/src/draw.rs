//! Requests from the whole space of the metered endpoints, hostile ones included.

use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::prices::models;
use crate::world::Endpoint;

mod content;
mod spelling;
mod toolbox;

pub use spelling::spell;

/// How large parts of a request may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of one text.
    pub text_max: u64,
    /// Of the pixels or samples of one file.
    pub file_max: u64,
}

impl Sizes {
    /// For simulations, where each byte passes slowly.
    pub const SMALL: Self = Self { text_max: 600, file_max: 600 };
    /// For fuzzing: small enough for many, large enough for every rule.
    pub const MEDIUM: Self = Self { text_max: 20_000, file_max: 20_000 };
    /// For proofs.
    pub const LARGE: Self = Self { text_max: 1 << 21, file_max: 400_000 };
}

/// What draws a request.
struct Hand<'a> {
    chance: &'a mut Chance,
    sizes: Sizes,
}

/// Models that differ in how they are priced; any other is drawn less often.
const MODELS: [&str; 26] = [
    "gpt-4o-mini",
    "gpt-5-mini",
    "gpt-4o",
    "gpt-4o-2024-08-06",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-5",
    "gpt-5-nano",
    "gpt-5.1",
    "gpt-5.4",
    "gpt-5.4-nano",
    "gpt-5.5",
    "gpt-5.5-pro",
    "gpt-5.6-sol",
    "gpt-6-luna",
    "gpt-6.1-sol",
    "gpt-6-astra",
    "gpt-6-astra-law",
    "gpt-6-cyber",
    "gpt-audio",
    "gpt-4o-search-preview",
    "gpt-5-search-api",
    "o3",
    "o1-pro",
    "gpt-5.6-cyber",
    "gpt-5-2025-08-07",
];

/// A body for an endpoint, as a client may write it.
pub fn body(chance: &mut Chance, endpoint: Endpoint, sizes: Sizes) -> Vec<u8> {
    let value = request(chance, endpoint, sizes);
    spell(chance, &value).into_bytes()
}

/// A request for an endpoint, before it is spelled.
pub fn request(chance: &mut Chance, endpoint: Endpoint, sizes: Sizes) -> Value {
    let mut hand = Hand { chance, sizes };
    let request = match endpoint {
        Endpoint::Chat => hand.chat(),
        Endpoint::Completions => hand.completions(),
        Endpoint::Responses => hand.responses(),
        Endpoint::Compact => hand.compact(),
        Endpoint::Embeddings => hand.embeddings(),
    };
    Value::Object(request)
}

impl Hand<'_> {
    fn model(&mut self, modes: &[&str]) -> Value {
        if self.chance.percent(10) {
            let all: Vec<&str> =
                models().filter(|model| modes.contains(&&*model.mode)).map(|model| &*model.name).collect();
            return json!(all[self.chance.index(all.len())]);
        }
        json!(self.chance.one(&MODELS))
    }

    fn put(&mut self, request: &mut Map<String, Value>, percent: u64, name: &str, value: impl Into<Value>) {
        if self.chance.percent(percent) {
            request.insert(name.to_owned(), value.into());
        }
    }

    fn output_bound(&mut self) -> u64 {
        match self.chance.within(0, 3) {
            0 => self.chance.within(16, 200),
            1 => self.chance.within(16, 8_000),
            2 => self.chance.one(&[16, 16_384, 32_768, 128_000]),
            _ => self.chance.magnitude(1 << 40).max(1),
        }
    }

    fn shared(&mut self, request: &mut Map<String, Value>) {
        let tier = self.chance.one(&[
            "auto",
            "default",
            "default",
            "flex",
            "priority",
            "fast",
            "ultrafast",
            "scale",
        ]);
        self.put(request, 50, "service_tier", tier);
        self.put(request, 20, "prompt_cache_options", json!({ "mode": "auto", "ttl": "12h" }));
        self.put(request, 10, "prompt_cache_options", json!({ "ttl": "30m" }));
        self.put(request, 10, "safety_identifier", "someone");
        self.put(request, 5, "metadata", json!({ "image_url": "data:image/png;base64,AAAA" }));
        self.put(request, 40, "stream", true);
    }

    fn chat(&mut self) -> Map<String, Value> {
        let mut request = Map::new();
        request.insert("model".to_owned(), self.model(&["chat"]));
        let count = self.chance.within(1, 3);
        let messages: Vec<Value> = (0..count).map(|_| self.message()).collect();
        request.insert("messages".to_owned(), messages.into());
        let bound = self.output_bound();
        let name = self.chance.one(&["max_completion_tokens", "max_completion_tokens", "max_tokens"]);
        self.put(&mut request, 60, name, bound);
        self.shared(&mut request);
        if request.contains_key("stream") {
            self.put(&mut request, 30, "stream_options", json!({ "include_usage": true }));
        }
        let choices = self.chance.one(&[1, 2, 3, 5, 128]);
        self.put(&mut request, 15, "n", choices);
        let predicted = self.text();
        self.put(&mut request, 10, "prediction", json!({ "type": "content", "content": predicted }));
        self.put(&mut request, 5, "web_search_options", json!({ "search_context_size": "high" }));
        if self.chance.percent(10) {
            request.insert("modalities".to_owned(), json!(["text", "audio"]));
            request.insert("audio".to_owned(), json!({ "voice": "alloy", "format": "wav" }));
        }
        if self.chance.percent(20) {
            request.insert("tools".to_owned(), json!([{ "type": "function", "function": self.function() }]));
        }
        request
    }

    fn message(&mut self) -> Value {
        let role = self.chance.one(&["user", "user", "system", "assistant"]);
        if self.chance.percent(40) {
            return json!({ "role": role, "content": self.text() });
        }
        let count = self.chance.within(1, 4);
        let parts: Vec<Value> = (0..count).map(|_| self.chat_part()).collect();
        json!({ "role": role, "content": parts })
    }

    fn completions(&mut self) -> Map<String, Value> {
        let mut request = Map::new();
        let model = self.chance.one(&["gpt-3.5-turbo-instruct", "babbage-002", "davinci-002"]);
        request.insert("model".to_owned(), json!(model));
        let prompt = self.texts();
        request.insert("prompt".to_owned(), prompt);
        let bound = self.output_bound();
        self.put(&mut request, 60, "max_tokens", bound);
        let (choices, best) = (self.chance.within(1, 5), self.chance.within(0, 8));
        self.put(&mut request, 30, "n", choices);
        self.put(&mut request, 20, "best_of", best);
        self.put(&mut request, 20, "echo", true);
        self.put(&mut request, 30, "stream", true);
        request
    }

    fn embeddings(&mut self) -> Map<String, Value> {
        let model =
            self.chance.one(&["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"]);
        let input = self.texts();
        [("model".to_owned(), json!(model)), ("input".to_owned(), input)].into_iter().collect()
    }

    fn texts(&mut self) -> Value {
        let tokens = |hand: &mut Self| -> Vec<u64> {
            let count = hand.chance.magnitude(hand.sizes.text_max / 4);
            (0..count.min(20_000)).collect()
        };
        match self.chance.within(0, 3) {
            0 => json!(tokens(self)),
            1 => json!([tokens(self), tokens(self)]),
            2 => json!([self.text(), self.text(), self.text()]),
            _ => json!(self.text()),
        }
    }

    fn responses(&mut self) -> Map<String, Value> {
        let mut request = self.compact();
        let bound = self.output_bound();
        self.put(&mut request, 60, "max_output_tokens", bound);
        let calls = self.chance.one(&[0, 1, 2, 3, 8, 20]);
        self.put(&mut request, 50, "max_tool_calls", calls);
        self.shared(&mut request);
        if self.chance.percent(40) {
            let tools = self.tools();
            request.insert("tools".to_owned(), tools.into());
        }
        if self.chance.percent(8) {
            let id = self.id(&["pmpt_plain", "pmpt_laden"]);
            request
                .insert("prompt".to_owned(), json!({ "id": id, "variables": { "name": self.input_part() } }));
            self.drop_half(&mut request, &["model", "input"]);
        }
        let conversation = self.id(&["conv_small", "conv_large"]);
        if !request.contains_key("previous_response_id") {
            self.put(&mut request, 8, "conversation", conversation.clone());
            self.put(&mut request, 3, "conversation", json!({ "id": conversation }));
        }
        self.put(&mut request, 10, "store", false);
        self.put(&mut request, 10, "truncation", "auto");
        if self.chance.percent(10) {
            let mut entry = json!({ "type": "compaction" });
            if self.chance.percent(80) {
                entry["compact_threshold"] = json!(self.chance.one(&[1_000, 10_000, 200_000, 2_000_000]));
            }
            request.insert("context_management".to_owned(), json!([entry]));
        }
        request
    }

    fn drop_half(&mut self, request: &mut Map<String, Value>, names: &[&str]) {
        for name in names {
            if self.chance.percent(50) {
                request.remove(*name);
            }
        }
    }

    fn compact(&mut self) -> Map<String, Value> {
        let mut request = Map::new();
        request.insert("model".to_owned(), self.model(&["chat", "responses"]));
        let input = if self.chance.percent(30) {
            json!(self.text())
        } else {
            let count = self.chance.within(1, 3);
            (0..count).map(|_| self.item()).collect()
        };
        request.insert("input".to_owned(), input);
        let instructions = self.text();
        self.put(&mut request, 15, "instructions", instructions);
        let previous = self.id(&["resp_small", "resp_large"]);
        self.put(&mut request, 15, "previous_response_id", previous);
        let bound = self.output_bound();
        self.put(&mut request, 20, "max_output_tokens", bound);
        request
    }

    /// An id that exists, or one that does not.
    fn id(&mut self, known: &[&str]) -> String {
        match self.chance.within(0, 11) {
            0 => "nowhere".to_owned(),
            1 => "x".repeat(usize::try_from(self.sizes.text_max.min(10_000)).expect("a length")),
            _ => self.chance.one(known).to_owned(),
        }
    }
}
