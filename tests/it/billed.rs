//! Requests from the whole space, before an upstream that answers and bills as the oracle says.
//!
//! `tests/holds.rs` proves holds without a socket. Here each request goes the whole way, and what is
//! booked is compared with what OpenAI would have charged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, Method};
use http_body_util::BodyExt as _;
use oracle::draw::{self, Sizes};
use oracle::outcome::End;
use oracle::upstream::{Account, Bill, Endings, serve};
use oracle::world::{TextCount, World};
use oracle::{Chance, Endpoint};
use serde_json::{Value, json};
use spendguard::domain::Money;

use crate::harness::{House, UPSTREAM_KEY, run};

/// Requests to one guard, until its limits are used up.
const REQUESTS: u64 = 400;
/// Clients that ask at the same time.
const CLIENTS: u64 = 4;

const LIMITS: &str = r#"
[guard]
stored_prompts = "allow"
hold_wait = "100ms"
[endpoints]
shared_objects = true
[[limit]]
name = "month"
window = "month"
hard = 2000
[[limit]]
name = "tokens"
unit = "tokens"
window = "day"
per = "project"
hard = 1000000000
"#;

struct Scene {
    house: House,
    account: Arc<Account>,
    /// Names of the requests whose connection broke before their answer.
    broken: RefCell<Vec<String>>,
}

impl Scene {
    async fn with(endings: Endings) -> Rc<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let mut world = World::furnished();
        // Where the guard counts a text exactly, upstream makes the fewest tokens of it.
        world.assumed.text = TextCount::Pieces;
        let account = serve(listener, world, endings, 0);
        let house = House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), LIMITS).await;
        Rc::new(Self { house, account, broken: RefCell::default() })
    }

    /// Draws and sends one request.
    async fn send(&self, seed: u64) {
        let mut chance = Chance::of_seed(seed);
        let endpoint = chance.one(&Endpoint::ALL);
        let mut request = draw::request(&mut chance, endpoint, Sizes::MEDIUM);
        let name = seed.to_string();
        request["metadata"] = json!({ "name": name });
        let made = self.account.responses();
        if request["previous_response_id"].is_string() && !made.is_empty() {
            request["previous_response_id"] = json!(made[chance.index(made.len())]);
        }
        let body = draw::spell(&mut chance, &request);
        let headers = [
            ("authorization", format!("Bearer {}", self.house.key)),
            ("content-type", "application/json".to_owned()),
            ("x-spendguard-tags", format!("name={name}")),
        ];
        let headers = headers.map(|(key, value)| (HeaderName::from_static(key), value.parse().unwrap()));
        let headers = headers.into_iter().collect();
        match self.house.proxy.send(Method::POST, endpoint.path(), headers, body.into()).await {
            // A stream may break off.
            Ok(answer) => drop(answer.into_body().collect().await),
            Err(_) => self.broken.borrow_mut().push(name),
        }
    }

    /// The entries of the requests that upstream was asked, by their names.
    async fn entries(&self) -> BTreeMap<String, Value> {
        let entries = self.house.entries().await.into_iter();
        entries.map(|entry| (entry["tags"]["name"].as_str().unwrap().to_owned(), entry)).collect()
    }
}

fn nano(amount: &Value) -> u128 {
    let amount = amount.as_str().unwrap().parse::<Money>().unwrap();
    u128::try_from(amount.nano()).unwrap()
}

/// What contradicts a bill in the entry of its request.
fn fault(bill: &Bill, entry: &Value) -> Option<String> {
    let (held, settled) = (nano(&entry["held_usd"]), nano(&entry["cost_usd"]));
    let charge = bill.charge_pico.div_ceil(1_000);
    let wrong = match () {
        () if bill.maximum_pico > held * 1_000 => "the hold is less than the most that it could have cost",
        () if charge > settled => "less was booked than OpenAI charges",
        () if bill.is_exact && charge != settled => {
            "the answer says what it cost, and another amount was booked"
        }
        () => return None,
    };
    Some(format!("{}: {wrong}: {bill:#?}\n{entry:#}", bill.name))
}

/// The first seed of each guard's requests; `BILLED_SEEDS=5000+20000` sends others.
fn batches() -> impl Iterator<Item = u64> {
    let asked = std::env::var("BILLED_SEEDS").ok();
    let asked = asked.as_deref().map(|text| text.split_once('+').unwrap());
    let (from, count) =
        asked.map_or((0, REQUESTS), |(from, count)| (from.parse().unwrap(), count.parse::<u64>().unwrap()));
    (0..count.div_ceil(REQUESTS)).map(move |batch| from + batch * REQUESTS)
}

/// Sends requests to one guard, and compares what was held and booked with their bills.
async fn compare(endings: Endings, from: u64) -> Vec<Bill> {
    let scene = Scene::with(endings).await;
    let clients = (0..CLIENTS).map(|client| {
        let scene = Rc::clone(&scene);
        tokio::task::spawn_local(async move {
            for seed in (from..from + REQUESTS).filter(|seed| seed % CLIENTS == client) {
                scene.send(seed).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    scene.house.settled().await;
    let (bills, entries) = (scene.account.bills(), scene.entries().await);
    let faults: Vec<_> = bills.iter().filter_map(|bill| fault(bill, &entries[&bill.name])).collect();
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
    for name in scene.broken.borrow().iter() {
        let bill = bills.iter().find(|bill| bill.name == *name).unwrap();
        assert_eq!(bill.end, End::Cut, "{bill:#?}");
    }
    let month = scene.house.meter("month").await;
    let booked: u128 = entries.values().map(|entry| nano(&entry["cost_usd"])).sum();
    assert_eq!(nano(&month["settled"]), booked, "{month}");
    assert_eq!(month["held"], "0");
    bills
}

#[test]
fn every_request_is_held_and_booked_in_full_however_it_is_answered() {
    run(async {
        for from in batches() {
            let bills = compare(Endings::Any, from).await;
            assert!(bills.len() > 150, "{} of {REQUESTS} requests reached upstream", bills.len());
        }
    });
}

#[test]
fn an_answer_that_says_what_it_cost_is_booked_at_that_amount() {
    run(async {
        for from in batches() {
            let bills = compare(Endings::Reported, from).await;
            let exact = bills.iter().filter(|bill| bill.is_exact).count();
            assert!(exact > 100, "{exact} of {REQUESTS} answers said what they cost");
        }
    });
}
