//! An upstream of containers and vector stores: it answers as OpenAI does, and keeps the bill of each owner.
//!
//! An object belongs to the one whose name the request has that made it. What is not published is drawn: how large a
//! file is and how long it is taken up, and the [`Habits`].

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::hosted::{Container, DAY_S, IDLE_MINUTES, LAG_MAX_S, Store, Taking};
use crate::prices::{FILE_SEARCH_PICO, Memory};

/// What upstream does where nothing is published.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Whether reading a container counts as a use of it.
    pub reads_are_uses: bool,
    /// Whether a container or store that ended by itself is shown as expired; else it is not found.
    pub shows_expired: bool,
    /// Whether a container shows when it was used last.
    pub shows_activity: bool,
    /// How many requests in a hundred fail.
    pub failures: u64,
    /// How many containers in a hundred are made without an answer.
    pub lost: u64,
}

impl Habits {
    /// Drawn ones.
    pub fn draw(chance: &mut Chance) -> Self {
        Self {
            reads_are_uses: chance.percent(50),
            shows_expired: chance.percent(70),
            shows_activity: chance.percent(80),
            failures: chance.one(&[0, 0, 5, 20]),
            lost: chance.one(&[0, 0, 0, 10]),
        }
    }
}

/// A request as upstream gets it.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub body: &'a Value,
    /// Whether the guard asks for itself.
    pub is_guards: bool,
}

/// What upstream answers; nothing if the connection breaks.
pub type Reply = Option<(u16, Value)>;

/// The objects of an upstream, and what they cost.
pub struct Upstream {
    /// What is done where nothing is published.
    pub habits: Habits,
    /// Containers by id, each with its owner.
    pub containers: BTreeMap<String, (String, Container)>,
    /// Vector stores by id, each with its owner.
    pub stores: BTreeMap<String, (String, Store)>,
    /// What happened, for a reader of a failed test.
    pub story: Vec<String>,
    /// Containers whose request got no answer.
    pub lost: Vec<String>,
    searches: BTreeMap<String, u128>,
    chance: Chance,
}

impl Upstream {
    /// One without objects.
    pub fn new(habits: Habits, chance: Chance) -> Self {
        let (containers, stores, searches) = Default::default();
        Self { habits, containers, stores, story: Vec::new(), lost: Vec::new(), searches, chance }
    }

    /// Answers a request.
    pub fn answer(&mut self, asked: Asked<'_>, at_s: i64) -> Reply {
        let reply = self.reply(asked, at_s);
        let by = if asked.is_guards { "guard" } else { "client" };
        let Asked { method, path, body, .. } = asked;
        let shown = reply.as_ref().map_or_else(
            || "no answer".to_owned(),
            |(status, value)| {
                let fields =
                    ["id", "status", "last_active_at", "usage_bytes", "file_counts"].map(|name| &value[name]);
                format!("{status} {}", json!(fields))
            },
        );
        self.story.push(format!("{at_s} {by}: {method} {path} {body} -> {shown}"));
        reply
    }

