//! Background responses: each is held as a job until its end is seen, by a client or by the guard,
//! and settled once.

mod crash;
mod polling;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::domain::demand::Bound;
use spendguard::guard::{Ending, ReserveRequest};
use spendguard::keys::KeyHash;
use spendguard::ledger::entry::{Attribution, Job};

use crate::accrual;
use crate::harness::{Answer, House, call, run, true_cost_nano};

pub(super) const LIMIT: &str = "[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 1\n";
/// More reads than any test makes: only the client ends such a response.
pub(super) const LASTING: (&str, &str) = ("x-fake-background-reads", "1000000");
/// It ends when it is read first.
pub(super) const SHORT: (&str, &str) = ("x-fake-background-reads", "0");

pub(super) fn body(more: Value) -> Value {
    let mut body =
        json!({ "model": "gpt-4o-mini", "input": "hello", "background": true, "max_output_tokens": 100 });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

/// Begins a background response; returns its id.
pub(super) async fn begun(house: &House, headers: &[(&str, &str)]) -> String {
    let answer = house.post("/v1/responses", headers, &body(json!({}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!((answer.json()["status"].as_str(), &answer.json()["usage"]), (Some("queued"), &Value::Null));
    answer.json()["id"].as_str().unwrap().to_owned()
}

pub(super) async fn asked(house: &House, method: Method, path: &str) -> Answer {
    let bearer = format!("Bearer {}", house.key);
    call(&house.proxy, method, path, &[("authorization", &bearer)], Bytes::new()).await
}

async fn read(house: &House, id: &str) -> Answer {
    asked(house, Method::GET, &format!("/v1/responses/{id}")).await
}

/// The entries of responses, oldest first: cost and basis.
pub(super) async fn booked(house: &House) -> Vec<(Money, String)> {
    house.guard.core().flush().await.unwrap();
    let entries = house.entries().await;
    let of = entries.iter().rev().filter(|entry| entry["endpoint"] == "/v1/responses");
    let cost = |entry: &Value| entry["cost_usd"].as_str().unwrap().parse().unwrap();
    of.map(|entry| (cost(entry), entry["basis"].as_str().unwrap_or_default().to_owned())).collect()
}

/// What the fake has served costs, as it is booked by reported usage.
pub(super) fn reported(house: &House) -> (Money, String) {
    (truth(house), "reported".to_owned())
}

fn truth(house: &House) -> Money {
    Money::from_nano(i64::try_from(true_cost_nano(&house.fake)).unwrap())
}

/// What is held on the limit.
pub(super) async fn held(house: &House) -> Money {
    house.meter("all").await["held"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_background_response_is_held_until_its_client_reads_the_end_and_settled_before_it_has_that() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = begun(&house, &[("x-fake-background-reads", "2")]).await;
        assert!(held(&house).await > Money::ZERO, "the limit counts it meanwhile");
        assert_eq!(booked(&house).await, []);
        for _ in 0..2 {
            assert_eq!(read(&house, &id).await.json()["status"], "in_progress");
        }
        assert!(held(&house).await > Money::ZERO);
        let end = read(&house, &id).await;
        assert_eq!(end.json()["status"], "completed");
        // Before anything else is asked: the memory of the guard says so already.
        assert_eq!(house.guard.find_job("response", &id).await.unwrap(), None);
        assert_eq!(booked(&house).await, [reported(&house)]);
        assert_eq!(held(&house).await, Money::ZERO);
        let entry =
            house.entries().await.into_iter().find(|entry| entry["object_id"] == id.as_str()).unwrap();
        assert_eq!((&entry["status"], &entry["served_model"]), (&json!(200), &json!("gpt-4o-mini")));
        // Reading again is free.
        read(&house, &id).await;
        assert_eq!(booked(&house).await.len(), 1);
    });
}

#[test]
fn only_responses_that_are_stored_run_in_the_background() {
    run(async {
        let house = House::with(LIMIT).await;
        for (path, more, status, names) in [
            ("/v1/responses", json!({ "store": false }), 400, "store"),
            ("/v1/responses", json!({ "conversation": "conv_1" }), 403, "conversation"),
            ("/v1/chat/completions", json!({ "messages": [] }), 403, "/v1/responses"),
        ] {
            let answer = house.post(path, &[], &body(more)).await;
            assert_eq!(answer.status.as_u16(), status, "{answer:?}");
            let error = &answer.json()["error"];
            assert_eq!(error["param"], "background");
            assert!(error["message"].as_str().unwrap().contains(names), "{error}");
        }
        assert!(house.fake.served().is_empty());
    });
}

#[test]
fn a_cancelled_response_without_usage_is_charged_its_hold() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = begun(&house, &[LASTING]).await;
        let hold = held(&house).await;
        let cancelled = asked(&house, Method::POST, &format!("/v1/responses/{id}/cancel")).await;
        assert_eq!(cancelled.json()["status"], "cancelled", "{cancelled:?}");
        let again = asked(&house, Method::POST, &format!("/v1/responses/{id}/cancel")).await;
        assert_eq!(again.json()["status"], "cancelled");
        assert_eq!(booked(&house).await, [(hold, "assumed".to_owned())]);
    });
}

