//! The fake's realtime sessions: a conversation, speech that is found by its loudness, responses that
//! are asked for or begin by themselves, and transcriptions.
//!
//! Speech is sound that is not zero; half a second of zeros ends it. A token of text is four bytes.
//! The order `completion-tokens` is the output of a response, of which three quarters are spoken.
//! Sound has prices of its own and is counted as a model of its own, `MODEL sound`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::fake_openai::{Fake, Served, number};

type Socket = WebSocketStream<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>;

/// Bytes of a millisecond of samples.
const BYTES_PER_MS: u64 = 48;
const PREFIX_MS: u64 = 300;
const SILENCE_MS: u64 = 500;
/// Deltas of a response.
const DELTAS: u64 = 4;

/// A conversation by its kinds of tokens, and the part of each that was read before.
#[derive(Clone, Copy, Debug, Default)]
struct Tokens {
    text: u64,
    audio: u64,
}

struct Session {
    fake: Arc<Fake>,
    headers: HeaderMap,
    settings: Value,
    conversation: Tokens,
    cached: Tokens,
    /// Sound of the session and of the buffer, in bytes.
    sound: u64,
    buffer: u64,
    speech_from_ms: Option<u64>,
    silent_bytes: u64,
    open: BTreeMap<String, Open>,
    out: Vec<Value>,
}

/// A response that is being made.
struct Open {
    response: Value,
    input: Tokens,
    cached: Tokens,
    output_tokens: u64,
    sent: u64,
}

/// Serves a session until its client leaves.
pub(super) async fn converse(fake: Arc<Fake>, mut socket: Socket, headers: HeaderMap, model: Option<String>) {
    let pace = Duration::from_millis(number(&headers, "x-fake-chunk-delay-ms").unwrap_or(0));
    let mut session = Session::new(fake, headers, model.as_deref());
    let mut ticks = FuturesUnordered::new();
    loop {
        for event in std::mem::take(&mut session.out) {
            if event["type"] == "response.created" {
                ticks.push(tick(event["response"]["id"].clone(), pace));
            }
            if socket.send(Message::text(event.to_string())).await.is_err() {
                return;
            }
        }
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => session.take(&text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            Some(id) = ticks.next() => if session.goes_on(id.as_str().unwrap_or_default()) {
                ticks.push(tick(id, pace));
            },
        }
    }
}

async fn tick(id: Value, pace: Duration) -> Value {
    tokio::time::sleep(pace).await;
    id
}

impl Session {
    fn new(fake: Arc<Fake>, headers: HeaderMap, model: Option<&str>) -> Self {
        let kind = if model.is_some() { "realtime" } else { "transcription" };
        let settings = json!({
            "type": kind, "object": format!("{kind}.session"), "id": fake.new_id("sess_"), "model": model,
            "instructions": "You are a helpful assistant.", "output_modalities": ["audio"], "tools": [],
            "max_output_tokens": "inf",
            "audio": { "input": {
                "format": { "type": "audio/pcm", "rate": 24_000 }, "transcription": null,
                "turn_detection": { "type": "server_vad", "create_response": true, "interrupt_response": true },
            } },
        });
        let mut session = Self {
            fake,
            headers,
            settings,
            conversation: Tokens::default(),
            cached: Tokens::default(),
            sound: 0,
            buffer: 0,
            speech_from_ms: None,
            silent_bytes: 0,
            open: BTreeMap::new(),
            out: Vec::new(),
        };
        session.say("session.created", &json!({ "session": session.settings.clone() }));
        session
    }

    fn say(&mut self, kind: &str, more: &Value) {
        let mut event = json!({ "type": kind, "event_id": self.fake.new_id("event_") });
        merge(&mut event, more);
        self.out.push(event);
    }

    fn err(&mut self, code: &str, message: &str, cause: &Value) {
        let error = json!({
            "type": "invalid_request_error", "code": code, "message": message, "param": null,
            "event_id": cause["event_id"],
        });
        self.say("error", &json!({ "error": error }));
    }

