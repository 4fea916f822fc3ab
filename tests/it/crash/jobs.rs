//! kill -9 while jobs of every kind begin, go on and end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::upstream::Upstream;

use super::{Chance, end, left};
use crate::batches::{CHAT, SOL, chats, form};
use crate::harness::{call, client, run};
use crate::process::{Place, Process, Serving, served};

const ROUNDS: usize = 20;
const CLIENTS: u64 = 12;
/// Less than all clients could hold at once: some requests are refused.
const CONFIG: &str = "[guard]\nwhen_tight = \"reject\"\nhold_wait = \"30ms\"\n\
                      [[limit]]\nname = \"small\"\nwindow = \"total\"\nhard = 2\n";
const HARD: i64 = 2_000_000_000;
/// The id of what was not made.
const REFUSED: &str = "refused";
/// Objects that have no end of their own for some minutes: the kinds of their jobs.
const KINDS: [&str; 2] = ["container", "vector_store"];

/// The objects whose deletion was sent and got no answer, by their kind and id: upstream may have deleted them
/// before the guard died, which another one sees only when it asks for them.
type Unsure = Rc<RefCell<BTreeSet<String>>>;

/// A client of a guard that may be killed at any moment.
struct Dying {
    proxy: Upstream,
    headers: HeaderMap,
    unsure: Unsure,
}

