//! Collects the text of the model, to be counted if no usage comes.
//!
//! Chunks are not parsed: the strings of a few keys are lifted from the bytes
//! in one walk. The text is bounded; its length goes on being counted.

use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::Finder;

use crate::protocol::openai::json::{skip_space, string_end, value_end, value_of};
use crate::protocol::openai::usage::Finish;

/// The most text that is kept, in bytes.
const TRANSCRIPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Text of the model, in the order it came.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    text: String,
    bytes: u64,
    has_output: bool,
    finish: Finish,
}

static DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"delta\""));

impl Transcript {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there was any output, including sound.
    pub(super) const fn has_output(&self) -> bool {
        self.has_output
    }

    /// The worst `finish_reason` of the choices so far.
    pub(super) const fn finish(&self) -> Finish {
        self.finish
    }

    /// Takes up the text in the choices of a chat or completions chunk, which start
    /// at `from`; returns where they end.
    pub(super) fn add_choices(&mut self, data: &[u8], from: usize) -> usize {
        if !matches!(data.get(from), Some(b'[' | b'{')) {
            return value_end(data, from);
        }
        let mut key: &[u8] = b"";
        let mut depth = 0_usize;
        let mut at = from;
        while let Some(byte) = data.get(at) {
            at += 1;
            match byte {
                b'"' => {
                    let inside = at;
                    at = string_end(data, at);
                    let string = &data[inside..at.saturating_sub(1).max(inside)];
                    if data.get(skip_space(data, at)) == Some(&b':') {
                        key = string;
                    } else if is_written(key) {
                        self.add(string);
                    } else if key == b"data" {
                        self.has_output |= !string.is_empty();
                    } else if key == b"finish_reason" {
                        self.finish = self.finish.max(Finish::named(string));
                    }
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return at;
                    }
                }
                _ => {}
            }
        }
        data.len()
    }

    /// Takes up the `delta` of a response event.
    pub(super) fn add_delta(&mut self, data: &[u8]) {
        let value = DELTA.find(data).and_then(|at| value_of(data, at + DELTA.needle().len()));
        if let Some(inside) = value.filter(|at| data.get(*at) == Some(&b'"')).map(|at| at + 1) {
            let end = string_end(data, inside);
            self.add(&data[inside..end.saturating_sub(1).max(inside)]);
        }
    }

    /// Takes up text with the form that it has on the wire.
    pub(super) fn add_form(&mut self, data: &[u8]) {
        self.has_output = true;
        self.push(&String::from_utf8_lossy(data));
    }

    /// Records output that isn't text.
    pub(super) fn add_other(&mut self) {
        self.has_output = true;
    }

    /// Takes up the inside of a JSON string.
    fn add(&mut self, string: &[u8]) {
        if string.is_empty() {
            return;
        }
        self.has_output = true;
        if memchr(b'\\', string).is_none() {
            return self.push(&String::from_utf8_lossy(string));
        }
        let quoted = [b"\"", string, b"\""].concat();
        match serde_json::from_slice::<String>(&quoted) {
            Ok(text) => self.push(&text),
            Err(_) => self.push(&String::from_utf8_lossy(string)),
        }
    }

    fn push(&mut self, text: &str) {
        self.bytes = self.bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        let room = TRANSCRIPT_BYTES_MAX.saturating_sub(self.text.len());
        let fits = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.text.push_str(&text[..fits]);
    }
}

/// Keys whose strings the model wrote.
fn is_written(key: &[u8]) -> bool {
    matches!(
        key,
        b"content"
            | b"refusal"
            | b"reasoning_content"
            | b"reasoning"
            | b"name"
            | b"arguments"
            | b"input"
            | b"transcript"
            | b"text"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::openai::json::member;

    fn chunk(data: &str) -> Transcript {
        let mut transcript = Transcript::default();
        let at = member(data.as_bytes(), b"choices").unwrap();
        transcript.add_choices(data.as_bytes(), at);
        transcript
    }

    #[test]
    fn a_chunks_text_is_what_the_model_wrote() {
        let data = r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"a\n\u00e9","tool_calls":
            [{"id":"call_1","function":{"name":"f","arguments":"{\"x\":"}}]},"logprobs":{"content":[{"token":"no"}]}},
            {"index":1,"delta":{"refusal":"r"},"finish_reason":"stop"}],"obfuscation":"zzz","text":"no"}"#;
        let transcript = chunk(data);
        assert_eq!(transcript.text(), "a\né f{\"x\":r".replace(' ', ""));
        assert_eq!(transcript.bytes(), 11);
        assert!(transcript.has_output());
        assert_eq!(transcript.finish(), Finish::Natural);
    }

    #[test]
    fn an_opening_chunk_is_no_output() {
        assert!(!chunk(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#).has_output());
        assert!(!chunk(r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#).has_output());
        let audio = chunk(r#"{"choices":[{"delta":{"audio":{"id":"audio_1","data":"UklG"}}}]}"#);
        assert!(audio.has_output() && audio.text().is_empty());
    }

    #[test]
    fn completions_and_response_deltas_are_read() {
        assert_eq!(chunk(r#"{"choices": [{"text": "hi", "logprobs": {"tokens": ["hi"]}}]}"#).text(), "hi");
        let mut transcript = Transcript::default();
        transcript.add_delta(br#"{"type":"response.output_text.delta","delta":" \"x\"","logprobs":[]}"#);
        transcript.add_delta(br#"{"type":"response.x.delta","delta":{"stdout":"no"}}"#);
        assert_eq!(transcript.text(), " \"x\"");
    }

    #[test]
    fn the_text_is_bounded_and_its_length_is_not() {
        let mut transcript = Transcript::default();
        let long = "é".repeat(TRANSCRIPT_BYTES_MAX / 2 - 1);
        transcript.push(&long);
        transcript.push("aéé");
        assert_eq!(transcript.text().len(), TRANSCRIPT_BYTES_MAX - 1);
        assert_eq!(transcript.bytes(), 4 * 1024 * 1024 - 2 + 5);
    }

    #[test]
    fn broken_bytes_do_no_harm() {
        for data in ["[{\"delta\":{\"content\":\"a", "[", "", "\"delta\":\"\\", "[}]"] {
            let end = Transcript::default().add_choices(data.as_bytes(), 0);
            assert!(end <= data.len(), "{data}");
            Transcript::default().add_delta(data.as_bytes());
        }
    }
}
