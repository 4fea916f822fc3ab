//! Containers at upstream: each is billed by the minute while it lives.
//!
//! A minute is billed once it has begun, five at the least. A container ends when it was not used
//! for as long as it may be idle, or when it is deleted. All times are whole seconds, as upstream
//! shows them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oracle::prices::Memory;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::account::{Account, Bill, locked};
use crate::answers::{answer_with, disturbed, made_known, refuse};
use crate::chance::Chance;
use crate::openai::Question;
use crate::seen::{Deletion, Denial};
use crate::wire::{End, Mark, now};

/// The path that makes one.
pub(crate) const PATH: &str = "/v1/containers";
/// Minutes that one is billed for at the least, and those of a session, which a price is for.
const MINUTES_MIN: i64 = 5;
const SESSION_MINUTES: u128 = 20;
/// How long one lives after its last use if its request does not say so, in minutes.
const IDLE_MINUTES: i64 = 20;

/// Unix time at upstream, which no clock that is set changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnixTime {
    base_ms: i64,
    began: Instant,
}

impl UnixTime {
    pub(crate) const fn from(base_ms: i64, began: Instant) -> Self {
        Self { base_ms, began }
    }

    pub(crate) fn now_s(self) -> i64 {
        let passed_ms = i64::try_from(now().duration_since(self.began).as_millis()).unwrap();
        (self.base_ms + passed_ms).div_euclid(1_000)
    }
}

/// A container, or one that was.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    name: String,
    memory: Memory,
    time: UnixTime,
    created_s: i64,
    active_s: i64,
    idle_s: i64,
    deleted_s: Option<i64>,
    deletion: Option<Deletion>,
    /// Whether it is a use of it to read it.
    is_used_by_reading: bool,
    /// Whether it is forgotten once it has ended.
    is_forgotten: bool,
    denial: Denial,
    /// Whether what was done to it was not answered.
    was_lost: bool,
}

impl Container {
    /// When it ends unless it is used, in Unix seconds.
    fn end_s(&self) -> i64 {
        let idle_s = self.active_s + self.idle_s;
        self.deleted_s.map_or(idle_s, |deleted_s| deleted_s.min(idle_s))
    }

    fn has_ended(&self) -> bool {
        self.end_s() <= self.time.now_s()
    }

    fn is_gone(&self) -> bool {
        self.has_ended() && (self.is_forgotten || self.deleted_s.is_some())
    }

    /// The minutes that are billed by now.
    fn minutes(&self) -> i64 {
        let lived_s = self.end_s().min(self.time.now_s()) - self.created_s;
        ((lived_s + 59) / 60).max(MINUTES_MIN)
    }

    fn object(&self) -> String {
        let status = if self.has_ended() { "expired" } else { "running" };
        json!({
            "id": id(&self.name), "object": "container", "name": self.name, "created_at": self.created_s,
            "last_active_at": self.active_s, "status": status, "memory_limit": self.memory.wire(),
            "expires_after": { "anchor": "last_active_at", "minutes": self.idle_s / 60 },
        })
        .to_string()
    }
}

/// What a container has cost by now.
#[derive(Clone, Debug)]
pub(crate) struct ContainerBill(Arc<Mutex<Container>>);

impl ContainerBill {
    pub(crate) fn pico(&self) -> u128 {
        let of = locked(&self.0);
        u128::try_from(of.minutes()).unwrap() * of.memory.session_pico() / SESSION_MINUTES
    }

    /// The minutes that are billed by now.
    pub(crate) fn minutes(&self) -> i64 {
        locked(&self.0).minutes()
    }

    /// Whether the guard, which died at these times, can know how long it lives: what it takes for a
    /// use is one, and no answer was lost.
    pub(crate) fn is_known(&self, deaths: &[Instant]) -> bool {
        let of = locked(&self.0);
        let is_end_seen = of.deletion.as_ref().is_none_or(|deletion| deletion.is_seen(deaths));
        of.is_used_by_reading && !of.was_lost && is_end_seen
    }
}

/// All containers, by their ids.
pub(crate) type Containers = Mutex<BTreeMap<String, Arc<Mutex<Container>>>>;

fn id(name: &str) -> String {
    format!("cntr_{name}")
}

/// A request for a container.
pub(crate) fn request(name: &str, chance: &mut Chance) -> String {
    let mut body = json!({ "name": name });
    if chance.percent(60) {
        body["memory_limit"] = json!(chance.one(&Memory::ALL[..2]).wire());
    }
    if chance.percent(60) {
        let minutes = chance.one(&[1, 3, 5, 12, 20]);
        body["expires_after"] = json!({ "anchor": "last_active_at", "minutes": minutes });
    }
    body.to_string()
}

/// Makes a container; none if the connection is over.
pub(crate) async fn make(end: &mut End, account: &Account, chance: &mut Chance, body: &[u8]) -> Option<()> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let name = body["name"].as_str().unwrap().to_owned();
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    let fate = chance.within(0, 99);
    if fate < 4 {
        return refuse(end, "500 Oops");
    }
    let time = account.time();
    let now_s = time.now_s();
    let made = Container {
        name: name.clone(),
        memory: body["memory_limit"].as_str().map_or(Memory::G1, |name| Memory::of(name).unwrap()),
        time,
        created_s: now_s,
        active_s: now_s,
        idle_s: body["expires_after"]["minutes"].as_i64().unwrap_or(IDLE_MINUTES) * 60,
        deleted_s: None,
        deletion: None,
        is_used_by_reading: chance.percent(50),
        is_forgotten: chance.percent(30),
        denial: Denial::default(),
        was_lost: false,
    };
    let text = made.object();
    let made = Arc::new(Mutex::new(made));
    account.open(&name, Bill::Container(ContainerBill(Arc::clone(&made))));
    locked(&account.containers).insert(id(&name), made);
    made_known(end, fate, &text)
}

/// Answers a question about a container, uses it, or deletes it; none if the connection is over.
pub(crate) async fn show(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
    Question { method, id, below, is_guards }: Question<'_>,
) -> Option<()> {
    let found = locked(&account.containers).get(id).cloned();
    let found = found.filter(|found| !locked(found).is_gone());
    let disturbed = disturbed(end, account, chance).await;
    if disturbed != Some(false) {
        // The guard takes it for a use.
        if let Some(found) = found {
            locked(&found).was_lost = true;
        }
        return disturbed.map(drop);
    }
    let Some(found) = found else { return refuse(end, "404 Not Found") };
    let mut marks = Vec::new();
    let text = {
        let mut of = locked(&found);
        if of.denial.is_possible() && chance.percent(5) {
            of.denial.deny();
            drop(of);
            return refuse(end, "404 Not Found");
        }
        marks.extend(of.denial.mark().filter(|_| is_guards));
        let (now_s, has_ended) = (of.time.now_s(), of.has_ended());
        match (method, below) {
            ("delete", "") => {
                of.deleted_s = Some(now_s);
                marks.push(of.deletion.insert(Deletion::done()).mark());
                json!({ "id": id, "object": "container.deleted", "deleted": true }).to_string()
            }
            ("get", "") => {
                if of.is_used_by_reading && !has_ended {
                    of.active_s = now_s;
                }
                of.object()
            }
            _ if has_ended => {
                drop(of);
                return refuse(end, "400 Bad Request");
            }
            _ => {
                of.active_s = now_s;
                json!({ "object": "list", "data": [], "has_more": false }).to_string()
            }
        }
    };
    let (answered, is_whole) = answer_with(end, chance, &text, Some(Mark::all(marks)));
    locked(&found).was_lost |= !is_whole;
    answered
}
