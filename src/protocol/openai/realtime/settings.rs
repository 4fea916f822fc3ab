//! The settings of a session that decide what its responses and transcriptions may cost.

use serde_json::Value;

use crate::protocol::openai::realtime::content::{SoundFormat, length};

/// The most bytes of the instructions that upstream gives to a session without any, until it shows
/// them with `session.created`.
const OWN_INSTRUCTIONS_BYTES: u64 = 4_096;

/// How what is said is written down beside the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcription {
    /// The model.
    pub model: String,
    /// Bytes of what guides it.
    pub text_bytes: u64,
}

/// The settings of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The model that answers; `None` in a session that only transcribes.
    pub model: Option<String>,
    /// The most output tokens of a response; `None` is the model's maximum.
    pub output_max: Option<u64>,
    /// Whether responses may be spoken.
    pub speaks: bool,
    /// Whether upstream begins responses by itself, once it has heard that a speaker has finished.
    pub answers_by_itself: bool,
    /// Whether upstream also begins one when nothing was said for some time.
    pub asks_after_silence: bool,
    /// Whether upstream finds where speech begins and ends; without that, clients do.
    pub detects_speech: bool,
    /// How speech is written down; `None` if it isn't.
    pub transcription: Option<Transcription>,
    /// How sound is sent.
    pub sound: SoundFormat,
    instructions_bytes: u64,
    tools_bytes: u64,
}

impl Settings {
    /// Those of a session that is opened for a model, or for transcriptions without one.
    pub fn of(model: Option<String>) -> Self {
        let answers = model.is_some();
        Self {
            model,
            output_max: None,
            speaks: answers,
            answers_by_itself: answers,
            asks_after_silence: false,
            detects_speech: true,
            transcription: None,
            sound: SoundFormat::default(),
            instructions_bytes: if answers { OWN_INSTRUCTIONS_BYTES } else { 0 },
            tools_bytes: 0,
        }
    }

    /// Bytes of the text that each response reads before the conversation.
    pub const fn text_bytes(&self) -> u64 {
        self.instructions_bytes.saturating_add(self.tools_bytes)
    }

    /// These settings with what a session object gives.
    #[must_use]
    pub fn with(&self, session: &Value) -> Self {
        let mut with = self.clone();
        let text = |name: &str| Some(length(session.get(name)?.to_string().len()));
        with.instructions_bytes = text("instructions").unwrap_or(with.instructions_bytes);
        with.tools_bytes = text("tools").unwrap_or(with.tools_bytes);
        if let Some(most) = session.get("max_output_tokens") {
            with.output_max = most.as_u64();
        }
        if let Some(modalities) = session.get("output_modalities").and_then(Value::as_array) {
            with.speaks = modalities.iter().any(|name| name != "text");
        }
        if let Some(format) = session.pointer("/audio/input/format/type").and_then(Value::as_str) {
            with.sound = SoundFormat::named(format);
        }
        if let Some(transcription) = session.pointer("/audio/input/transcription") {
            with.transcription = transcribed(transcription, with.transcription);
        }
        if let Some(detection) = session.pointer("/audio/input/turn_detection") {
            with.detects_speech = !detection.is_null();
            with.asks_after_silence =
                detection.get("idle_timeout_ms").is_some_and(|timeout| !timeout.is_null());
            let answers = detection.get("create_response") != Some(&Value::Bool(false));
            with.answers_by_itself =
                with.model.is_some() && with.detects_speech && (answers || with.asks_after_silence);
        }
        with
    }

    /// Whichever of both may cost more, setting by setting. Of two ways to transcribe it is the other.
    #[must_use]
    pub fn or_larger(self, other: &Self) -> Self {
        let output_max = self.output_max.zip(other.output_max).map(|(one, two)| one.max(two));
        Self {
            model: self.model,
            output_max,
            speaks: self.speaks || other.speaks,
            answers_by_itself: self.answers_by_itself || other.answers_by_itself,
            asks_after_silence: self.asks_after_silence || other.asks_after_silence,
            detects_speech: self.detects_speech && other.detects_speech,
            transcription: other.transcription.clone().or(self.transcription),
            sound: self.sound.min(other.sound),
            instructions_bytes: self.instructions_bytes.max(other.instructions_bytes),
            tools_bytes: self.tools_bytes.max(other.tools_bytes),
        }
    }
}

/// What a session's `transcription` says; one without a model keeps the last one's.
fn transcribed(given: &Value, last: Option<Transcription>) -> Option<Transcription> {
    if given.is_null() {
        return None;
    }
    let model = given.get("model").and_then(Value::as_str).map(str::to_owned);
    let model = model.or(last.map(|last| last.model))?;
    Some(Transcription { model, text_bytes: length(given.to_string().len()) })
}