#[test]
fn a_deleted_response_is_charged_its_hold_unless_its_end_is_known() {
    run(async {
        let house = House::with(LIMIT).await;
        let lasting = begun(&house, &[LASTING]).await;
        let ended = begun(&house, &[SHORT]).await;
        for id in [&lasting, &ended] {
            let deleted = asked(&house, Method::DELETE, &format!("/v1/responses/{id}")).await;
            assert_eq!(deleted.json()["deleted"], true, "{deleted:?}");
        }
        let bases: Vec<String> = booked(&house).await.into_iter().map(|(_, basis)| basis).collect();
        assert_eq!(bases, ["assumed", "reported"]);
        assert_eq!(held(&house).await, Money::ZERO);
    });
}

#[test]
fn the_stream_that_begins_a_response_settles_it_by_its_last_event() {
    run(async {
        let house = House::with(LIMIT).await;
        let answer = house.post("/v1/responses", &[LASTING], &body(json!({ "stream": true }))).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("response.completed"), "{text}");
        assert_eq!(booked(&house).await, [reported(&house)]);
        assert_eq!(held(&house).await, Money::ZERO);
    });
}

#[test]
fn a_client_that_leaves_its_stream_leaves_the_job_and_another_stream_settles_it() {
    run(async {
        let house = House::with(&format!("{LIMIT}[guard]\non_disconnect = \"cancel\"\n")).await;
        let bearer = format!("Bearer {}", house.key);
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("x-fake-chunk-delay-ms", "100"),
            LASTING,
        ] {
            headers.insert(http::HeaderName::from_static(name), value.parse().unwrap());
        }
        let request = Bytes::from(body(json!({ "stream": true })).to_string());
        let answer = house.proxy.send(Method::POST, "/v1/responses", headers, request).await.unwrap();
        let mut stream = answer.into_body();
        let first = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        let first = String::from_utf8_lossy(&first).into_owned();
        let id = first
            .split("\"id\":\"")
            .find_map(|rest| rest.starts_with("resp_").then(|| rest.split('"').next()));
        let id = id.flatten().unwrap().to_owned();
        drop(stream);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(booked(&house).await, []);
        assert!(held(&house).await > Money::ZERO, "it goes on");
        let path = format!("/v1/responses/{id}?stream=true&starting_after=5");
        let rest = asked(&house, Method::GET, &path).await;
        let text = String::from_utf8_lossy(&rest.body).into_owned();
        assert!(!text.contains("response.created") && text.contains("response.completed"), "{text}");
        assert_eq!(booked(&house).await, [reported(&house)]);
        assert_eq!(held(&house).await, Money::ZERO);
    });
}

#[test]
fn many_readers_and_the_poller_at_once_settle_a_response_once() {
    run(async {
        let house = House::with(LIMIT).await;
        for _ in 0..3 {
            // About when the poller asks, too.
            let id = begun(&house, &[SHORT]).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            let cancel = format!("/v1/responses/{id}/cancel");
            let readers = (0..8).map(|_| read(&house, &id));
            // The first of them ends it, unless it is cancelled before.
            let cancelled = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                asked(&house, Method::POST, &cancel).await
            };
            let (read, cancelled) = tokio::join!(futures_util::future::join_all(readers), cancelled);
            assert!(read.iter().all(|answer| answer.json()["status"] == "completed"), "{read:?}");
            assert_eq!(cancelled.json()["status"], "completed");
        }
        house.settled().await;
        let booked = booked(&house).await;
        assert_eq!(booked.len(), 3, "{booked:?}");
        assert_eq!(booked.iter().map(|(cost, _)| *cost).sum::<Money>(), truth(&house));
        let report = house.books.verify().await.unwrap();
        assert!(report.differences.is_empty(), "{report:#?}");
    });
}

