//! Background responses at upstream: they go on without the requests that began them.
//!
//! Each is drawn like any other request, runs for a time of its own, and is billed when it ends,
//! asked for or not. Questions about it are answered late, partly, wrongly, or never.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oracle::answer::{Part, answer as rendered};
use oracle::draw::{self, Sizes};
use oracle::outcome::{End as Ending, Outcome, UsageForm};
use oracle::{Ask, Endpoint, maximum};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::{Account, Bill, locked};
use crate::answers::{answer, cut, disturbed_or_denied, page, refuse};
use crate::chance::Chance;
use crate::openai::{MODELS, Question, whole};
use crate::wire::{End, now};

/// What marks an endless response.
pub(crate) const ENDLESS: &str = "endless";
/// The longest time that a question about a job is left unanswered, in seconds: the guard waits
/// for 30.
pub(crate) const SLOW_MAX_S: u64 = 40;
/// How long a response runs at the most, in milliseconds.
const LASTS_MS: [u64; 4] = [2_000, 60_000, 600_000, 7_200_000];
/// How long a response is kept after its end that was not to be stored, in seconds.
const KEPT_S: u64 = 600;

/// What a background response costs, once it has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackgroundBill {
    ended: Arc<Mutex<Option<(Instant, u128)>>>,
    /// Whether its usage, if it is reported, says all that its price follows from.
    pub(crate) is_exact: bool,
    /// Whether it ran in containers.
    pub(crate) has_sessions: bool,
}

impl BackgroundBill {
    pub(crate) fn pico(&self) -> u128 {
        locked(&self.ended).filter(|(at, _)| *at <= now()).map_or(0, |(_, pico)| pico)
    }
}

/// All background responses, by their ids.
pub(crate) type Responses = Mutex<BTreeMap<String, Running>>;

/// A response that was begun.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    name: String,
    ask: Ask,
    outcome: Outcome,
    /// When it ends; none if it never does.
    ends_at: Option<Instant>,
    is_cancelled: bool,
    is_deleted: bool,
    is_kept: bool,
    bill: BackgroundBill,
}

impl Running {
    fn has_ended(&self) -> bool {
        self.ends_at.is_some_and(|at| at <= now())
    }

    /// Whether upstream does not know it any more.
    fn is_gone(&self) -> bool {
        let kept = Duration::from_secs(KEPT_S);
        self.is_deleted || (!self.is_kept && self.ends_at.is_some_and(|at| at + kept <= now()))
    }

    /// Ends it now, in the middle; bills what was made by then.
    fn stop(&mut self, world: &oracle::World, chance: &mut Chance) {
        if self.has_ended() {
            return;
        }
        self.is_cancelled = true;
        self.ends_at = Some(now());
        let part = Outcome { end: Ending::Cut, ..self.outcome.clone() };
        let pico = if self.outcome.end == Ending::FailedAtOnce || chance.percent(30) {
            // It was done just then, or has done nothing.
            self.outcome.charge(world, &self.ask, self.outcome.words)
        } else {
            // Most often no usage is reported of what was cancelled.
            self.outcome.report.usage = UsageForm::Absent;
            part.charge(world, &self.ask, chance.within(0, self.outcome.words))
        };
        *locked(&self.bill.ended) = Some((now(), pico));
    }

    /// The object as it is now.
    fn object(&self) -> String {
        if !self.has_ended() {
            return self.unfinished().to_string();
        }
        let text = rendered(&self.outcome, &Ask { stream: false, ..self.ask.clone() }, &self.name);
        let text = &text.parts[0].text;
        if !self.is_cancelled {
            return text.clone();
        }
        let mut object: Value = serde_json::from_str(text).unwrap();
        object["status"] = json!("cancelled");
        object.to_string()
    }

    fn unfinished(&self) -> Value {
        json!({
            "id": id(&self.name), "object": "response", "created_at": 1,
            "status": "in_progress", "background": true, "model": self.outcome.model, "service_tier": "auto",
            "output": [], "error": null, "incomplete_details": null, "usage": null,
        })
    }
}

