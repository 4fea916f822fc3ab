//! What a client asks for in a session.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::protocol::openai::realtime::content::{Content, decoded};
use crate::protocol::openai::realtime::settings::Settings;
use crate::protocol::openai::request::{Invalid, InvalidKind};

/// The longest id of an event, as OpenAI has it.
const ID_BYTES_MAX: usize = 512;
/// Fields of the interface's first version, which OpenAI has replaced.
const OLD_FIELDS: [&str; 8] = [
    "modalities",
    "voice",
    "input_audio_format",
    "output_audio_format",
    "input_audio_transcription",
    "turn_detection",
    "temperature",
    "max_response_output_tokens",
];

/// What a client asks for with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Other settings of the session.
    Update(Box<Update>),
    /// A response.
    Create(Box<Create>),
    /// An item of the conversation.
    Item(Content),
    /// Sound, of so many bytes at the most.
    Append(u64),
    /// That the sound so far is an item.
    Commit,
    /// That the sound so far is dropped.
    Clear,
    /// That a response ends.
    Cancel,
    /// Something that adds nothing to a conversation.
    Other,
}

/// A `session.update`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The client's name for it.
    pub event_id: Option<String>,
    /// The output bound that it sets; `Some(None)` is the model's maximum.
    pub output_max: Option<Option<u64>>,
    message: Map<String, Value>,
}

/// A `response.create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// The client's name for it.
    pub event_id: Option<String>,
    /// The output bound that it asks for; `Some(None)` is the model's maximum.
    pub output_max: Option<Option<u64>>,
    /// Whether it asks for text, or for speech.
    pub speaks: Option<bool>,
    /// What it reads in addition to the session.
    pub content: Content,
    /// Whether it adds to the conversation of the session.
    pub joins: bool,
    /// Whether it reads an input of its own, and not the conversation.
    pub has_input: bool,
    message: Map<String, Value>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
}

/// Reads what a client asks for with a message.
///
/// ```
/// use spendguard::protocol::openai::realtime::{ClientEvent, client_event};
/// let commit = r#"{"type":"input_audio_buffer.commit"}"#;
/// assert_eq!(client_event(commit), Ok(ClientEvent::Commit));
/// assert!(client_event(r#"{"type":"session.close"}"#).is_err());
/// ```
pub fn client_event(message: &str) -> Result<ClientEvent, Invalid> {
    let malformed = || invalid("A message is a JSON object with the text 'type', each field once.", None);
    let envelope: Envelope<'_> = serde_json::from_str(message).map_err(|_| malformed())?;
    let whole = || match serde_json::from_str(message) {
        Ok(Value::Object(message)) => Ok(message),
        Ok(_) | Err(_) => Err(malformed()),
    };
    match envelope.kind.as_ref() {
        "input_audio_buffer.append" => {
            Ok(ClientEvent::Append(decoded(envelope.audio.map_or("", RawValue::get).trim_matches('"'))))
        }
        "input_audio_buffer.commit" => Ok(ClientEvent::Commit),
        "input_audio_buffer.clear" => Ok(ClientEvent::Clear),
        "conversation.item.create" => {
            Ok(ClientEvent::Item(Content::of(&Value::Object(whole()?), message.len())?))
        }
        "session.update" => Update::read(whole()?).map(|update| ClientEvent::Update(Box::new(update))),
        "response.create" => {
            Create::read(whole()?, message.len()).map(|create| ClientEvent::Create(Box::new(create)))
        }
        "response.cancel" => Ok(ClientEvent::Cancel),
        "conversation.item.delete"
        | "conversation.item.retrieve"
        | "conversation.item.truncate"
        | "output_audio_buffer.clear" => Ok(ClientEvent::Other),
        _ => Err(invalid("The 'type' of this message is not one that OpenAI documents.", Some("type"))),
    }
}

impl Update {
    /// One that the guard sends by itself.
    pub fn own(session: &Value) -> Self {
        let message = json!({ "type": "session.update", "session": session });
        let message = if let Value::Object(message) = message { message } else { Map::new() };
        Self { event_id: None, output_max: None, message }
    }

    pub(super) fn read(message: Map<String, Value>) -> Result<Self, Invalid> {
        let session = message.get("session").and_then(Value::as_object);
        let session = session.ok_or_else(|| invalid("'session' is an object.", Some("session")))?;
        if let Some(old) = OLD_FIELDS.iter().find(|name| session.contains_key(**name)) {
            let message = format!(
                "'session.{old}' belongs to the first version of the Realtime API. Send the fields of the present one."
            );
            return Err(Invalid { message, param: Some("session"), kind: InvalidKind::Malformed });
        }
        refuse_unmetered(session)?;
        let output_max = output_max(session)?;
        Ok(Self { event_id: event_id(&message)?, output_max, message })
    }

