//! Jobs of objects that are billed by time, as tests have them: with periods in the past.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::app::rules;
use spendguard::domain::demand::Bound;
use spendguard::domain::object::KnownObject;
use spendguard::domain::{KeptContext, Money, ObjectKind, ObjectReference};
use spendguard::guard::ReserveRequest;
use spendguard::guard::objects::put;
use spendguard::keys::KeyHash;
use spendguard::ledger::entry::{Attribution, Job};
use spendguard::proxy::Rules;
use spendguard::upstream::roots;

use crate::harness::{Answer, House, call};

/// Picodollars for twenty minutes of a container with 1 GiB, and for a MiB and day of storage:
/// 0.03 dollars, and a 1,024th of 0.10 dollars.
pub(crate) const SESSION_1G: u64 = 30_000_000_000;
pub(crate) const MIB_DAY: u64 = 97_656_250;
pub(crate) const LIMIT: &str = "[[limit]]\nname = \"all\"\nwindow = \"total\"\nhard = 1\n";

/// Makes something at the fake itself; returns its id.
pub(crate) async fn at_fake(house: &House, path: &str, headers: &[(&str, &str)], body: &Value) -> String {
    let body = Bytes::from(body.to_string());
    let made = call(&house.fake_direct, Method::POST, path, headers, body).await;
    made.json()["id"].as_str().unwrap().to_owned()
}

/// Has an object followed that was made before, with a hold and terms of that time.
pub(crate) async fn followed(house: &House, kind: &str, id: &str, held_nano: i64, terms: &Value) {
    let bound = Bound { cost: Money::from_nano(held_nano), ..Bound::default() };
    let endpoint = if kind == "container" { "/v1/containers" } else { "/v1/vector_stores" };
    let attribution = Attribution { endpoint: endpoint.into(), ..Attribution::default() };
    let request = ReserveRequest {
        rules_version: house.guard.core().rules_version(),
        ..ReserveRequest::new(Arc::new(attribution), bound)
    };
    let mut reservation = house.guard.reserve(request).await.unwrap();
    reservation.mark_sent();
    let (kind, object) = (kind.to_owned(), id.to_owned());
    house
        .guard
        .detach(reservation, Job { kind, object, deadline_s: 0, terms: terms.to_string() })
        .await
        .unwrap();
}

pub(crate) async fn ask(house: &House, method: Method, path: &str) -> Answer {
    let bearer = format!("Bearer {}", house.key);
    call(&house.proxy, method, path, &[("authorization", &bearer)], Bytes::new()).await
}

/// The entries of an endpoint that cost something, oldest first: cost, basis, and quantities.
pub(crate) async fn booked(house: &House, endpoint: &str) -> Vec<(String, Value)> {
    house.guard.core().flush().await.unwrap();
    let entries = house.entries().await;
    let of = entries.iter().rev().filter(|entry| entry["endpoint"] == endpoint && entry["cost_usd"] != "0");
    of.map(|entry| (entry["cost_usd"].as_str().unwrap().to_owned(), entry["basis"].clone())).collect()
}

/// The same, once there are so many.
pub(crate) async fn booked_soon(house: &House, endpoint: &str, count: usize) -> Vec<(String, Value)> {
    for _ in 0..100 {
        let booked = booked(house, endpoint).await;
        if booked.len() >= count {
            return booked;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{:?} are booked", booked(house, endpoint).await);
}

pub(crate) async fn held(house: &House) -> String {
    house.meter("all").await["held"].as_str().unwrap().to_owned()
}

/// Whether the object of a job is still followed.
pub(crate) async fn runs(house: &House, kind: &str, id: &str) -> bool {
    house.guard.find_job(kind, id).await.unwrap().is_some()
}

pub(crate) fn counted(cost: &str) -> (String, Value) {
    (cost.to_owned(), json!("counted"))
}

/// Another key, in a project of its own.
pub(crate) async fn stranger(house: &House) -> String {
    let project =
        house.admin(Method::POST, "/v1/organization/projects", Some(json!({ "name": "other" }))).await;
    assert_eq!(project.status, StatusCode::OK, "{project:?}");
    let key = house.make_key(json!({ "name": "other", "project_id": project.json()["id"] })).await;
    key["value"].as_str().unwrap().to_owned()
}

/// Makes a file known as one of the house's key.
pub(crate) async fn knows_file(house: &House, id: &str) {
    knows(house, ObjectKind::File, id, |_| {}).await;
}

/// Makes an object known as one of the house's key.
pub(crate) async fn knows(house: &House, kind: ObjectKind, id: &str, change: impl FnOnce(&mut KnownObject)) {
    let key = house.guard.ring().find(&KeyHash::of(house.key.as_bytes())).unwrap();
    let mut known = KnownObject {
        project: Arc::clone(&key.project),
        key: Arc::clone(&key.id),
        context: KeptContext::default(),
        container_memory: None,
        has_job: false,
        idle_s: 0,
        created_s: 0,
        used_s: 0,
        changes: 0,
    };
    change(&mut known);
    let written = house.guard.learn_objects(vec![put(ObjectReference { kind, id: id.to_owned() }, known)]);
    house.guard.objects_written(written).await;
}

/// The rules of a guard before another upstream than the house's.
pub(crate) fn rules_before(base_url: &str) -> Rules {
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let environment = [set("OPENAI_API_KEY", "sk-x"), set("SPENDGUARD_UPSTREAM__BASE_URL", base_url)];
    let settings = spendguard::config::load(None, environment).unwrap();
    rules::of(&settings, rules::upstreams(&settings, None, 1, &roots())).unwrap().0
}
