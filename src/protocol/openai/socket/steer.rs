//! Steering: further input for a response that runs. OpenAI ends that response where it can, and begins
//! one that continues it with the input, under the same settings.
//! (The types `ResponseSteerEvent` and `ResponseSteerFailedEvent` of OpenAI's SDKs.)

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::protocol::openai::json::{member, value_end};

/// The longest input that is shown to its client again, in bytes.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// What stands before the input that is written to the end of a request.
const APPENDED: &str = ",\"input\":";

/// Further input for a response that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// The id of that response; `None` if the message is not as OpenAI takes it.
    pub parent: Option<String>,
    /// What its refusal shows, in JSON.
    parent_shown: Box<str>,
    input: Box<str>,
}

/// A message as OpenAI takes it. What another field would mean is not known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exact<'a> {
    #[serde(rename = "type")]
    _kind: Cow<'a, str>,
    previous_response_id: String,
    #[serde(borrow, rename = "input")]
    _input: &'a RawValue,
}

impl Steer {
    /// Reads a message of the type `response.steer`.
    pub(super) fn read(message: &[u8], parent: Option<&RawValue>, input: Option<&RawValue>) -> Self {
        let shown = |value: Option<&RawValue>| value.map_or("null", RawValue::get).into();
        let exact = serde_json::from_slice::<Exact<'_>>(message).ok();
        Self {
            parent: exact.map(|exact| exact.previous_response_id),
            parent_shown: shown(parent),
            input: shown(input),
        }
    }

    /// The `response.create` that asks for the same as the response which OpenAI begins with the input
    /// after one that was asked for with `sent`. `None` if there is none: a response that belongs to a
    /// conversation can't be steered.
    pub fn continuation(&self, sent: &[u8]) -> Option<Bytes> {
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_slice(sent).ok()?;
        let has_conversation = fields.get("conversation").is_some_and(|value| value.get() != "null");
        if has_conversation {
            return None;
        }
        // It is for one request.
        fields.remove("generate");
        fields.insert("previous_response_id".to_owned(), serde_json::from_str(&self.parent_shown).ok()?);
        fields.insert("input".to_owned(), serde_json::from_str(&self.input).ok()?);
        serde_json::to_vec(&fields).ok().map(Bytes::from)
    }

    /// A request that continues the response, with the input before its own, as OpenAI joins the two.
    /// `None` if it is no object.
    pub fn before(&self, request: &[u8]) -> Option<Bytes> {
        let own = input_of(request);
        let items = [&*self.input, own.clone().map_or("null", |at| text(request, at))].map(items);
        let items: Vec<&str> = items.iter().map(|items| &**items).filter(|items| !items.is_empty()).collect();
        let joined = format!("[{}]", items.join(","));
        let end = request.trim_ascii_end().strip_suffix(b"}")?.len();
        let joined = match own {
            Some(at) => [&request[..at.start], joined.as_bytes(), &request[at.end..]].concat(),
            None => [&request[..end], APPENDED.as_bytes(), joined.as_bytes(), b"}"].concat(),
        };
        Some(joined.into())
    }

