//! Streams: byte identity, hidden usage, clients that leave, upstreams that cut.

use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::harness::{House, call, chat, run, true_cost_nano};

/// A stream's bytes with the parts that differ from call to call made alike.
fn alike(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut alike = String::new();
    for line in text.split_inclusive('\n') {
        let id = line.find("\"id\":\"").map(|at| (at + 6, line[at + 6..].find('"').unwrap_or(0)));
        match id {
            Some((at, length))
                if line[at..].starts_with("chatcmpl-")
                    || line[at..].starts_with("cmpl-")
                    || line[at..].starts_with("resp_") =>
            {
                alike.push_str(&line[..at]);
                alike.push_str("ID");
                alike.push_str(&line[at + length..]);
            }
            _ => alike.push_str(line),
        }
    }
    alike
}

#[test]
fn a_client_gets_byte_for_byte_what_upstream_would_have_sent() {
    run(async {
        let house = House::with("").await;
        let response = json!({ "model": "gpt-5", "input": "hello", "stream": true });
        for (path, body) in [
            ("/v1/chat/completions", chat(json!({ "stream": true }))),
            (
                "/v1/chat/completions",
                chat(json!({ "stream": true, "stream_options": { "include_usage": true } })),
            ),
            ("/v1/completions", json!({ "model": "gpt-3.5-turbo-instruct", "prompt": "x", "stream": true })),
            ("/v1/responses", response),
        ] {
            let bytes = bytes::Bytes::from(body.to_string());
            let direct = call(&house.fake_direct, Method::POST, path, &[], bytes.clone()).await;
            let through = house.post_raw(path, &[], bytes).await;
            assert_eq!(through.header("content-type"), direct.header("content-type"));
            assert_eq!(alike(&through.body), alike(&direct.body), "{path} {body}");
            house.settled().await;
            let entry = &house.entries().await[0];
            assert_eq!((&entry["basis"], &entry["stream"]), (&json!("reported"), &json!(true)), "{path}");
            assert_ne!(entry["cost_usd"], "0");
        }
    });
}

async fn leave_after_first_event(house: &House, ordered: &[(&str, &str)]) {
    let bearer = format!("Bearer {}", house.key);
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", bearer.parse().unwrap());
    for (name, value) in ordered {
        headers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let body = bytes::Bytes::from(chat(json!({ "stream": true, "max_completion_tokens": 100 })).to_string());
    let answer = house.proxy.send(Method::POST, "/v1/chat/completions", headers, body).await.unwrap();
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
}

#[test]
fn a_client_that_hangs_up_still_pays_for_all_of_it() {
    run(async {
        let house = House::with("").await;
        leave_after_first_event(&house, &[("x-fake-chunks", "30"), ("x-fake-chunk-delay-ms", "10")]).await;
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["disconnected"]), (&json!("reported"), &json!(true)), "{entry}");
        assert_eq!(entry["usage"]["output_tokens"], 30);
    });
}

#[test]
fn with_cancel_a_client_that_hangs_up_pays_for_what_passed() {
    run(async {
        let house = House::with("[guard]\non_disconnect = \"cancel\"\n").await;
        leave_after_first_event(&house, &[("x-fake-chunks", "90"), ("x-fake-chunk-delay-ms", "50")]).await;
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["disconnected"]), (&json!("counted"), &json!(true)), "{entry}");
        assert!(entry["usage"]["output_tokens"].as_u64().unwrap() < 90);
    });
}

#[test]
fn a_stream_that_upstream_cuts_is_counted_and_breaks_for_the_client_too() {
    run(async {
        let house = House::with("").await;
        let ordered = [("x-fake-chunks", "40"), ("x-fake-cut-after", "25"), ("x-fake-chunk-delay-ms", "1")];
        let answer = house.chat(&ordered, json!({ "stream": true })).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.body.is_empty(), "reading it failed");
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!(entry["basis"], "counted", "{entry}");
        assert!(entry["usage"]["output_tokens"].as_u64().unwrap() >= 20, "{entry}");
    });
}

#[test]
fn a_cut_stream_is_charged_its_hold_where_no_text_shows_what_was_billed() {
    run(async {
        let house = House::with("").await;
        let ordered = [("x-fake-chunks", "40"), ("x-fake-cut-after", "25"), ("x-fake-chunk-delay-ms", "1")];
        let wav = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";
        let sound = json!([{ "type": "input_audio", "input_audio": { "data": wav, "format": "wav" } }]);
        let spoken = json!([{ "role": "user", "content": sound }]);
        for (what, more) in [
            ("rejected tokens", json!({ "prediction": { "type": "content", "content": "as before" } })),
            ("tokens of sound", json!({ "messages": spoken })),
        ] {
            let mut body = chat(json!({ "stream": true, "model": "gpt-4o" }));
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let answer = house.post("/v1/chat/completions", &ordered, &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{what}: {answer:?}");
            house.settled().await;
            let entry = &house.entries().await[0];
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!("assumed"), &entry["held_usd"]),
                "{what}: {entry}"
            );
        }
        let body = json!({ "model": "gpt-3.5-turbo-instruct", "prompt": "x", "n": 1, "best_of": 3, "stream": false });
        let answer = house.post("/v1/completions", &[("x-fake-no-usage", "1")], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("assumed"), &entry["held_usd"]), "{entry}");
    });
}

#[test]
fn a_drain_finishes_running_streams_before_the_end() {
    run(async {
        let house = House::with("").await;
        let ordered = [("x-fake-chunks", "20"), ("x-fake-chunk-delay-ms", "20")];
        let bearer = format!("Bearer {}", house.key);
        let proxy = house.proxy.clone();
        let fake = std::sync::Arc::clone(&house.fake);
        let reading = tokio::task::spawn_local(async move {
            let mut headers = vec![("authorization", bearer.as_str())];
            headers.extend(ordered);
            let body = bytes::Bytes::from(chat(json!({ "stream": true })).to_string());
            call(&proxy, Method::POST, "/v1/chat/completions", &headers, body).await
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let folder = house.close().await;
        let answer = reading.await.unwrap();
        assert!(String::from_utf8_lossy(&answer.body).ends_with("data: [DONE]\n\n"));
        let db = rusqlite::Connection::open(folder.path().join("data/spendguard.db")).unwrap();
        let (cost, basis): (i64, String) = db
            .query_row("SELECT cost_nano, basis FROM entry", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(basis, "reported");
        let cost = u64::try_from(cost).unwrap();
        assert!(cost >= true_cost_nano(&fake) && cost <= true_cost_nano(&fake) + 1);
    });
}
