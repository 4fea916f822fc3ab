//! What upstream keeps is held at what it may come to when it is read again.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{Answer, House, UPSTREAM_KEY, run};
use crate::scripted::{Received, Reply, guard_before, response};

const MONTHLY: &str =
    "[guard]\nhold_wait = \"2s\"\n[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 24.00\n";

/// A guard before an upstream that keeps conversations, answers with the next of these
/// usages, and counts no input unless `counted` says how much.
async fn house(usages: &[(&'static str, u64, u64)], counted: Option<u64>) -> (House, Received) {
    let usages = RefCell::new(usages.to_vec());
    guard_before(MONTHLY, move |path, body| {
        if path.ends_with("/input_tokens") {
            return Reply::Json(counted.map_or(json!({}), |tokens| json!({ "input_tokens": tokens })));
        }
        if path == "/v1/conversations" {
            return Reply::Json(json!({ "id": "conv_1", "object": "conversation" }));
        }
        if path.ends_with("/items") {
            return Reply::Json(json!({ "object": "list", "data": [{ "id": "msg_in" }] }));
        }
        let mut usages = usages.borrow_mut();
        if usages.is_empty() {
            return Reply::Json(response(body["model"].as_str().unwrap(), 100, 10));
        }
        let (model, input, output) = usages.remove(0);
        Reply::Json(response(model, input, output))
    })
    .await
}

async fn respond(house: &House, more: Value) -> Answer {
    let mut body = json!({ "model": "gpt-6.1-sol", "input": "hi", "max_output_tokens": 200 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    house.post("/v1/responses", &[], &body).await
}

/// What a request was held at, in nano-dollars.
async fn held(house: &House, more: Value) -> i64 {
    let answer = respond(house, more.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{more}: {answer:?}");
    house.settled().await;
    let entries = house.entries().await;
    let held = entries[0]["held_usd"].as_str().unwrap().parse::<spendguard::domain::Money>();
    held.unwrap().nano()
}

fn message(part: Value) -> Value {
    json!({ "type": "message", "role": "user", "content": [part] })
}

/// A window of gpt-6.1-sol costs more.
const PICTURE_NANO: i64 = 1_200_000_000;

#[test]
fn media_that_a_free_request_put_into_a_conversation_are_not_held_at_its_bytes() {
    run(async {
        for part in [
            json!({ "type": "input_image", "image_url": "https://example.com/16000x16000.png" }),
            json!({ "type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=" }),
            json!({ "type": "input_file", "file_url": "https://example.com/a.pdf" }),
        ] {
            let items = json!({ "items": [message(part.clone())] });
            let (house, _) = house(&[], None).await;
            assert_eq!(house.post("/v1/conversations", &[], &items).await.status, StatusCode::OK);
            let of_new = held(&house, json!({ "conversation": "conv_1" })).await;
            assert!(of_new > PICTURE_NANO, "{part}: {of_new}");
            // The turn has measured it; then more is added.
            let measured = held(&house, json!({ "conversation": "conv_1" })).await;
            assert!(measured < 10_000_000, "{part}: {measured}");
            let added = house.post("/v1/conversations/conv_1/items", &[], &items).await;
            assert_eq!(added.status, StatusCode::OK, "{added:?}");
            let named = json!({ "input": [{ "type": "item_reference", "id": "msg_in" }] });
            for named in [named, json!({ "conversation": "conv_1" })] {
                let of_added = held(&house, named.clone()).await;
                assert!(of_added > PICTURE_NANO, "{part} {named}: {of_added}");
            }
        }
        let (house, _) = house(&[], None).await;
        let text = json!({ "items": [message(json!({ "type": "input_text", "text": "hello" }))] });
        house.post("/v1/conversations", &[], &text).await;
        let cheap = held(&house, json!({ "conversation": "conv_1" })).await;
        assert!(cheap < 10_000_000, "{cheap}");
    });
}

#[test]
fn a_context_that_another_model_has_measured_is_held_at_the_window() {
    run(async {
        let (house, _) = house(&[("gpt-4o", 900, 20)], None).await;
        let first = json!({ "model": "gpt-4o", "input": [message(json!({ "type": "input_image", "detail": "low",
            "image_url": "https://example.com/16000x16000.png" }))] });
        held(&house, first).await;
        let next = |more: Value| {
            let mut body = json!({ "previous_response_id": "resp_1" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let same = held(&house, next(json!({ "model": "gpt-4o", "store": false }))).await;
        assert!(same < 10_000_000, "the same model reads the same tokens: {same}");
        let other = held(&house, next(json!({ "store": false }))).await;
        assert!(other > PICTURE_NANO, "{other}");
    });
}

#[test]
fn a_context_that_was_read_under_other_options_is_held_at_the_window() {
    run(async {
        // Each leaves something out of its usage that the next request may read.
        for (first, next) in [
            (json!({ "reasoning": { "context": "current_turn" } }), json!({})),
            (json!({}), json!({ "reasoning": { "context": "all_turns" } })),
            (json!({ "image": { "context_compression": "auto" } }), json!({})),
            (json!({ "truncation": "auto", "input": "x".repeat(930_000) }), json!({})),
        ] {
            let (house, _) = house(&[("gpt-6.1-sol", 900, 20)], None).await;
            held(&house, first.clone()).await;
            let mut body = json!({ "previous_response_id": "resp_1", "store": false });
            body.as_object_mut().unwrap().extend(next.as_object().unwrap().clone());
            let other = held(&house, body).await;
            assert!(other > PICTURE_NANO, "{next}: {other}");
        }
        for options in [
            json!({ "truncation": "auto" }),
            json!({ "reasoning": { "context": "all_turns" } }),
            json!({ "truncation": "disabled", "reasoning": { "effort": "low" } }),
        ] {
            let (house, _) = house(&[("gpt-6.1-sol", 900, 20)], None).await;
            held(&house, options.clone()).await;
            let mut body = json!({ "previous_response_id": "resp_1", "store": false });
            body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
            let same = held(&house, body).await;
            assert!(same < 10_000_000, "{options}: {same}");
        }
    });
}

#[test]
fn upstreams_count_of_kept_context_replaces_what_was_recorded() {
    run(async {
        let (house, _) = house(&[("gpt-6.1-sol", 850_000, 20)], Some(880_000)).await;
        held(&house, json!({})).await;
        let counted = held(&house, json!({ "previous_response_id": "resp_1", "store": false })).await;
        // Cache writes of a long context.
        assert!(counted >= 880_000 * 5_000, "{counted}");
    });
}

#[test]
fn hosted_tools_are_not_put_where_upstream_keeps_them() {
    run(async {
        let tools =
            json!([{ "type": "web_search" }, { "type": "image_generation", "model": "gpt-image-1.5" }]);
        for kind in ["additional_tools", "tool_search_output"] {
            let item = json!({ "type": kind, "role": "developer", "tools": tools });
            let items = json!({ "items": [item] });
            let (house, asked) = house(&[], None).await;
            house.post("/v1/conversations", &[], &json!({})).await;
            asked.borrow_mut().clear();
            for (path, body) in [
                ("/v1/conversations", items.clone()),
                ("/v1/conversations/conv_1/items", items.clone()),
                ("/v1/responses", json!({ "model": "gpt-5", "input": [item] })),
                (
                    "/v1/responses",
                    json!({ "model": "gpt-5", "input": [item], "store": false, "conversation": "conv_1" }),
                ),
            ] {
                let refused = house.post(path, &[], &body).await;
                assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path} {body}: {refused:?}");
                let text = refused.json()["error"]["message"].as_str().unwrap().to_owned();
                assert!(text.ends_with("Send tools with the request that uses them."), "{text}");
            }
            assert!(asked.borrow().is_empty(), "upstream was asked");
            let unkept = json!({ "model": "gpt-5", "input": [item], "store": false });
            let answer = house.post("/v1/responses", &[], &unkept).await;
            assert_eq!(answer.status, StatusCode::OK, "{kind}: {answer:?}");
        }
    });
}

#[test]
fn pictures_of_kept_context_are_held_for_the_image_tool() {
    run(async {
        let (house, _) = house(&[], None).await;
        let tool = json!([{ "type": "image_generation", "model": "gpt-image-1.5", "quality": "low" }]);
        let pictures = (0..10).map(|_| {
            message(json!({ "type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=" }))
        });
        let drawing = |more: Value| {
            let mut body = json!({ "tools": tool, "max_tool_calls": 1, "model": "gpt-4o" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let plain = held(&house, drawing(json!({ "store": false }))).await;
        held(&house, json!({ "model": "gpt-4o", "input": pictures.collect::<Vec<_>>() })).await;
        let after = held(&house, drawing(json!({ "previous_response_id": "resp_1" }))).await;
        // Each of ten pictures is at least 6,240 tokens at 8 USD a million.
        assert!(after - plain > 10 * 6_240 * 8_000, "{after} {plain}");
        // Also behind a second answer.
        let further = held(&house, drawing(json!({ "previous_response_id": "resp_1" }))).await;
        assert!(further - plain > 10 * 6_240 * 8_000, "{further} {plain}");
    });
}

/// An upstream of conversations, whose answer to the input "slow" comes when `go` says so. It is
/// asked to count tokens `counts` times, and answers with `count`.
pub(crate) async fn slow_upstream(count: Value, counts: Arc<AtomicUsize>, go: Arc<Notify>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let reply = move |request: axum::extract::Request| {
        let (count, counts, go) = (count.clone(), Arc::clone(&counts), Arc::clone(&go));
        async move {
            let path = request.uri().path().to_owned();
            let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            if path.ends_with("/input_tokens") {
                counts.fetch_add(1, Ordering::SeqCst);
                return axum::Json(count);
            }
            if path == "/v1/conversations" {
                return axum::Json(json!({ "id": "conv_1", "object": "conversation" }));
            }
            if body["input"] == "slow" {
                go.notified().await;
            }
            axum::Json(response("gpt-6.1-sol", 1_000, 100))
        }
    };
    let router = axum::Router::new().fallback(reply);
    // The test's own task; it ends with the test's runtime.
    tokio::task::spawn_local(async move { axum::serve(listener, router).await.unwrap() });
    base_url
}

#[test]
fn a_count_is_not_relied_on_when_another_turn_has_added_to_the_conversation() {
    run(async {
        let (counts, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let count = json!({ "input_tokens": 1_000 });
        let base_url = slow_upstream(count, Arc::clone(&counts), Arc::clone(&go)).await;
        let limit = "[guard]\nhold_wait = \"20s\"\nwhen_tight = \"reject\"\n\
                     [[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 1.20\n";
        let house = Rc::new(House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), limit).await);
        let picture = message(json!({ "type": "input_image", "image_url": "https://example.com/a.png" }));
        house.post("/v1/conversations", &[], &json!({ "items": [picture] })).await;
        let turn = |input: &'static str| {
            let house = Rc::clone(&house);
            let more = json!({ "conversation": "conv_1", "input": input, "max_output_tokens": 100_000 });
            tokio::task::spawn_local(async move { respond(&house, more).await })
        };
        let counted = async |count| {
            while counts.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let slow = turn("slow");
        counted(1).await;
        let waiting = turn("hi");
        counted(2).await;
        go.notify_one();
        assert_eq!(slow.await.unwrap().status, StatusCode::OK);
        let late = waiting.await.unwrap();
        assert_eq!(
            (late.status, late.code().as_str()),
            (StatusCode::CONFLICT, "conversation_locked"),
            "{late:?}"
        );
        assert_eq!(turn("hi").await.unwrap().status, StatusCode::OK, "it is counted again");
    });
}
