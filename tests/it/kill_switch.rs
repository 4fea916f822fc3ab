//! Kill switches: an operator stops all spending of a key, a project or the organization.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::alerts::{Receiver, house as telling};
use crate::harness::{Answer, House, call, chat, run};
use crate::process::{Place, Process};

pub(crate) async fn switch_on(house: &House, subject: &str, note: Option<&str>) -> Value {
    let path = format!("/guard/v1/kill-switches/{subject}");
    let answer = house.admin(Method::PUT, &path, Some(json!({ "note": note }))).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn switch_off(house: &House, subject: &str) -> StatusCode {
    house.admin(Method::DELETE, &format!("/guard/v1/kill-switches/{subject}"), None).await.status
}

/// The rows of the audit log of some kinds, newest first.
pub(crate) async fn audited(house: &House, prefix: &str) -> Vec<Value> {
    let rows = house.admin(Method::GET, "/v1/organization/audit_logs", None).await.json();
    let rows = rows["data"].as_array().unwrap().clone();
    rows.into_iter().filter(|row| row["type"].as_str().unwrap().starts_with(prefix)).collect()
}

async fn key_id(house: &House) -> String {
    let keys = house.admin(Method::GET, "/guard/v1/keys", None).await.json();
    keys["data"][0]["id"].as_str().unwrap().to_owned()
}

/// How many requests have reached upstream.
async fn sent(house: &House) -> u64 {
    let stats = call(&house.fake_direct, Method::GET, "/__stats", &[], Bytes::new()).await;
    stats.json()["requests"].as_u64().unwrap()
}

fn refused(answer: &Answer) {
    let error = &answer.json()["error"];
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
    assert_eq!((&error["type"], &error["code"]), (&json!("insufficient_quota"), &json!("kill_switch")));
    assert_eq!(answer.header("x-should-retry"), "false");
    assert_eq!((answer.header("retry-after"), answer.header("x-spendguard-resets-at")), ("", ""));
}

#[test]
fn each_kill_switch_stops_what_costs_money_and_lets_the_rest_pass_until_it_is_off() {
    run(async {
        let house = House::with("").await;
        let file = house.chat(&[], json!({ "store": true })).await;
        assert_eq!(file.status, StatusCode::OK);
        for (subject, whose) in [
            (key_id(&house).await, "this key"),
            ("default".to_owned(), "this project"),
            ("organization".to_owned(), "this organization"),
        ] {
            let before = sent(&house).await;
            let stop = switch_on(&house, &subject, Some("a leak")).await;
            assert_eq!((&stop["object"], &stop["kind"]), (&json!("guard.stop"), &json!("kill_switch")));
            assert_eq!((&stop["subject"], &stop["note"]), (&json!(subject), &json!("a leak")));
            let answer = house.chat(&[], json!({})).await;
            refused(&answer);
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(
                message.contains("An operator of spendguard has stopped") && message.contains(whose),
                "{message}"
            );
            for (path, body) in [
                ("/v1/responses", json!({ "model": "gpt-4o-mini", "input": "x", "background": true })),
                ("/v1/embeddings", json!({ "model": "text-embedding-3-small", "input": "x" })),
                ("/v1/containers", json!({ "name": "a" })),
                ("/v1/vector_stores", json!({ "name": "a" })),
                (
                    "/v1/batches",
                    json!({ "input_file_id": "file-1", "endpoint": "/v1/responses", "completion_window": "24h" }),
                ),
            ] {
                refused(&house.post(path, &[], &body).await);
            }
            assert_eq!(sent(&house).await, before, "nothing was sent");
            let bearer = format!("Bearer {}", house.key);
            let of = [("authorization", bearer.as_str())];
            let read = call(&house.proxy, Method::GET, "/v1/models", &of, Bytes::new()).await;
            assert_eq!(read.status, StatusCode::OK, "what is free passes: {read:?}");
            let me = call(&house.proxy, Method::GET, "/v1/spendguard/me", &of, Bytes::new()).await.json();
            assert_eq!(
                (&me["stops"][0]["kind"], &me["stops"][0]["subject"]),
                (&json!("kill_switch"), &json!(subject))
            );
            assert_eq!(switch_off(&house, &subject).await, StatusCode::NO_CONTENT);
            assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        }
        house.settled().await;
        let releases = house.entries().await.iter().filter(|entry| entry["kind"] == "release").count();
        assert_eq!(releases, 0, "nothing was held");
        let metrics = call(&house.admin, Method::GET, "/metrics", &[], Bytes::new()).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(
            metrics.contains("spendguard_rejections_total{limit=\"\",reason=\"kill_switch\"} 18"),
            "{metrics}"
        );
        assert!(metrics.contains("spendguard_stops{kind=\"kill_switch\"} 0"));
    });
}

#[test]
fn a_kill_switch_is_in_force_for_every_client_before_its_call_returns() {
    run(async {
        let house = House::with("").await;
        for _ in 0..3 {
            let flood = |count: usize| join_all((0..count).map(|_| house.chat(&[], json!({}))));
            let (stop, _) = tokio::join!(switch_on(&house, "organization", None), flood(50));
            house.settled().await;
            let before = sent(&house).await;
            for answer in flood(50).await {
                refused(&answer);
            }
            assert_eq!(sent(&house).await, before, "{stop}");
            switch_off(&house, "organization").await;
            assert!(flood(50).await.iter().all(|answer| answer.status == StatusCode::OK));
        }
    });
}

#[test]
fn what_runs_goes_on_to_its_end_under_a_kill_switch() {
    run(async {
        let house = House::with("[[limit]]\nname = \"all\"\nwindow = \"day\"\nhard = 1\n").await;
        let slow = [("x-fake-chunk-delay-ms", "50"), ("x-fake-completion-tokens", "20")];
        let running = house.chat(&slow, json!({ "stream": true, "max_completion_tokens": 50 }));
        let stopped = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            switch_on(&house, "organization", None).await;
        };
        let (answer, ()) = tokio::join!(running, stopped);
        assert!(String::from_utf8_lossy(&answer.body).ends_with("data: [DONE]\n\n"), "{answer:?}");
        house.settled().await;
        let entries = house.entries().await;
        let settled = entries.iter().find(|entry| entry["kind"] == "settle").unwrap();
        assert_eq!(settled["basis"], "reported");
    });
}

