//! Sockets of responses at upstream: each message asks for a response, and the responses of a lane follow one another.
//!
//! A response is drawn, answered and billed like a stream over HTTP.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oracle::answer::{Part, answer as rendered};
use oracle::outcome::{End as Ending, Outcome};
use oracle::{Ask, Endpoint, maximum};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::{Account, Bill, DrawnBill};
use crate::answers::refuse;
use crate::chance::Chance;
use crate::drawn::billed;
use crate::frames::{Frames, Message, Side, agreed};
use crate::wire::{End, Mark, now};

/// Responses that share no lane have this one in common.
type Lane = Option<String>;

/// How a response goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer,
    /// The work is done, and nothing is said of it.
    Never,
    /// After what there is of it, upstream ends the socket.
    Cut,
}

/// A response that is being answered, from its next event on.
struct Playing {
    parts: VecDeque<Part>,
    bill: DrawnBill,
    fate: Fate,
    at: Instant,
    pause: Duration,
    /// What is kept of it once it is complete: its id and its tokens.
    made: Option<(String, u64)>,
}

/// A socket, and what is played on it.
struct Socket<'a> {
    end: End,
    frames: Frames,
    account: &'a Account,
    chance: Chance,
    lanes: BTreeMap<Lane, VecDeque<Playing>>,
}

