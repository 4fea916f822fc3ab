//! Messages on a `WebSocket` of `/responses`.
//!
//! Each message is one event in JSON. Those of upstream are the events of an event stream without
//! its framing, so they are put into that framing for the readers of event streams, and taken out of
//! it afterwards. A client's `response.create` has the fields of a body of `POST /responses`.
//! `stream_id` names the lane of a response; the responses of a lane follow one another.
//! (The types `ResponsesClientEvent` and `ResponsesServerEvent` of OpenAI's SDKs.)

mod steer;

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::protocol::openai::request::{Invalid, InvalidKind};

pub use self::steer::{InputFate, Steer, with_own_input};

/// The longest name of a lane, in bytes.
const LANE_BYTES_MAX: usize = 64;
const DATA: &[u8] = b"data: ";
const END: &[u8] = b"\n\n";
/// The headers of an upstream's error that say nothing of its account.
const ERROR_HEADERS: [&str; 6] = [
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-request-id",
    "openai-processing-ms",
    "openai-version",
];
const RATE_HEADERS: &str = "x-ratelimit-";

/// The lane of a response; responses without `stream_id` have one in common.
pub type Lane = Option<Box<str>>;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A response.
    Create {
        /// Its lane.
        lane: Lane,
        /// The response that it continues.
        previous: Option<String>,
    },
    /// That a response that runs is continued with further input.
    Steer(Steer),
}

#[derive(Deserialize)]
struct ClientEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    stream_id: Option<String>,
    #[serde(borrow)]
    previous_response_id: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// Reads what a client asks for with a message.
///
/// ```
/// use spendguard::protocol::openai::socket::{Asked, asked};
/// let create = br#"{"type":"response.create","stream_id":"a"}"#;
/// assert_eq!(asked(create), Ok(Asked::Create { lane: Some("a".into()), previous: None }));
/// assert!(asked(br#"{"type":"session.update"}"#).is_err());
/// ```
pub fn asked(message: &[u8]) -> Result<Asked, Invalid> {
    let invalid =
        |message: &str, param| Invalid { message: message.to_owned(), param, kind: InvalidKind::Malformed };
    let event: ClientEvent<'_> = serde_json::from_slice(message).map_err(|_| {
        invalid(
            "A message is a JSON object with the text 'type', each field once, and 'stream_id' as a text.",
            None,
        )
    })?;
    match event.kind.as_ref() {
        "response.create" => match event.stream_id {
            Some(lane) if !is_lane(&lane) => Err(invalid(
                "A 'stream_id' has 1 to 64 letters, digits and characters of '_-.:'.",
                Some("stream_id"),
            )),
            lane => Ok(Asked::Create {
                lane: lane.map(String::into_boxed_str),
                previous: event.previous_response_id.and_then(|id| serde_json::from_str(id.get()).ok()),
            }),
        },
        "response.steer" => Ok(Asked::Steer(Steer::read(message, event.previous_response_id, event.input))),
        _ => Err(invalid("The 'type' of a message is response.create or response.steer.", Some("type"))),
    }
}

/// Names that no reader writes in another way.
fn is_lane(name: &str) -> bool {
    (1..=LANE_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte))
}

/// What the guard has to know of an event of upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its lane.
    pub lane: Lane,
    /// What it says of a response.
    pub says: Says,
}

/// What an event says of the response of its lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// It has begun, and has this id.
    Begun(Option<String>),
    /// It goes on.
    Running,
    /// It has ended, well or badly; its id.
    Ended(Option<String>),
    /// An error, with the status that HTTP would have if it answers a request.
    Error(Option<u16>),
    /// What has become of further input for the response of this id.
    Input(InputFate, String),
    /// Nothing.
    #[default]
    Nothing,
}

#[derive(Deserialize)]
struct ServerEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    stream_id: Option<Box<str>>,
    status: Option<u16>,
    response: Option<Named>,
    steer: Option<Steered>,
    #[serde(borrow)]
    reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named {
    id: Option<String>,
}

#[derive(Deserialize)]
struct Steered {
    previous_response_id: Option<String>,
}

/// Reads an event of upstream. One that can't be read says nothing.
pub fn event(message: &str) -> Event {
    let Ok(event) = serde_json::from_str::<ServerEvent<'_>>(message) else { return Event::default() };
    let id = event.response.and_then(|response| response.id);
    let reason: Option<String> = event.reason.and_then(|reason| serde_json::from_str(reason.get()).ok());
    // For another reason it may become part of a response that upstream begins by itself.
    let is_queued = reason.is_some_and(|reason| reason == "waiting_for_required_input");
    let pending = if is_queued { InputFate::Queued } else { InputFate::Accepted };
    let input = |fate| {
        let parent = event.steer.and_then(|steer| steer.previous_response_id);
        parent.map_or(Says::Nothing, |parent| Says::Input(fate, parent))
    };
    let says = match event.kind.as_ref() {
        "response.created" => Says::Begun(id),
        "response.completed" | "response.incomplete" | "response.failed" => Says::Ended(id),
        "error" => Says::Error(event.status.filter(|status| *status >= 400)),
        "response.steer.accepted" => input(InputFate::Accepted),
        "response.steer.pending" => input(pending),
        "response.steer.failed" => input(InputFate::Failed),
        kind if kind.starts_with("response.") => Says::Running,
        _ => Says::Nothing,
    };
    Event { lane: event.stream_id, says }
}

