//! The guard asks for batches that no client reads; a batch outlives the guard, and ends once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use spendguard::domain::Money;
use spendguard::proxy::batches::BatchSettler;

use super::{
    CHAT, Client, FIVE, LASTING, LIMIT, SHORT, SOL, bases, chats, id, meter, reported, truth, verify,
};
use crate::accrual::{SESSION_1G, followed, rules_before, runs};
use crate::harness::{House, UPSTREAM_KEY, call, client, run};
use crate::process::{Place, Process};
use crate::scripted::{Reply, guard_before, upstream};

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
fn an_output_that_upstream_does_not_show_at_once_and_whole_is_read_later() {
    run(async {
        let content = Rc::new(Cell::new(404));
        let shown = Rc::clone(&content);
        let batch = |status: &str| json!({ "id": "batch_1", "object": "batch", "status": status, "output_file_id": "file-2", "request_counts": { "completed": 2 } });
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
            "/v1/files/file-2/content" => match shown.get() {
                200 => Reply::Events(answered(SOL) + &answered(FIVE)),
                206 => Reply::Events(answered(SOL)),
                503 => Reply::Events("<html>\n<p>We are busy.\n</html>\n".to_owned()),
                status => Reply::Error(status),
            },
            _ => Reply::Error(404),
        })
        .await;
        let client = Client::of(&house);
        let batch = client.begin(&[chats(1, SOL), chats(1, FIVE)].concat(), &[]).await;
        let (_, hold) = meter(&house, "all").await;
        // An error, a part of it, and a page of something in between with status 200.
        for status in [404, 206, 503] {
            content.set(status);
            client.read(&batch).await;
            assert_eq!(meter(&house, "all").await, (Money::ZERO, hold), "{status}");
        }
        content.set(200);
        client.read(&batch).await;
        // 10 tokens of input and 2 of output, at the rates of each model.
        let cost = 10 * 1_000 + 2 * 5_000 + 10 * 2_500 + 2 * 15_000;
        assert_eq!(meter(&house, "all").await, (Money::from_nano(cost), Money::ZERO));
    });
}

/// An upstream with a batch of one model that has ended and says what its lines have used; its output
/// is never shown.
fn without_output(path: &str) -> Reply {
    let batch = |status: &str| {
        let usage = json!({ "input_tokens": 10, "output_tokens": 2, "total_tokens": 12 });
        json!({ "id": "batch_1", "object": "batch", "status": status, "output_file_id": "file-2", "usage": usage })
    };
    match path {
        "/v1/files" => Reply::Json(json!({ "id": "file-1", "object": "file", "purpose": "batch" })),
        "/v1/batches" => Reply::Json(batch("validating")),
        "/v1/batches/batch_1" => Reply::Json(batch("completed")),
        _ => Reply::Error(500),
    }
}

#[test]
fn a_batch_whose_output_can_not_be_read_is_settled_by_its_sum_in_the_end() {
    run(async {
        let (base_url, _) = upstream(|path, _| without_output(path)).await;
        let house = House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), LIMIT).await;
        let client = Client::of(&house);
        let batch = client.begin(&chats(1, SOL), &[]).await;
        let (_, hold) = meter(&house, "all").await;
        client.read(&batch).await;
        assert_eq!(meter(&house, "all").await, (Money::ZERO, hold), "its output may be read yet");
        let open = house.guard.find_job("batch", "batch_1").await.unwrap().unwrap();
        let rules = rules_before(&base_url);
        let settler = BatchSettler::new(&house.guard, &rules);
        let key = rules.upstream_key.as_ref().unwrap();
        settler
            .give_up(Some((&rules.upstreams[0], key)), &open, "its end was not seen by its deadline")
            .await;
        // 10 tokens of input and 2 of output.
        let cost = Money::from_nano(10 * 1_000 + 2 * 5_000);
        assert_eq!(meter(&house, "all").await, (cost, Money::ZERO));
    });
}

#[test]
fn outputs_that_are_slow_to_be_read_keep_no_other_job_waiting() {
    run(async {
        let made = Cell::new(0);
        let (house, asked) = guard_before(LIMIT, move |path, _| {
            let batch = |number: u32, status: &str| {
                json!({ "id": format!("batch_{number}"), "object": "batch", "status": status, "output_file_id": "file-2" })
            };
            match path {
                "/v1/files" => Reply::Json(json!({ "id": "file-1", "object": "file", "purpose": "batch" })),
                "/v1/batches" => {
                    made.set(made.get() + 1);
                    Reply::Json(batch(made.get(), "validating"))
                }
                "/v1/files/file-2/content" => Reply::Silence,
                "/v1/containers/cntr_1" => Reply::Json(json!({
                    "id": "cntr_1", "object": "container", "status": "expired", "last_active_at": 1
                })),
                _ => Reply::Json(batch(path.rsplit('_').next().unwrap().parse().unwrap(), "completed")),
            }
        })
        .await;
        let client = Client::of(&house);
        let file = client.upload(&chats(1, SOL).concat()).await;
        for _ in 0..25 {
            id(&client.create(&file, CHAT, &[]).await);
        }
        let outputs = || asked.borrow().iter().filter(|(path, _)| path.ends_with("/content")).count();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now_s = house.guard.clock().now_s();
        let terms = json!({
            "is_own": true, "from_s": now_s - 1_300, "until_s": now_s + 80, "rate": SESSION_1G,
            "of": { "container": { "memory": "1g", "idle_s": 1_200, "active_s": now_s - 1_300, "is_new": true } },
        });
        followed(&house, "container", "cntr_1", 30_000_000, &terms).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!runs(&house, "container", "cntr_1").await, "{} outputs are being read", outputs());
    });
}

#[test]
fn a_line_of_an_output_that_can_not_be_read_is_charged_as_the_dearest_line() {
    run(async {
        let (house, _) = guard_before(LIMIT, |path, _| match path {
            "/v1/files" => Reply::Json(json!({ "id": "file-1", "object": "file", "purpose": "batch" })),
            "/v1/batches" => {
                Reply::Json(json!({ "id": "batch_1", "object": "batch", "status": "validating" }))
            }
            "/v1/batches/batch_1" => Reply::Json(json!({
                "id": "batch_1", "object": "batch", "status": "completed", "output_file_id": "file-2",
                "request_counts": { "completed": 2 },
            })),
            _ => {
                let usage = json!({ "prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12 });
                let body = json!({ "model": SOL, "usage": usage, "choices": [] });
                let response = json!({ "status_code": 200, "request_id": "r", "body": body });
                let line = json!({ "custom_id": "a", "response": response, "error": null });
                Reply::Events(format!("{line}\n{{\"custom_id\":\"b\",\"respon\n"))
            }
        })
        .await;
        let client = Client::of(&house);
        let batch = client.begin(&chats(2, SOL), &[]).await;
        let (_, hold) = meter(&house, "all").await;
        client.read(&batch).await;
        // 10 tokens of input and 2 of output, and half of what both lines were held for.
        let cost = Money::from_nano(10 * 1_000 + 2 * 5_000 + hold.nano() / 2);
        assert_eq!(meter(&house, "all").await, (cost, Money::ZERO));
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