#[test]
fn the_status_and_the_codes_of_spend_refusals_are_those_of_the_configuration() {
    run(async {
        for (config, status, kind, code) in [
            ("spend_status = 402", 402, "insufficient_quota", "kill_switch"),
            ("code = \"classic\"", 429, "insufficient_quota", "insufficient_quota"),
            ("spend_status = 400", 400, "invalid_request_error", "billing_hard_limit_reached"),
        ] {
            let house = House::with(&format!("[errors]\n{config}\n")).await;
            switch_on(&house, "organization", None).await;
            let answer = house.chat(&[], json!({})).await;
            let error = &answer.json()["error"];
            assert_eq!(
                (answer.status.as_u16(), &error["type"], &error["code"]),
                (status, &json!(kind), &json!(code))
            );
        }
    });
}

#[test]
fn a_kill_switch_is_audited_and_told_once_and_its_note_can_be_changed() {
    run(async {
        let receiver = Receiver::default();
        let (house, _folder) = telling(&[&receiver], "").await;
        let key = key_id(&house).await;
        let first = switch_on(&house, &key, None).await;
        assert_eq!(switch_on(&house, &key, None).await, first, "it is on");
        let noted = switch_on(&house, &key, Some("a leak")).await;
        assert_eq!(
            (&noted["id"], &noted["since"], &noted["note"]),
            (&first["id"], &first["since"], &json!("a leak"))
        );
        let alerts = receiver.after(1).await;
        assert_eq!(alerts.len(), 1, "{alerts:?}");
        assert_eq!(
            (&alerts[0].1["type"], &alerts[0].1["data"]["subject"]),
            (&json!("kill_switch.on"), &json!(key))
        );
        assert_eq!(alerts[0].1["data"]["resets_at"], Value::Null);
        switch_off(&house, &key).await;
        let events: Vec<_> =
            audited(&house, "kill_switch.").await.iter().map(|row| row["type"].clone()).collect();
        assert_eq!(events, ["kill_switch.off", "kill_switch.on", "kill_switch.on"]);
        house.admin(Method::GET, "/guard/v1/ledger/verify", None).await;
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified:#}");
    });
}