    /// The model that it names.
    pub fn model(&self) -> Option<&str> {
        self.message.get("session")?.get("model")?.as_str()
    }

    /// The settings of a session once it is in force.
    pub fn applied_to(&self, settings: &Settings) -> Settings {
        self.message.get("session").map_or_else(|| settings.clone(), |session| settings.with(session))
    }

    /// The message that upstream gets, with this name and this output bound.
    pub fn sent_as(mut self, event_id: &str, output_max: Option<u64>) -> Bytes {
        if let (Some(most), Some(session)) = (output_max, self.message.get_mut("session")) {
            session["max_output_tokens"] = json!(most);
        }
        named(self.message, event_id)
    }
}

impl Create {
    fn read(message: Map<String, Value>, message_bytes: usize) -> Result<Self, Invalid> {
        let none = Map::new();
        let response = match message.get("response") {
            None | Some(Value::Null) => &none,
            Some(Value::Object(response)) => response,
            Some(_) => return Err(invalid("'response' is an object.", Some("response"))),
        };
        refuse_unmetered(response)?;
        let modalities = response.get("output_modalities").and_then(Value::as_array);
        Ok(Self {
            event_id: event_id(&message)?,
            output_max: output_max(response)?,
            speaks: modalities.map(|names| names.iter().any(|name| name != "text")),
            content: Content::of(&Value::Object(response.clone()), message_bytes)?,
            has_input: response.get("input").is_some_and(|input| !input.is_null()),
            joins: response.get("conversation").is_none_or(|conversation| conversation != "none"),
            message,
        })
    }

    /// The message that upstream gets, with this name and this output bound.
    pub fn sent_as(mut self, event_id: &str, output_max: Option<u64>) -> Bytes {
        if let Some(most) = output_max {
            let response = self.message.entry("response").or_insert(Value::Null);
            if response.is_null() {
                *response = json!({});
            }
            response["max_output_tokens"] = json!(most);
        }
        named(self.message, event_id)
    }
}

fn named(mut message: Map<String, Value>, event_id: &str) -> Bytes {
    message.insert("event_id".to_owned(), json!(event_id));
    Value::Object(message).to_string().into()
}

fn event_id(message: &Map<String, Value>) -> Result<Option<String>, Invalid> {
    match message.get("event_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if (1..=ID_BYTES_MAX).contains(&id.len()) => Ok(Some(id.clone())),
        Some(_) => Err(invalid("'event_id' is a text of 1 to 512 bytes.", Some("event_id"))),
    }
}

/// The output bound that an object gives.
fn output_max(given: &Map<String, Value>) -> Result<Option<Option<u64>>, Invalid> {
    match given.get("max_output_tokens") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(most) if most == "inf" => Ok(Some(None)),
        Some(most) => match most.as_u64() {
            Some(most @ 1..) => Ok(Some(Some(most))),
            Some(0) | None => Err(invalid(
                "'max_output_tokens' is a whole number from 1, or \"inf\".",
                Some("max_output_tokens"),
            )),
        },
    }
}

/// Refuses what would let upstream spend more than the guard can see beforehand.
fn refuse_unmetered(given: &Map<String, Value>) -> Result<(), Invalid> {
    let not_allowed = |param, message: &str| {
        Err(Invalid { message: message.to_owned(), param: Some(param), kind: InvalidKind::NotAllowed })
    };
    if given.get("prompt").is_some_and(|prompt| !prompt.is_null()) {
        return not_allowed(
            "prompt",
            "Stored prompts can't be metered in a realtime session. Send their text as 'instructions'.",
        );
    }
    let tools = given.get("tools").and_then(Value::as_array);
    if tools.is_some_and(|tools| tools.iter().any(|tool| tool.get("type") != Some(&json!("function")))) {
        return not_allowed(
            "tools",
            "Only tools of type 'function' can be metered in a realtime session. Call an MCP server from a function of your own.",
        );
    }
    Ok(())
}

pub(super) fn invalid(message: &str, param: Option<&'static str>) -> Invalid {
    Invalid { message: message.to_owned(), param, kind: InvalidKind::Malformed }
}