/// A request for a background response: a plain one, or one of any kind.
pub(crate) fn request(account: &Account, name: &str, chance: &mut Chance, ends: bool) -> String {
    let metadata = json!({ "name": name, "ends": if ends { "some day" } else { ENDLESS } });
    if chance.percent(60) {
        let words = vec!["hello"; usize::try_from(chance.within(1, 40)).unwrap()].join(" ");
        let most = chance.within(16, 300);
        let mut body = json!({
            "model": chance.one(&MODELS), "input": format!("{name} {words}"), "background": true,
            "max_output_tokens": most, "metadata": metadata,
        });
        if chance.percent(30) {
            body["stream"] = json!(true);
        }
        return body.to_string();
    }
    let mut dice = oracle::Chance::of_seed(chance.next());
    let mut request = draw::request(&mut dice, Endpoint::Responses, Sizes::SMALL);
    request["metadata"] = metadata;
    request["background"] = json!(true);
    if chance.percent(80) {
        // These two exclude it.
        let request = request.as_object_mut().unwrap();
        request.remove("conversation");
        request.remove("store");
    }
    if request["previous_response_id"].is_string() {
        let known = account.responses();
        if !known.is_empty() {
            request["previous_response_id"] = json!(known[dice.index(known.len())]);
        }
    }
    draw::spell(&mut dice, &request)
}

fn id(name: &str) -> String {
    format!("resp_{name}")
}

/// The name of a request for a background response.
pub(crate) fn named(path: &str, body: &Value) -> Option<String> {
    let is_one = path == Endpoint::Responses.path() && body["background"] == true;
    Some(body["metadata"]["name"].as_str().filter(|_| is_one)?.to_owned())
}

/// How the request that begins a response is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer,
    /// It has ended when it is shown first.
    Ended,
    Fail,
    Gateway,
    Lost,
    Partly,
    Garbage,
}

impl Fate {
    fn drawn(chance: &mut Chance) -> Self {
        match chance.within(0, 99) {
            0..=79 => Self::Answer,
            80..=84 => Self::Ended,
            85..=87 => Self::Fail,
            88..=90 => Self::Gateway,
            91..=94 => Self::Lost,
            95..=97 => Self::Partly,
            _ => Self::Garbage,
        }
    }
}

/// Begins a response; none if the connection is over.
pub(crate) async fn begin(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
    name: &str,
    body: &[u8],
) -> Option<()> {
    let world = account.world();
    let read = Ask::read(&world, Endpoint::Responses, body);
    let Some(mut ask) = read else { return refuse(end, "400 Bad Request") };
    if ask.is_open {
        ask.output_max = ask.output_max.min(ask.model.output_max.unwrap_or(u64::MAX));
    }
    let Some(outcome) = outcome(&world, &ask, chance) else { return refuse(end, "400 Bad Request") };
    let fate = Fate::drawn(chance);
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    if fate == Fate::Fail {
        return refuse(end, "500 Oops");
    }
    let most = if ask.is_open { 0 } else { maximum::of(&world, &ask) };
    account.most(name, most, format!("{ask:?}\n  {outcome:?}"));
    let most_ms = if fate == Fate::Ended { 0 } else { chance.one(&LASTS_MS) };
    let lasts = chance.within(0, most_ms);
    let is_endless = String::from_utf8_lossy(body).contains(ENDLESS) && fate == Fate::Answer;
    let ends_at = (!is_endless).then(|| now() + Duration::from_millis(lasts));
    let pico = outcome.charge(&world, &ask, outcome.words);
    let bill = BackgroundBill {
        ended: Arc::new(Mutex::new(ends_at.map(|at| (at, pico)))),
        // The uplift of a region is assumed for versions of a model that no price is published for.
        is_exact: outcome.report.usage == UsageForm::Full
            && outcome.calls.is_empty()
            && !ask.ttl_12h
            && !world.is_regional,
        has_sessions: !outcome.containers.is_empty(),
    };
    account.open(name, Bill::Background(bill.clone()));
    let running = Running {
        name: name.to_owned(),
        ask,
        outcome,
        ends_at,
        is_cancelled: false,
        is_deleted: false,
        is_kept: chance.percent(50),
        bill,
    };
    let id = id(name);
    locked(&account.background).insert(id.clone(), running.clone());
    match fate {
        Fate::Gateway => end.send(page("504 Gateway Timeout").as_bytes(), None).ok(),
        Fate::Lost => None,
        Fate::Garbage => whole(end, "200 OK", "<html>all is well</html>"),
        Fate::Partly => cut(end, &running.object()),
        Fate::Answer | Fate::Ended | Fate::Fail if running.ask.stream => {
            stream(end, account, &id, chance.percent(20)).await
        }
        Fate::Answer | Fate::Ended | Fate::Fail => whole(end, "200 OK", &running.object()),
    }
}

