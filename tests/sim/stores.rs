//! Vector stores at upstream: what their files take is billed by the second, from the request that adds a file on.
//!
//! The bill is the oracle's. What upstream shows of a store lags by up to a minute.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oracle::hosted::{DAY_S, FILE_BYTES_MAX, LAG_MAX_S, Shown, Store, Taking, storage_pico};
use oracle::prices::FILE_SEARCH_PICO;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::account::{Account, Bill, locked};
use crate::answers::{answer_with, disturbed, made_known, refuse};
use crate::chance::Chance;
use crate::containers::UnixTime;
use crate::openai::Question;
use crate::seen::{Deletion, Denial};
use crate::wire::{End, Mark};

/// The path that makes one.
pub(crate) const PATH: &str = "/v1/vector_stores";
/// A mebibyte that is stored for a day: what an entry is rounded up to.
const MEBIBYTE_DAY: u128 = (1 << 20) * 86_400;

/// A vector store, or one that was.
#[derive(Clone, Debug)]
pub(crate) struct KeptStore {
    name: String,
    time: UnixTime,
    store: Store,
    searches: u64,
    deletion: Option<Deletion>,
    /// Whether it is shown once it has expired.
    is_shown_expired: bool,
    denial: Denial,
    /// Whether what was done to it was not answered.
    was_lost: bool,
}

impl KeptStore {
    fn lives(&self) -> bool {
        self.store.lives(self.time.now_s())
    }

    /// What it has cost by now; of files that were there at an instant, in Unix seconds, only until then.
    fn pico_until(&self, instant_s: i64) -> u128 {
        let stored = self.store.charge_until_pico(instant_s, self.time.now_s());
        stored + u128::from(self.searches) * FILE_SEARCH_PICO
    }

    fn object(&self) -> String {
        let Self { store, time, .. } = self;
        let shown = if self.lives() { store.shown(time.now_s()) } else { Shown::default() };
        let Shown { usage_bytes, in_progress, completed, failed } = shown;
        let status = match () {
            () if !self.lives() => "expired",
            () if in_progress > 0 => "in_progress",
            () => "completed",
        };
        json!({
            "id": id(&self.name), "object": "vector_store", "name": self.name, "created_at": store.made_s,
            "usage_bytes": usage_bytes, "status": status, "last_active_at": store.active_s,
            "file_counts": {
                "in_progress": in_progress, "completed": completed, "failed": failed, "cancelled": 0,
                "total": in_progress + completed + failed,
            },
            "expires_after": store.idle_days.map(|days| json!({ "anchor": "last_active_at", "days": days })),
            "expires_at": store.idle_days.map(|days| store.active_s + days * DAY_S),
        })
        .to_string()
    }

    /// Adds the files that a body names.
    fn add(&mut self, body: &Value, chance: &mut Chance) {
        let at_s = self.time.now_s();
        let ids = body["file_ids"].as_array().into_iter().flatten().chain([&body["file_id"]]);
        let is_cut = !body["chunking_strategy"].is_null();
        for file in ids.filter_map(Value::as_str) {
            self.store.add(file, taking(is_cut, chance), is_cut, at_s);
        }
    }
}

/// How a file is taken up, and how large it is then.
fn taking(is_cut: bool, chance: &mut Chance) -> Taking {
    let most = FILE_BYTES_MAX[usize::from(is_cut)];
    let mut dice = oracle::Chance::of_seed(chance.next());
    let bytes = if dice.percent(40) { most } else { dice.magnitude(most) };
    Taking { bytes, lasts_s: dice.one(&[0, 5, 90, 1_000, 7_200]), has_failed: dice.percent(10) }
}

/// What a vector store has cost by now, searches in it included.
#[derive(Clone, Debug)]
pub(crate) struct StoreBill(Arc<Mutex<KeptStore>>);

impl StoreBill {
    pub(crate) fn pico(&self) -> u128 {
        self.pico_until(i64::MAX)
    }

    /// The same, but of files that were there at an instant, in Unix seconds, only until then.
    pub(crate) fn pico_until(&self, instant_s: i64) -> u128 {
        locked(&self.0).pico_until(instant_s)
    }

    /// The most that may be booked for it until a time, in so many entries: all its files at the most that one can take.
    pub(crate) fn booked_max_pico(&self, at_s: i64, entries: usize) -> u128 {
        let of = locked(&self.0);
        let rounded = u128::try_from(entries).unwrap() * MEBIBYTE_DAY;
        of.store.booked_most_pico(at_s) + storage_pico(rounded) + u128::from(of.searches) * FILE_SEARCH_PICO
    }

    /// Whether the guard, which died at these times, can know what was done to it.
    pub(crate) fn is_known(&self, deaths: &[Instant]) -> bool {
        let of = locked(&self.0);
        !of.was_lost && of.deletion.as_ref().is_none_or(|deletion| deletion.is_seen(deaths))
    }
}

/// All vector stores, by their ids.
pub(crate) type Stores = Mutex<BTreeMap<String, Arc<Mutex<KeptStore>>>>;

fn id(name: &str) -> String {
    format!("vs_{name}")
}

