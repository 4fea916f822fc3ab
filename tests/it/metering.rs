//! What is charged: the usage that upstream reports, priced as it was served.

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::protocol::openai::operation::OPERATIONS;

use crate::harness::{House, call, chat, run};

#[test]
fn a_chat_costs_what_its_usage_says() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n").await;
        let answer = house.chat(&[], json!({ "max_completion_tokens": 20 })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let usage = &answer.json()["usage"];
        let input = usage["prompt_tokens"].as_u64().unwrap();
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        let pico = (input - cached) * 150_000 + cached * 75_000 + 20 * 600_000;
        let cost = format!("{}", spendguard::domain::Money::from_pico_rounded_up(i128::from(pico)));
        assert_eq!(answer.header("x-spendguard-cost-usd"), cost);
        let entry = &house.entries().await[0];
        assert_eq!(entry["cost_usd"], cost.as_str());
        assert_eq!(entry["basis"], "reported");
        assert_eq!(entry["usage"]["cached_input_tokens"].as_u64(), Some(cached));
        assert_eq!(entry["object_id"], answer.json()["id"]);
        assert_eq!(house.meter("m").await["settled"], cost.as_str());
        assert_eq!(house.meter("m").await["held"], "0");
    });
}

#[test]
fn every_metered_endpoint_leaves_a_priced_entry() {
    run(async {
        let house = House::with("").await;
        let text = json!({ "model": "gpt-5", "input": "hello" });
        let mut unasked: Vec<_> = OPERATIONS.iter().map(|operation| operation.path).collect();
        // A recording is no JSON, and neither is raw sound: `audio` has them.
        unasked.retain(|of| !of.starts_with("/v1/audio/"));
        for (path, body) in [
            ("/v1/chat/completions", chat(json!({}))),
            ("/chat/completions", chat(json!({}))),
            ("/v1/completions", json!({ "model": "gpt-3.5-turbo-instruct", "prompt": "hello" })),
            ("/v1/responses", text.clone()),
            ("/v1/responses/compact", text.clone()),
            ("/v1/embeddings", json!({ "model": "text-embedding-3-small", "input": "hello" })),
            ("/v1/decisions", json!({ "model": "gpt-6-luna", "input": "hello", "questions": [] })),
            ("/v1/images/generations", json!({ "model": "gpt-image-2", "prompt": "hello" })),
            ("/v1/images/edits", json!({ "model": "gpt-image-2", "prompt": "hello", "images": [] })),
        ] {
            let answer = house.post(path, &[], &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{path} {answer:?}");
            let entry = &house.entries().await[0];
            assert_ne!(entry["cost_usd"], "0", "{path}");
            assert_eq!(entry["basis"], "reported", "{path}");
            assert_eq!(entry["cost_usd"], answer.header("x-spendguard-cost-usd"), "{path}");
            unasked.retain(|of| *of != path);
        }
        assert_eq!(unasked, [""; 0], "each operation is asked");
    });
}

#[test]
fn the_served_tier_decides_the_price_not_the_asked_one() {
    run(async {
        let house = House::with("").await;
        let ask = json!({ "model": "gpt-6.1-sol", "service_tier": "priority", "max_completion_tokens": 10 });
        let asked = house.chat(&[("x-fake-tier", "priority")], ask.clone()).await;
        let served = house.chat(&[("x-fake-tier", "default")], ask).await;
        let cost = |answer: &crate::harness::Answer| -> f64 {
            answer.header("x-spendguard-cost-usd").parse().unwrap()
        };
        assert!((cost(&asked) / cost(&served) - 2.0).abs() < 1e-3, "{} {}", cost(&asked), cost(&served));
        assert_eq!(house.entries().await[0]["service_tier"], "default");
    });
}

#[test]
fn what_upstream_refuses_is_released() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n").await;
        for status in ["400", "429", "500"] {
            let answer = house.chat(&[("x-fake-status", status)], json!({})).await;
            assert_eq!(answer.status.as_str(), status);
            let entry = &house.entries().await[0];
            assert_eq!((&entry["kind"], &entry["cost_usd"]), (&json!("release"), &json!("0")));
        }
        assert_eq!(house.meter("m").await["settled"], "0");
        assert_eq!(house.meter("m").await["held"], "0");
    });
}

#[test]
fn an_answer_without_usage_is_counted_and_never_free() {
    run(async {
        let house = House::with("").await;
        house.chat(&[("x-fake-no-usage", "1")], json!({})).await;
        let entry = &house.entries().await[0];
        assert_eq!(entry["basis"], "counted");
        assert!(entry["usage"]["output_tokens"].as_u64().unwrap() >= 20, "{entry}");
        assert_ne!(entry["cost_usd"], "0");
    });
}

#[test]
fn what_is_counted_is_never_more_than_what_was_held() {
    run(async {
        let house = House::with("").await;
        // The form of the answer alone has more tokens than it may have.
        house.chat(&[("x-fake-no-usage", "1")], json!({ "max_completion_tokens": 3 })).await;
        let entry = &house.entries().await[0];
        assert_eq!(
            (&entry["basis"], &entry["usage"]["output_tokens"]),
            (&json!("counted"), &json!(3)),
            "{entry}"
        );
    });
}

#[test]
fn free_endpoints_cost_nothing_and_pass_an_exhausted_budget() {
    run(async {
        let config = "[[limit]]\nname = \"tiny\"\nwindow = \"month\"\nhard = 0.000001\n";
        let house = House::with(config).await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::BAD_REQUEST);
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let models = call(&house.proxy, Method::GET, "/v1/models", &headers, bytes::Bytes::new()).await;
        assert_eq!(models.status, StatusCode::OK);
        let moderation = house.post("/v1/moderations", &[], &json!({ "input": "x" })).await;
        assert_eq!(moderation.status, StatusCode::OK);
        assert_eq!(house.entries().await[0]["cost_usd"], "0");
    });
}

#[test]
fn upstream_sees_the_guards_key_and_nothing_of_the_guard() {
    run(async {
        let house = House::with("").await;
        let secret = [("x-spendguard-tags", "team=search"), ("cookie", "a=b"), ("accept-encoding", "gzip")];
        let answer = house.chat(&secret, json!({})).await;
        assert_eq!(answer.header("openai-organization"), "");
        assert_eq!(answer.header("set-cookie"), "");
        let last = call(&house.fake_direct, Method::GET, "/__last", &[], bytes::Bytes::new()).await.json();
        let headers = last["headers"].as_object().unwrap();
        assert_eq!(headers["authorization"], format!("Bearer {}", crate::harness::UPSTREAM_KEY));
        assert_eq!(headers["accept-encoding"], "identity");
        assert!(!headers.contains_key("cookie"));
        assert!(!last.to_string().contains("sk-guard-"));
        assert!(headers.keys().all(|name| !name.starts_with("x-spendguard")));
        assert_eq!(house.entries().await[0]["tags"]["team"], "search");
    });
}
