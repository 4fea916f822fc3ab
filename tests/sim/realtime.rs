//! Realtime sessions at upstream: a conversation, sound in which speech is found, responses that are asked for or begin by
//! themselves, and items that are written down.
//!
//! A response is billed by what it reads when it begins, and by what it says as it is made, whether that arrives or not.
//! One that is cancelled has made what it has made by then. A session ends all that runs in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::{Account, Bill, locked};
use crate::answers::refuse;
use crate::chance::Chance;
use crate::frames::{Frames, Message, Side, agreed};
use crate::wire::{End, now};

pub(crate) const PATH: &str = "/v1/realtime";
pub(crate) const MODEL: &str = "gpt-realtime";
pub(crate) const LISTENER: &str = "gpt-4o-transcribe";

/// Picodollars a token of the model: text and sound that are read, cached, and written (OpenAI's page of the model).
const TEXT_PICO: [u64; 3] = [4_000_000, 400_000, 16_000_000];
const SOUND_PICO: [u64; 3] = [32_000_000, 400_000, 64_000_000];
/// The same of what the listener hears and writes.
const LISTENER_PICO: [u64; 2] = [2_500_000, 10_000_000];
/// A token of sound that a user has sent, in milliseconds.
const TOKEN_MS: u64 = 100;
/// The output bound that OpenAI has for all responses.
const OUTPUT_MAX: u64 = 4_096;
/// Tokens around an item.
const ITEM_TOKENS: u64 = 4;
/// The longest time from an item of speech to the response that answers it, in milliseconds.
const ANSWER_MS_MAX: u64 = 4_000;
/// The most that a response says, so that a session is not over with the first.
const SAID_MAX: u64 = 120;

/// What a session costs: each response and each item that is written down, in picodollars.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionBill(Arc<Mutex<BTreeMap<String, u64>>>);

impl SessionBill {
    pub(crate) fn pico(&self) -> u128 {
        locked(&self.0).values().map(|pico| u128::from(*pico)).sum()
    }

    /// What a response, or writing down an item, costs.
    pub(crate) fn of(&self, id: &str) -> Option<u64> {
        locked(&self.0).get(id).copied()
    }

    fn set(&self, id: &str, pico: u64) {
        locked(&self.0).insert(id.to_owned(), pico);
    }
}

/// Tokens of text and of sound.
#[derive(Clone, Copy, Debug, Default)]
struct Tokens {
    text: u64,
    sound: u64,
}

impl Tokens {
    const fn sum(self) -> u64 {
        self.text + self.sound
    }

    fn at(self, kind: usize) -> u64 {
        self.text * TEXT_PICO[kind] + self.sound * SOUND_PICO[kind]
    }
}

/// How a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Completed,
    Failed,
    /// It is never heard of again.
    Silent,
}

/// A response that runs.
#[derive(Clone, Debug)]
struct Response {
    joins: bool,
    bound: Option<u64>,
    read: Tokens,
    cached: Tokens,
    /// All that it is to say, and what it has said.
    planned: Tokens,
    said: Tokens,
    ending: Ending,
}

impl Response {
    fn pico(&self) -> u64 {
        let fresh =
            Tokens { text: self.read.text - self.cached.text, sound: self.read.sound - self.cached.sound };
        fresh.at(0) + self.cached.at(1) + self.said.at(2)
    }

    fn object(&self, id: &str, status: &str) -> Value {
        let most = self.bound.map_or(json!("inf"), |most| json!(most));
        let conversation = if self.joins { json!("conv_1") } else { Value::Null };
        json!({
            "object": "realtime.response", "id": id, "status": status, "status_details": null, "output": [],
            "conversation_id": conversation, "max_output_tokens": most, "usage": null,
        })
    }

    /// The shape of a usage of this interface.
    fn usage(&self) -> Value {
        let Self { read, cached, said, .. } = self;
        json!({
            "total_tokens": read.sum() + said.sum(), "input_tokens": read.sum(), "output_tokens": said.sum(),
            "input_token_details": {
                "text_tokens": read.text, "audio_tokens": read.sound, "image_tokens": 0, "cached_tokens": cached.sum(),
                "cached_tokens_details": { "text_tokens": cached.text, "audio_tokens": cached.sound, "image_tokens": 0 },
            },
            "output_token_details": { "text_tokens": said.text, "audio_tokens": said.sound },
        })
    }
}

/// What is to happen.
#[derive(Clone, Debug)]
enum Act {
    /// Speech is found that began there, in milliseconds of all sound.
    Hear(u64),
    /// It has ended.
    Pause,
    /// What was said is answered.
    Answer,
    /// A response says more.
    Say(String),
    /// An item of so many milliseconds is written down.
    Write(String, u64),
}

