//! What operators see of sockets: those that are open, what their messages take, and what is refused.

use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use spendguard::domain::Money;
use tokio_tungstenite::tungstenite::Message;

use super::ends::{Act, house_before};
use super::{create, next, opened, response, say, settled};
use crate::accrual::LIMIT;
use crate::harness::{House, run};

/// The values of the series of a metric that have all of these labels.
async fn values<T: FromStr<Err: Debug>>(house: &House, name: &str, labels: &[&str]) -> Vec<T> {
    let metrics = house.admin(Method::GET, "/metrics", None).await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let is_it = |line: &&str| {
        let is_named = line.split(['{', ' ']).next() == Some(name);
        is_named && labels.iter().all(|label| line.contains(label))
    };
    text.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

async fn count(house: &House, name: &str, labels: &[&str]) -> usize {
    values(house, name, labels).await.iter().sum()
}

pub(super) async fn frames(house: &House, labels: &[&str]) -> usize {
    count(house, "spendguard_frame_overhead_seconds_count", labels).await
}

/// Waits until so many messages are measured: their reader may have one before it is.
async fn measured(house: &House, labels: &[&str], count: usize) {
    for _ in 0..500 {
        if frames(house, labels).await >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(frames(house, labels).await, count);
}

async fn seconds(house: &House, reader: &str) -> f64 {
    values(house, "spendguard_frame_overhead_seconds_sum", &[reader]).await.iter().sum()
}

async fn listed(house: &House, query: &str) -> Vec<Value> {
    let list = house.admin(Method::GET, &format!("/guard/v1/sockets{query}"), None).await.json();
    list["data"].as_array().unwrap_or_else(|| panic!("{list}")).clone()
}

#[test]
fn an_open_socket_is_listed_with_its_run_and_what_its_requests_have_cost_until_it_is_closed() {
    run(async {
        let house = House::with(&format!("[tags]\nrun = [\"prompt_cache_key\"]\n{LIMIT}")).await;
        assert_eq!(listed(&house, "").await, Vec::<Value>::new());
        let mut socket = opened(&house, &[("x-spendguard-tags", "team=search")]).await;
        let other = opened(&house, &[]).await;
        let key = &house.guard.ring().keys()[0];
        let sockets = listed(&house, "").await;
        let first = &sockets[0];
        assert_eq!(sockets.len(), 2, "{sockets:?}");
        for (name, value) in [
            ("object", json!("guard.socket")),
            ("key_id", json!(*key.id)),
            ("project_id", json!("default")),
            ("endpoint", json!("/v1/responses")),
            ("tags", json!({ "team": "search" })),
            ("requests", json!(0)),
            ("spent_usd", json!("0")),
        ] {
            assert_eq!(first[name], value, "{first}");
        }
        assert!(first["opened_at"].as_i64().unwrap() > 1_700_000_000, "{first}");
        for run in ["a", "b"] {
            say(&mut socket, &create(json!({ "prompt_cache_key": run }))).await;
            response(&mut socket).await;
        }
        let entries = settled(&house).await;
        let cost = |entry: &Value| entry["cost_usd"].as_str().unwrap().parse::<Money>().unwrap().nano();
        let spent: i64 = entries.iter().map(cost).sum();
        let first = &listed(&house, &format!("?limit=1&key_id={}", key.id)).await[0];
        assert_eq!(first["tags"], json!({ "team": "search", "run": "b" }), "{first}");
        assert_eq!(first["requests"], 2);
        assert_eq!(first["spent_usd"].as_str().unwrap().parse::<Money>().unwrap().nano(), spent);
        assert!(spent > 0);
        assert_eq!(listed(&house, "?key_id=key_unknown").await, Vec::<Value>::new());
        let id = first["id"].as_str().unwrap();
        assert_eq!(listed(&house, &format!("?after={id}")).await.len(), 1, "the other one");
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
        drop(other);
        while !listed(&house, "").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(count(&house, "spendguard_sockets_open", &[]).await, 0);
    });
}

#[test]
fn the_list_of_open_sockets_goes_on_behind_one_that_has_been_closed() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut sockets = Vec::new();
        for _ in 0..4 {
            sockets.push(opened(&house, &[]).await);
        }
        let all = listed(&house, "").await;
        let ids: Vec<&str> = all.iter().map(|socket| socket["id"].as_str().unwrap()).collect();
        drop(sockets.remove(1));
        while listed(&house, "").await.len() > 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let gone = ids[1];
        for (query, expected) in [
            (format!("?after={gone}"), &[ids[2], ids[3]][..]),
            (format!("?after={gone}&order=desc"), &[ids[0]]),
            (format!("?before={gone}"), &[ids[0]]),
            (format!("?before={gone}&order=desc"), &[ids[3], ids[2]]),
        ] {
            let page = listed(&house, &query).await;
            let shown: Vec<&str> = page.iter().map(|socket| socket["id"].as_str().unwrap()).collect();
            assert_eq!(shown, expected, "{query}");
        }
        let unknown = house.admin(Method::GET, "/guard/v1/sockets?after=req_unknown", None).await;
        assert_eq!(unknown.status, http::StatusCode::BAD_REQUEST);
    });
}

