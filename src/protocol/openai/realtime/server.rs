//! What upstream says of a session.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What an event of upstream says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerEvent {
    /// The settings of the session when it begins, as a session object.
    Created(Value),
    /// The settings after an update.
    Updated(Value),
    /// A response has begun.
    Begun(Begun),
    /// A response goes on; its id.
    Goes(String),
    /// A response has ended, well or badly.
    Ended {
        /// Its id.
        id: String,
        /// The response object.
        response: String,
    },
    /// Speech has begun, so many milliseconds after the first sound of the session; what was sent
    /// before is dropped.
    SpeechBegan(u64),
    /// Speech has ended at such a time.
    SpeechEnded(u64),
    /// The sound so far is the item with this id.
    Committed(String),
    /// The sound so far is dropped.
    Cleared,
    /// The sound of an item is written down: its id, and the usage.
    Transcribed(String, String),
    /// The sound of an item can't be written down.
    Untranscribed(String),
    /// An error, and the client's name of the message that caused it.
    Error(Option<String>),
    /// Nothing that a cost depends on.
    #[default]
    Other,
}

/// A response that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its id.
    pub id: String,
    /// Its output bound, where the event has it: `Some(None)` is the model's maximum.
    pub output_max: Option<Option<u64>>,
    /// Whether what it reads and writes is of the conversation of the session.
    pub joins: bool,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    session: Option<Value>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    response_id: Option<String>,
    item_id: Option<String>,
    audio_start_ms: Option<u64>,
    audio_end_ms: Option<u64>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response {
    id: Option<String>,
    max_output_tokens: Option<Value>,
    /// Absent, null, or an id.
    #[serde(default, deserialize_with = "given")]
    conversation_id: Option<Value>,
}

#[derive(Deserialize)]
struct Fault {
    event_id: Option<String>,
}

/// A field that may be given as null.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Reads an event of upstream. One that can't be read says nothing.
pub fn server_event(message: &str) -> ServerEvent {
    let Ok(event) = serde_json::from_str::<Event<'_>>(message) else { return ServerEvent::Other };
    let item = || event.item_id.clone().unwrap_or_default();
    let response = || event.response.and_then(|raw| serde_json::from_str::<Response>(raw.get()).ok());
    match event.kind.as_ref() {
        "session.created" => ServerEvent::Created(event.session.unwrap_or_default()),
        "session.updated" => ServerEvent::Updated(event.session.unwrap_or_default()),
        "response.created" => ServerEvent::Begun(response().map_or_else(
            || Begun { id: String::new(), output_max: None, joins: true },
            |response| Begun {
                output_max: response.max_output_tokens.as_ref().map(Value::as_u64),
                joins: response.joins(),
                id: response.id.unwrap_or_default(),
            },
        )),
        "response.done" => {
            let id = response().and_then(|response| response.id).unwrap_or_default();
            ServerEvent::Ended { id, response: event.response.map_or("{}", RawValue::get).to_owned() }
        }
        "input_audio_buffer.speech_started" => ServerEvent::SpeechBegan(event.audio_start_ms.unwrap_or(0)),
        "input_audio_buffer.speech_stopped" => {
            ServerEvent::SpeechEnded(event.audio_end_ms.unwrap_or(u64::MAX))
        }
        "input_audio_buffer.committed" => ServerEvent::Committed(item()),
        "input_audio_buffer.cleared" => ServerEvent::Cleared,
        "conversation.item.input_audio_transcription.completed" => {
            ServerEvent::Transcribed(item(), event.usage.map_or("null", RawValue::get).to_owned())
        }
        "conversation.item.input_audio_transcription.failed" => ServerEvent::Untranscribed(item()),
        "error" => {
            let fault = event.error.and_then(|raw| serde_json::from_str::<Fault>(raw.get()).ok());
            ServerEvent::Error(fault.and_then(|fault| fault.event_id))
        }
        kind if kind.starts_with("response.") => ServerEvent::Goes(event.response_id.unwrap_or_default()),
        _ => ServerEvent::Other,
    }
}

impl Response {
    /// A response beside the conversation has a `conversation_id` of null.
    fn joins(&self) -> bool {
        self.conversation_id.as_ref().is_none_or(|id| !id.is_null())
    }
}

/// An error event that names no message, as the client has given that one no name.
pub fn without_event_id(message: &str) -> String {
    let mut event: Value = serde_json::from_str(message).unwrap_or_default();
    if let Some(error) = event.get_mut("error").and_then(Value::as_object_mut) {
        error.insert("event_id".to_owned(), Value::Null);
    }
    event.to_string()
}
