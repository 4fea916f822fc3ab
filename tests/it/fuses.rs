//! Fuses: who spends too much in a short time is stopped.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::alerts::{Receiver, house as telling};
use crate::harness::{Answer, House, call, chat, run};
use crate::kill_switch::audited;
use crate::process::{Place, Process};

/// Output that costs 0.006 dollars.
const ANSWER: (&str, &str) = ("x-fake-completion-tokens", "10000");

/// A fuse that three such answers don't blow, and four do.
fn fuse(more: &str) -> String {
    format!("[[fuse]]\nname = \"runaway\"\nusd = 0.02\nwithin = \"10m\"\n{more}\n")
}

async fn loops(house: &House) -> Answer {
    house.chat(&[ANSWER], json!({ "max_completion_tokens": 10_000 })).await
}

/// Sends requests one after another, each after the last one was booked, until one is refused;
/// returns how many were answered, and the refusal.
async fn until_refused(house: &House) -> (u32, Answer) {
    for answered in 0..100 {
        let answer = loops(house).await;
        if answer.status != StatusCode::OK {
            return (answered, answer);
        }
        house.settled().await;
        house.guard.core().flush().await.unwrap();
        // It is looked at what was spent before fuses are shown.
        house.admin(Method::GET, "/guard/v1/fuses", None).await;
    }
    panic!("it never blew");
}

async fn stops(house: &House) -> Vec<Value> {
    let stops = house.admin(Method::GET, "/guard/v1/stops", None).await;
    stops.json()["data"].as_array().unwrap().clone()
}

async fn reset(house: &House, body: Option<Value>) -> Answer {
    house.admin(Method::POST, "/guard/v1/fuses/runaway/reset", body).await
}

fn refused(answer: &Answer) -> String {
    let error = &answer.json()["error"];
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
    assert_eq!((&error["type"], &error["code"]), (&json!("insufficient_quota"), &json!("fuse_blown")));
    assert_eq!(answer.header("x-should-retry"), "false");
    error["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_loop_blows_the_fuse_of_its_key_after_a_few_requests_and_a_steady_client_does_not() {
    run(async {
        let house = House::with(&fuse("")).await;
        let steady = house.make_key(json!({ "name": "steady" })).await;
        let (answered, refusal) = until_refused(&house).await;
        assert_eq!(answered, 4, "0.018 dollars are less than 0.02, 0.024 more");
        let message = refused(&refusal);
        assert!(
            message.contains("Fuse \"runaway\" has blown for this key") && message.contains("$0.02"),
            "{message}"
        );
        assert!(message.contains("until an operator resets it"), "{message}");
        assert_eq!((refusal.header("retry-after"), refusal.header("x-spendguard-resets-at")), ("", ""));
        let bearer = format!("Bearer {}", steady["value"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str())];
        let body = || Bytes::from(chat(json!({})).to_string());
        for _ in 0..10 {
            let answer = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body()).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        }
        let stops = stops(&house).await;
        assert_eq!(stops.len(), 1, "{stops:?}");
        let spent: f64 = stops[0]["spent_usd"].as_str().unwrap().parse().unwrap();
        assert!((0.024..0.025).contains(&spent), "{stops:?}");
        assert_eq!((&stops[0]["fuse"], &stops[0]["limit_usd"]), (&json!("runaway"), &json!("0.02")));
        assert_eq!((&stops[0]["kind"], &stops[0]["until"]), (&json!("fuse"), &Value::Null));
        house.settled().await;
        house.guard.core().flush().await.unwrap();
        let fuses = house.admin(Method::GET, "/guard/v1/fuses", None).await.json();
        let shown = &fuses["data"][0];
        assert_eq!((&shown["name"], &shown["within_seconds"]), (&json!("runaway"), &json!(600)));
        assert_eq!(shown["stops"].as_array().unwrap().len(), 1);
        assert_eq!(shown["subjects"][0]["subject"], stops[0]["subject"], "{fuses:#}");
        assert_eq!(shown["subjects"].as_array().unwrap().len(), 2);
    });
}

