//! The part of a request that upstream is asked to count.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::demand::Media;
use crate::pricing::count::{self, Part};

/// Strings shorter than this are counted by their bytes, and not sent.
const SENT_STRING_BYTES_MIN: usize = 64;
/// The fields of a request that its count depends on, as
/// `POST /responses/input_tokens` takes them.
const COUNTED_FIELDS: [&str; 11] = [
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "truncation",
    "previous_response_id",
    "conversation",
    "parallel_tool_calls",
];
/// The fields that do not change what the first turn reads.
const NEUTRAL_FIELDS: [&str; 23] = [
    "access_programs",
    "background",
    "background_options",
    "client_metadata",
    "context_management",
    "include",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "moderation",
    "multi_agent",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
];

/// A request for a count, and tokens to add to its result.
pub(super) struct Question {
    pub(super) body: Bytes,
    pub(super) besides: u64,
    /// Whether the count is of all that the first turn reads, or of its text only.
    pub(super) is_whole: bool,
}

/// The fields of a request to `/responses` that its count depends on; `None` where a
/// field that may change the count can't be sent along (`image.context_compression`).
pub(super) fn whole(body: &Bytes) -> Option<Question> {
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_slice(body).ok()?;
    let is_sent = |name: &str| COUNTED_FIELDS.contains(&name);
    let is_unclear = |name: &str, value: &RawValue| {
        !is_sent(name) && !NEUTRAL_FIELDS.contains(&name) && value.get() != "null"
    };
    if fields.iter().any(|(name, value)| is_unclear(name, value)) {
        return None;
    }
    let mut out = String::from("{");
    for (name, value) in fields.iter().filter(|(name, _)| is_sent(name)) {
        let comma = if out.len() > 1 { "," } else { "" };
        write!(out, "{comma}\"{name}\":{}", value.get()).ok()?;
    }
    out.push('}');
    Some(Question { body: out.into(), besides: 0, is_whole: true })
}

/// Every longer string of a request to another endpoint as a message of its own;
/// the rest counts by its bytes.
pub(super) fn strings(body: &Bytes, model: &str, media: &[Range<usize>], limit: u64) -> Option<Question> {
    let mut items = Items::of(model)?;
    let besides = items.add_strings(body, media)?;
    (besides <= limit && items.count > 0).then(|| items.question(besides, false))
}

/// The pictures and files of a chat, and its strings unless its text is counted already.
/// `None` if something in it can't be sent so.
pub(super) fn chat(
    body: &Bytes,
    model: &str,
    media: &Media,
    text_tokens: Option<u64>,
    limit: u64,
) -> Option<Question> {
    let mut items = Items::of(model)?;
    let besides = match text_tokens {
        Some(tokens) => tokens,
        None => items.add_strings(body, &media.inline)?,
    };
    let (mut pictures, mut files) = (0_usize, 0_u64);
    for part in parts(body)? {
        match part.input()? {
            Some(Input::Picture(picture)) => {
                items.add(&picture)?;
                pictures += 1;
            }
            Some(Input::File(file)) => {
                items.add(&file)?;
                files += 1;
            }
            None => {}
        }
    }
    // Any other content that isn't text can't be counted.
    let documents = u64::try_from(media.documents.len()).ok()?;
    let is_all = pictures == media.images.len() && files == documents.saturating_add(media.opaque);
    (is_all && besides <= limit && items.count > 0).then(|| items.question(besides, true))
}

/// The items of a request, as they are written.
struct Items {
    out: String,
    count: usize,
}

impl Items {
    fn of(model: &str) -> Option<Self> {
        let model = serde_json::to_string(model).ok()?;
        Some(Self { out: format!("{{\"model\":{model},\"input\":["), count: 0 })
    }

    /// Adds a message with this content, which is JSON.
    fn add(&mut self, content: &str) -> Option<()> {
        let comma = if self.count > 0 { "," } else { "" };
        self.count += 1;
        write!(self.out, "{comma}{{\"role\":\"user\",\"content\":{content}}}").ok()
    }

    /// Adds the longer strings of a body; returns the bytes of the rest.
    fn add_strings(&mut self, body: &Bytes, media: &[Range<usize>]) -> Option<u64> {
        let text = std::str::from_utf8(body).ok()?;
        let mut besides = 0_u64;
        for part in count::parts(text, media) {
            match part {
                Part::String(string) if string.len() >= SENT_STRING_BYTES_MIN => self.add(string)?,
                Part::String(string) => {
                    besides = besides.saturating_add(u64::try_from(string.len()).ok()?);
                }
                Part::Structure(bytes) => besides = besides.saturating_add(bytes),
            }
        }
        Some(besides)
    }

    fn question(mut self, besides: u64, is_whole: bool) -> Question {
        self.out.push_str("]}");
        Question { body: self.out.into(), besides, is_whole }
    }
}