/// What a response comes to, whose request is answered; none if it is refused.
fn outcome(world: &oracle::World, ask: &Ask, chance: &mut Chance) -> Option<Outcome> {
    let draw = |seed| Outcome::draw(&mut oracle::Chance::of_seed(seed), world, ask);
    let can_be = |outcome: &Outcome| {
        let end = outcome.end;
        matches!(end, Ending::Completed | Ending::Incomplete | Ending::Failed | Ending::FailedAtOnce)
    };
    std::iter::repeat_with(|| draw(chance.next())).take(20).find(can_be)
}

/// The events of a response, from its first to its last, or to a break in the middle.
async fn stream(end: &mut End, account: &Account, id: &str, is_cut: bool) -> Option<()> {
    let find = || locked(&account.background).get(id).cloned();
    let running = find()?;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    end.send(head.as_bytes(), None).ok()?;
    let ask = Ask { stream: true, ..running.ask.clone() };
    let mut parts = rendered(&running.outcome, &ask, &running.name).parts;
    let send = |end: &mut End, Part { text, .. }: &Part| {
        end.send(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes(), None).ok()
    };
    if running.outcome.end != Ending::FailedAtOnce {
        send(end, &parts.remove(0))?;
    }
    loop {
        match find()?.ends_at {
            Some(at) if at <= now() => break,
            Some(at) => sleep_until(at.min(now() + Duration::from_secs(5))).await,
            // The guard gives up a stream in which nothing comes.
            None => sleep(Duration::from_secs(60)).await,
        }
        send(end, &Part { text: ": keep-alive\n\n".to_owned(), words: 0, stages: 0 })?;
    }
    if is_cut || find()?.is_cancelled {
        return None;
    }
    for part in &parts {
        send(end, part)?;
    }
    end.send(b"0\r\n\r\n", None).ok()
}

/// Answers a question about a response; none if the connection is over.
pub(crate) async fn show(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
    Question { method, id, below, .. }: Question<'_>,
) -> Option<()> {
    if disturbed_or_denied(end, account, chance).await? {
        return Some(());
    }
    if chance.percent(1) {
        sleep(Duration::from_secs(chance.within(1, SLOW_MAX_S))).await;
    }
    let found = locked(&account.background).get(id).filter(|running| !running.is_gone()).cloned();
    let Some(running) = found else { return refuse(end, "404 Not Found") };
    let world = account.world();
    let mut with = |change: &mut dyn FnMut(&mut Running, &mut Chance)| {
        change(locked(&account.background).get_mut(id).unwrap(), chance);
    };
    match (method, below) {
        ("delete", "") => {
            with(&mut |running, chance| {
                running.stop(&world, chance);
                running.is_deleted = true;
            });
            let text = json!({ "id": id, "object": "response", "deleted": true }).to_string();
            return answer(end, chance, &text).0;
        }
        ("post", "/cancel") => with(&mut |running, chance| running.stop(&world, chance)),
        ("get", "?stream=true") => return stream(end, account, id, chance.percent(20)).await,
        _ if chance.percent(3) && !running.has_ended() => {
            let mut object = running.unfinished();
            object["status"] = json!("resting");
            return answer(end, chance, &object.to_string()).0;
        }
        _ => {}
    }
    let text = locked(&account.background)[id].object();
    answer(end, chance, &text).0
}
