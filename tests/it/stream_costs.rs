//! The cost of a stream in its last usage, for clients that ask for it.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::background;
use crate::harness::{House, call, chat, run};
use crate::scripted::{Reply, guard_before};

const LIMIT: &str = "[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 1\n";
const ASKED: (&str, &str) = ("x-spendguard-cost", "true");

/// The costs in a stream: as each is written, in an event's own usage or its response's.
fn costs(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let parsed =
        events.filter_map(|data| serde_json::from_str::<Value>(data).ok().map(|value| (data, value)));
    let priced = parsed.filter_map(|(data, event)| {
        let usage = event.get("usage").filter(|usage| usage.is_object());
        let cost = usage.unwrap_or(&event["response"]["usage"]).get("cost")?;
        assert!(cost.is_number(), "{data}");
        data.split_once("\"cost\":")?.1.split(['}', ',']).next().map(str::to_owned)
    });
    priced.collect()
}

#[test]
fn the_last_usage_of_a_stream_has_the_cost_that_is_booked() {
    run(async {
        let house = House::with(LIMIT).await;
        let speech = json!({ "model": "gpt-4o-mini-tts", "voice": "alloy", "input": "To be.", "stream_format": "sse" });
        let image = json!({ "model": "gpt-image-1", "prompt": "a fox", "quality": "low", "size": "1024x1024", "stream": true });
        for (path, body) in [
            (
                "/v1/chat/completions",
                chat(json!({ "stream": true, "stream_options": { "include_usage": true } })),
            ),
            (
                "/v1/responses",
                json!({ "model": "gpt-5", "input": "hello", "stream": true, "max_output_tokens": 100 }),
            ),
            ("/v1/images/generations", image),
            ("/v1/audio/speech", speech),
        ] {
            let answer = house.post(path, &[ASKED], &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            house.settled().await;
            let entry = &house.entries().await[0];
            assert_eq!(entry["basis"], "reported", "{entry}");
            assert_ne!(entry["cost_usd"], "0", "{entry}");
            assert_eq!(json!(costs(&answer.body)), json!([entry["cost_usd"]]), "{path}");
            let seen = call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json();
            assert_eq!(seen["headers"].get("x-spendguard-cost"), None, "{seen}");
        }
    });
}

#[test]
fn without_the_header_and_where_usage_is_hidden_a_stream_has_no_cost() {
    run(async {
        let events = "data: {\"id\":\"c\",\"model\":\"gpt-5\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n";
        let usage = "data: {\"id\":\"c\",\"model\":\"gpt-5\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1,\"total_tokens\":10}}\n\n";
        let done = "data: [DONE]\n\n";
        let sent = [events, usage, done].concat();
        let (house, _) = guard_before(LIMIT, {
            let sent = sent.clone();
            move |_, _| Reply::Events(sent.clone())
        })
        .await;
        let seen = json!({ "stream": true, "stream_options": { "include_usage": true } });
        for headers in [&[][..], &[("x-spendguard-cost", "false")]] {
            let answer = house.chat(headers, seen.clone()).await;
            assert_eq!(answer.body, sent, "{headers:?}");
        }
        let answer = house.chat(&[ASKED], json!({ "stream": true })).await;
        assert_eq!(answer.body, [events, done].concat());
        let answer = house.chat(&[ASKED], seen.clone()).await;
        assert_eq!(costs(&answer.body), ["0.00002125"]);
        let answer = house.chat(&[("x-spendguard-cost", "yes")], seen).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(
            answer.json()["error"]["message"].as_str().unwrap().contains("x-spendguard-cost"),
            "{answer:?}"
        );
    });
}

#[test]
fn a_background_response_has_its_cost_in_the_stream_that_settles_it() {
    run(async {
        let house = House::with(LIMIT).await;
        let body = background::body(json!({ "stream": true }));
        let answer = house.post("/v1/responses", &[background::LASTING, ASKED], &body).await;
        let booked = background::booked(&house).await;
        assert_eq!(costs(&answer.body), [booked[0].0.to_string()]);
        let id = background::begun(&house, &[background::LASTING]).await;
        let bearer = format!("Bearer {}", house.key);
        let path = format!("/v1/responses/{id}?stream=true");
        let headers = [("authorization", bearer.as_str()), ASKED];
        let answer = call(&house.proxy, Method::GET, &path, &headers, Bytes::new()).await;
        assert_eq!(costs(&answer.body), [background::booked(&house).await[1].0.to_string()]);
        let again = call(&house.proxy, Method::GET, &path, &headers, Bytes::new()).await;
        assert!(costs(&again.body).is_empty() && !again.body.is_empty(), "it was settled before");
    });
}
