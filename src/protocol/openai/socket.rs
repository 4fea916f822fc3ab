//! Messages on a `WebSocket` of `/responses`.
//!
//! Each message is one event in JSON. Those of upstream are the events of an event stream without
//! its framing, so they are put into that framing for the readers of event streams, and taken out of
//! it afterwards. A client's `response.create` has the fields of a body of `POST /responses`.
//! `stream_id` names the lane of a response; the responses of a lane follow one another.
//! (The types `ResponsesClientEvent` and `ResponsesServerEvent` of OpenAI's SDKs.)

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::protocol::openai::request::{Invalid, InvalidKind};

/// The longest name of a lane, in bytes.
const LANE_BYTES_MAX: usize = 256;
/// The longest input that is shown to its client again, in bytes.
const INPUT_BYTES_MAX: usize = 1 << 20;
const DATA: &[u8] = b"data: ";
const END: &[u8] = b"\n\n";

/// The lane of a response; responses without `stream_id` have one in common.
pub type Lane = Option<Box<str>>;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A response.
    Create(Lane),
    /// That a response that runs goes on with other input.
    Steer,
    /// That a response that runs ends.
    Cancel,
}

#[derive(Deserialize)]
struct ClientEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    stream_id: Option<String>,
}

/// Reads what a client asks for with a message.
///
/// ```
/// use spendguard::protocol::openai::socket::{Asked, asked};
/// assert_eq!(asked(r#"{"type":"response.create","stream_id":"a"}"#), Ok(Asked::Create(Some("a".into()))));
/// assert!(asked(r#"{"type":"session.update"}"#).is_err());
/// ```
pub fn asked(message: &str) -> Result<Asked, Invalid> {
    let invalid =
        |message: &str, param| Invalid { message: message.to_owned(), param, kind: InvalidKind::Malformed };
    let event: ClientEvent<'_> = serde_json::from_str(message).map_err(|_| {
        invalid(
            "A message is a JSON object with the text 'type', each field once, and 'stream_id' as a text.",
            None,
        )
    })?;
    match event.kind.as_ref() {
        "response.create" => match event.stream_id {
            Some(lane) if lane.len() > LANE_BYTES_MAX => {
                Err(invalid("The 'stream_id' is too long.", Some("stream_id")))
            }
            lane => Ok(Asked::Create(lane.map(String::into_boxed_str))),
        },
        "response.steer" => Ok(Asked::Steer),
        "response.cancel" => Ok(Asked::Cancel),
        _ => Err(invalid(
            "The 'type' of a message is response.create, response.steer or response.cancel.",
            Some("type"),
        )),
    }
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// It has begun.
    Begun,
    /// It was not begun, with this status, or has ended with it.
    Refused(u16),
    /// It has ended.
    Ended,
    /// Anything else.
    #[default]
    Other,
}

#[derive(Deserialize)]
struct ServerEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    stream_id: Option<Box<str>>,
    status: Option<u16>,
}

/// Reads an event of upstream. One that can't be read says nothing.
pub fn event(message: &str) -> Event {
    let Ok(event) = serde_json::from_str::<ServerEvent<'_>>(message) else { return Event::default() };
    let says = match (event.kind.as_ref(), event.status) {
        ("response.created", _) => Says::Begun,
        ("error", Some(status @ 400..)) => Says::Refused(status),
        ("response.completed" | "response.incomplete" | "response.failed" | "error", _) => Says::Ended,
        _ => Says::Other,
    };
    Event { lane: event.stream_id, says }
}

/// A message as an event of an event stream. Line ends in it stand between the tokens of its JSON,
/// and become spaces.
pub fn framed(message: &str) -> Bytes {
    let mut event = BytesMut::with_capacity(DATA.len() + message.len() + END.len());
    event.extend_from_slice(DATA);
    event.extend_from_slice(message.as_bytes());
    for byte in &mut event[DATA.len()..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    event.extend_from_slice(END);
    event.freeze()
}

/// A message that was in the frame of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// The message.
    pub message: Bytes,
    /// Whether the guard has made the event: those have a name, and [`framed`] gives none.
    pub is_own: bool,
}

/// Takes messages out of the events of an event stream, as [`framed`] and the guard write them.
#[derive(Debug, Default)]
pub struct Messages {
    partial: BytesMut,
}