#[test]
fn to_another_project_a_background_response_does_not_exist() {
    run(async {
        let house = House::with(&format!("{LIMIT}[[project]]\nid = \"other\"\nname = \"Other\"\n")).await;
        let id = begun(&house, &[SHORT]).await;
        let made = house.make_key(json!({ "name": "stranger", "project_id": "other" })).await;
        let bearer = format!("Bearer {}", made["value"].as_str().unwrap());
        for (method, path) in [
            (Method::GET, format!("/v1/responses/{id}")),
            (Method::POST, format!("/v1/responses/{id}/cancel")),
            (Method::DELETE, format!("/v1/responses/{id}")),
        ] {
            let answer = call(&house.proxy, method, &path, &[("authorization", &bearer)], Bytes::new()).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {answer:?}");
        }
        assert_eq!(booked(&house).await, []);
    });
}

#[test]
fn a_key_that_has_as_many_jobs_as_it_may_is_refused_more_and_other_keys_are_not() {
    run(async {
        let house = House::with("").await;
        let key = house.guard.ring().find(&KeyHash::of(house.key.as_bytes())).unwrap();
        let of = Arc::new(Attribution { key: Arc::clone(&key.id), ..Attribution::default() });
        let begin = async |number: usize| {
            let request = ReserveRequest {
                rules_version: house.guard.core().rules_version(),
                ..ReserveRequest::new(Arc::clone(&of), Bound::default())
            };
            let mut reservation = house.guard.reserve(request).await.unwrap();
            reservation.mark_sent();
            // A kind that nothing asks for.
            let (kind, object) = ("test".to_owned(), number.to_string());
            let job = Job { kind, object, deadline_s: i64::MAX, terms: String::new() };
            house.guard.detach(reservation, job).await.unwrap();
        };
        for from in (0..9_998).step_by(500) {
            join_all((from..9_998.min(from + 500)).map(&begin)).await;
        }
        let store = house.post("/v1/vector_stores", &[], &json!({})).await.json();
        let container = json!({ "name": "a" });
        begun(&house, &[LASTING]).await;
        for (path, body) in [
            ("/v1/responses", body(json!({}))),
            ("/v1/containers", container.clone()),
            ("/v1/vector_stores", json!({})),
            (
                "/v1/batches",
                json!({ "input_file_id": "file-1", "endpoint": "/v1/responses", "completion_window": "24h" }),
            ),
        ] {
            let refused = house.post(path, &[], &body).await;
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{path} {refused:?}");
            assert_eq!(
                (refused.code().as_str(), refused.header("x-should-retry")),
                ("rate_limit_exceeded", "false")
            );
            assert_eq!(refused.json()["error"]["type"], "requests");
            let message = refused.json()["error"]["message"].to_string();
            assert!(message.contains("10,000 background responses, batches, containers"), "{message}");
        }
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK, "what begins no job");
        accrual::knows_file(&house, "file-1").await;
        let files = format!("/v1/vector_stores/{}/files", store["id"].as_str().unwrap());
        let added = house.post(&files, &[], &json!({ "file_id": "file-1" })).await;
        assert_eq!(added.status, StatusCode::OK, "its store has a job: {added:?}");
        let other = format!("Bearer {}", accrual::stranger(&house).await);
        let headers = [("authorization", other.as_str()), ("content-type", "application/json")];
        let made =
            call(&house.proxy, Method::POST, "/v1/containers", &headers, container.to_string().into()).await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
        let (ended, _) = house.guard.resume_job("test", "0").await.unwrap().unwrap();
        ended.release(Ending::default());
        let made = house.post("/v1/containers", &[], &container).await;
        assert_eq!(made.status, StatusCode::OK, "one has ended: {made:?}");
    });
}
