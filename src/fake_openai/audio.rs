//! The fake's speech, which is silence, and its transcripts, which are always the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header;
use serde_json::{Map, Value, json};

use crate::fake_openai::{Served, number};
use crate::media;
use crate::protocol::multipart;

/// The paths of audio requests.
pub(super) const PATHS: [&str; 3] =
    ["/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations"];
/// How long a character is spoken, in milliseconds.
const CHARACTER_MS: u64 = 60;
/// What is heard in every recording, and its tokens.
const HEARD: &str = "To be, or not to be, that is the question.";
const HEARD_TOKENS: u64 = 12;
/// A silent frame of MP3: MPEG-2, 64 kbit/s, 24 kHz, 24 milliseconds.
const FRAME_HEAD: [u8; 4] = [0xff, 0xf3, 0x84, 0xc4];
const FRAME_BYTES: usize = 192;
const FRAME_MS: u64 = 24;

/// An answer: its type and its bytes.
pub(super) type Sent = (&'static str, Vec<u8>);

/// A text that is spoken.
pub(super) struct Spoken<'a> {
    pub(super) fields: &'a Value,
    pub(super) headers: &'a HeaderMap,
}

impl Spoken<'_> {
    /// The sound, raw or as events.
    pub(super) fn sent(&self) -> Sent {
        let (kind, sound) = self.sound();
        if self.fields["stream_format"] == "sse" {
            return ("text/event-stream; charset=utf-8", self.events(&sound).into_bytes());
        }
        (kind, sound)
    }

    fn millis(&self) -> u64 {
        let characters = self.fields["input"].as_str().map_or(0, |text| text.chars().count());
        let by_text = u64::try_from(characters).unwrap_or(0) * CHARACTER_MS;
        number(self.headers, "x-fake-speech-ms").unwrap_or(by_text)
    }

    fn sound(&self) -> Sent {
        // 24 kHz, 16 bits, one channel.
        let bytes = usize::try_from(self.millis() * 48).unwrap_or(0);
        match self.fields["response_format"].as_str() {
            Some("pcm") => ("audio/pcm", vec![0; bytes]),
            Some("wav") => {
                let size = u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
                let head = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\xc0\x5d\0\0\x80\xbb\0\0\x02\0\x10\0data";
                ("audio/wav", [&head[..], &size, &vec![0; bytes]].concat())
            }
            _ => {
                let frames = usize::try_from(self.millis().div_ceil(FRAME_MS)).unwrap_or(0);
                let mut frame = FRAME_HEAD.to_vec();
                frame.resize(FRAME_BYTES, 0);
                ("audio/mpeg", frame.repeat(frames))
            }
        }
    }

    fn events(&self, sound: &[u8]) -> String {
        let delta =
            |part: &[u8]| event(&json!({ "type": "speech.audio.delta", "audio": STANDARD.encode(part) }));
        let mut events: String = sound.chunks(4_800).map(delta).collect();
        let mut done = json!({ "type": "speech.audio.done" });
        if !self.headers.contains_key("x-fake-no-usage") {
            let Served { prompt_tokens: input, completion_tokens: output, .. } = self.served();
            done["usage"] =
                json!({ "input_tokens": input, "output_tokens": output, "total_tokens": input + output });
        }
        events += &event(&done);
        events
    }

    /// What is counted as served: 1,250 tokens of a minute of sound.
    pub(super) fn served(&self) -> Served {
        let text = self.fields["input"].as_str().unwrap_or_default().len();
        Served {
            requests: 1,
            prompt_tokens: u64::try_from(text).unwrap_or(0).div_ceil(4),
            cached_tokens: 0,
            completion_tokens: (self.millis() * 1_250).div_ceil(60_000),
        }
    }
}

/// The fields of a form, and its file; `None` if it is no such form.
pub(super) fn form<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<(Value, &'a [u8])> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (mut fields, mut file) = (Map::new(), None);
    for part in multipart::parts(body, multipart::boundary(kind)?.ok()?).ok()? {
        match part.name {
            "file" => file = Some(part.data),
            name => drop(fields.insert(name.to_owned(), json!(String::from_utf8_lossy(part.data)))),
        }
    }
    Some((Value::Object(fields), file?))
}

