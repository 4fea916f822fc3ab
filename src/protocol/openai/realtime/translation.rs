//! Messages on a `WebSocket` of `/realtime/translations`, which is billed by the sound that it is sent.
//! (`RealtimeTranslationClientEvent` of OpenAI's SDKs.)

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::openai::realtime::client::invalid;
use crate::protocol::openai::realtime::content::decoded;
use crate::protocol::openai::request::Invalid;

/// What a client asks for in a session that translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TranslationEvent {
    /// That so many bytes of sound are translated.
    Append(u64),
    /// Other settings: the model that writes down what is said, `Some(None)` for none, and `None` if
    /// that stays as it is.
    Update(Option<Option<String>>),
    /// That the session ends.
    Close,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
    session: Option<Value>,
}

/// Reads what a client asks for with a message.
pub fn translation_event(message: &str) -> Result<TranslationEvent, Invalid> {
    let envelope: Envelope<'_> = serde_json::from_str(message)
        .map_err(|_| invalid("A message is a JSON object with the text 'type', each field once.", None))?;
    match envelope.kind.as_ref() {
        "session.input_audio_buffer.append" => {
            let audio = envelope.audio.map_or("", RawValue::get).trim_matches('"');
            Ok(TranslationEvent::Append(decoded(audio)))
        }
        "session.update" => {
            let session = envelope.session.unwrap_or_default();
            let transcription = session.pointer("/audio/input/transcription");
            let model = |of: &Value| match of.get("model").and_then(Value::as_str) {
                Some(model) => Ok(Some(model.to_owned())),
                None if of.is_null() => Ok(None),
                None => Err(invalid("A 'transcription' names its model.", Some("session"))),
            };
            transcription.map(model).transpose().map(TranslationEvent::Update)
        }
        "session.close" => Ok(TranslationEvent::Close),
        _ => Err(invalid("The 'type' of this message is not one that OpenAI documents.", Some("type"))),
    }
}
