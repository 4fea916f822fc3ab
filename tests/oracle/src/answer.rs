//! The bytes that upstream sends for an outcome, odd forms included.

use serde_json::{Value, json};

use crate::ask::Ask;
use crate::outcome::{End, Outcome, UsageForm, UsagePlace};
use crate::prices::Tier;
use crate::world::Endpoint;

mod responses;

/// One part of an answer that is sent at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its text.
    pub text: String,
    /// Words of the answer that it shows.
    pub words: u64,
    /// Stages of the charge that it shows: calls that begin, or have been answered.
    pub stages: usize,
}

/// An answer; none of its parts are sent if the connection is lost before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Content type.
    pub content_type: &'static str,
    /// Body.
    pub parts: Vec<Part>,
    /// Whether the connection breaks after the last part.
    pub is_cut: bool,
}

/// Answer to a request of that id.
pub fn answer(outcome: &Outcome, ask: &Ask, id: &str) -> Answer {
    let whole = |status, content_type, text: String| Answer {
        status,
        content_type,
        parts: vec![Part { text, words: outcome.words, stages: 0 }],
        is_cut: false,
    };
    match outcome.end {
        End::Lost => Answer { status: 200, content_type: "", parts: Vec::new(), is_cut: true },
        End::Gateway => whole(504, "text/html", "<html><h1>504 Gateway Time-out</h1></html>".to_owned()),
        End::Rejected => {
            let error = error("context_length_exceeded");
            whole(400, "application/json", json!({ "error": error }).to_string())
        }
        _ if ask.stream => streamed(outcome, ask, id),
        end => {
            let mut text = object(outcome, ask, id).to_string();
            if end == End::Cut {
                let share = usize::try_from(outcome.cut_percent).expect("a share");
                text.truncate(text.len() * share / 100);
            }
            Answer { is_cut: end == End::Cut, ..whole(200, "application/json", text) }
        }
    }
}

fn error(code: &str) -> Value {
    json!({ "message": "no", "type": "invalid_request_error", "param": null, "code": code })
}

fn object(outcome: &Outcome, ask: &Ask, id: &str) -> Value {
    match ask.endpoint {
        Endpoint::Chat | Endpoint::Completions => chat(outcome, ask, id),
        Endpoint::Responses => responses::object(outcome, ask, id),
        Endpoint::Compact => json!({
            "id": ask.endpoint.answer_id(id), "object": "response.compaction", "created_at": 1, "model": outcome.model,
            "service_tier": outcome.tier.wire(),
            "output": [{ "id": "cmp_1", "type": "compaction", "encrypted_content": said(outcome.words) }],
            "usage": usage(outcome, ask.endpoint),
        }),
        Endpoint::Embeddings => {
            let mut object = json!({
                "object": "list", "model": outcome.model,
                "data": [{ "object": "embedding", "index": 0, "embedding": [0.25] }],
            });
            if outcome.report.usage != UsageForm::Absent {
                object["usage"] =
                    json!({ "prompt_tokens": outcome.used.input, "total_tokens": outcome.used.input });
            }
            object
        }
    }
}

fn said(words: u64) -> String {
    vec!["hello"; usize::try_from(words).expect("few words")].join(" ")
}

/// Words of each choice.
fn shares(outcome: &Outcome, ask: &Ask) -> Vec<u64> {
    let count = ask.choices.saturating_mul(ask.prompts).clamp(1, 8);
    (0..count).map(|at| outcome.words / count + u64::from(at < outcome.words % count)).collect()
}

fn chat(outcome: &Outcome, ask: &Ask, id: &str) -> Value {
    let is_chat = ask.endpoint == Endpoint::Chat;
    let choices: Vec<Value> = shares(outcome, ask)
        .into_iter()
        .enumerate()
        .map(|(index, words)| {
            let text = said(words);
            if let Some(function) = &outcome.function {
                let call = json!({ "id": "call_1", "type": "function", "function": { "name": function, "arguments": text } });
                let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
                json!({ "index": index, "message": message, "finish_reason": "tool_calls" })
            } else if is_chat {
                let message = json!({ "role": "assistant", "content": text });
                json!({ "index": index, "message": message, "finish_reason": "stop" })
            } else {
                json!({ "index": index, "text": text, "finish_reason": "stop" })
            }
        })
        .collect();
    let object = if is_chat { "chat.completion" } else { "text_completion" };
    let mut object = json!({
        "id": ask.endpoint.answer_id(id), "object": object, "created": 1, "model": outcome.model,
        "service_tier": outcome.tier.wire(), "choices": choices,
    });
    if outcome.report.usage != UsageForm::Absent {
        object["usage"] = usage(outcome, ask.endpoint);
    }
    object
}

/// Usage in the form of the report.
fn usage(outcome: &Outcome, endpoint: Endpoint) -> Value {
    let (used, form) = (outcome.used, outcome.report.usage);
    if form == UsageForm::Absent {
        return Value::Null;
    }
    let number = |count: u64| if count == 0 && form == UsageForm::Nulls { Value::Null } else { json!(count) };
    let total = used.input + used.output;
    let is_chat = matches!(endpoint, Endpoint::Chat | Endpoint::Completions);
    let mut input = json!({ "cached_tokens": number(used.cached), "cache_write_tokens": number(used.write) });
    let mut output = json!({ "reasoning_tokens": number(used.reasoning) });
    let shown = if form == UsageForm::InTotal { used.output - used.reasoning } else { used.output };
    let mut usage = if is_chat {
        input["audio_tokens"] = number(used.audio_in);
        output["audio_tokens"] = number(used.audio_out);
        output["rejected_prediction_tokens"] = number(used.rejected);
        json!({ "prompt_tokens": used.input, "completion_tokens": shown, "total_tokens": total })
    } else {
        if outcome.report.write_details {
            let (short, long) = if outcome.ttl_12h { (0, used.write) } else { (used.write, 0) };
            input["cache_write_tokens_details"] = json!({ "ttl_30m_tokens": short, "ttl_12h_tokens": long });
        }
        json!({ "input_tokens": used.input, "output_tokens": shown, "total_tokens": total })
    };
    if form != UsageForm::Bare {
        let names = if is_chat { ["prompt", "completion"] } else { ["input", "output"] };
        usage[format!("{}_tokens_details", names[0])] = input;
        usage[format!("{}_tokens_details", names[1])] = output;
    }
    usage
}