/// Adds a message to an event stream, as an event. Line ends in it stand between the tokens of its JSON,
/// and become spaces.
pub fn frame(message: &str, stream: &mut BytesMut) {
    stream.reserve(DATA.len() + message.len() + END.len());
    stream.extend_from_slice(DATA);
    let start = stream.len();
    stream.extend_from_slice(message.as_bytes());
    for byte in &mut stream[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    stream.extend_from_slice(END);
}

/// A message that was in the frame of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// The message.
    pub message: Bytes,
    /// Whether the guard has made the event: those have a name, and [`frame`] gives none.
    pub is_own: bool,
}

/// Takes messages out of the events of an event stream, as [`frame`] and the guard write them.
#[derive(Debug, Default)]
pub struct Messages {
    partial: Bytes,
}

impl Messages {
    /// Takes a part of the stream; returns the messages that are whole with it.
    pub fn feed(&mut self, part: &Bytes) -> Vec<Framed> {
        let mut rest = std::mem::take(&mut self.partial);
        rest = if rest.is_empty() { part.clone() } else { [rest, part.clone()].concat().into() };
        let mut whole = Vec::new();
        while let Some(end) = memmem::find(&rest, END) {
            whole.push(unframed(&rest.split_to(end + END.len())));
        }
        self.partial = rest;
        whole
    }
}

/// The message in an event: its one line of data.
fn unframed(event: &Bytes) -> Framed {
    let mut lines = event.split(|byte| *byte == b'\n');
    let data = lines.find_map(|line| line.strip_prefix(DATA));
    let message = data.map(|data| event.slice_ref(data)).unwrap_or_default();
    Framed { message, is_own: !event.starts_with(DATA) }
}

/// An `error` event of upstream without the headers that may name its account.
pub fn cleaned(message: &str) -> String {
    let mut event: Value = serde_json::from_str(message).unwrap_or_default();
    if let Some(Value::Object(headers)) = event.get_mut("error").and_then(|error| error.get_mut("headers")) {
        headers.retain(|name, _| {
            let name = name.to_ascii_lowercase();
            ERROR_HEADERS.contains(&name.as_str()) || name.starts_with(RATE_HEADERS)
        });
    }
    event.to_string()
}

/// An `error` event of an answer to a `response.create`: its status, its headers, and its body, which
/// is an error of OpenAI's or such an event already.
pub fn error_event<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: &[u8],
    lane: Option<&str>,
) -> String {
    let mut body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let mut error = match body.remove("error") {
        Some(Value::Object(error)) => error,
        _ => Map::from_iter([
            ("message".to_owned(), json!("The upstream API has answered with an error.")),
            ("type".to_owned(), json!("server_error")),
            ("param".to_owned(), Value::Null),
            ("code".to_owned(), Value::Null),
        ]),
    };
    let mut all: Map<String, Value> = headers.map(|(name, value)| (name.to_owned(), json!(value))).collect();
    if let Some(Value::Object(more)) = error.remove("headers") {
        all.extend(more);
    }
    error.insert("headers".to_owned(), Value::Object(all));
    let mut event = json!({ "type": "error", "status": status, "error": error });
    if let Some(lane) = lane {
        event["stream_id"] = json!(lane);
    }
    event.to_string()
}

