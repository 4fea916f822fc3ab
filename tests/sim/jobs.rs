//! Programs that begin jobs: background responses, containers, batches and vector stores. They follow them, cancel or
//! delete them, or never come back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::chance::Chance;
use crate::wire::now;
use crate::world::World;
use crate::{background, batches, clients, containers, files, stores};

/// The longest that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(700);
/// How often one asks for its response, and uses its container, at the most.
const QUESTIONS_MAX: u64 = 6;
/// How often a guard is looked at that only keeps vector stores.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// What a seed says about jobs; the rest of its world is as it would be without them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Whether there are clients that begin jobs, and responses, batches and stores that are never ended.
    pub(crate) are_begun: bool,
    pub(crate) has_endless: bool,
    /// Whether no clock is set, so that there are containers.
    pub(crate) is_steady: bool,
    /// How much slower all goes than in a world without jobs.
    pub(crate) pace: u64,
    /// How much larger amounts are than plain requests need; none if that is as in other worlds.
    pub(crate) scale: Option<u64>,
    /// How long vector stores are kept when all else is done, in seconds.
    pub(crate) kept_s: u64,
    /// From when to when no question about a job is answered.
    pub(crate) outage: Option<(Instant, Instant)>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = Chance::new(!seed);
        if seed % 5 != 2 {
            let (has_endless, is_steady, kept_s) = (false, false, 0);
            return Self {
                are_begun: false,
                has_endless,
                is_steady,
                pace: 1,
                scale: None,
                kept_s,
                outage: None,
            };
        }
        let pace = chance.one(&[1, 20, 60]);
        let at = now() + Duration::from_secs(chance.within(0, 60) * pace);
        let lasts = Duration::from_secs(chance.within(30, 900));
        let has_endless = chance.percent(20);
        Self {
            are_begun: true,
            has_endless,
            is_steady: chance.percent(70),
            pace,
            scale: Some(chance.one(&[100, 2_000, 20_000])),
            kept_s: if has_endless { 26 * 3_600 } else { chance.one(&[0, 0, 3_600]) },
            outage: chance.percent(40).then(|| (at, at + lasts)),
        }
    }
}

/// A client that begins jobs.
struct Client<'a> {
    world: &'a Arc<World>,
    /// The name of what it begins now.
    name: String,
    key: usize,
    chance: Chance,
}

/// Runs one client until the world's work is over.
pub(crate) async fn run(world: Arc<World>, name: usize, mut chance: Chance) {
    let mut count = 0;
    while !world.is_resting() {
        sleep(Duration::from_millis(chance.within(0, 4_000) * world.jobs.pace)).await;
        count += 1;
        let name = format!("j{name}r{count}");
        let mut client = Client { world: &world, name, key: chance.one(&[0, 1]), chance: chance.fork() };
        // A clock that is set makes minutes of containers, or counts none.
        match client.chance.within(0, if world.jobs.is_steady { 9 } else { 5 }) {
            0..=3 => client.respond().await,
            4..=5 => client.batch().await,
            6..=7 => client.contain().await,
            _ => client.store().await,
        }
    }
}