#[test]
fn a_blown_fuse_is_audited_and_told_once_by_its_own_name() {
    run(async {
        let receiver = Receiver::default();
        let (house, _folder) =
            telling(&[&receiver], &fuse("cool_down = \"1h\"\nper = \"organization\"")).await;
        let (_, refusal) = until_refused(&house).await;
        let resets_at: i64 = refusal.header("x-spendguard-resets-at").parse().unwrap();
        assert_eq!(refusal.header("retry-after"), "", "an hour is too long to be slept out");
        for _ in 0..5 {
            refused(&loops(&house).await);
        }
        let alerts = receiver.after(1).await;
        assert_eq!(alerts.len(), 1, "{alerts:?}");
        let (kind, data) = (&alerts[0].1["type"], &alerts[0].1["data"]);
        assert_eq!(
            (kind, &data["limit"], &data["subject"]),
            (&json!("fuse.blown"), &json!("runaway"), &json!("org"))
        );
        let said = data["resets_at"].as_i64().unwrap();
        assert!((0..=1).contains(&(resets_at - said)), "{said} {resets_at}");
        let audited = audited(&house, "fuse.").await;
        assert_eq!(audited.len(), 1, "{audited:?}");
        assert_eq!(audited[0]["actor"]["api_key"]["id"], "fuse:runaway");
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified:#}");
    });
}

#[test]
fn a_reset_lets_requests_pass_and_forgets_what_was_spent_before() {
    run(async {
        let house = House::with(&fuse("")).await;
        until_refused(&house).await;
        let lifted = reset(&house, None).await;
        assert_eq!(lifted.json()["data"].as_array().unwrap().len(), 1, "{lifted:?}");
        assert_eq!(stops(&house).await, [Value::Null; 0]);
        assert_eq!(until_refused(&house).await.0, 4, "as many as at first");
        let key = stops(&house).await[0]["subject"].clone();
        assert_eq!(reset(&house, Some(json!({ "subject": "default" }))).await.status, StatusCode::NOT_FOUND);
        assert_eq!(
            reset(&house, Some(json!({ "subject": "key_unknown" }))).await.status,
            StatusCode::NOT_FOUND
        );
        assert_eq!(reset(&house, Some(json!({ "subject": key }))).await.status, StatusCode::OK);
        assert_eq!(reset(&house, None).await.json()["data"], json!([]), "it has not blown");
        let unknown = house.admin(Method::POST, "/guard/v1/fuses/unknown/reset", None).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
        let events: Vec<_> = audited(&house, "fuse.").await.iter().map(|row| row["type"].clone()).collect();
        assert_eq!(events, ["fuse.reset", "fuse.blown", "fuse.reset", "fuse.blown"]);
    });
}

#[test]
fn a_fuse_cools_down_by_itself_and_says_until_when() {
    run(async {
        let house = House::with(&fuse("cool_down = \"2s\"")).await;
        let (_, refusal) = until_refused(&house).await;
        assert!(refused(&refusal).contains("are rejected until 20"), "{refusal:?}");
        let after: u64 = refusal.header("retry-after").parse().unwrap();
        assert!((1..=3).contains(&after), "{after}");
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert_eq!(until_refused(&house).await.0, 4, "what was spent before counts no more");
    });
}

#[test]
fn a_fuse_counts_for_a_project_and_only_for_what_it_is_narrowed_to() {
    run(async {
        let config = fuse("per = \"project\"\nonly = { key = [\"looping\"] }");
        let mut house = House::with(&config).await;
        for _ in 0..6 {
            assert_eq!(loops(&house).await.status, StatusCode::OK, "another key");
        }
        let looping = house.make_key(json!({ "name": "looping" })).await;
        looping["value"].as_str().unwrap().clone_into(&mut house.key);
        assert_eq!(until_refused(&house).await.0, 4);
        assert_eq!(stops(&house).await[0]["subject"], "default", "its project is stopped");
    });
}

/// Waits until a guard answers so, within ten seconds.
async fn becomes(place: &crate::process::Serving, key: &str, status: StatusCode) {
    for _ in 0..100 {
        if place.chat(key, &[], json!({})).await.status == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never answered {status}");
}

#[test]
fn a_blown_fuse_survives_kill_9_and_a_changed_file_and_is_reset_by_name() {
    run(async {
        let (_fake, address) = Process::fake();
        let place = Place::new(&address, &fuse(""));
        let guard = place.serve();
        let key = guard.make_key().await;
        for _ in 0..4 {
            let bound = json!({ "max_completion_tokens": 10_000 });
            assert_eq!(guard.chat(&key, &[ANSWER], bound).await.status, StatusCode::OK);
        }
        becomes(&guard, &key, StatusCode::TOO_MANY_REQUESTS).await;
        guard.process.kill();
        let guard = place.serve();
        assert_eq!(guard.chat(&key, &[], json!({})).await.code(), "fuse_blown");
        place.configure("");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            guard.chat(&key, &[], json!({})).await.code(),
            "fuse_blown",
            "the fuse is gone, its stop is not"
        );
        guard.ask(Method::POST, "/guard/v1/fuses/runaway/reset", None).await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        guard.stop();
    });
}