/// A session.
struct Session<'a> {
    end: End,
    frames: Frames,
    account: &'a Account,
    chance: Chance,
    bill: SessionBill,
    /// Once its first update has named it.
    name: Option<String>,
    detects: bool,
    writes: bool,
    output_max: Option<u64>,
    bytes_per_ms: u64,
    instructions: u64,
    conversation: Tokens,
    sent_ms: u64,
    taken_ms: u64,
    is_speech: bool,
    running: BTreeMap<String, Response>,
    due: BTreeMap<(Instant, u64), Act>,
    count: u64,
}

/// Answers the request for a session, and serves it until either side ends it.
pub(crate) async fn serve(
    mut end: End,
    unread: Vec<u8>,
    account: Arc<Account>,
    mut chance: Chance,
    key: &str,
) {
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100]))).await;
    if chance.percent(3) {
        return refuse(&mut end, "500 Oops").unwrap_or_default();
    }
    if end.send(agreed(key).as_bytes(), None).is_err() {
        return;
    }
    let ends_at = chance.percent(15).then(|| now() + Duration::from_millis(chance.within(0, 30_000)));
    let mut session = Session {
        end,
        frames: Frames::of(Side::Server, unread),
        account: &account,
        chance,
        bill: SessionBill::default(),
        name: None,
        detects: true,
        writes: false,
        output_max: None,
        bytes_per_ms: 48,
        instructions: 0,
        conversation: Tokens::default(),
        sent_ms: 0,
        taken_ms: 0,
        is_speech: false,
        running: BTreeMap::new(),
        due: BTreeMap::new(),
        count: 0,
    };
    session.say(&json!({ "type": "session.created", "session": { "type": "realtime", "model": MODEL } }));
    let ended = async {
        match ends_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = session.run() => {}
        () = ended => if session.chance.percent(50) {
            let _ = session.end.send(&session.frames.close(&mut session.chance), None);
        }
    }
}