    fn reply(&mut self, asked: Asked<'_>, at_s: i64) -> Reply {
        let named = asked.path.split('/').nth(3).or(asked.body["tools"][0]["container"].as_str());
        if let Some((_, container)) = named.and_then(|id| self.containers.get_mut(id)) {
            container.touch(at_s);
        }
        if self.chance.percent(self.habits.failures) {
            return Some(error(500));
        }
        let segments: Vec<&str> = asked.path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            ["v1", "containers", rest @ ..] => self.of_container(asked, rest, at_s),
            ["v1", "vector_stores", rest @ ..] => self.of_store(asked, rest, at_s),
            ["v1", "responses"] => self.run(asked.body, at_s),
            _ => Some(error(404)),
        }
    }

    /// How long it takes over something, in seconds.
    pub fn pause_s(&mut self, most_s: u64) -> u64 {
        self.chance.within(0, most_s)
    }

    /// What the objects of an owner cost by then, in picodollars.
    pub fn charge_pico(&self, owner: &str, at_s: i64) -> u128 {
        let containers = self.containers.values().filter(|(of, _)| of == owner);
        let stores = self.stores.values().filter(|(of, _)| of == owner);
        let containers: u128 = containers.map(|(_, container)| container.charge_pico(at_s)).sum();
        let stores: u128 = stores.map(|(_, store)| store.charge_pico(at_s)).sum();
        containers + stores + self.searches.get(owner).copied().unwrap_or(0)
    }

    /// What the guard documents to hold for the storage of an owner where there is room, for so many seconds, in
    /// picodollars.
    pub fn storage_held_pico(&self, owner: &str, at_s: i64, lasts_s: i64) -> u128 {
        self.stores
            .values()
            .filter(|(of, _)| of == owner)
            .map(|(_, store)| store.held_pico(at_s, lasts_s))
            .sum()
    }

    /// What the searches of an owner cost, in picodollars.
    pub fn searched_pico(&self, owner: &str) -> u128 {
        self.searches.get(owner).copied().unwrap_or(0)
    }

    fn of_container(&mut self, asked: Asked<'_>, rest: &[&str], at_s: i64) -> Reply {
        if let ("POST", []) = (asked.method, rest) {
            return self.make_container(asked.body, at_s);
        }
        let [id, below @ ..] = rest else { return Some(error(404)) };
        let Some((_, container)) = self.containers.get_mut(*id) else { return Some(error(404)) };
        if container.deleted_s.is_some() {
            return Some(error(404));
        }
        match (asked.method, below) {
            ("GET", []) if !container.lives(at_s) && !self.habits.shows_expired => Some(error(404)),
            ("GET", []) => {
                if self.habits.reads_are_uses {
                    container.use_at(at_s);
                }
                Some((200, shown_container(id, container, self.habits, at_s)))
            }
            ("DELETE", []) if container.delete(at_s) => {
                Some((200, json!({ "id": id, "object": "container.deleted", "deleted": true })))
            }
            ("POST", ["files"]) if container.use_at(at_s) => {
                let file = json!({ "id": "cfile_1", "object": "container.file", "container_id": id, "created_at": at_s,
                    "bytes": 1, "path": "/mnt/data/1", "source": "user" });
                Some((200, file))
            }
            ("GET", ["files"]) if container.lives(at_s) => {
                if self.habits.reads_are_uses {
                    container.use_at(at_s);
                }
                Some((200, json!({ "object": "list", "data": [], "has_more": false })))
            }
            _ => Some(error(404)),
        }
    }

    fn make_container(&mut self, body: &Value, at_s: i64) -> Reply {
        let memory = Memory::of(body["memory_limit"].as_str().unwrap_or("1g"))?;
        let minutes = body["expires_after"]["minutes"].as_i64();
        let container = Container::made(memory, minutes, at_s);
        let id = format!("cntr_{:04}", self.containers.len());
        let shown = shown_container(&id, &container, self.habits, at_s);
        self.containers.insert(id.clone(), (owner(body), container));
        // One that lives longer than it is held for and is not known to the guard is outside of what it promises.
        if minutes.is_none_or(|minutes| minutes <= IDLE_MINUTES) && self.chance.percent(self.habits.lost) {
            self.lost.push(id);
            return None;
        }
        Some((200, shown))
    }

    /// A response that runs code in the container that its tool names, and uses no tokens.
    fn run(&mut self, body: &Value, at_s: i64) -> Reply {
        let id = body["tools"][0]["container"].as_str()?;
        let (_, container) = self.containers.get_mut(id)?;
        if !container.use_at(at_s) {
            return Some(error(400));
        }
        let call = json!({ "type": "code_interpreter_call", "id": "ci_1", "status": "completed", "code": "1",
            "container_id": id, "outputs": [] });
        let usage = json!({ "input_tokens": 0, "input_tokens_details": { "cached_tokens": 0 }, "output_tokens": 0,
            "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 0 });
        let id = format!("resp_{}", self.story.len());
        let response = json!({ "id": id, "object": "response", "status": "completed", "model": body["model"],
            "output": [call], "usage": usage });
        Some((200, response))
    }

    fn of_store(&mut self, asked: Asked<'_>, rest: &[&str], at_s: i64) -> Reply {
        let body = asked.body;
        if let ("POST", []) = (asked.method, rest) {
            let lag_s = self.chance.within(0, LAG_MAX_S.unsigned_abs() - 1).cast_signed();
            let mut store = Store::made(body["expires_after"]["days"].as_i64(), lag_s, at_s);
            self.add(&mut store, body, at_s);
            let id = format!("vs_{:04}", self.stores.len());
            let shown = shown_store(&id, &store, at_s);
            self.stores.insert(id, (owner(body), store));
            return Some((200, shown));
        }
        let [id, below @ ..] = rest else { return Some(error(404)) };
        let Some((of, mut store)) = self.stores.get(*id).cloned() else { return Some(error(404)) };
        let reply = self.of_store_below(asked, (id, &of, &mut store), below, at_s);
        self.stores.insert((*id).to_owned(), (of, store));
        reply
    }

    fn of_store_below(
        &mut self,
        asked: Asked<'_>,
        (id, of, store): (&str, &str, &mut Store),
        below: &[&str],
        at_s: i64,
    ) -> Reply {
        let is_shown = store.deleted_s.is_none() && self.habits.shows_expired;
        let is_read = (asked.method, below) == ("GET", &[]);
        let is_there = store.lives(at_s) || (is_shown && is_read);
        if !is_there {
            return Some(error(404));
        }
        let ok = |value: Value| Some((200, value));
        match (asked.method, below) {
            ("GET", []) => {
                let shown = shown_store(id, store, at_s);
                if asked.is_guards {
                    store.look(at_s);
                }
                ok(shown)
            }
            ("POST", []) => ok(shown_store(id, store, at_s)),
            ("DELETE", []) => {
                store.delete(at_s);
                ok(json!({ "id": id, "object": "vector_store.deleted", "deleted": true }))
            }
            ("POST", ["files"]) => {
                self.add(store, asked.body, at_s);
                ok(json!({ "id": asked.body["file_id"], "object": "vector_store.file", "vector_store_id": id,
                    "status": "in_progress", "created_at": at_s }))
            }
            ("POST", ["file_batches"]) => {
                let added = self.add(store, asked.body, at_s);
                ok(json!({ "id": "vsfb_1", "object": "vector_store.file_batch", "vector_store_id": id,
                    "status": "in_progress", "created_at": at_s, "file_counts": { "in_progress": added, "total": added } }))
            }
            ("POST", ["file_batches", batch, "cancel"]) => {
                store.cancel(at_s);
                ok(
                    json!({ "id": batch, "object": "vector_store.file_batch", "vector_store_id": id, "status": "cancelled" }),
                )
            }
            ("DELETE", ["files", name]) if store.remove(name, at_s) => {
                ok(json!({ "id": name, "object": "vector_store.file.deleted", "deleted": true }))
            }
            ("POST", ["search"]) => {
                store.active_s = at_s;
                let queries = asked.body["query"].as_array().map_or(1, Vec::len);
                let queries = u128::try_from(queries).expect("a small count");
                *self.searches.entry(of.to_owned()).or_default() += queries * FILE_SEARCH_PICO;
                ok(json!({ "object": "vector_store.search_results.page", "search_query": asked.body["query"],
                    "data": [], "has_more": false, "next_page": null }))
            }
            _ => Some(error(404)),
        }
    }

    /// Adds the files that a body names; returns how many.
    fn add(&mut self, store: &mut Store, body: &Value, at_s: i64) -> usize {
        let own = body["files"].as_array().into_iter().flatten();
        let ids = body["file_ids"].as_array().into_iter().flatten().chain([&body["file_id"]]);
        let named = own.map(|file| (&file["file_id"], file)).chain(ids.map(|id| (id, body)));
        let named: Vec<(&str, bool)> =
            named.filter_map(|(id, of)| Some((id.as_str()?, !of["chunking_strategy"].is_null()))).collect();
        for (name, is_cut) in &named {
            let taking = self.taking(*is_cut);
            store.add(name, taking, *is_cut, at_s);
        }
        named.len()
    }

    fn taking(&mut self, is_cut: bool) -> Taking {
        let chance = &mut self.chance;
        let most = crate::hosted::FILE_BYTES_MAX[usize::from(is_cut)];
        let bytes = if chance.percent(40) { most } else { chance.magnitude(most) };
        let lasts_s = chance.one(&[0, 5, 90, 1_000, 7_200]);
        Taking { bytes, lasts_s, has_failed: chance.percent(10) }
    }
}

fn owner(body: &Value) -> String {
    body["name"].as_str().unwrap_or_default().to_owned()
}

fn error(status: u16) -> (u16, Value) {
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    (status, json!({ "error": { "message": "no", "type": kind, "param": null, "code": null } }))
}

fn shown_container(id: &str, container: &Container, habits: Habits, at_s: i64) -> Value {
    let mut shown = json!({
        "id": id,
        "object": "container",
        "created_at": container.made_s,
        "status": if container.lives(at_s) { "running" } else { "expired" },
        "expires_after": { "anchor": "last_active_at", "minutes": container.idle_s / 60 },
        "memory_limit": container.memory.wire(),
        "name": "c",
    });
    if habits.shows_activity {
        shown["last_active_at"] = json!(container.active_s);
    }
    shown
}

fn shown_store(id: &str, store: &Store, at_s: i64) -> Value {
    let shown = if store.lives(at_s) { store.shown(at_s) } else { super::Shown::default() };
    let status = match () {
        () if !store.lives(at_s) => "expired",
        () if shown.in_progress > 0 => "in_progress",
        () => "completed",
    };
    let total = shown.in_progress + shown.completed + shown.failed;
    json!({
        "id": id,
        "object": "vector_store",
        "created_at": store.made_s,
        "usage_bytes": shown.usage_bytes,
        "status": status,
        "file_counts": { "in_progress": shown.in_progress, "completed": shown.completed, "failed": shown.failed,
            "cancelled": 0, "total": total },
        "last_active_at": store.active_s,
        "expires_after": store.idle_days.map(|days| json!({ "anchor": "last_active_at", "days": days })),
        "expires_at": store.idle_days.map(|days| store.active_s + days * DAY_S),
    })
}
