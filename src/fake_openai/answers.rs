//! The shapes of the fake's answers, as OpenAI's.

use serde_json::{Value, json};

use crate::fake_openai::Served;

const CREATED_S: u64 = 1_795_000_000;
const WORDS: [&str; 8] = [" spend", " less", " than", " you", " think", ",", " every", " day"];

/// The API that an answer is generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Chat,
    Completions,
    Responses,
    Compact,
    Decisions,
    InputTokens,
    Embeddings,
}

impl Api {
    pub(super) fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" => Self::Completions,
            "/v1/responses" => Self::Responses,
            "/v1/responses/compact" => Self::Compact,
            "/v1/responses/input_tokens" => Self::InputTokens,
            "/v1/decisions" => Self::Decisions,
            "/v1/embeddings" => Self::Embeddings,
            _ => return None,
        })
    }

    pub(super) const fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Completions => "cmpl-",
            Self::Responses | Self::Compact => "resp_",
            Self::InputTokens | Self::Embeddings | Self::Decisions => "",
        }
    }

    pub(super) const fn streams(self) -> bool {
        matches!(self, Self::Chat | Self::Completions | Self::Responses)
    }
}

/// An answer that is being generated.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) api: Api,
    pub(super) id: String,
    pub(super) model: String,
    pub(super) tier: String,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) with_usage: bool,
    pub(super) in_background: bool,
}

/// The filler word at a position of the text.
pub(super) fn word(at: u64) -> &'static str {
    let at = usize::try_from(at).unwrap_or(0);
    WORDS[at % WORDS.len()]
}

impl Made {
    pub(super) fn served(&self, completion_tokens: u64) -> Served {
        let requests = u64::from(self.api != Api::InputTokens);
        if requests == 0 {
            return Served::default();
        }
        Served {
            requests,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens,
        }
    }

    /// Usage in the shape of its endpoint; null if none is to be given.
    pub(super) fn usage(&self) -> Value {
        if !self.with_usage {
            return Value::Null;
        }
        let (input, cached, output) = (self.prompt_tokens, self.cached_tokens, self.completion_tokens);
        let total = input + output;
        match self.api {
            Api::Responses | Api::Compact | Api::Decisions => json!({
                "input_tokens": input,
                "input_tokens_details": { "cached_tokens": cached, "cache_write_tokens": 0 },
                "output_tokens": output,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": total,
            }),
            Api::Embeddings => json!({ "prompt_tokens": input, "total_tokens": input }),
            Api::Chat | Api::Completions | Api::InputTokens => json!({
                "prompt_tokens": input,
                "completion_tokens": output,
                "total_tokens": total,
                "prompt_tokens_details": { "cached_tokens": cached, "audio_tokens": 0 },
                "completion_tokens_details": { "reasoning_tokens": 0, "audio_tokens": 0 },
            }),
        }
    }

    fn text(&self) -> String {
        (0..self.completion_tokens).map(word).collect()
    }

    /// The whole answer, not streamed.
    pub(super) fn object(&self) -> Value {
        match self.api {
            Api::Chat => json!({
                "id": self.id, "object": "chat.completion", "created": CREATED_S, "model": self.model,
                "choices": [{ "index": 0, "message": { "role": "assistant", "content": self.text(), "refusal": null },
                    "logprobs": null, "finish_reason": "stop" }],
                "usage": self.usage(), "service_tier": self.tier, "system_fingerprint": "fp_fake",
            }),
            Api::Completions => json!({
                "id": self.id, "object": "text_completion", "created": CREATED_S, "model": self.model,
                "choices": [{ "index": 0, "text": self.text(), "logprobs": null, "finish_reason": "stop" }],
                "usage": self.usage(),
            }),
            Api::Responses => self.response("completed", &self.usage()),
            Api::Compact => json!({
                "id": self.id, "object": "response.compaction", "created_at": CREATED_S, "output": [],
                "usage": self.usage(),
            }),
            Api::Decisions => json!({
                "answers": [{ "type": "predicate", "name": null, "probability": 0.75 }],
                "model": self.model, "usage": self.usage(),
            }),
            Api::InputTokens => {
                json!({ "object": "response.input_tokens", "input_tokens": self.prompt_tokens })
            }
            Api::Embeddings => json!({
                "object": "list", "model": self.model, "usage": self.usage(),
                "data": [{ "object": "embedding", "index": 0, "embedding": [0.25, -0.5, 0.125, 0.0] }],
            }),
        }
    }

    /// The text of a response's message, as a part of it.
    pub(super) fn part(&self) -> Value {
        json!({ "type": "output_text", "text": self.text(), "annotations": [], "logprobs": [] })
    }

    /// The message of a response at its end.
    pub(super) fn message(&self) -> Value {
        let content = [self.part()];
        json!({ "type": "message", "id": "msg_fake", "status": "completed", "role": "assistant", "content": content })
    }

    /// A Responses object in a state.
    pub(super) fn response(&self, status: &str, usage: &Value) -> Value {
        let output = if status == "completed" { vec![self.message()] } else { Vec::new() };
        json!({
            "id": self.id, "object": "response", "created_at": CREATED_S, "status": status, "error": null,
            "incomplete_details": null, "instructions": null, "model": self.model, "output": output,
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "metadata": {},
            "service_tier": self.tier, "usage": usage,
        })
    }

    /// A chunk of a streamed chat or completion.
    pub(super) fn chunk(&self, delta: &Value, finish: Option<&str>) -> Value {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": CREATED_S, "model": self.model,
            "service_tier": self.tier, "system_fingerprint": "fp_fake",
            "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }],
        });
        if self.api == Api::Completions {
            let text = chunk["choices"][0]["delta"]["content"].clone();
            let text = if text.is_null() { json!("") } else { text };
            chunk["object"] = json!("text_completion");
            chunk["choices"] =
                json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }]);
        }
        chunk
    }
}

pub(super) fn models() -> Value {
    let model = |id: &str| json!({ "id": id, "object": "model", "created": CREATED_S, "owned_by": "fake" });
    let ids = ["gpt-4o-mini", "gpt-6.1-sol", "text-embedding-3-small"];
    json!({ "object": "list", "data": ids.map(model) })
}

pub(super) fn moderation() -> Value {
    let result = json!({ "flagged": false, "categories": {}, "category_scores": {} });
    json!({ "id": "modr-fake", "model": "omni-moderation-latest", "results": [result] })
}