impl Dying {
    fn new(proxy: &Upstream, key: &str, unsure: &Unsure) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
        headers.insert("x-fake-background-reads", "2".parse().unwrap());
        headers.insert("x-fake-batch-reads", "1".parse().unwrap());
        Self { proxy: proxy.clone(), headers, unsure: Rc::clone(unsure) }
    }

    async fn delete(&self, kind: &str, id: &str) -> Option<()> {
        let name = format!("{kind} {id}");
        self.unsure.borrow_mut().insert(name.clone());
        self.ask(Method::DELETE, &format!("/v1/{kind}s/{id}")).await?;
        self.unsure.borrow_mut().remove(&name);
        Some(())
    }

    /// Sends a request; `None` if the guard is dead.
    async fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Option<Value> {
        let mut headers = self.headers.clone();
        if !body.is_empty() {
            headers.insert("content-type", kind.parse().unwrap());
        }
        let answer = self.proxy.send(method, path, headers, body).await.ok()?;
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some(serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn post(&self, path: &str, body: Value) -> Option<Value> {
        self.send(Method::POST, path, "application/json", body.to_string().into()).await
    }

    async fn ask(&self, method: Method, path: &str) -> Option<Value> {
        self.send(method, path, "", Bytes::new()).await
    }

    /// Reads an object a few times, as one that waits for its end.
    async fn watch(&self, path: &str) -> Option<()> {
        for _ in 0..3 {
            self.ask(Method::GET, path).await?;
        }
        Some(())
    }

    /// Begins one job and, most times, ends it or sees its end.
    async fn step(&self, number: u64) -> Option<()> {
        let goes_on = number.is_multiple_of(5);
        let id = |made: &Value| made["id"].as_str().unwrap_or(REFUSED).to_owned();
        match number % 4 {
            0 => {
                let body = json!({
                    "model": "gpt-4o-mini", "input": "hello", "max_output_tokens": 100, "background": true,
                });
                let path = format!("/v1/responses/{}", id(&self.post("/v1/responses", body).await?));
                if goes_on { Some(()) } else { self.watch(&path).await }
            }
            1 => {
                let form = form(&[("purpose", b"batch"), ("@file", chats(2, SOL).concat().as_bytes())]);
                let file =
                    self.send(Method::POST, "/v1/files", "multipart/form-data; boundary=b7", form).await?;
                let body =
                    json!({ "input_file_id": id(&file), "endpoint": CHAT, "completion_window": "24h" });
                let path = format!("/v1/batches/{}", id(&self.post("/v1/batches", body).await?));
                if goes_on { Some(()) } else { self.watch(&path).await }
            }
            place => {
                let kind = KINDS[usize::from(place == 3)];
                let made = id(&self.post(&format!("/v1/{kind}s"), json!({ "name": "a" })).await?);
                self.ask(Method::GET, &format!("/v1/{kind}s/{made}/files")).await?;
                if goes_on || made == REFUSED { Some(()) } else { self.delete(kind, &made).await }
            }
        }
    }
}

/// Jobs from many clients, until none of them reaches the guard.
async fn load(proxy: &Upstream, key: &str, unsure: &Unsure) {
    let clients = (0..CLIENTS).map(|number| {
        let dying = Dying::new(proxy, key, unsure);
        tokio::task::spawn_local(async move {
            let mut step = number;
            while dying.step(step).await.is_some() {
                step += 1;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

/// What the fake has served costs, in nano-dollars: responses, and batches at their rates.
async fn spent(fake: &Upstream) -> i64 {
    let stats = call(fake, Method::GET, "/__stats", &[], Bytes::new()).await.json();
    let of = |field: &str| stats["models"][SOL][field].as_i64().unwrap_or(0);
    let batches = (of("prompt_tokens") - of("cached_tokens")) * 1_000
        + of("cached_tokens") * 50
        + of("completion_tokens") * 5_000;
    served(fake).await.1 + batches
}

/// The objects of jobs that run, by what a dead guard has left.
fn open_jobs(place: &Place) -> BTreeSet<String> {
    let db = left(place);
    let mut statement = db.prepare("SELECT kind || ' ' || object_id FROM job").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Ends what has no end of its own, and waits for the rest. What a guard could not record before its
/// death, the next one does within some seconds.
async fn rest((place, guard): (&Place, &Serving), key: &str, unsure: &Unsure) {
    let client = Dying::new(&guard.proxy, key, &Unsure::default());
    for _ in 0..100 {
        for kind in KINDS {
            let listed = client.ask(Method::GET, &format!("/v1/{kind}s?limit=100")).await.unwrap();
            for object in listed["data"].as_array().unwrap() {
                client.delete(kind, object["id"].as_str().unwrap()).await.unwrap();
            }
        }
        if open_jobs(place).is_subset(&unsure.borrow()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{:?} go on, beside {unsure:?}", open_jobs(place));
}

#[test]
fn jobs_outlive_any_death_and_each_ends_once() {
    run(async {
        let mut chance = Chance::of_the_day();
        let (_fake, address) = Process::fake();
        let upstream = client(&address);
        let place = Place::new(&address, CONFIG);
        let mut guard = place.serve();
        let key = guard.make_key().await;
        let (mut most_open, unsure) = (0, Unsure::default());
        for round in 0..ROUNDS {
            tokio::join!(load(&guard.proxy, &key, &unsure), end(guard.process, &mut chance));
            let (open, spent) = (open_jobs(&place), spent(&upstream).await);
            guard = place.serve();
            let (settled, held) = guard.meter("small").await;
            let covered = settled.nano() + held.nano();
            assert!(spent <= covered, "round {round}: {spent} nano-dollars spent, {settled} and {held} held");
            assert!(covered <= HARD, "round {round}: {settled} and {held} held");
            assert!(held > Money::ZERO || open.is_empty(), "round {round}: {open:?}");
            most_open = most_open.max(open.len());
            guard.verify().await;
        }
        rest((&place, &guard), &key, &unsure).await;
        let (settled, _) = guard.meter("small").await;
        let spent = spent(&upstream).await;
        assert!(spent <= settled.nano(), "{spent} nano-dollars spent, {settled} settled");
        guard.verify().await;
        guard.stop();
        let db = rusqlite::Connection::open(place.database()).unwrap();
        let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let twice = "SELECT COUNT(*) FROM (SELECT object_id FROM entry WHERE kind = 'settle' AND object_id IS NOT NULL \
                     AND endpoint IN ('/v1/responses', '/v1/batches') GROUP BY object_id HAVING COUNT(*) > 1)";
        assert_eq!(count(twice), 0, "responses and batches that were settled twice");
        let ended = |endpoint: &str| {
            count(&format!(
                "SELECT COUNT(DISTINCT object_id) FROM entry WHERE endpoint = '{endpoint}' AND object_id IS NOT NULL"
            ))
        };
        let kinds = ["/v1/responses", "/v1/batches", "/v1/containers", "/v1/vector_stores"].map(ended);
        println!("{kinds:?} jobs have ended, {most_open} at most were open at a death");
        assert!(kinds.iter().all(|ended| *ended > 0) && most_open > 0, "{kinds:?}, {most_open}");
    });
}
