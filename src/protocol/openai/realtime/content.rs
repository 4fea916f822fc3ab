//! What a message puts into the conversation of a session.

use serde_json::Value;

use crate::domain::demand::{Detail, Image};
use crate::media;
use crate::protocol::openai::request::{Invalid, InvalidKind};

/// Four characters of base64 are three bytes.
const CHARACTERS: u64 = 4;
const BYTES: u64 = 3;
/// The most levels of a message that are searched; OpenAI's have six.
const DEPTH_MAX: usize = 16;

/// How sound is sent: by its bytes in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SoundFormat {
    /// `audio/pcmu` and `audio/pcma`: 8,000 samples of a byte.
    Telephone,
    /// `audio/pcm`: 24,000 samples of two bytes.
    #[default]
    Samples,
}

impl SoundFormat {
    /// The format by its name on the wire; one that is not known has the fewest bytes.
    pub(super) fn named(name: &str) -> Self {
        if name == "audio/pcm" { Self::Samples } else { Self::Telephone }
    }

    /// How long sound of so many bytes lasts, in milliseconds, rounded up.
    pub fn millis(self, bytes: u64) -> u64 {
        match self {
            Self::Telephone => bytes.div_ceil(8),
            Self::Samples => bytes.div_ceil(48),
        }
    }
}

/// What a message adds to a conversation, at the most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Bytes of text.
    pub text_bytes: u64,
    /// Bytes of sound.
    pub sound_bytes: u64,
    /// Images.
    pub images: Vec<Image>,
}

impl Content {
    /// Finds the content of a message of so many bytes: sound and images are no text.
    pub(super) fn of(message: &Value, message_bytes: usize) -> Result<Self, Invalid> {
        let mut found = Self { text_bytes: length(message_bytes), ..Self::default() };
        found.search(message, DEPTH_MAX)?;
        Ok(found)
    }

    fn search(&mut self, value: &Value, depth: usize) -> Result<(), Invalid> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(invalid("The message is nested too deeply."));
        };
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.search(value, depth)),
            Value::Object(fields) => {
                if ["file_id", "file_url", "file_data"].iter().any(|name| fields.contains_key(*name)) {
                    return Err(invalid(
                        "Files can't be metered in a realtime session. Send text, sound or images.",
                    ));
                }
                match fields.get("type").and_then(Value::as_str) {
                    Some("input_audio") => self.take_sound(fields.get("audio")),
                    Some("input_image") => self.take_image(fields.get("image_url"), fields.get("detail")),
                    _ => {}
                }
                fields.values().try_for_each(|value| self.search(value, depth))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn take_sound(&mut self, audio: Option<&Value>) {
        let Some(audio) = audio.and_then(Value::as_str) else { return };
        self.text_bytes = self.text_bytes.saturating_sub(length(audio.len()));
        self.sound_bytes = self.sound_bytes.saturating_add(decoded(audio));
    }

    fn take_image(&mut self, url: Option<&Value>, detail: Option<&Value>) {
        let text = url.and_then(Value::as_str).unwrap_or_default();
        let json = Value::from(text).to_string();
        let size = media::image_size(&json).map(|size| (size.width, size.height));
        if size.is_some() {
            self.text_bytes = self.text_bytes.saturating_sub(length(text.len()));
        }
        let detail = match detail.and_then(Value::as_str) {
            Some("low") => Detail::Low,
            Some("high") => Detail::High,
            _ => Detail::Auto,
        };
        self.images.push(Image { size, detail });
    }
}

/// The most bytes that a text in base64 is.
pub(super) fn decoded(base64: &str) -> u64 {
    let padding = base64.len() - base64.trim_end_matches('=').len();
    let bytes = length(base64.len()).div_ceil(CHARACTERS).saturating_mul(BYTES);
    bytes.saturating_sub(length(padding.min(2)))
}

pub(super) fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn invalid(message: &str) -> Invalid {
    Invalid { message: message.to_owned(), param: None, kind: InvalidKind::NotAllowed }
}
