//! Answers of /responses: the object and its events.

use serde_json::{Value, json};

use super::{Part, data, early_tier, error, said, usage};
use crate::ask::Ask;
use crate::outcome::{Call, CallsForm, End, Outcome};

/// The object at its end.
pub(super) fn object(outcome: &Outcome, ask: &Ask, id: &str) -> Value {
    let (status, details) = match outcome.end {
        End::Incomplete => ("incomplete", json!({ "reason": "max_output_tokens" })),
        End::Failed | End::FailedAtOnce => ("failed", Value::Null),
        _ => ("completed", Value::Null),
    };
    let output = if outcome.end == End::FailedAtOnce { Vec::new() } else { items(outcome) };
    let is_failed = status == "failed";
    let mut object = json!({
        "id": ask.endpoint.answer_id(id), "object": "response", "created_at": 1, "status": status, "model": outcome.model,
        "service_tier": outcome.tier.wire(), "output": output, "incomplete_details": details,
        "error": if is_failed { error("server_error") } else { Value::Null },
        "usage": usage(outcome, ask.endpoint),
    });
    if outcome.end == End::FailedAtOnce {
        object["usage"] = Value::Null;
    } else if outcome.report.calls == CallsForm::Both {
        object["tool_usage"] = tool_usage(outcome);
    }
    object
}

fn tool_usage(outcome: &Outcome) -> Value {
    let searches = outcome.calls.iter().filter(|call| **call == Call::Search).count();
    let drawn = outcome.drawn.as_ref().map(|(_, drawn)| *drawn).unwrap_or_default();
    let input = drawn.text_in + drawn.image_in;
    json!({
        "web_search": { "num_requests": searches },
        "image_gen": {
            "input_tokens": input,
            "input_tokens_details": { "image_tokens": drawn.image_in, "text_tokens": drawn.text_in },
            "output_tokens": drawn.image_out,
            "output_tokens_details": { "image_tokens": drawn.image_out, "text_tokens": 0 },
            "total_tokens": input + drawn.image_out,
        },
    })
}

/// Items of the output: the calls, then what was said.
fn items(outcome: &Outcome) -> Vec<Value> {
    let is_bare = outcome.report.calls == CallsForm::BareItems;
    let mut items: Vec<Value> = outcome
        .calls
        .iter()
        .enumerate()
        .map(|(at, call)| {
            let item = |kind: &str| json!({ "id": format!("it_{at}"), "type": kind, "status": "completed" });
            match call {
                Call::Search | Call::Page if is_bare => item("web_search_call"),
                Call::Search => {
                    let mut item = item("web_search_call");
                    item["action"] = json!({ "type": "search", "query": "weather" });
                    item
                }
                Call::Page => {
                    let mut item = item("web_search_call");
                    item["action"] = json!({ "type": "open_page", "url": "https://example.org" });
                    item
                }
                Call::File => item("file_search_call"),
                Call::Code(_) => {
                    let mut item = item("code_interpreter_call");
                    item["container_id"] = json!(outcome.container_of(at));
                    item
                }
                Call::Picture => {
                    let mut item = item("image_generation_call");
                    item["result"] = json!("aGVsbG8=");
                    item
                }
                Call::Mcp => item("mcp_call"),
            }
        })
        .collect();
    if let Some(function) = &outcome.function {
        items.push(json!({
            "id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": function,
            "arguments": said(outcome.words),
        }));
    } else if outcome.words > 0 {
        let content = json!([{ "type": "output_text", "text": said(outcome.words), "annotations": [] }]);
        items.push(json!({
            "id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": content,
        }));
    }
    items
}

/// Events from `response.created` to the end.
pub(super) fn events(outcome: &Outcome, ask: &Ask, id: &str) -> Vec<Part> {
    let mut events = Events { parts: Vec::new(), error_null: outcome.report.error_null };
    if outcome.end == End::FailedAtOnce {
        if outcome.report.error_null {
            events.failed(outcome, ask, id);
        } else {
            events.push("error", json!({ "code": "server_error", "message": "no", "param": null }), 0);
        }
        return events.parts;
    }
    let begun = json!({
        "id": ask.endpoint.answer_id(id), "object": "response", "created_at": 1, "status": "in_progress",
        "model": outcome.model, "service_tier": early_tier(outcome.tier), "output": [], "usage": null,
    });
    events.push("response.created", json!({ "response": begun }), 0);
    for (at, item) in items(outcome).into_iter().enumerate() {
        let mut started = item.clone();
        started["status"] = json!("in_progress");
        events.push("response.output_item.added", json!({ "output_index": at, "item": started }), 0);
        let deltas = match item["type"].as_str() {
            Some("message") => "response.output_text.delta",
            Some("function_call") => "response.function_call_arguments.delta",
            _ => "",
        };
        let stages = usize::from(deltas.is_empty());
        events.show(stages);
        if !deltas.is_empty() {
            for _ in 0..outcome.words {
                let delta = json!({ "item_id": item["id"], "output_index": at, "delta": " hello" });
                events.push(deltas, delta, 1);
            }
        }
        events.push("response.output_item.done", json!({ "output_index": at, "item": item }), 0);
        events.show(stages);
    }
    if outcome.end == End::Failed && outcome.report.crlf {
        events.push("error", json!({ "error": error("server_error") }), 0);
        return events.parts;
    }
    if outcome.end == End::Failed {
        events.failed(outcome, ask, id);
        return events.parts;
    }
    let mut last = object(outcome, ask, id);
    if outcome.report.calls == CallsForm::Stream {
        last["output"] = json!([]);
    }
    let kind = if outcome.end == End::Incomplete { "response.incomplete" } else { "response.completed" };
    events.push(kind, json!({ "response": last }), 0);
    events.parts
}

struct Events {
    parts: Vec<Part>,
    error_null: bool,
}

impl Events {
    fn push(&mut self, kind: &str, mut event: Value, words: u64) {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.parts.len());
        if self.error_null && kind != "error" {
            event["error"] = Value::Null;
        }
        let mut part = data(&event, words);
        part.text.insert_str(0, &format!("event: {kind}\n"));
        self.parts.push(part);
    }

    /// Says that the last event shows so many stages of the charge.
    fn show(&mut self, stages: usize) {
        self.parts.last_mut().expect("an event").stages = stages;
    }

    fn failed(&mut self, outcome: &Outcome, ask: &Ask, id: &str) {
        let mut last = object(outcome, ask, id);
        last["output"] = json!([]);
        self.push("response.failed", json!({ "response": last }), 0);
    }
}