/// The ids of the stores that live until they are deleted.
pub(crate) fn left(account: &Account) -> Vec<String> {
    let stores = locked(&account.stores);
    let is_left = |of: &Arc<Mutex<KeptStore>>| {
        let of = locked(of);
        of.lives() && of.store.idle_days.is_none()
    };
    stores.iter().filter(|(_, of)| is_left(of)).map(|(id, _)| id.clone()).collect()
}

/// Deletes a store beside the guard.
pub(crate) fn delete(account: &Account, id: &str) {
    let found = locked(&account.stores).get(id).cloned();
    if let Some(found) = found {
        let mut of = locked(&found);
        let at_s = of.time.now_s();
        of.was_lost |= of.store.delete(at_s);
    }
}

/// A request for a store.
pub(crate) fn request(name: &str, files: &[String], expires: bool, chance: &mut Chance) -> String {
    let mut body = json!({ "name": name, "file_ids": files });
    if expires {
        body["expires_after"] = json!({ "anchor": "last_active_at", "days": 1 });
    }
    if chance.percent(20) {
        body["chunking_strategy"] = json!({ "type": "auto" });
    }
    body.to_string()
}

/// Makes a store; none if the connection is over.
pub(crate) async fn make(end: &mut End, account: &Account, chance: &mut Chance, body: &[u8]) -> Option<()> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let name = body["name"].as_str().unwrap().to_owned();
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    let fate = chance.within(0, 99);
    if fate < 4 {
        return refuse(end, "500 Oops");
    }
    let time = account.time();
    let lag_s = i64::try_from(chance.within(0, LAG_MAX_S.unsigned_abs() - 1)).unwrap();
    let mut made = KeptStore {
        name: name.clone(),
        time,
        store: Store::made(body["expires_after"]["days"].as_i64(), lag_s, time.now_s()),
        searches: 0,
        deletion: None,
        is_shown_expired: chance.percent(70),
        denial: Denial::default(),
        was_lost: false,
    };
    made.add(&body, chance);
    let text = made.object();
    let made = Arc::new(Mutex::new(made));
    account.open(&name, Bill::Store(StoreBill(Arc::clone(&made))));
    locked(&account.stores).insert(id(&name), made);
    made_known(end, fate, &text)
}

/// Answers a question about a store, changes, searches or deletes it; none if the connection is over.
pub(crate) async fn show(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
    Question { method, id, below, is_guards }: Question<'_>,
    body: &Value,
) -> Option<()> {
    if disturbed(end, account, chance).await? {
        return Some(());
    }
    let found = locked(&account.stores).get(id).cloned();
    let is_read = (method, below) == ("get", "");
    let is_there =
        |of: &KeptStore| of.lives() || (is_read && of.is_shown_expired && of.store.deleted_s.is_none());
    let found = found.filter(|found| is_there(&locked(found)));
    let Some(found) = found else { return refuse(end, "404 Not Found") };
    let (text, mark) = {
        let mut of = locked(&found);
        if of.denial.is_possible() && chance.percent(5) {
            of.denial.deny();
            drop(of);
            return refuse(end, "404 Not Found");
        }
        let text = done(&mut of, (method, id, below), body, chance);
        let deleted = of.deletion.as_ref().map(Deletion::mark);
        (text, Mark::all(deleted.into_iter().chain(of.denial.mark().filter(|_| is_guards))))
    };
    let Some(text) = text else { return refuse(end, "404 Not Found") };
    let (answered, is_whole) = answer_with(end, chance, &text, Some(mark));
    locked(&found).was_lost |= !is_whole;
    answered
}

/// Does what a request says to a store, and returns the answer; none if there is nothing that it names.
fn done(
    of: &mut KeptStore,
    (method, id, below): (&str, &str, &str),
    body: &Value,
    chance: &mut Chance,
) -> Option<String> {
    let at_s = of.time.now_s();
    let made = |object: &str| json!({ "id": body["file_id"], "object": object, "vector_store_id": id, "created_at": at_s });
    match (method, below) {
        ("get", "") => return Some(of.object()),
        ("delete", "") => {
            of.store.delete(at_s);
            of.deletion = Some(Deletion::done());
            return Some(json!({ "id": id, "object": "vector_store.deleted", "deleted": true }).to_string());
        }
        ("post", "/search") => {
            of.searches += u64::try_from(body["query"].as_array().map_or(1, Vec::len)).unwrap();
            of.store.active_s = at_s;
            return Some(json!({ "object": "vector_store.search_results.page", "data": [] }).to_string());
        }
        ("post", "/files") => {
            of.add(body, chance);
            return Some(made("vector_store.file").to_string());
        }
        ("post", "/file_batches") => {
            of.add(body, chance);
            return Some(made("vector_store.file_batch").to_string());
        }
        _ => {}
    }
    let file = below.strip_prefix("/files/").filter(|_| method == "delete")?;
    let is_removed = of.store.remove(file, at_s);
    is_removed
        .then(|| json!({ "id": file, "object": "vector_store.file.deleted", "deleted": true }).to_string())
}
