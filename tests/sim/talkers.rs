//! Programs that ask for responses on sockets, several at a time, and leave whenever they like.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oracle::Endpoint;
use oracle::draw::{self, Sizes};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::locked;
use crate::chance::Chance;
use crate::clients::STATUSES;
use crate::frames::{self, Frames, Message};
use crate::openai::MODELS;
use crate::wire::{End, now};
use crate::world::World;

const PATH: &str = "/v1/responses";
/// Larger messages are counted on real threads, whose order no seed decides.
const MESSAGE_BYTES_MAX: usize = 4_000;
/// Requests on one socket.
const REQUESTS_MAX: u64 = 8;
/// How long a client waits for what it has asked for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A socket of a client.
struct Socket<'a> {
    world: &'a Arc<World>,
    name: String,
    key: usize,
    end: End,
    frames: Frames,
    chance: Chance,
    /// The names of requests that have no answer yet, by their lanes.
    open: BTreeMap<Option<String>, VecDeque<String>>,
    /// Responses that have ended.
    done: BTreeSet<String>,
    /// The last response that is complete.
    last: Option<String>,
    asked: u64,
}

/// Runs one client until the world's work is over.
pub(crate) async fn run(world: Arc<World>, name: usize, mut chance: Chance) {
    let mut count = 0;
    while !world.is_resting() {
        sleep(Duration::from_millis(chance.within(0, 1_500))).await;
        count += 1;
        let Some(mut end) = world.dial_guard() else { continue };
        let key = chance.one(&[0, 1]);
        let bearer = format!("Bearer {}", world.keys()[key]);
        let opened = frames::open(&mut end, PATH, &[("authorization", &bearer)]).await;
        let frames = match opened {
            Some(Ok(frames)) => frames,
            Some(Err(status)) => {
                let is_known = STATUSES.contains(&status) || status == 401;
                world.check(is_known, || format!("a socket is refused with {status}"));
                world.noted(status);
                continue;
            }
            None => continue,
        };
        let name = format!("t{name}s{count}");
        world.trace(&format!("{name} has a socket"));
        let mut socket = Socket {
            world: &world,
            name,
            key,
            end,
            frames,
            chance: chance.fork(),
            open: BTreeMap::new(),
            done: BTreeSet::new(),
            last: None,
            asked: 0,
        };
        socket.run().await;
    }
}