/// Events of a stream, cut where the outcome says.
fn streamed(outcome: &Outcome, ask: &Ask, id: &str) -> Answer {
    let mut parts = match ask.endpoint {
        Endpoint::Responses => responses::events(outcome, ask, id),
        _ => chunks(outcome, ask, id),
    };
    let is_cut = outcome.end == End::Cut;
    if is_cut {
        let share = usize::try_from(outcome.cut_percent).expect("a share");
        parts.truncate(parts.len() * share / 100);
    }
    if outcome.report.crlf {
        for part in &mut parts {
            part.text = format!(": keep-alive\r\n\r\n{}", part.text.replace('\n', "\r\n"));
        }
    }
    Answer { status: 200, content_type: "text/event-stream; charset=utf-8", parts, is_cut }
}

fn data(value: &Value, words: u64) -> Part {
    Part { text: format!("data: {value}\n\n"), words, stages: 0 }
}

struct Chunks<'a> {
    outcome: &'a Outcome,
    ask: &'a Ask,
    id: &'a str,
    sent: usize,
}

impl Chunks<'_> {
    fn chunk(&mut self, choices: &Value, words: u64) -> Value {
        let is_chat = self.ask.endpoint == Endpoint::Chat;
        let object = if is_chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = json!({
            "id": self.ask.endpoint.answer_id(self.id), "object": object, "created": 1, "model": self.outcome.model,
            "choices": choices,
        });
        let report = self.outcome.report;
        if report.error_null {
            chunk["error"] = Value::Null;
        }
        match (report.tier_early, self.sent) {
            (true, 0) => chunk["service_tier"] = Value::Null,
            (true, 1) | (false, _) => chunk["service_tier"] = json!(self.outcome.tier.wire()),
            (true, _) => {}
        }
        if self.ask.usage_asked && report.usage != UsageForm::Absent {
            chunk["usage"] = Value::Null;
            if report.place == UsagePlace::Each {
                // What was used so far; the last one counts.
                chunk["usage"] = usage(self.outcome, self.ask.endpoint);
                chunk["usage"]["completion_tokens"] = json!(words);
                chunk["usage"]["total_tokens"] = json!(self.outcome.used.input + words);
            }
        }
        self.sent += 1;
        chunk
    }
}

fn chunks(outcome: &Outcome, ask: &Ask, id: &str) -> Vec<Part> {
    let is_chat = ask.endpoint == Endpoint::Chat;
    let delta = |index: usize, text: &str, finish: Option<&str>| {
        if outcome.function.is_some() {
            let delta = json!({ "tool_calls": [{ "index": 0, "function": { "arguments": text } }] });
            json!([{ "index": index, "delta": delta, "finish_reason": finish }])
        } else if is_chat {
            json!([{ "index": index, "delta": { "content": text }, "finish_reason": finish }])
        } else {
            json!([{ "index": index, "text": text, "finish_reason": finish }])
        }
    };
    let finish = if outcome.function.is_some() { "tool_calls" } else { "stop" };
    let failed = data(&json!({ "error": error("server_error") }), 0);
    if outcome.end == End::FailedAtOnce {
        return vec![failed];
    }
    let mut chunks = Chunks { outcome, ask, id, sent: 0 };
    let begun = |at| match &outcome.function {
        Some(function) if at == 0 => {
            let call = json!({ "index": 0, "id": "call_1", "type": "function", "function": { "name": function, "arguments": "" } });
            json!([{ "index": 0, "delta": { "tool_calls": [call] }, "finish_reason": null }])
        }
        _ => delta(0, "", None),
    };
    let mut parts: Vec<Part> = (0..2).map(|at| data(&chunks.chunk(&begun(at), 0), 0)).collect();
    let mut so_far = 0;
    for (index, words) in shares(outcome, ask).into_iter().enumerate() {
        for _ in 0..words {
            so_far += 1;
            parts.push(data(&chunks.chunk(&delta(index, " hello", None), so_far), 1));
        }
    }
    if outcome.end == End::Failed {
        parts.push(failed);
        return parts;
    }
    let has_usage = ask.usage_asked && outcome.report.usage != UsageForm::Absent;
    let mut last = chunks.chunk(&delta(0, "", Some(finish)), so_far);
    if has_usage && outcome.report.place != UsagePlace::Last {
        last["usage"] = usage(outcome, ask.endpoint);
    }
    parts.push(data(&last, 0));
    if has_usage && outcome.report.place == UsagePlace::Last {
        let mut last = chunks.chunk(&json!([]), so_far);
        last["usage"] = usage(outcome, ask.endpoint);
        parts.push(data(&last, 0));
    }
    parts.push(Part { text: "data: [DONE]\n\n".to_owned(), words: 0, stages: 0 });
    parts
}

/// What an answer asks to be shown of its tier: early events repeat what was asked.
fn early_tier(tier: Tier) -> &'static str {
    if tier == Tier::Standard { "default" } else { "auto" }
}