impl Session<'_> {
    async fn run(&mut self) {
        loop {
            while let Some(message) = self.frames.next() {
                match message {
                    Message::Text(text) => self.take(&serde_json::from_str(&text).unwrap()),
                    Message::Ping(payload) => drop(self.end.send(&self.frames.pong(&payload), None)),
                    Message::Pong => {}
                    Message::Close => {
                        let _ = self.end.send(&self.frames.close(&mut self.chance), None);
                        return;
                    }
                }
            }
            let due = self.due.first_key_value().map(|((at, _), _)| *at);
            let acts = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                has_more = self.frames.read(&mut self.end) => {
                    if !has_more {
                        return;
                    }
                }
                () = acts => {
                    let (_, act) = self.due.pop_first().unwrap();
                    self.act(act);
                }
            }
        }
    }

    /// Sends an event; that it can't be sent is noticed by the reader.
    fn say(&mut self, event: &Value) {
        let _ = self.end.send(&self.frames.text(&event.to_string(), &mut self.chance), None);
    }

    fn later(&mut self, millis: u64, act: Act) {
        self.count += 1;
        self.due.insert((now() + Duration::from_millis(millis), self.count), act);
    }

    fn refuse(&mut self, message: &Value, code: &str) {
        let error = json!({
            "type": "invalid_request_error", "code": code, "message": "no", "param": null, "event_id": message["event_id"],
        });
        self.say(&json!({ "type": "error", "event_id": "event_1", "error": error }));
    }

    fn take(&mut self, message: &Value) {
        match message["type"].as_str().unwrap() {
            "session.update" => self.update(message),
            "conversation.item.create" => {
                let text = message["item"]["content"][0]["text"].as_str().unwrap_or_default();
                self.conversation.text += words(text) + ITEM_TOKENS;
                self.say(&json!({ "type": "conversation.item.added", "item": message["item"] }));
            }
            "input_audio_buffer.append" => {
                let base64 = message["audio"].as_str().unwrap().len();
                self.sent_ms += u64::try_from(base64 / 4 * 3).unwrap() / self.bytes_per_ms;
                self.listen();
            }
            "input_audio_buffer.commit" if self.sent_ms > self.taken_ms && !self.is_speech => self.commit(),
            "input_audio_buffer.clear" => {
                self.taken_ms = self.sent_ms;
                self.is_speech = false;
                self.due.retain(|_, act| !matches!(act, Act::Hear(_) | Act::Pause));
                self.say(&json!({ "type": "input_audio_buffer.cleared" }));
            }
            "response.create" => self.create(message),
            "response.cancel" => self.cancel(message),
            _ => self.refuse(message, "input_audio_buffer_commit_empty"),
        }
    }

    fn update(&mut self, message: &Value) {
        if self.chance.percent(2) {
            return self.refuse(message, "invalid_value");
        }
        let session = &message["session"];
        if let Some(text) = session["instructions"].as_str() {
            let name = text.split(' ').next().unwrap().to_owned();
            self.instructions = words(text) + ITEM_TOKENS;
            self.account.open(&name, Bill::Session(self.bill.clone()));
            self.name = Some(name);
        }
        let input = &session["audio"]["input"];
        if input["format"]["type"] == "audio/pcmu" {
            self.bytes_per_ms = 8;
        }
        if let Some(detects) = input.get("turn_detection") {
            self.detects = !detects.is_null();
        }
        if let Some(transcription) = input.get("transcription") {
            self.writes = !transcription.is_null();
        }
        if let Some(most) = session.get("max_output_tokens") {
            self.output_max = most.as_u64();
        }
        let most = self.output_max.map_or(json!("inf"), |most| json!(most));
        let transcription = self.writes.then(|| json!({ "model": LISTENER }));
        let detection = self.detects.then(|| json!({ "type": "server_vad", "create_response": true }));
        let format = if self.bytes_per_ms == 8 {
            json!({ "type": "audio/pcmu" })
        } else {
            json!({ "type": "audio/pcm", "rate": 24_000 })
        };
        let input = json!({ "format": format, "transcription": transcription, "turn_detection": detection });
        let session = json!({
            "type": "realtime", "model": MODEL, "max_output_tokens": most, "audio": { "input": input },
        });
        self.say(&json!({ "type": "session.updated", "session": session }));
    }

    /// Sound has come: speech may be found in it, or its end.
    fn listen(&mut self) {
        if self.name.is_none() || !self.detects {
            return;
        }
        let is_found = self.due.values().any(|act| matches!(act, Act::Hear(_) | Act::Pause));
        if is_found || self.chance.percent(60) {
            return;
        }
        // It is found a little later, and began a little before.
        let delay = self.chance.one(&[0, 0, 100, 1_000]);
        if self.is_speech {
            self.later(delay, Act::Pause);
        } else {
            let from_ms = self.sent_ms.saturating_sub(self.chance.within(100, 500)).max(self.taken_ms);
            self.later(delay, Act::Hear(from_ms));
        }
    }

    /// The sound so far is an item.
    fn commit(&mut self) {
        let millis = self.sent_ms - self.taken_ms;
        self.taken_ms = self.sent_ms;
        self.is_speech = false;
        self.conversation.sound += millis.div_ceil(TOKEN_MS);
        self.conversation.text += ITEM_TOKENS;
        self.count += 1;
        let item = format!("item_{}", self.count);
        self.say(&json!({ "type": "input_audio_buffer.committed", "item_id": item }));
        if self.writes {
            let millis_later = self.chance.one(&[0, 100, 2_000]);
            self.later(millis_later, Act::Write(item, millis));
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Hear(from_ms) => {
                if self.detects {
                    self.taken_ms = from_ms.max(self.taken_ms);
                    self.is_speech = true;
                    let begun = json!({
                        "type": "input_audio_buffer.speech_started", "audio_start_ms": self.taken_ms, "item_id": "item",
                    });
                    self.say(&begun);
                }
            }
            Act::Pause => {
                let ended = json!({
                    "type": "input_audio_buffer.speech_stopped", "audio_end_ms": self.sent_ms, "item_id": "item",
                });
                self.say(&ended);
                self.commit();
                if self.detects {
                    let millis = self.chance.one(&[0, 0, 300, ANSWER_MS_MAX]);
                    self.later(millis, Act::Answer);
                }
            }
            Act::Answer => {
                // A speaker interrupts what is being said.
                let spoken = self.running.iter().find(|(_, response)| response.joins);
                if let Some(id) = spoken.map(|(id, _)| id.clone()) {
                    self.stop(&id, "cancelled");
                }
                if !self.running.values().any(|response| response.joins) {
                    self.begin(true, self.output_max, self.conversation);
                }
            }
            Act::Say(id) => self.go_on(&id),
            Act::Write(item, millis) => self.write(&item, millis),
        }
    }

    fn create(&mut self, message: &Value) {
        let response = &message["response"];
        self.account.begins(response["metadata"]["name"].as_str().unwrap());
        let joins = response["conversation"] != "none";
        let is_busy = joins && self.running.values().any(|running| running.joins);
        if self.name.is_none() || is_busy || self.chance.percent(3) {
            return self.refuse(message, "conversation_already_has_active_response");
        }
        let bound = response.get("max_output_tokens").map_or(self.output_max, Value::as_u64);
        let text = response["input"][0]["content"][0]["text"].as_str();
        let read =
            text.map_or(self.conversation, |text| Tokens { text: words(text) + ITEM_TOKENS, sound: 0 });
        self.begin(joins, bound, read);
    }

    fn begin(&mut self, joins: bool, bound: Option<u64>, read: Tokens) {
        let read = Tokens { text: read.text + self.instructions, ..read };
        let chance = &mut self.chance;
        let most = bound.unwrap_or(OUTPUT_MAX).min(OUTPUT_MAX);
        let all =
            if chance.percent(20) { most.min(2 * SAID_MAX) } else { chance.within(1, most.min(SAID_MAX)) };
        let sound = chance.within(0, all);
        let cached = Tokens { text: chance.within(0, read.text), sound: chance.within(0, read.sound) };
        let ending = match chance.within(0, 29) {
            0 => Ending::Silent,
            1..=2 => Ending::Failed,
            _ => Ending::Completed,
        };
        let planned = Tokens { text: all - sound, sound };
        let said = Tokens::default();
        let response = Response { joins, bound, read, cached, planned, said, ending };
        self.count += 1;
        let id = format!("resp_{}x{}", self.name.as_deref().unwrap(), self.count);
        self.bill.set(&id, response.pico());
        let begun = response.object(&id, "in_progress");
        self.say(&json!({ "type": "response.created", "response": begun }));
        self.running.insert(id.clone(), response);
        let millis = self.chance.one(&[0, 20, 300]);
        self.later(millis, Act::Say(id));
    }

    /// A response says a part of what it has to say.
    fn go_on(&mut self, id: &str) {
        let Some(response) = self.running.get_mut(id) else { return };
        let part = self.chance.within(1, 40);
        let text = part.min(response.planned.text - response.said.text);
        let sound = part.min(response.planned.sound - response.said.sound);
        if text + sound == 0 {
            return match response.ending {
                Ending::Completed => self.stop(id, "completed"),
                Ending::Failed => self.stop(id, "failed"),
                Ending::Silent => {}
            };
        }
        response.said = Tokens { text: response.said.text + text, sound: response.said.sound + sound };
        self.bill.set(id, response.pico());
        let kind = if sound > 0 { "response.output_audio.delta" } else { "response.output_text.delta" };
        self.say(&json!({ "type": kind, "response_id": id, "item_id": "item", "delta": "AAAA" }));
        let millis = self.chance.one(&[10, 100, 700]);
        self.later(millis, Act::Say(id.to_owned()));
    }

    fn cancel(&mut self, message: &Value) {
        let of = message["response_id"].as_str().map(str::to_owned);
        let id = of.filter(|id| self.running.contains_key(id)).or_else(|| {
            let spoken = self.running.iter().find(|(_, response)| response.joins);
            spoken.map(|(id, _)| id.clone()).filter(|_| message["response_id"].is_null())
        });
        match id {
            Some(id) => self.stop(&id, "cancelled"),
            None => self.refuse(message, "response_cancel_not_active"),
        }
    }

    /// Ends a response; what it has said is a part of the conversation.
    fn stop(&mut self, id: &str, status: &str) {
        if self.running[id].ending == Ending::Silent {
            return;
        }
        let response = self.running.remove(id).unwrap();
        let mut object = response.object(id, status);
        // A response that has failed reports no usage.
        if status != "failed" {
            object["usage"] = response.usage();
        }
        if response.joins {
            self.conversation.text += response.said.text + ITEM_TOKENS;
            self.conversation.sound += response.said.sound;
        }
        self.say(&json!({ "type": "response.done", "response": object }));
    }

    /// Writes an item down, or fails to, for nothing.
    fn write(&mut self, item: &str, millis: u64) {
        let kind = |end: &str| format!("conversation.item.input_audio_transcription.{end}");
        if self.chance.percent(10) {
            let error = json!({ "type": "server_error", "code": null, "message": "no", "param": null });
            return self.say(&json!({ "type": kind("failed"), "item_id": item, "error": error }));
        }
        let (heard, written) = (millis.div_ceil(TOKEN_MS), self.chance.within(0, millis / 250));
        let [listened, wrote] = LISTENER_PICO;
        self.bill.set(item, heard * listened + written * wrote);
        let usage = json!({
            "type": "tokens", "input_tokens": heard, "input_token_details": { "text_tokens": 0, "audio_tokens": heard },
            "output_tokens": written, "total_tokens": heard + written,
        });
        self.say(
            &json!({ "type": kind("completed"), "item_id": item, "transcript": "hello", "usage": usage }),
        );
    }
}

fn words(text: &str) -> u64 {
    u64::try_from(text.split(' ').count()).unwrap()
}