#[test]
fn a_message_that_is_no_request_is_counted_and_remembered_as_a_malformed_post_is() {
    run(async {
        let house = House::with(LIMIT).await;
        let key = format!("key=\"{}\"", house.guard.ring().keys()[0].id);
        let counted = async || {
            let refused = ["outcome=\"refused\"", "endpoint=\"/v1/responses\"", &key];
            let invalid = ["limit=\"\"", "reason=\"invalid_request\""];
            let refused = count(&house, "spendguard_requests_total", &refused).await;
            (refused, count(&house, "spendguard_rejections_total", &invalid).await)
        };
        house.post_raw("/v1/responses", &[], Bytes::from_static(b"{")).await;
        assert_eq!(counted().await, (1, 1));
        let mut socket = opened(&house, &[]).await;
        socket.send(Message::text("{")).await.unwrap();
        assert_eq!(next(&mut socket).await["status"], 400);
        assert_eq!(counted().await, (2, 2));
        let path = "/v1/realtime?model=gpt-realtime";
        let mut session = crate::realtime::connected_at(&house, path, &house.key, &[]).await.unwrap();
        next(&mut session).await;
        session.send(Message::text("{")).await.unwrap();
        assert_eq!(next(&mut session).await["type"], "error");
        assert_eq!(counted().await, (2, 3), "its endpoint is another");
        let remembered = house.guard.rejections();
        let of_key = remembered.iter().filter(|one| one.key.is_some() && one.reason == "invalid_request");
        assert_eq!(of_key.count(), 3, "{remembered:?}");
    });
}

#[test]
fn what_messages_take_is_measured_apart_from_holds() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create(json!({}))).await;
        let events = response(&mut socket).await.len();
        // Requests are admitted; the time of that is elsewhere.
        assert_eq!(frames(&house, &["from=\"client\""]).await, 0);
        measured(&house, &["from=\"upstream\"", "reader=\"ready\""], events).await;
        let path = "/v1/realtime?model=gpt-realtime";
        let mut session = crate::realtime::connected_at(&house, path, &house.key, &[]).await.unwrap();
        next(&mut session).await;
        // The first needs a hold, which is enough for the others.
        for _ in 0..10 {
            say(&mut session, &json!({ "type": "input_audio_buffer.append", "audio": "AAAA" })).await;
        }
        say(&mut session, &json!({ "type": "input_audio_buffer.clear" })).await;
        while next(&mut session).await["type"] != "input_audio_buffer.cleared" {}
        let from_client = frames(&house, &["from=\"client\""]).await;
        assert!((1..11).contains(&from_client), "{from_client} of 11");
        let most = seconds(&house, "reader=\"ready\"").await;
        assert!(most < 5.0, "{most} seconds");
    });
}

#[test]
fn what_a_slow_reader_lets_wait_is_measured_apart() {
    run(async {
        let house = House::with("").await;
        let path = "/v1/realtime?model=gpt-realtime";
        let mut session = crate::realtime::connected_at(&house, path, &house.key, &[]).await.unwrap();
        next(&mut session).await;
        // Each is sent back twice: more than fits between the two.
        let content = json!([{ "type": "input_text", "text": "x".repeat(1 << 20) }]);
        let item = json!({ "type": "message", "role": "user", "content": content });
        for _ in 0..4 {
            say(&mut session, &json!({ "type": "conversation.item.create", "item": item })).await;
        }
        let from_upstream = ["from=\"upstream\""];
        let (mut passed, mut same) = (0, 0);
        while same < 4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = frames(&house, &from_upstream).await;
            same = if now == passed { same + 1 } else { 0 };
            passed = now;
        }
        assert!((1..9).contains(&passed), "{passed}");
        for _ in 0..8 {
            next(&mut session).await;
        }
        measured(&house, &from_upstream, 9).await;
        let slow = frames(&house, &["from=\"upstream\"", "reader=\"slow\""]).await;
        let ready = frames(&house, &["from=\"upstream\"", "reader=\"ready\""]).await;
        assert!(slow > 0 && ready > 0, "{slow} and {ready}");
        let waited = seconds(&house, "reader=\"slow\"").await;
        assert!(waited > 0.5, "{waited} seconds");
    });
}

#[test]
fn the_last_messages_before_an_answer_breaks_off_are_measured() {
    run(async {
        let house = house_before(|_| {
            let begun =
                json!({ "type": "response.created", "response": { "id": "resp_1", "status": "in_progress" } });
            let delta = json!({ "type": "response.output_text.delta", "delta": "word" });
            let deltas = std::iter::repeat_with(|| Act::Say(delta.clone())).take(9);
            [Act::Say(begun)].into_iter().chain(deltas).chain([Act::Cut]).collect()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create(json!({}))).await;
        assert_eq!(response(&mut socket).await.len(), 11, "and the error");
        measured(&house, &["from=\"upstream\""], 10).await;
    });
}
