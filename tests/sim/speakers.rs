//! Programs that speak in realtime sessions, ask for responses, interrupt them, and leave whenever they like.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until};

use crate::account::locked;
use crate::chance::Chance;
use crate::clients::STATUSES;
use crate::frames::{self, Frames, Message};
use crate::realtime::{LISTENER, MODEL, PATH};
use crate::wire::{End, now};
use crate::world::World;

/// Messages of one session.
const MESSAGES_MAX: u64 = 40;
/// Milliseconds of sound in a message.
const SOUND_MS: u64 = 200;

/// A session of a client.
struct Session<'a> {
    world: &'a Arc<World>,
    name: String,
    key: usize,
    sent: u64,
    end: End,
    frames: Frames,
    chance: Chance,
    /// Its updates that have no answer.
    updates: u64,
}

/// Runs one client until the world's work is over.
pub(crate) async fn run(world: Arc<World>, name: usize, mut chance: Chance) {
    let mut count = 0;
    while !world.is_resting() {
        sleep(Duration::from_millis(chance.within(0, 3_000))).await;
        count += 1;
        let name = format!("s{name}s{count}");
        let Some(mut end) = world.dial_guard() else { continue };
        let key = chance.one(&[0, 1]);
        let bearer = format!("Bearer {}", world.keys()[key]);
        let (path, tags) = (format!("{PATH}?model={MODEL}"), format!("name={name}"));
        let headers = [("authorization", bearer.as_str()), ("x-spendguard-tags", &tags)];
        let frames = match frames::open(&mut end, &path, &headers).await {
            Some(Ok(frames)) => frames,
            Some(Err(status)) => {
                world.check(STATUSES.contains(&status), || format!("a session is refused with {status}"));
                world.noted(status);
                continue;
            }
            None => continue,
        };
        world.trace(&format!("{name} has a session"));
        let chance = chance.fork();
        let mut session = Session { world: &world, name, key, sent: 0, end, frames, chance, updates: 0 };
        session.run().await;
    }
}

impl Session<'_> {
    /// Speaks and listens, and leaves: at once or after a while, with a close frame or without one.
    async fn run(&mut self) {
        let most = self.chance.within(3, MESSAGES_MAX);
        let detects = self.chance.percent(60);
        self.configure(detects);
        let mut sent = 0;
        let mut next_at = now();
        while sent <= most && !self.world.is_resting() {
            while let Some(message) = self.frames.next() {
                match message {
                    Message::Text(text) => self.read(&text),
                    Message::Ping(payload) => drop(self.end.send(&self.frames.pong(&payload), None)),
                    Message::Pong => {}
                    Message::Close => return,
                }
            }
            tokio::select! {
                biased;
                has_more = self.frames.read(&mut self.end) => {
                    if !has_more {
                        return;
                    }
                }
                () = sleep_until(next_at) => {
                    sent += 1;
                    let pause = if sent == most { 8_000 } else { self.chance.one(&[0, 50, 200, 200, 1_500]) };
                    next_at = now() + Duration::from_millis(pause);
                    if sent < most {
                        self.speak(detects);
                    }
                }
            }
        }
        if self.chance.percent(60) {
            let _ = self.end.send(&self.frames.close(&mut self.chance), None);
        }
    }

    fn send(&mut self, mut message: Value) {
        if self.chance.percent(30) {
            message["event_id"] = json!(format!("e{}", self.chance.next()));
        }
        match message["type"].as_str() {
            Some("session.update") => self.updates += 1,
            Some("response.create") => {
                self.sent += 1;
                let name = format!("{}r{}", self.name, self.sent);
                message["response"]["metadata"] = json!({ "name": name });
                locked(&self.world.account.stopped).sends(&name, self.key);
            }
            _ => {}
        }
        let _ = self.end.send(&self.frames.text(&message.to_string(), &mut self.chance), None);
    }

    /// The first message: upstream knows the session by its instructions.
    fn configure(&mut self, detects: bool) {
        let detection = detects.then(|| json!({ "type": "server_vad" }));
        let transcription = self.chance.percent(40).then(|| json!({ "model": LISTENER }));
        let input = json!({
            "format": { "type": "audio/pcmu" }, "turn_detection": detection, "transcription": transcription,
        });
        let mut session = json!({
            "type": "realtime", "instructions": format!("{} be brief", self.name), "audio": { "input": input },
        });
        if self.chance.percent(70) {
            session["max_output_tokens"] = json!(self.chance.within(20, 300));
        }
        self.send(json!({ "type": "session.update", "session": session }));
    }

    fn speak(&mut self, detects: bool) {
        let words = vec!["hello"; usize::try_from(self.chance.within(1, 30)).unwrap()].join(" ");
        let content = json!([{ "type": "input_text", "text": words }]);
        let item = json!({ "type": "message", "role": "user", "content": content });
        let message = match self.chance.within(0, 19) {
            0..=2 => json!({ "type": "conversation.item.create", "item": item }),
            3..=4 => json!({ "type": "response.create" }),
            5 => {
                let most = self.chance.within(16, 200);
                json!({ "type": "response.create", "response": { "max_output_tokens": most } })
            }
            6 => {
                let response = json!({ "conversation": "none", "input": [item] });
                json!({ "type": "response.create", "response": response })
            }
            7 => json!({ "type": "response.cancel" }),
            8 if !detects => json!({ "type": "input_audio_buffer.commit" }),
            9 => json!({ "type": "input_audio_buffer.clear" }),
            10 => {
                let session = json!({ "type": "realtime", "max_output_tokens": self.chance.within(20, 300) });
                json!({ "type": "session.update", "session": session })
            }
            _ => {
                // Four letters are three bytes, and eight bytes a millisecond.
                let letters = usize::try_from(SOUND_MS * 8 / 3 * 4).unwrap();
                json!({ "type": "input_audio_buffer.append", "audio": "/".repeat(letters) })
            }
        };
        self.send(message);
    }

    fn read(&mut self, text: &str) {
        let event: Value = serde_json::from_str(text).unwrap();
        let status = match event["type"].as_str().unwrap() {
            "error" => match event["status"].as_u64() {
                Some(status) => u16::try_from(status).unwrap(),
                None => 400,
            },
            "response.done" => 200,
            "session.updated" => {
                self.world
                    .check(self.updates > 0, || format!("{}: an update that it did not send", self.name));
                self.updates -= 1;
                return;
            }
            _ => return,
        };
        self.world.check(STATUSES.contains(&status), || format!("{}: a status of {status}", self.name));
        self.world.trace(&format!("{} got {status}, {} bytes", self.name, text.len()));
        self.world.noted(status);
    }
}
