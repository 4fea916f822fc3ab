//! The guard asks for batches that no client reads; a batch outlives the guard, and ends once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use spendguard::domain::Money;

use super::{Client, FIVE, LASTING, LIMIT, SHORT, SOL, bases, chats, meter, reported, truth, verify};
use crate::harness::{House, call, client, run};
use crate::process::{Place, Process};
use crate::scripted::{Reply, guard_before};

/// Waits until nothing is held on the limit, within so many seconds.
async fn settled_within(house: &House, seconds: u64) {
    for _ in 0..seconds * 10 {
        if meter(house, "all").await.1 == Money::ZERO {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", meter(house, "all").await);
}

#[test]
fn a_batch_that_no_client_reads_is_settled_by_the_guard_and_is_a_metric_until_then() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        client.begin(&chats(3, SOL), &[LASTING]).await;
        let (_, lasting) = meter(&house, "all").await;
        client.begin(&chats(2, SOL), &[SHORT]).await;
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(metrics.contains("spendguard_jobs{kind=\"batch\",state=\"open\"} 2"), "{metrics}");
        for _ in 0..300 {
            if meter(&house, "all").await.1 == lasting {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(meter(&house, "all").await, (truth(&house), lasting));
        assert_eq!(bases(&house).await, reported());
    });
}

#[test]
fn clients_and_the_guard_that_see_the_end_at_once_settle_it_once() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        for _ in 0..3 {
            let batch = client.begin(&chats(2, SOL), &[SHORT]).await;
            // About when the guard asks, too.
            tokio::time::sleep(Duration::from_millis(700)).await;
            let read = futures_util::future::join_all((0..8).map(|_| client.read(&batch))).await;
            assert!(read.iter().all(|batch| batch["status"] == "completed"), "{read:?}");
        }
        settled_within(&house, 20).await;
        assert_eq!(house.fake.served()[SOL].requests, 6);
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
        verify(&house).await;
    });
}

#[test]
fn whatever_upstream_says_of_a_batch_it_stays_held_until_its_end_is_seen() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let batch = client.begin(&chats(2, SOL), &[SHORT, ("x-fake-batch-outcome", "on_holiday")]).await;
        let (_, hold) = meter(&house, "all").await;
        assert!(hold > Money::ZERO);
        assert_eq!(client.read(&batch).await["status"], "on_holiday");
        assert_eq!(meter(&house, "all").await, (Money::ZERO, hold));
        let path = format!("/v1/batches/{batch}");
        let failing = client.send(Method::GET, &path, &[("x-fake-status", "500")], Bytes::new()).await;
        assert_eq!(failing.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(meter(&house, "all").await, (Money::ZERO, hold));
    });
}