impl Socket<'_> {
    /// Asks, reads, and leaves: with what is open, or when all is answered; with a close frame, or without one.
    async fn run(&mut self) {
        let most = self.chance.within(1, REQUESTS_MAX);
        let is_hasty = self.chance.percent(25);
        let is_slow = self.chance.percent(10);
        let mut next_at = now();
        let mut leaves_at: Option<Instant> = None;
        loop {
            while let Some(message) = self.frames.next() {
                match message {
                    Message::Text(text) => self.read(&text),
                    Message::Ping(payload) => drop(self.end.send(&self.frames.pong(&payload), None)),
                    Message::Pong => {}
                    Message::Close => return,
                }
            }
            if leaves_at.is_none() && (self.asked == most || self.world.is_resting()) {
                let patience =
                    if is_hasty { Duration::from_millis(self.chance.within(0, 4_000)) } else { PATIENCE };
                leaves_at = Some(now() + patience);
            }
            if leaves_at.is_some_and(|at| at <= now() || self.open.is_empty()) {
                break;
            }
            tokio::select! {
                biased;
                has_more = self.frames.read(&mut self.end) => {
                    if !has_more {
                        return;
                    }
                    if is_slow {
                        sleep(Duration::from_millis(self.chance.within(0, 300))).await;
                    }
                }
                () = sleep_until(leaves_at.unwrap_or(next_at)) => {
                    if leaves_at.is_none() {
                        self.ask();
                        next_at = now() + Duration::from_millis(self.chance.one(&[0, 10, 300, 2_000]));
                    }
                }
            }
        }
        if self.chance.percent(60) {
            let _ = self.end.send(&self.frames.close(&mut self.chance), None);
            // It may wait for the answer, or not.
            if self.chance.percent(50) {
                while self.frames.read(&mut self.end).await {}
            }
        }
    }

    /// Asks for a response.
    fn ask(&mut self) {
        self.asked += 1;
        let name = format!("{}r{}", self.name, self.asked);
        let lane = self.chance.one(&[None, None, Some("a"), Some("b-1")]).map(str::to_owned);
        let text = self.request(&name, lane.as_deref());
        locked(&self.world.account.stopped).sends(&name, self.key);
        if self.chance.percent(2) {
            // One that asks for nothing is refused, and the socket stays open.
            let _ = self.end.send(&self.frames.text("{\"type\":\"session.update\"}", &mut self.chance), None);
        }
        if self.end.send(&self.frames.text(&text, &mut self.chance), None).is_ok() {
            self.open.entry(lane).or_default().push_back(name);
        }
    }

    fn request(&mut self, name: &str, lane: Option<&str>) -> String {
        let chance = &mut self.chance;
        let mut dice = oracle::Chance::of_seed(chance.next());
        let is_drawn = chance.percent(self.world.drawn_percent);
        let mut request = if is_drawn {
            draw::request(&mut dice, Endpoint::Responses, Sizes::SMALL)
        } else {
            let words = vec!["hello"; usize::try_from(chance.within(1, 40)).unwrap()].join(" ");
            let mut request = json!({ "model": chance.one(&MODELS), "input": format!("{name} {words}") });
            if chance.percent(70) {
                request["max_output_tokens"] = json!(chance.within(16, 300));
            }
            if chance.percent(15) {
                request["generate"] = json!(false);
            }
            if chance.percent(30) {
                request["store"] = json!(false);
            }
            request
        };
        request["type"] = json!("response.create");
        // Upstream and the ledger know the request by it.
        request["metadata"] = json!({ "name": name });
        if let Some(lane) = lane {
            request["stream_id"] = json!(lane);
        }
        match &self.last {
            Some(last) if chance.percent(40) => request["previous_response_id"] = json!(last),
            _ => drop(request.as_object_mut().unwrap().remove("previous_response_id")),
        }
        let text = if is_drawn { draw::spell(&mut dice, &request) } else { request.to_string() };
        if text.len() <= MESSAGE_BYTES_MAX {
            return text;
        }
        let small = json!({
            "type": "response.create", "model": MODELS[0], "input": name, "metadata": { "name": name },
            "max_output_tokens": 16, "stream_id": lane,
        });
        small.to_string()
    }

    /// Reads an event: it belongs to what was asked for.
    fn read(&mut self, text: &str) {
        let event: Value = serde_json::from_str(text).unwrap();
        let lane = event["stream_id"].as_str().map(str::to_owned);
        let kind = event["type"].as_str().unwrap();
        let id = event["response"]["id"].as_str();
        let asked = self.open.get(&lane).and_then(|open| open.front());
        if let Some(id) = id.filter(|id| !self.done.contains(*id)) {
            let is_asked = asked.is_some_and(|name| id == format!("resp_{name}"));
            self.world.check(is_asked, || format!("{}: {kind} of {id}, asked is {:?}", self.name, self.open));
        }
        let status = match kind {
            "error" if event["error"]["param"] == "type" => return,
            "error" => match event["status"].as_u64() {
                Some(status) => u16::try_from(status).unwrap(),
                None => 500,
            },
            "response.completed" | "response.incomplete" | "response.failed" => {
                if id.is_none_or(|id| !self.done.insert(id.to_owned())) {
                    return;
                }
                200
            }
            _ => return,
        };
        if kind == "response.completed" {
            self.last = id.map(str::to_owned);
        }
        self.world.check(STATUSES.contains(&status), || format!("{}: a status of {status}", self.name));
        let Some(name) = self.open.get_mut(&lane).and_then(VecDeque::pop_front) else { return };
        self.done.insert(format!("resp_{name}"));
        self.open.retain(|_, open| !open.is_empty());
        self.world.trace(&format!("{name} of key {} got {status}, {} bytes", self.key, text.len()));
        self.world.noted(status);
    }
}