/// An event that the guard has made, with the lane of its response.
pub fn in_lane(message: Bytes, lane: Option<&str>) -> Bytes {
    let Some((lane, rest)) = lane.zip(message.strip_prefix(b"{")) else { return message };
    let lane = Value::from(lane).to_string();
    [b"{\"stream_id\":", lane.as_bytes(), b",", rest].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &str) -> Bytes {
        let mut stream = BytesMut::new();
        frame(message, &mut stream);
        stream.freeze()
    }

    fn messages(parts: &[&str]) -> Vec<String> {
        let mut messages = Messages::default();
        let fed = parts.iter().flat_map(|part| messages.feed(&Bytes::copy_from_slice(part.as_bytes())));
        fed.map(|framed| String::from_utf8(framed.message.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_message_comes_out_of_its_frame_as_it_went_in() {
        let message = r#"{"type":"response.output_text.delta","delta":"a\nb \"data: \""}"#;
        let event = String::from_utf8(framed(message).to_vec()).unwrap();
        assert_eq!(messages(&[&event]), [message]);
        for cut in 1..event.len() {
            assert_eq!(messages(&[&event[..cut], &event[cut..], &event]), [message, message], "{cut}");
        }
        let own = Messages::default().feed(&Bytes::from_static(b"event: error\ndata: {}\n\n"));
        assert_eq!(own, [Framed { message: "{}".into(), is_own: true }]);
        assert!(!Messages::default().feed(&framed("{}"))[0].is_own);
        assert_eq!(messages(&[std::str::from_utf8(&framed("{\r\n\"a\":\n1}")).unwrap()]), ["{  \"a\": 1}"]);
    }

    #[test]
    fn events_say_what_became_of_their_response() {
        let (lane, id) = (|| Some("a".into()), || Some("resp_1".to_owned()));
        for (message, expected) in [
            (
                r#"{"type":"response.created","stream_id":"a","response":{"id":"resp_1","output":[]}}"#,
                Event { lane: lane(), says: Says::Begun(id()) },
            ),
            (
                r#"{"stream_id":"a","type":"response.completed"}"#,
                Event { lane: lane(), says: Says::Ended(None) },
            ),
            (
                r#"{"type":"response.failed","response":{"id":"resp_1"}}"#,
                Event { lane: None, says: Says::Ended(id()) },
            ),
            (
                r#"{"type":"error","status":429,"error":{}}"#,
                Event { lane: None, says: Says::Error(Some(429)) },
            ),
            (
                r#"{"type":"error","message":"m","sequence_number":3}"#,
                Event { lane: None, says: Says::Error(None) },
            ),
            (r#"{"type":"response.output_text.delta"}"#, Event { lane: None, says: Says::Running }),
            (
                r#"{"type":"response.steer.pending","stream_id":"a","steer":{"id":"s","previous_response_id":"resp_1"},"reason":"waiting_for_required_input"}"#,
                Event { lane: lane(), says: Says::Input(InputFate::Queued, "resp_1".to_owned()) },
            ),
            (
                r#"{"type":"response.steer.pending","steer":{"previous_response_id":"resp_1"},"reason":"other"}"#,
                Event { lane: None, says: Says::Input(InputFate::Accepted, "resp_1".to_owned()) },
            ),
            (r#"{"type":"rate_limits.updated"}"#, Event::default()),
            ("[", Event::default()),
        ] {
            assert_eq!(event(message), expected, "{message}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_unknown_is_asked_for_by_no_client() {
        let asked = |message: &str| asked(message.as_bytes());
        for message in [
            "",
            "[]",
            r#"{"model":"gpt-5"}"#,
            r#"{"type":"response.create","type":"response.create"}"#,
            r#"{"type":"response.create","stream_id":5}"#,
            r#"{"type":"response.create","stream_id":""}"#,
            r#"{"type":"response.create","stream_id":" a"}"#,
            r#"{"type":"response.created"}"#,
            r#"{"type":"response.cancel"}"#,
            r#"{"type":null}"#,
        ] {
            assert!(asked(message).is_err(), "{message}");
        }
        let plain = Asked::Create { lane: None, previous: None };
        assert_eq!(asked(r#"{"type":"response.create"}"#), Ok(plain.clone()));
        assert_eq!(asked(r#"{"type":"response\u002ecreate","stream_id":null}"#), Ok(plain));
        let follows = Asked::Create { lane: None, previous: Some("resp_1".to_owned()) };
        assert_eq!(asked(r#"{"type":"response.create","previous_response_id":"resp\u005f1"}"#), Ok(follows));
        let long = format!(r#"{{"type":"response.create","stream_id":"{}"}}"#, "a".repeat(65));
        assert_eq!(asked(&long).unwrap_err().param, Some("stream_id"));
    }

    #[test]
    fn errors_have_the_status_the_headers_and_the_lane() {
        let body = br#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#;
        let event = error_event(429, [("retry-after", "1")].into_iter(), body, Some("a"));
        let expected = json!({
            "type": "error", "status": 429, "stream_id": "a",
            "error": { "message": "m", "type": "t", "param": null, "code": "c", "headers": { "retry-after": "1" } },
        });
        assert_eq!(serde_json::from_str::<Value>(&event).unwrap(), expected);
        let own = json!({
            "type": "error", "status": 400,
            "error": { "message": "m", "headers": { "Set-Cookie": "a", "x-request-id": "r", "openai-organization": "acme" } },
        });
        let cleaned = cleaned(&own.to_string());
        let event = error_event(400, [("a", "b")].into_iter(), cleaned.as_bytes(), None);
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["error"], json!({ "message": "m", "headers": { "a": "b", "x-request-id": "r" } }));
        assert!(error_event(502, std::iter::empty(), b"<html>", None).contains("server_error"));
        assert_eq!(in_lane(Bytes::from_static(b"{\"a\":1}"), Some("x")), r#"{"stream_id":"x","a":1}"#);
        assert_eq!(in_lane(Bytes::from_static(b"{\"a\":1}"), None), r#"{"a":1}"#);
    }
}