impl Messages {
    /// Takes a part of the stream; returns the messages that are whole with it.
    pub fn feed(&mut self, part: &Bytes) -> Vec<Framed> {
        let is_one_event = || memmem::find(part, END).is_some_and(|end| end + END.len() == part.len());
        if self.partial.is_empty() && is_one_event() {
            return vec![unframed(part)];
        }
        self.partial.extend_from_slice(part);
        let mut whole = Vec::new();
        while let Some(end) = memmem::find(&self.partial, END) {
            whole.push(unframed(&self.partial.split_to(end + END.len()).freeze()));
        }
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

/// An `error` event of an answer to a `response.create`: its status, its headers, and its body, which
/// is an error of OpenAI's.
pub fn error_event<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: &[u8],
    lane: Option<&str>,
) -> String {
    let mut body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    if body.get("type").is_some_and(|kind| kind == "error") {
        return Value::Object(body).to_string();
    }
    let mut error = match body.remove("error") {
        Some(Value::Object(error)) => error,
        _ => Map::from_iter([
            ("message".to_owned(), json!("The upstream API has answered with an error.")),
            ("type".to_owned(), json!("server_error")),
            ("param".to_owned(), Value::Null),
            ("code".to_owned(), Value::Null),
        ]),
    };
    let headers: Map<String, Value> = headers.map(|(name, value)| (name.to_owned(), json!(value))).collect();
    error.insert("headers".to_owned(), Value::Object(headers));
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

/// The event that refuses to steer a response.
pub fn steer_failed(message: &str) -> String {
    let asked: Value = serde_json::from_str(message).unwrap_or_default();
    let input = Some(&asked["input"]).filter(|_| message.len() <= INPUT_BYTES_MAX);
    json!({
        "type": "response.steer.failed",
        "sequence_number": 0,
        "error": {
            "type": "invalid_request_error",
            "code": "steering_not_supported",
            "message": "spendguard does not pass on steering. Send the input with the next response.create.",
        },
        "steer": { "input": input, "previous_response_id": asked["previous_response_id"] },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let twice = [&event[..cut], &event[cut..], &event].map(str::to_owned);
            assert_eq!(messages(&[&twice[0], &twice[1], &twice[2]]), [message, message], "{cut}");
        }
        let own = Messages::default().feed(&Bytes::from_static(b"event: error\ndata: {}\n\n"));
        assert_eq!(own, [Framed { message: "{}".into(), is_own: true }]);
        assert!(!Messages::default().feed(&framed("{}"))[0].is_own);
        assert_eq!(messages(&[std::str::from_utf8(&framed("{\r\n\"a\":\n1}")).unwrap()]), ["{  \"a\": 1}"]);
    }

    #[test]
    fn events_say_what_became_of_their_response() {
        let lane = || Some("a".into());
        for (message, expected) in [
            (r#"{"type":"response.created","stream_id":"a"}"#, Event { lane: lane(), says: Says::Begun }),
            (r#"{"stream_id":"a","type":"response.completed"}"#, Event { lane: lane(), says: Says::Ended }),
            (r#"{"type":"response.failed"}"#, Event { lane: None, says: Says::Ended }),
            (r#"{"type":"error","status":429,"error":{}}"#, Event { lane: None, says: Says::Refused(429) }),
            (
                r#"{"type":"error","message":"m","sequence_number":3}"#,
                Event { lane: None, says: Says::Ended },
            ),
            (r#"{"type":"response.output_text.delta"}"#, Event::default()),
            ("[", Event::default()),
        ] {
            assert_eq!(event(message), expected, "{message}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_unknown_is_asked_for_by_no_client() {
        for message in [
            "",
            "[]",
            r#"{"model":"gpt-5"}"#,
            r#"{"type":"response.create","type":"response.cancel"}"#,
            r#"{"type":"response.create","stream_id":5}"#,
            r#"{"type":"response.created"}"#,
            r#"{"type":null}"#,
        ] {
            assert!(asked(message).is_err(), "{message}");
        }
        assert_eq!(asked(r#"{"type":"response.create"}"#), Ok(Asked::Create(None)));
        assert_eq!(asked(r#"{"type":"response\u002ecreate","stream_id":null}"#), Ok(Asked::Create(None)));
        let long = format!(r#"{{"type":"response.create","stream_id":"{}"}}"#, "a".repeat(257));
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
        let own = br#"{"type":"error","status":400,"error":{"message":"m"}}"#;
        let kept: Value = serde_json::from_str(&error_event(400, std::iter::empty(), own, None)).unwrap();
        assert_eq!(kept, serde_json::from_slice::<Value>(own).unwrap(), "upstream's passes as it is");
        assert!(error_event(502, std::iter::empty(), b"<html>", None).contains("server_error"));
        assert_eq!(in_lane(Bytes::from_static(b"{\"a\":1}"), Some("x\"")), r#"{"stream_id":"x\"","a":1}"#);
        assert_eq!(in_lane(Bytes::from_static(b"{\"a\":1}"), None), r#"{"a":1}"#);
    }
}