/// The content parts of all messages of a chat.
fn parts(body: &Bytes) -> Option<Vec<ChatPart<'_>>> {
    let chat: Chat<'_> = serde_json::from_slice(body).ok()?;
    let mut parts = Vec::new();
    for content in chat.messages.into_iter().filter_map(|message| message.content) {
        if content.get().starts_with('[') {
            parts.extend(serde_json::from_str::<Vec<ChatPart<'_>>>(content.get()).ok()?);
        }
    }
    Some(parts)
}

#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChatPart<'a> {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(borrow, default)]
    image_url: Option<Picture<'a>>,
    #[serde(borrow, default)]
    file: Option<Attachment<'a>>,
}

#[derive(Deserialize)]
struct Picture<'a> {
    #[serde(borrow)]
    url: &'a RawValue,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Attachment<'a> {
    #[serde(borrow, default)]
    file_data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    filename: Option<&'a RawValue>,
}

/// A content part as `/responses` has it, in a list of its own.
enum Input {
    Picture(String),
    File(String),
}

impl ChatPart<'_> {
    /// The part for a request to `/responses`, unless it is text; outer `None` if it can't
    /// be one.
    fn input(&self) -> Option<Option<Input>> {
        match self.kind.as_deref() {
            Some("image_url") => {
                let Picture { url, detail } = self.image_url.as_ref()?;
                let members = [("image_url", Some(*url)), ("detail", *detail)];
                Some(Some(Input::Picture(content("input_image", &members)?)))
            }
            Some("file") => {
                let Attachment { file_data, file_id, filename } = self.file.as_ref()?;
                let members = [("file_data", *file_data), ("file_id", *file_id), ("filename", *filename)];
                Some(Some(Input::File(content("input_file", &members)?)))
            }
            _ => Some(None),
        }
    }
}

/// A content of one part.
fn content(kind: &str, members: &[(&str, Option<&RawValue>)]) -> Option<String> {
    let mut out = format!("[{{\"type\":\"{kind}\"");
    for (name, value) in members {
        let Some(value) = value.filter(|value| value.get() != "null") else { continue };
        write!(out, ",\"{name}\":{}", value.get()).ok()?;
    }
    out.push_str("}]");
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::openai::CHAT;

    fn asked(body: &Value, text_tokens: Option<u64>) -> Option<(Value, u64)> {
        let body = Bytes::from(body.to_string());
        let media = CHAT.read(&body).unwrap().demand.media;
        let question = chat(&body, "m", &media, text_tokens, u64::MAX)?;
        assert!(question.is_whole);
        Some((serde_json::from_slice(&question.body).unwrap(), question.besides))
    }

    #[test]
    fn pictures_and_files_of_a_chat_are_sent_along() {
        let long = "word ".repeat(20);
        let body = json!({"model": "m", "messages": [
            {"role": "system", "content": long},
            {"role": "user", "content": [
                {"type": "text", "text": "short"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "file", "file": {"filename": "a.docx", "file_data": "data:application/x;base64,UEsD"}},
            ]},
        ]});
        let media = [
            json!([{"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"}]),
            json!([{"type": "input_file", "file_id": "file-1"}]),
            json!([{"type": "input_file", "file_data": "data:application/x;base64,UEsD", "filename": "a.docx"}]),
        ];
        let item = |content: Value| json!({"role": "user", "content": content});
        let items: Vec<Value> = media.into_iter().map(item).collect();
        let (sent, besides) = asked(&body, Some(70)).unwrap();
        assert_eq!((&sent["input"], besides), (&json!(items), 70));
        let (sent, besides) = asked(&body, None).unwrap();
        let all: Vec<Value> = std::iter::once(item(json!(long))).chain(items).collect();
        assert_eq!(sent["input"], json!(all));
        assert!(besides > 100, "the rest by its bytes: {besides}");
    }

    #[test]
    fn what_can_not_be_sent_along_is_not_counted() {
        let picture = json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
        let with = |part: Value| json!({"model": "m", "messages": [{"role": "user", "content": [picture.clone(), part]}]});
        assert!(asked(&with(json!({"type": "text", "text": "x"})), None).is_some());
        for part in [
            json!({"type": "input_smell"}),
            json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
            json!({"type": "input_image", "file_id": "file-1"}),
            json!({"type": "file", "file": {"file_id": "file-1", "file_data": "JVBE"}}),
        ] {
            assert!(asked(&with(part.clone()), None).is_none(), "{part}");
        }
    }

    #[test]
    fn a_request_with_a_field_that_may_change_its_count_is_not_counted() {
        let asked = |body: Value| whole(&Bytes::from(body.to_string()));
        let question = asked(json!({"model": "m", "input": "x", "store": false, "image": null})).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&question.body).unwrap(),
            json!({"model": "m", "input": "x"})
        );
        assert!(asked(json!({"input": "x", "image": {"context_compression": "disabled"}})).is_none());
        assert!(asked(json!({"input": "x", "novelty": 1})).is_none());
    }
}