/// Answers the request for a socket, and serves it until either side ends it.
pub(crate) async fn serve(
    mut end: End,
    unread: Vec<u8>,
    account: Arc<Account>,
    mut chance: Chance,
    key: &str,
) {
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    match chance.within(0, 99) {
        0..=1 => return refuse(&mut end, "500 Oops").unwrap_or_default(),
        2 => return refuse(&mut end, "401 Unauthorized").unwrap_or_default(),
        3 => return,
        _ => {}
    }
    if end.send(agreed(key).as_bytes(), None).is_err() {
        return;
    }
    let ends_at = chance.percent(15).then(|| now() + Duration::from_millis(chance.within(0, 30_000)));
    let frames = Frames::of(Side::Server, unread);
    let mut socket = Socket { end, frames, account: &account, chance, lanes: BTreeMap::new() };
    let ended = async {
        match ends_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let is_own = tokio::select! {
        biased;
        is_own = socket.run() => is_own,
        () = ended => true,
    };
    if is_own {
        socket.leave();
    }
}

impl Socket<'_> {
    /// Reads and answers; returns whether upstream ends the socket, and not the guard.
    async fn run(&mut self) -> bool {
        loop {
            while let Some(message) = self.frames.next() {
                match message {
                    Message::Text(text) => self.take(&text),
                    Message::Ping(payload) => drop(self.end.send(&self.frames.pong(&payload), None)),
                    Message::Pong => {}
                    Message::Close => {
                        let _ = self.end.send(&self.frames.close(&mut self.chance), None);
                        return false;
                    }
                }
            }
            let due = self.lanes.iter().filter_map(|(lane, queue)| Some((queue.front()?.at, lane.clone())));
            let due = due.min();
            let played = async {
                match &due {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                has_more = self.frames.read(&mut self.end) => {
                    if !has_more {
                        return false;
                    }
                }
                () = played => {
                    let (_, lane) = due.unwrap();
                    if self.play(&lane).is_none() {
                        return true;
                    }
                }
            }
        }
    }

    /// Takes a request for a response.
    fn take(&mut self, text: &str) {
        let body: Value = serde_json::from_str(text).unwrap();
        let lane = body["stream_id"].as_str().map(str::to_owned);
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        self.account.begins(&name);
        let answer_at = now() + Duration::from_millis(self.chance.one(&[0, 1, 10, 100, 900]));
        let world = self.account.world();
        let mut asked = Ask::read(&world, Endpoint::Responses, text.as_bytes()).unwrap();
        asked.stream = true;
        if asked.is_open {
            asked.output_max = asked.output_max.min(asked.model.output_max.unwrap_or(u64::MAX));
        }
        let mut outcome = Outcome::draw(&mut oracle::Chance::of_seed(self.chance.next()), &world, &asked);
        if body["generate"] == false {
            silence(&mut outcome);
        }
        let most = if asked.is_open { 0 } else { maximum::of(&world, &asked) };
        self.account.most(&name, most, format!("{asked:?}\n  {outcome:?}"));
        let fate = match outcome.end {
            Ending::Lost | Ending::Gateway | Ending::Cut => Fate::Cut,
            Ending::Completed if self.chance.percent(2) => Fate::Never,
            Ending::Completed
            | Ending::Incomplete
            | Ending::Failed
            | Ending::FailedAtOnce
            | Ending::Rejected => Fate::Answer,
        };
        // What is never shown is billed at once.
        let is_hidden = matches!(outcome.end, Ending::Lost | Ending::Gateway) || fate == Fate::Never;
        let bill = billed(&outcome, &world, &asked, !is_hidden);
        if outcome.charge(&world, &asked, outcome.words) > 0 {
            self.account.open(&name, Bill::Drawn(bill.clone()));
        }
        let mut parts = VecDeque::from(rendered(&outcome, &asked, &name).parts);
        if outcome.end == Ending::Gateway {
            // There is no gateway on a socket.
            parts.clear();
        } else if outcome.end == Ending::Rejected {
            parts[0].text = rejected();
        }
        let is_made = outcome.end == Ending::Completed && fate == Fate::Answer;
        let playing = Playing {
            parts,
            bill,
            fate,
            at: answer_at,
            pause: Duration::from_millis(self.chance.one(&[0, 0, 1, 30, 300])),
            made: is_made.then(|| (format!("resp_{name}"), outcome.largest + outcome.used.output)),
        };
        self.lanes.entry(lane).or_default().push_back(playing);
    }

    /// Sends the next event of a lane; none if upstream ends the socket.
    fn play(&mut self, lane: &Lane) -> Option<()> {
        let queue = self.lanes.get_mut(lane).unwrap();
        let playing = queue.front_mut().unwrap();
        if playing.fate == Fate::Never {
            playing.at = now() + Duration::from_secs(1_000);
            return Some(());
        }
        let Some(part) = playing.parts.pop_front() else {
            return (playing.fate != Fate::Cut).then_some(()).inspect(|()| drop(queue.pop_front()));
        };
        let mut event = event_of(&part.text);
        if let Some(lane) = lane {
            event["stream_id"] = json!(lane);
        }
        let stages = u64::try_from(part.stages).unwrap();
        let bill = &playing.bill;
        let mark = Mark(vec![(Arc::clone(&bill.words), part.words), (Arc::clone(&bill.stage), stages)]);
        playing.at = now() + playing.pause;
        if playing.parts.is_empty() && playing.fate == Fate::Answer {
            let done = queue.pop_front().unwrap();
            if let Some((id, tokens)) = done.made {
                self.account.made(id, tokens);
            }
            if let Some(next) = queue.front_mut() {
                next.at = next.at.max(now());
            }
        }
        if self.chance.percent(2) {
            let said = json!({ "type": "rate_limits.updated", "rate_limits": [] }).to_string();
            self.end.send(&self.frames.text(&said, &mut self.chance), None).ok()?;
        }
        // An error that its writer can't send is noticed by the reader.
        let _ = self.end.send(&self.frames.text(&event.to_string(), &mut self.chance), Some(mark));
        Some(())
    }

    /// Ends the socket from upstream's side, with a close frame or without one.
    fn leave(&mut self) {
        if self.chance.percent(50) {
            let _ = self.end.send(&self.frames.close(&mut self.chance), None);
        }
    }
}

/// The context is prepared, and nothing is said.
fn silence(outcome: &mut Outcome) {
    outcome.words = 0;
    outcome.function = None;
    (outcome.used.output, outcome.used.reasoning) = (0, 0);
    if outcome.end == Ending::Failed {
        outcome.end = Ending::FailedAtOnce;
    }
}

/// The error that refuses a request, as a message of its own.
fn rejected() -> String {
    let error = json!({ "message": "no", "type": "invalid_request_error", "param": null, "code": null, "headers": {} });
    format!("data: {}\n", json!({ "type": "error", "status": 400, "error": error }))
}

/// The event in a part of an event stream.
fn event_of(part: &str) -> Value {
    let data = part.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    serde_json::from_str(data).unwrap()
}