#[test]
fn calls_about_nothing_that_is_there_and_notes_that_are_none_change_nothing() {
    run(async {
        let house = House::with("").await;
        let put = |subject: &'static str, body: Value| {
            let path = format!("/guard/v1/kill-switches/{subject}");
            let house = &house;
            async move { house.admin(Method::PUT, &path, Some(body)).await.status.as_u16() }
        };
        assert_eq!(put("key_unknown", json!({})).await, 404);
        assert_eq!(switch_off(&house, "key_unknown").await, StatusCode::NOT_FOUND);
        assert_eq!(switch_off(&house, "organization").await, StatusCode::NOT_FOUND);
        assert_eq!(put("organization", json!({ "note": "x".repeat(1_001) })).await, 400);
        assert_eq!(put("organization", json!({ "note": "a\u{0}b" })).await, 400);
        assert_eq!(put("organization", json!({ "notes": "x" })).await, 422);
        assert_eq!(put("organization", json!([])).await, 400);
        let stops = house.admin(Method::GET, "/guard/v1/stops", None).await.json();
        assert_eq!(stops["data"], json!([]));
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let without_a_body = house.admin(Method::PUT, "/guard/v1/kill-switches/organization", None).await;
        assert_eq!(without_a_body.status, StatusCode::OK, "{without_a_body:?}");
    });
}

#[test]
fn a_kill_switch_survives_restarts_and_kill_9() {
    run(async {
        let (_fake, address) = Process::fake();
        let place = Place::new(&address, "");
        let guard = place.serve();
        let key = guard.make_key().await;
        guard.ask(Method::PUT, "/guard/v1/kill-switches/default", Some(json!({ "note": "night" }))).await;
        guard.process.kill();
        let guard = place.serve();
        let answer = guard.chat(&key, &[], json!({})).await;
        refused(&answer);
        guard.stop();
        let guard = place.serve();
        let stops = guard.ask(Method::GET, "/guard/v1/stops", None).await;
        assert_eq!(
            (&stops["data"][0]["subject"], &stops["data"][0]["note"]),
            (&json!("default"), &json!("night"))
        );
        refused(&guard.chat(&key, &[], json!({})).await);
        guard.ask(Method::DELETE, "/guard/v1/kill-switches/default", None).await;
        guard.process.kill();
        let guard = place.serve();
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        guard.verify().await;
    });
}

#[test]
fn a_read_only_admin_key_sees_stops_and_changes_none() {
    run(async {
        let house = House::with(FUSE).await;
        let made = json!({ "name": "looks", "role": "read_only" });
        let made = house.admin(Method::POST, "/v1/organization/admin_api_keys", Some(made)).await.json();
        let bearer = format!("Bearer {}", made["value"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let ask = |method: Method, path: &'static str| {
            let (house, headers) = (&house, headers);
            async move { call(&house.admin, method, path, &headers, Bytes::from_static(b"{}")).await.status }
        };
        for (method, path) in [
            (Method::PUT, "/guard/v1/kill-switches/organization"),
            (Method::DELETE, "/guard/v1/kill-switches/organization"),
            (Method::POST, "/guard/v1/fuses/runaway/reset"),
        ] {
            assert_eq!(ask(method, path).await, StatusCode::FORBIDDEN, "{path}");
        }
        for path in ["/guard/v1/stops", "/guard/v1/fuses"] {
            assert_eq!(ask(Method::GET, path).await, StatusCode::OK, "{path}");
        }
        assert_eq!(house.post("/v1/chat/completions", &[], &chat(json!({}))).await.status, StatusCode::OK);
    });
}

/// A fuse for each key.
const FUSE: &str = "[[fuse]]\nname = \"runaway\"\nusd = 5\nwithin = \"10m\"\n";