    fn take(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        match message["type"].as_str().unwrap_or_default() {
            _ if Self::is_too_large(&message) => {
                self.err("integer_above_max_value", "max_output_tokens is at most 4096", &message);
            }
            "session.update" => {
                merge(&mut self.settings, &message["session"]);
                self.say("session.updated", &json!({ "session": self.settings.clone() }));
            }
            "conversation.item.create" => self.add_item(&message["item"]),
            "input_audio_buffer.append" => {
                let audio = message["audio"].as_str().unwrap_or_default();
                self.hear(&BASE64_STANDARD.decode(audio).unwrap_or_default());
            }
            "input_audio_buffer.commit" if self.buffer < 100 * BYTES_PER_MS => {
                self.err("input_audio_buffer_commit_empty", "the buffer is too small", &message);
            }
            "input_audio_buffer.commit" => {
                let millis = self.buffer / BYTES_PER_MS;
                self.commit(millis);
            }
            "input_audio_buffer.clear" => {
                self.buffer = 0;
                self.say("input_audio_buffer.cleared", &json!({}));
            }
            "response.create" => self.create(&message),
            "response.cancel" => {
                let named = message["response_id"].as_str().map(str::to_owned);
                let Some(id) = named.or_else(|| self.answering()) else {
                    return self.err("response_cancel_not_active", "no response is active", &message);
                };
                self.end(&id, "cancelled");
            }
            _ => self.err("invalid_value", "unknown type", &message),
        }
    }

    /// Whether a message has an output bound that OpenAI does not take.
    fn is_too_large(message: &Value) -> bool {
        let bounds = [&message["session"]["max_output_tokens"], &message["response"]["max_output_tokens"]];
        bounds.into_iter().any(|most| most.as_u64().is_some_and(|most| most > 4_096))
    }

    fn add_item(&mut self, item: &Value) {
        let (mut text, mut audio) = (0, 0);
        for part in item["content"].as_array().into_iter().flatten() {
            text += bytes(part["text"].as_str().unwrap_or_default()).div_ceil(4);
            let sound =
                BASE64_STANDARD.decode(part["audio"].as_str().unwrap_or_default()).unwrap_or_default();
            audio += (u64::try_from(sound.len()).unwrap_or(0) / BYTES_PER_MS).div_ceil(100);
        }
        text += bytes(item["output"].as_str().unwrap_or_default()).div_ceil(4);
        self.conversation.text += text;
        self.conversation.audio += audio;
        let mut item = item.clone();
        item["id"] = json!(self.fake.new_id("item_"));
        for kind in ["conversation.item.added", "conversation.item.done"] {
            self.say(kind, &json!({ "previous_item_id": null, "item": item }));
        }
    }

    /// Finds speech in sound.
    fn hear(&mut self, sound: &[u8]) {
        self.sound += u64::try_from(sound.len()).unwrap_or(0);
        self.buffer += u64::try_from(sound.len()).unwrap_or(0);
        let detection = &self.settings["audio"]["input"]["turn_detection"];
        if detection.is_null() {
            return;
        }
        let answers = self.settings["type"] == "realtime" && detection["create_response"] != false;
        let now_ms = self.sound / BYTES_PER_MS;
        if sound.iter().any(|byte| *byte != 0) {
            self.silent_bytes = 0;
            if self.speech_from_ms.is_none() {
                let length_ms = u64::try_from(sound.len()).unwrap_or(0) / BYTES_PER_MS;
                let from_ms = now_ms.saturating_sub(length_ms + PREFIX_MS);
                self.speech_from_ms = Some(from_ms);
                self.say(
                    "input_audio_buffer.speech_started",
                    &json!({ "audio_start_ms": from_ms, "item_id": "item_next" }),
                );
                if let Some(id) = self.answering() {
                    self.end(&id, "cancelled");
                }
            }
            return;
        }
        self.silent_bytes += u64::try_from(sound.len()).unwrap_or(0);
        let Some(from_ms) = self.speech_from_ms.filter(|_| self.silent_bytes >= SILENCE_MS * BYTES_PER_MS)
        else {
            return;
        };
        self.speech_from_ms = None;
        self.say(
            "input_audio_buffer.speech_stopped",
            &json!({ "audio_end_ms": now_ms, "item_id": "item_next" }),
        );
        self.commit(now_ms - from_ms);
        if answers {
            self.create(&json!({ "type": "response.create" }));
        }
    }

    /// Makes an item of so much of the sound.
    fn commit(&mut self, millis: u64) {
        self.buffer = 0;
        let item = self.fake.new_id("item_");
        self.conversation.audio += millis.div_ceil(100);
        self.say("input_audio_buffer.committed", &json!({ "item_id": item, "previous_item_id": null }));
        self.say(
            "conversation.item.added",
            &json!({ "item": { "id": item, "type": "message", "role": "user" } }),
        );
        let transcription = self.settings["audio"]["input"]["transcription"].clone();
        let Some(model) = transcription["model"].as_str() else { return };
        let usage = if model.starts_with("gpt-4o") {
            let (audio, output) = (millis.div_ceil(100), 12);
            json!({
                "type": "tokens", "input_tokens": audio, "output_tokens": output, "total_tokens": audio + output,
                "input_token_details": { "text_tokens": 0, "audio_tokens": audio },
            })
        } else {
            json!({ "type": "duration", "seconds": millis.div_ceil(1_000) })
        };
        let kind = "conversation.item.input_audio_transcription";
        self.say(&format!("{kind}.delta"), &json!({ "item_id": item, "content_index": 0, "delta": "To be" }));
        let done = json!({ "item_id": item, "content_index": 0, "transcript": "To be", "usage": usage });
        self.say(&format!("{kind}.completed"), &done);
    }