/// A recording that is written down.
pub(super) struct Heard<'a> {
    pub(super) fields: &'a Value,
    pub(super) file: &'a [u8],
    pub(super) is_translation: bool,
    pub(super) headers: &'a HeaderMap,
}

impl Heard<'_> {
    /// The transcript in the form that is asked for.
    pub(super) fn sent(&self) -> Sent {
        let is_streamed = self.fields["stream"] == "true" && self.fields["model"] != "whisper-1";
        if is_streamed {
            return ("text/event-stream; charset=utf-8", self.events().into_bytes());
        }
        let seconds = self.seconds();
        match self.fields["response_format"].as_str() {
            Some("text") => ("text/plain; charset=utf-8", format!("{HEARD}\n").into_bytes()),
            Some("srt") => {
                let text = format!("1\n00:00:00,000 --> 00:00:{seconds:02},000\n{HEARD}\n\n");
                ("text/plain; charset=utf-8", text.into_bytes())
            }
            Some("vtt") => {
                let text = format!("WEBVTT\n\n00:00.000 --> 00:{seconds:02}.000\n{HEARD}\n\n");
                ("text/vtt; charset=utf-8", text.into_bytes())
            }
            Some(format @ ("verbose_json" | "diarized_json")) => {
                let segment = json!({ "id": 0, "start": 0.0, "end": seconds, "text": HEARD, "speaker": "A" });
                let mut whole = self.object();
                whole["task"] = json!(if self.is_translation { "translate" } else { "transcribe" });
                whole["duration"] = json!(seconds);
                whole["segments"] = json!([segment]);
                if format == "verbose_json" {
                    whole["language"] = json!("english");
                }
                ("application/json", whole.to_string().into_bytes())
            }
            _ => ("application/json", self.object().to_string().into_bytes()),
        }
    }

    fn seconds(&self) -> u64 {
        let measured = || media::recording(self.file).map_or(0, |recording| recording.millis.div_ceil(1_000));
        number(self.headers, "x-fake-seconds").unwrap_or_else(measured)
    }

    fn object(&self) -> Value {
        let mut object = json!({ "text": HEARD });
        if let Some(usage) = self.usage().filter(|_| !self.is_translation) {
            object["usage"] = usage;
        }
        object
    }

    /// Usage in OpenAI's shape, by the model; `None` if none is to be given.
    fn usage(&self) -> Option<Value> {
        if self.headers.contains_key("x-fake-no-usage") {
            return None;
        }
        if matches!(self.fields["model"].as_str(), Some("whisper-1" | "gpt-transcribe")) {
            return Some(json!({ "type": "duration", "seconds": self.seconds() }));
        }
        let Served { prompt_tokens: input, completion_tokens: output, .. } = self.served();
        let audio = self.seconds() * 10;
        Some(json!({
            "type": "tokens", "input_tokens": input, "output_tokens": output, "total_tokens": input + output,
            "input_token_details": { "text_tokens": input - audio, "audio_tokens": audio },
        }))
    }

    fn events(&self) -> String {
        let delta = |word: &str| event(&json!({ "type": "transcript.text.delta", "delta": word }));
        let mut events: String = HEARD.split_inclusive(' ').map(delta).collect();
        let mut done = json!({ "type": "transcript.text.done", "text": HEARD });
        if let Some(usage) = self.usage() {
            done["usage"] = usage;
        }
        events += &event(&done);
        events
    }

    /// What is counted as served: 10 tokens of a second of sound.
    pub(super) fn served(&self) -> Served {
        let prompt = self.fields["prompt"].as_str().unwrap_or_default().len();
        let text = u64::try_from(prompt).unwrap_or(0).div_ceil(4);
        Served {
            requests: 1,
            prompt_tokens: text + self.seconds() * 10,
            cached_tokens: 0,
            completion_tokens: HEARD_TOKENS,
        }
    }
}

fn event(event: &Value) -> String {
    let kind = event["type"].as_str().unwrap_or_default();
    format!("event: {kind}\ndata: {event}\n\n")
}