    /// The event that says that the input was not taken.
    pub fn failed(&self, code: &str, message: &str, lane: Option<&str>) -> String {
        let error = json!({ "type": "invalid_request_error", "code": code, "message": message });
        let lane = lane.map(|lane| format!(r#","stream_id":{}"#, Value::from(lane))).unwrap_or_default();
        let shown = |value: &str| if value.len() <= INPUT_BYTES_MAX { value } else { "null" }.to_owned();
        let (input, parent) = (shown(&self.input), shown(&self.parent_shown));
        format!(
            r#"{{"type":"response.steer.failed","sequence_number":0{lane},"error":{error},"steer":{{"input":{input},"previous_response_id":{parent}}}}}"#
        )
    }
}

/// A request that was made of `own` by [`Steer::before`], and then edited, with no input but its own.
pub fn with_own_input(edited: &[u8], own: &[u8]) -> Option<Bytes> {
    let at = input_of(edited)?;
    let (start, input) = match input_of(own) {
        Some(own_at) => (at.start, &own[own_at]),
        None => (at.start.checked_sub(APPENDED.len())?, &b""[..]),
    };
    Some([edited.get(..start)?, input, &edited[at.end..]].concat().into())
}

/// Where the input of a request stands.
fn input_of(request: &[u8]) -> Option<Range<usize>> {
    let start = member(request, b"input")?;
    Some(start..value_end(request, start))
}

fn text(request: &[u8], at: Range<usize>) -> &str {
    std::str::from_utf8(&request[at]).unwrap_or("null")
}

/// The items that stand for an input, without the brackets of an array.
fn items(input: &str) -> Cow<'_, str> {
    let array = input.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match array {
        Some(items) => items.trim_ascii().into(),
        None if input == "null" => "".into(),
        None if input.starts_with('"') => {
            format!(r#"{{"type":"message","role":"user","content":{input}}}"#).into()
        }
        None => input.into(),
    }
}

/// What upstream says has become of further input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFate {
    /// Upstream has it, for a response that it begins by itself.
    Accepted,
    /// It is kept for a request that continues the response.
    Queued,
    /// It does not become part of a response.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::super::{Asked, asked};
    use super::*;

    fn steer(message: &Value) -> Steer {
        match asked(message.to_string().as_bytes()) {
            Ok(Asked::Steer(steer)) => steer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_continuation_has_the_settings_of_what_it_continues() {
        let sent = json!({
            "type": "response.create", "model": "gpt-5", "input": "a", "stream_id": "x", "generate": false,
            "max_output_tokens": 40, "previous_response_id": "resp_0", "conversation": null,
        });
        let steer =
            steer(&json!({ "type": "response.steer", "previous_response_id": "resp_1", "input": ["b"] }));
        let next: Value =
            serde_json::from_slice(&steer.continuation(sent.to_string().as_bytes()).unwrap()).unwrap();
        let expected = json!({
            "type": "response.create", "model": "gpt-5", "input": ["b"], "stream_id": "x",
            "max_output_tokens": 40, "previous_response_id": "resp_1", "conversation": null,
        });
        assert_eq!(next, expected);
        let of_conversation = json!({ "model": "gpt-5", "conversation": { "id": "conv_1" } });
        assert_eq!(steer.continuation(of_conversation.to_string().as_bytes()), None);
    }

    #[test]
    fn input_stands_before_that_of_the_request_and_goes_out_of_it_again() {
        let of = |input: Value| {
            steer(&json!({ "type": "response.steer", "previous_response_id": "resp_1", "input": input }))
        };
        let message = |content: &str| json!({ "type": "message", "role": "user", "content": content });
        let call = json!({ "type": "function_call_output", "call_id": "c", "output": "}" });
        for (queued, own, expected) in [
            (json!("a \"b\""), json!("c"), json!([message("a \"b\""), message("c")])),
            (json!([message("a")]), json!([call, message("b")]), json!([message("a"), call, message("b")])),
            (json!([message("a")]), json!([]), json!([message("a")])),
            (json!("a"), Value::Null, json!([message("a")])),
            (json!("a"), json!(5), json!([message("a"), 5])),
        ] {
            let more = json!({ "type": "response.create", "instructions": "input", "input": own });
            for own in [
                more.to_string(),
                format!(r#"{{ "input" : {own} , "type":"response.create" }}"#),
                r#" {"type":"response.create"} "#.to_owned(),
            ] {
                let joined = of(queued.clone()).before(own.as_bytes()).unwrap();
                let read: Value = serde_json::from_slice(&joined).unwrap();
                if own.contains("input") {
                    assert_eq!(read["input"], expected, "{own}");
                }
                assert_eq!(
                    with_own_input(&joined, own.as_bytes()).unwrap().trim_ascii(),
                    own.trim().as_bytes()
                );
                let edited = String::from_utf8(joined.to_vec()).unwrap().replacen('{', r#"{"max":5,"#, 1);
                let sent = with_own_input(edited.as_bytes(), own.as_bytes()).unwrap();
                let mut expected: Value = serde_json::from_str(&own).unwrap();
                expected["max"] = json!(5);
                assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), expected);
            }
        }
        let joined = of(json!("a")).before(br#"{"type":"response.create"}"#).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&joined).unwrap()["input"], json!([message("a")]));
        assert_eq!(of(json!("a")).before(b"5"), None);
    }

    #[test]
    fn a_message_with_anything_else_steers_nothing() {
        let exact = json!({ "type": "response.steer", "previous_response_id": "resp_1", "input": "b" });
        assert_eq!(steer(&exact).parent.as_deref(), Some("resp_1"));
        for (name, value) in
            [("model", json!("gpt-5-pro")), ("stream_id", json!("x")), ("input", json!(null))]
        {
            let mut other = exact.clone();
            other[name] = value;
            let expected = (name == "input").then_some("resp_1");
            assert_eq!(steer(&other).parent.as_deref(), expected, "{other}");
        }
        for missing in ["previous_response_id", "input"] {
            let mut other = exact.clone();
            other.as_object_mut().unwrap().remove(missing);
            assert_eq!(steer(&other).parent, None, "{other}");
        }
    }

    #[test]
    fn a_refusal_shows_what_was_asked() {
        let failed = |message: &Value| {
            let event = steer(message).failed("c", "m \"quoted\"", Some("x"));
            serde_json::from_str::<Value>(&event).unwrap()
        };
        let event =
            failed(&json!({ "type": "response.steer", "previous_response_id": "resp_1", "input": ["a"] }));
        assert_eq!(event["steer"], json!({ "input": ["a"], "previous_response_id": "resp_1" }));
        assert_eq!(
            event["error"],
            json!({ "type": "invalid_request_error", "code": "c", "message": "m \"quoted\"" })
        );
        assert_eq!((&event["stream_id"], &event["type"]), (&json!("x"), &json!("response.steer.failed")));
        let large = failed(&json!({ "type": "response.steer", "input": "a".repeat(INPUT_BYTES_MAX) }));
        assert_eq!(large["steer"], json!({ "input": null, "previous_response_id": null }));
    }
}