    /// The response of the conversation that runs.
    fn answering(&self) -> Option<String> {
        let of_conversation = |(_, open): &(&String, &Open)| !open.response["conversation_id"].is_null();
        self.open.iter().find(of_conversation).map(|(id, _)| id.clone())
    }

    fn create(&mut self, message: &Value) {
        let asked = &message["response"];
        let joins = asked["conversation"] != "none";
        if joins && self.answering().is_some() {
            let code = "conversation_already_has_active_response";
            return self.err(code, "a response is active", message);
        }
        let most = [asked, &self.settings].into_iter().find_map(|of| of.get("max_output_tokens"));
        let most = most.cloned().unwrap_or(json!("inf"));
        let instructions = [asked, &self.settings].into_iter().find_map(|of| of["instructions"].as_str());
        let mut input = self.conversation;
        input.text += bytes(instructions.unwrap_or_default()).div_ceil(4);
        input.text += bytes(&asked["input"].to_string()).div_ceil(4);
        let wanted = number(&self.headers, "x-fake-completion-tokens").unwrap_or(40);
        let output_tokens = most.as_u64().map_or(wanted, |most| most.min(wanted));
        self.fake.seen.fetch_add(1, Ordering::Relaxed);
        let id = self.fake.new_id("resp_");
        let response = json!({
            "id": id, "object": "realtime.response", "status": "in_progress", "output": [], "usage": null,
            "conversation_id": if joins { json!("conv_1") } else { Value::Null }, "max_output_tokens": most,
            "metadata": asked["metadata"],
        });
        self.say("response.created", &json!({ "response": response }));
        self.open.insert(id, Open { response, input, cached: self.cached, output_tokens, sent: 0 });
        if joins {
            self.cached = input;
        }
    }

    /// Sends the next part of a response; returns whether there is more.
    fn goes_on(&mut self, id: &str) -> bool {
        let Some(open) = self.open.get_mut(id) else { return false };
        open.sent += 1;
        if open.sent > DELTAS {
            self.end(id, "completed");
            return false;
        }
        let delta = BASE64_STANDARD.encode([1_u8; 96]);
        let event = json!({ "response_id": id, "item_id": "item_0", "output_index": 0, "content_index": 0, "delta": delta });
        self.say("response.output_audio.delta", &event);
        true
    }

    fn end(&mut self, id: &str, status: &str) {
        let Some(Open { mut response, input, cached, output_tokens, sent }) = self.open.remove(id) else {
            return;
        };
        let output = output_tokens * sent.min(DELTAS) / DELTAS;
        let audio = if self.settings["output_modalities"] == json!(["text"]) { 0 } else { output * 3 / 4 };
        let (cached_text, cached_audio) = (cached.text.min(input.text), cached.audio.min(input.audio));
        let model = self.settings["model"].as_str().unwrap_or_default();
        let sound = format!("{model} sound");
        let counts = [
            (model, 1, [input.text, cached_text, output - audio]),
            (&sound, 0, [input.audio, cached_audio, audio]),
        ];
        for (model, requests, [prompt_tokens, cached_tokens, completion_tokens]) in counts {
            self.fake.note(model, Served { requests, prompt_tokens, cached_tokens, completion_tokens });
        }
        response["status"] = json!(status);
        if !self.headers.contains_key("x-fake-no-usage") {
            response["usage"] = json!({
                "total_tokens": input.text + input.audio + output,
                "input_tokens": input.text + input.audio, "output_tokens": output,
                "input_token_details": {
                    "text_tokens": input.text, "audio_tokens": input.audio, "image_tokens": 0,
                    "cached_tokens": cached_text + cached_audio,
                    "cached_tokens_details": { "text_tokens": cached_text, "audio_tokens": cached_audio, "image_tokens": 0 },
                },
                "output_token_details": { "text_tokens": output - audio, "audio_tokens": audio },
            });
        }
        if !response["conversation_id"].is_null() {
            self.conversation.text += output - audio;
            self.conversation.audio += audio;
        }
        self.say("response.done", &json!({ "response": response }));
    }
}

impl Drop for Session {
    /// What still runs is billed for what it has sent.
    fn drop(&mut self) {
        while let Some(id) = self.open.keys().next().cloned() {
            self.end(&id, "cancelled");
        }
    }
}

fn bytes(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(0)
}

/// Puts the fields of an object into another, inner objects field by field.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