#[test]
fn what_was_spent_before_a_restart_counts_and_a_fuse_of_a_changed_file_is_in_force() {
    run(async {
        let (_fake, address) = Process::fake();
        let place = Place::new(&address, &fuse(""));
        let guard = place.serve();
        let key = guard.make_key().await;
        let spend = json!({ "max_completion_tokens": 10_000 });
        for _ in 0..3 {
            assert_eq!(guard.chat(&key, &[ANSWER], spend.clone()).await.status, StatusCode::OK);
        }
        guard.written(3).await;
        guard.process.kill();
        let guard = place.serve();
        assert_eq!(guard.chat(&key, &[ANSWER], spend).await.status, StatusCode::OK);
        becomes(&guard, &key, StatusCode::TOO_MANY_REQUESTS).await;
        guard.ask(Method::POST, "/guard/v1/fuses/runaway/reset", None).await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        place.configure(
            "[[fuse]]\nname = \"tight\"\nusd = 0.000001\nwithin = \"1m\"\nper = \"organization\"\n",
        );
        becomes(&guard, &key, StatusCode::TOO_MANY_REQUESTS).await;
        let stops = guard.ask(Method::GET, "/guard/v1/stops", None).await;
        assert_eq!(
            stops["data"][0]["fuse"], "tight",
            "what was spent before the fuse was made counts: {stops:#}"
        );
        guard.stop();
    });
}

#[test]
fn what_is_usual_is_known_after_a_day_and_a_multiple_of_it_blows_a_fuse() {
    run(async {
        let config = "[[fuse]]\nname = \"unusual\"\ntimes_usual = 3\nusd_min = 0.01\nwithin = \"1h\"\n";
        let house = House::with(config).await;
        for _ in 0..6 {
            assert_eq!(loops(&house).await.status, StatusCode::OK, "nothing is known of its past");
        }
        house.settled().await;
        let subject = |fuses: Value| fuses["data"][0]["subjects"][0].clone();
        let first = subject(house.admin(Method::GET, "/guard/v1/fuses", None).await.json());
        assert_eq!(first["limit_usd"], Value::Null, "{first:#}");
        let folder = house.close().await;
        // 0.48 dollars on the day before yesterday, 0.96 on yesterday: 0.03 an hour.
        let database = rusqlite::Connection::open(folder.path().join("data/spendguard.db")).unwrap();
        for (days, cost) in [(2, 480_000_000_i64), (1, 960_000_000)] {
            let sql = "INSERT INTO rollup SELECT start_s / 86400 * 86400 - ?1 * 86400, project, api_key, end_user, tags, \
                       endpoint, 'past', priced_as, served_model, 1, ?2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last_ms, NULL \
                       FROM rollup WHERE model <> 'past' LIMIT 1";
            database.execute(sql, (days, cost)).unwrap();
        }
        drop(database);
        let mut house = House::reopened(folder, config).await;
        let second = subject(house.admin(Method::GET, "/guard/v1/fuses", None).await.json());
        assert_eq!(second["limit_usd"], "0.09", "three times 0.03: {second:#}");
        let made = house.make_key(json!({ "name": "new" })).await;
        made["value"].as_str().unwrap().clone_into(&mut house.key);
        assert_eq!(loops(&house).await.status, StatusCode::OK, "a key without a past is not bounded");
    });
}

#[test]
fn without_a_fuse_nothing_is_read_and_with_one_its_counter_begins_at_zero() {
    run(async {
        let house = House::with("").await;
        let fuses = house.admin(Method::GET, "/guard/v1/fuses", None).await.json();
        assert_eq!(fuses["data"], json!([]));
        let metrics = |house: &House| {
            let admin = spendguard::upstream::Upstream::clone(&house.admin);
            async move {
                let answer = call(&admin, Method::GET, "/metrics", &[], Bytes::new()).await;
                String::from_utf8_lossy(&answer.body).into_owned()
            }
        };
        assert!(!metrics(&house).await.contains("spendguard_fuse_trips_total"));
        let house = House::with(&fuse("")).await;
        assert!(metrics(&house).await.contains("spendguard_fuse_trips_total{fuse=\"runaway\"} 0"));
        until_refused(&house).await;
        let said = metrics(&house).await;
        assert!(said.contains("spendguard_fuse_trips_total{fuse=\"runaway\"} 1"), "{said}");
        assert!(said.contains("spendguard_stops{kind=\"fuse\"} 1"), "{said}");
    });
}