#[test]
fn an_output_that_upstream_does_not_show_at_once_is_read_later() {
    run(async {
        let is_shown = Rc::new(Cell::new(false));
        let shown = Rc::clone(&is_shown);
        let batch = |status: &str| json!({ "id": "batch_1", "object": "batch", "status": status, "output_file_id": "file-2" });
        let answered = |model: &str| {
            let usage = json!({ "prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12 });
            let body = json!({ "model": model, "usage": usage, "choices": [] });
            let response = json!({ "status_code": 200, "request_id": "r", "body": body });
            format!("{}\n", json!({ "custom_id": "a", "response": response, "error": null }))
        };
        let (house, _) = guard_before(LIMIT, move |path, _| match path {
            "/v1/files" => Reply::Json(json!({ "id": "file-1", "object": "file", "purpose": "batch" })),
            "/v1/batches" => Reply::Json(batch("validating")),
            "/v1/batches/batch_1" => Reply::Json(batch("completed")),
            "/v1/files/file-2/content" if shown.get() => Reply::Events(answered(SOL) + &answered(FIVE)),
            _ => Reply::Error(404),
        })
        .await;
        let client = Client::of(&house);
        let batch = client.begin(&[chats(1, SOL), chats(1, FIVE)].concat(), &[]).await;
        let (_, hold) = meter(&house, "all").await;
        client.read(&batch).await;
        assert_eq!(meter(&house, "all").await, (Money::ZERO, hold), "it is not charged what it could cost");
        is_shown.set(true);
        client.read(&batch).await;
        // 10 tokens of input and 2 of output, at the rates of each model.
        let cost = 10 * 1_000 + 2 * 5_000 + 10 * 2_500 + 2 * 15_000;
        assert_eq!(meter(&house, "all").await, (Money::from_nano(cost), Money::ZERO));
    });
}

#[test]
fn the_files_that_a_batch_makes_belong_to_its_project_whoever_saw_the_end() {
    run(async {
        let house = House::with(&format!("{LIMIT}[[project]]\nid = \"other\"\nname = \"Other\"\n")).await;
        let client = Client::of(&house);
        let made = house.make_key(json!({ "name": "stranger", "project_id": "other" })).await;
        let stranger = Client::with_key(&house.proxy, made["value"].as_str().unwrap());
        let headers = [SHORT, ("x-fake-batch-outcome", "expired"), ("x-fake-batch-completed", "1")];
        let batch = client.begin(&chats(2, SOL), &headers).await;
        // No client has read it: its files are known by the guard's own question.
        settled_within(&house, 20).await;
        let listed = client.get("/v1/files?purpose=batch_output").await.json();
        assert_eq!(listed["data"].as_array().unwrap().len(), 2, "{listed}");
        let end = client.read(&batch).await;
        for field in ["output_file_id", "error_file_id"] {
            let path = format!("/v1/files/{}/content", end[field].as_str().unwrap());
            assert_eq!(client.get(&path).await.status, StatusCode::OK, "{field}");
            assert_eq!(stranger.get(&path).await.status, StatusCode::NOT_FOUND, "{field}");
        }
        assert_eq!(stranger.get("/v1/files").await.json()["data"], json!([]));
        assert_eq!(stranger.get("/v1/batches").await.json()["data"], json!([]));
        let path = format!("/v1/batches/{batch}");
        assert_eq!(stranger.get(&path).await.status, StatusCode::NOT_FOUND);
        let cancel = stranger.post(&format!("{path}/cancel"), &[], &json!({})).await;
        assert_eq!(cancel.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn an_open_batch_and_the_bound_of_a_file_outlive_kill_9() {
    run(async {
        let (_fake, address) = Process::fake();
        let fake = client(&address);
        let place = Place::new(&address, LIMIT);
        let guard = place.serve();
        let key = guard.make_key().await;
        let first = Client::with_key(&guard.proxy, &key);
        let open = first.begin(&chats(3, SOL), &[("x-fake-batch-reads", "1")]).await;
        let file = first.upload(&chats(2, SOL).concat()).await;
        guard.process.kill();
        let guard = place.serve();
        let (settled, held) = guard.meter("all").await;
        assert!(settled == Money::ZERO && held > Money::ZERO, "it is not charged by the start, and counts");
        let again = Client::with_key(&guard.proxy, &key);
        let later = super::id(&again.create(&file, super::CHAT, &[SHORT]).await);
        assert!(guard.meter("all").await.1 > held, "its file was bounded before");
        for batch in [&open, &later] {
            while again.read(batch).await["status"] != "completed" {}
        }
        guard.held("all", |held| held == Money::ZERO).await;
        let stats = call(&fake, Method::GET, "/__stats", &[], Bytes::new()).await.json();
        let served = &stats["models"][SOL];
        assert_eq!(served["requests"], 5, "{stats}");
        let tokens = |field: &str| served[field].as_i64().unwrap();
        let cached = tokens("cached_tokens");
        let truth =
            (tokens("prompt_tokens") - cached) * 1_000 + cached * 50 + tokens("completion_tokens") * 5_000;
        assert_eq!(guard.meter("all").await, (Money::from_nano(truth), Money::ZERO));
        guard.verify().await;
    });
}