impl Client<'_> {
    /// Begins a response in the background.
    async fn respond(&mut self) {
        let ends = !self.world.jobs.has_endless || self.chance.percent(80);
        let body = background::request(&self.world.account, &self.name, &mut self.chance, ends);
        let Some((200, object)) = self.ask("POST", "/v1/responses", body).await else { return };
        let streamed = format!("resp_{}", self.name);
        let id = object["id"].as_str().unwrap_or(&streamed).to_owned();
        if self.chance.percent(40) {
            return;
        }
        for _ in 0..self.chance.within(1, QUESTIONS_MAX) {
            self.pause(20_000).await;
            let (method, below) = match self.chance.within(0, 19) {
                0..=1 => ("POST", "/cancel"),
                2 => ("DELETE", ""),
                3..=5 => ("GET", "?stream=true"),
                _ => ("GET", ""),
            };
            let path = format!("/v1/responses/{id}{below}");
            self.ask(method, &path, String::new()).await;
        }
    }

    /// Makes a container, and uses it.
    async fn contain(&mut self) {
        let body = containers::request(&self.name, &mut self.chance);
        let Some((200, object)) = self.ask("POST", containers::PATH, body).await else { return };
        let Some(id) = object["id"].as_str().map(str::to_owned) else { return };
        for _ in 0..self.chance.within(0, QUESTIONS_MAX) {
            self.pause(20_000).await;
            let (method, below) = match self.chance.within(0, 9) {
                0 => ("DELETE", ""),
                1..=4 => ("GET", ""),
                _ => ("GET", "/files"),
            };
            let path = format!("{}/{id}{below}", containers::PATH);
            self.ask(method, &path, String::new()).await;
        }
    }

    /// Makes a batch of a file.
    async fn batch(&mut self) {
        let (endpoint, lines) = batches::lines(&mut self.chance);
        let Some(file) = self.upload("batch", &format!("{}.in", self.name), &lines).await else { return };
        let ends = !self.world.jobs.has_endless || self.chance.percent(80);
        let body = batches::request(&self.name, &file, endpoint, ends);
        let Some((200, object)) = self.ask("POST", batches::PATH, body).await else { return };
        let Some(id) = object["id"].as_str().map(str::to_owned) else { return };
        for _ in 0..self.chance.within(0, QUESTIONS_MAX) {
            self.pause(20_000).await;
            let (method, below) = if self.chance.percent(15) { ("POST", "/cancel") } else { ("GET", "") };
            let path = format!("{}/{id}{below}", batches::PATH);
            self.ask(method, &path, String::new()).await;
        }
    }

    /// Makes a vector store, and adds and removes files.
    async fn store(&mut self) {
        let mut kept = Vec::new();
        for _ in 0..self.chance.within(0, 2) {
            kept.extend(self.file(kept.len()).await);
        }
        let expires = self.world.jobs.has_endless && self.chance.percent(30);
        let body = stores::request(&self.name, &kept, expires, &mut self.chance);
        let Some((200, object)) = self.ask("POST", stores::PATH, body).await else { return };
        let Some(id) = object["id"].as_str().map(str::to_owned) else { return };
        for _ in 0..self.chance.within(0, QUESTIONS_MAX) {
            self.pause(20_000).await;
            self.use_store(&id, &mut kept).await;
        }
    }

    /// Does one thing with a vector store.
    async fn use_store(&mut self, id: &str, kept: &mut Vec<String>) {
        let (method, below, body) = match self.chance.within(0, 11) {
            0 => ("DELETE", String::new(), None),
            1..=2 => ("GET", String::new(), None),
            3 => ("POST", "/search".to_owned(), Some(json!({ "query": ["one", "two"] }))),
            4 => ("DELETE", format!("/files/{}", kept.pop().unwrap_or_default()), None),
            5..=8 => {
                let Some(file) = self.file(kept.len()).await else { return };
                kept.push(file.clone());
                ("POST", "/files".to_owned(), Some(json!({ "file_id": file })))
            }
            _ => ("POST", "/file_batches".to_owned(), Some(json!({ "file_ids": kept }))),
        };
        let path = format!("{}/{id}{below}", stores::PATH);
        self.ask(method, &path, body.map_or_else(String::new, |body| body.to_string())).await;
    }

    /// A file for a vector store: one that is uploaded, or that the guard may not know.
    async fn file(&mut self, number: usize) -> Option<String> {
        let name = format!("{}.f{number}", self.name);
        if self.chance.percent(15) {
            return Some(format!("file-{name}"));
        }
        self.upload("assistants", &name, "some text").await
    }

    /// Uploads a file; its id.
    async fn upload(&mut self, purpose: &str, name: &str, text: &str) -> Option<String> {
        let form = files::form(name, purpose, text);
        let answer = self.send(("POST", files::PATH), form, (files::FORM, "an upload")).await;
        let (200, object) = answer? else { return None };
        object["id"].as_str().map(str::to_owned)
    }

    /// Waits, as long as the pace of the world says.
    async fn pause(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.chance.within(0, most_ms) * self.world.jobs.pace)).await;
    }

    /// Sends a request with JSON or without a body: the status, and the answer if it is JSON.
    async fn ask(&mut self, method: &str, path: &str, body: String) -> Option<(u16, Value)> {
        let tag =
            if method == "POST" && !body.is_empty() { self.name.clone() } else { "a question".to_owned() };
        self.send((method, path), body, ("application/json", &tag)).await
    }

    /// Sends a request on a connection of its own.
    async fn send(
        &mut self,
        (method, path): (&str, &str),
        body: String,
        (kind, tag): (&str, &str),
    ) -> Option<(u16, Value)> {
        let mut open = clients::dial(self.world).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("authorization", format!("Bearer {}", self.world.keys()[self.key]))
            .header("x-spendguard-tags", format!("name={tag}"));
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let is_hasty = self.chance.percent(15);
        let patience = if is_hasty { Duration::from_millis(self.chance.within(0, 2_000)) } else { PATIENCE };
        let asking = async {
            open.ready().await.ok()?;
            let answer = open.send_request(request).await.ok()?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            Some((status, body))
        };
        let (status, body) = timeout(patience, asking).await.ok()??;
        self.world
            .check(clients::STATUSES.contains(&status), || format!("{method} {path}: a status of {status}"));
        self.world.trace(&format!("{} {method} {path} got {status}, {} bytes", self.name, body.len()));
        self.world.noted(status);
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// Ends what no client comes back for: the vector stores that are left are kept for a while, and deleted. Those that no job
/// follows are deleted beside the guard, which charges a day of them, and so are those whose deletion it refuses.
pub(crate) async fn tidy(world: &Arc<World>, mut chance: Chance) {
    if !world.jobs.are_begun {
        return;
    }
    let opened = world.opened().unwrap();
    for id in stores::left(&world.account) {
        if opened.guard.find_job("vector_store", &id).await.unwrap().is_none() {
            stores::delete(&world.account, &id);
        }
    }
    let end = now() + Duration::from_secs(world.jobs.kept_s);
    while now() < end {
        sleep(LOOK_EVERY).await;
        world.look_now();
    }
    for id in stores::left(&world.account) {
        let name = "tidy".to_owned();
        let mut client = Client { world, name, key: chance.one(&[0, 1]), chance: chance.fork() };
        client.ask("DELETE", &format!("{}/{id}", stores::PATH), String::new()).await;
        stores::delete(&world.account, &id);
    }
}
