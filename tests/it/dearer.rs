//! Fields that make a request dearer than it looks.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::bound::{billing, chat_of, english, held_nano, limit, response_with};
use crate::harness::{House, run};
use crate::scripted::{Reply, guard_before};

/// What a request held, in nano-dollars, once it was let through.
async fn held(house: &House, path: &str, body: &Value) -> i64 {
    let answer = house.post(path, &[], body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    held_nano(house).await
}

#[test]
fn subagents_are_refused_under_a_cap() {
    run(async {
        let body = json!({ "model": "gpt-5", "input": "x", "multi_agent": { "enabled": true, "max_concurrent_subagents": 50 } });
        let (house, asked) = billing(&limit("1000"), 10, 10).await;
        let beta = [("openai-beta", "responses_multi_agent=v1")];
        let answer = house.post("/v1/responses?beta=true", &beta, &body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        let error = &answer.json()["error"];
        assert_eq!(error["param"], "multi_agent");
        assert!(error["message"].as_str().unwrap().contains("without `multi_agent`"), "{error}");
        assert!(asked.borrow().is_empty());
        let mut off = body.clone();
        off["multi_agent"] = json!({ "enabled": false });
        let answer = house.post("/v1/responses", &[], &off).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let (house, asked) = billing("", 10, 10).await;
        let answer = house.post("/v1/responses?beta=true", &beta, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "no cap depends on it: {answer:?}");
        assert_eq!(asked.borrow()[0].1, body);
    });
}

#[test]
fn each_frame_of_a_gif_is_held_as_an_image() {
    run(async {
        let (house, _) = billing(&limit("1000"), 10, 10).await;
        let drawing = |more: Value| {
            let mut tool =
                json!({ "type": "image_generation", "model": "gpt-image-2.5-flare", "padding": "" });
            tool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let mut body = response_with("gpt-5-mini", tool);
            (body["max_output_tokens"], body["max_tool_calls"]) = (json!(100), json!(1));
            // Bodies of one length.
            let length = body.to_string().len();
            body["tools"][0]["padding"] = json!("x".repeat(2_400 - length));
            body
        };
        let mut of = Vec::new();
        for more in [
            json!({}),
            json!({ "output_format": "gif" }),
            json!({ "output_format": "gif", "frame_count": 2 }),
            json!({ "output_format": "gif", "frame_count": 16 }),
            json!({ "output_format": "gif", "frame_count": "many" }),
        ] {
            of.push(held(&house, "/v1/responses", &drawing(more)).await);
        }
        let frame = of[2] - of[0];
        assert!(frame > 50_000_000, "a second frame costs as much as the first: {of:?}");
        let expected = [0, 8, 1, 15, 15].map(|more| of[0] + more * frame);
        assert!(of.iter().zip(expected).all(|(held, expected)| (held - expected).abs() <= 16), "{of:?}");
    });
}

#[test]
fn a_cache_breakpoint_of_twelve_hours_is_held_and_charged_as_one() {
    run(async {
        let usage = json!({ "prompt_tokens": 10_000, "completion_tokens": 0, "total_tokens": 10_000,
            "prompt_tokens_details": { "cache_write_tokens": 10_000 } });
        let (house, _) = guard_before(&limit("24"), move |_, body| {
            Reply::Json(json!({
                "id": "chatcmpl-1", "object": "chat.completion", "model": body["model"], "usage": usage,
                "choices": [{ "index": 0, "message": { "role": "assistant", "content": "" }, "finish_reason": "stop" }],
            }))
        })
        .await;
        let with = |breakpoint: Value| {
            let part = json!({ "type": "text", "text": "word ".repeat(10_000), "prompt_cache_breakpoint": breakpoint });
            json!({ "model": "gpt-6.1-sol", "max_completion_tokens": 16, "messages": [{ "role": "user", "content": [part] }] })
        };
        for (breakpoint, cost) in [
            (json!({ "mode": "explicit", "ttl": "12h" }), "0.05"),
            (json!({ "mode": "explicit", "ttl": "30m" }), "0.025"),
            (json!({ "mode": "explicit" }), "0.025"),
        ] {
            let held = held(&house, "/v1/chat/completions", &with(breakpoint.clone())).await;
            let entry = &house.entries().await[0];
            assert_eq!(entry["cost_usd"], cost, "{breakpoint}");
            let cost = cost.parse::<spendguard::domain::Money>().unwrap();
            assert!(held >= cost.nano(), "{breakpoint}: {entry}");
        }
    });
}

#[test]
fn compaction_is_held_as_one_turn_more_where_the_context_may_reach_its_threshold() {
    run(async {
        let (house, _) = billing(&limit("1000"), 10, 10).await;
        let compacting = |at: Value| {
            let entry = json!({ "type": "compaction", "compact_threshold": at });
            json!({ "model": "gpt-5", "input": english(3_000), "max_output_tokens": 100, "context_management": [entry] })
        };
        let never = held(&house, "/v1/responses", &compacting(json!(2_000_000))).await;
        let soon = held(&house, "/v1/responses", &compacting(json!(1_000))).await;
        let unknown = held(&house, "/v1/responses", &compacting(json!("soon"))).await;
        // The model's maximum of 128,000 at 10 USD a million, and the context.
        assert!(never < 20_000_000, "{never}");
        assert!(soon - never > 1_290_000_000 && soon - never < 1_310_000_000, "{never} {soon}");
        assert!((soon - unknown).abs() < 100_000, "{soon} {unknown}");
    });
}

#[test]
fn a_count_that_leaves_out_a_field_of_the_request_is_not_used() {
    run(async {
        let (house, asked) = billing(&limit("24"), 500, 10).await;
        let image = json!({ "type": "input_image", "image_url": "https://example.com/a.png" });
        let mut body = json!({ "model": "gpt-6.1-sol", "max_output_tokens": 16, "input": [{ "role": "user", "content": [image] }] });
        let counted = held(&house, "/v1/responses", &body).await;
        assert!(counted < 10_000_000, "{counted}");
        asked.borrow_mut().clear();
        body["image"] = json!({ "context_compression": "disabled" });
        let uncounted = held(&house, "/v1/responses", &body).await;
        assert!(uncounted > 1_000_000_000, "the count may be of a compressed picture: {uncounted}");
    });
}

#[test]
fn a_bound_above_the_models_maximum_is_not_sent_where_there_may_be_several_turns() {
    run(async {
        let (house, asked) = billing(&limit("24"), 10, 10).await;
        let mut body = response_with("gpt-5-mini", json!({ "type": "web_search" }));
        body["max_output_tokens"] = json!(1_000_000);
        let answer = house.post("/v1/responses", &[], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(asked.borrow().last().unwrap().1["max_output_tokens"], 128_000);
        assert_eq!(answer.header("x-spendguard-output-bound"), "128000");
        assert_eq!(answer.header("x-spendguard-clamped-output-tokens"), "");
        body["tools"] = json!([]);
        house.post("/v1/responses", &[], &body).await;
        assert_eq!(
            asked.borrow().last().unwrap().1["max_output_tokens"],
            1_000_000,
            "one turn has the model's own"
        );
    });
}

#[test]
fn a_file_that_is_sent_as_a_text_is_held_as_one() {
    run(async {
        let (house, _) = billing(&limit("10"), 1_000_000, 10).await;
        let mut file = oracle::media::pdf_file(1, "one page");
        file.extend(vec![b'%'; 1_000_000]);
        let data = BASE64_STANDARD.encode(file);
        let ask = |filename: &str, kind: &str| {
            let part = json!({ "type": "input_file", "filename": filename, "file_data": format!("data:{kind};base64,{data}") });
            json!({ "model": "gpt-4.1", "max_output_tokens": 16, "input": [{ "role": "user", "content": [part] }] })
        };
        for (filename, kind) in [
            ("a.txt", "text/plain"),
            ("a.txt", "application/pdf"),
            ("a.pdf", "text/plain"),
            ("a.md", "text/markdown"),
        ] {
            let held = held(&house, "/v1/responses", &ask(filename, kind)).await;
            assert!(held >= 2_000_000_000, "{filename} {kind}: {held}");
        }
        let house = billing(&limit("40"), 1_000_000, 10).await.0;
        for (filename, kind) in [("a.pdf", "application/pdf"), ("A.PDF", "application/octet-stream")] {
            let held = held(&house, "/v1/responses", &ask(filename, kind)).await;
            assert!(held < 20_000_000, "{filename} {kind}: {held}");
        }
    });
}

#[test]
fn a_sound_that_is_sent_as_another_format_is_held_at_the_longest() {
    run(async {
        let (house, _) = billing(&limit("24"), 600, 10).await;
        let file = BASE64_STANDARD.encode(oracle::media::wav_file(192_000, 32, 60_000));
        let ask = |format: &str| {
            let part = json!({ "type": "input_audio", "input_audio": { "data": file, "format": format } });
            let mut body = chat_of("gpt-audio", 10);
            body["max_completion_tokens"] = json!(16);
            body["messages"][0]["content"] = json!([part]);
            body
        };
        let as_wav = held(&house, "/v1/chat/completions", &ask("wav")).await;
        let as_mp3 = held(&house, "/v1/chat/completions", &ask("mp3")).await;
        // A minute at 8 kbit/s: 600 tokens at 32 USD a million.
        assert!(as_mp3 - as_wav >= 19_000_000, "{as_wav} {as_mp3}");
    });
}

#[test]
fn no_bound_is_written_beside_a_prediction() {
    run(async {
        let (house, asked) = billing(&limit("0.05"), 10, 10).await;
        let mut body = chat_of("gpt-4o", 10);
        body["prediction"] = json!({ "type": "content", "content": "all the words" });
        let answer = house.post("/v1/chat/completions", &[], &body).await;
        let sent: Vec<Value> = asked.borrow().iter().map(|(_, body)| body.clone()).collect();
        assert!(sent.is_empty(), "upstream would answer 400: {sent:?}");
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(!message.contains("max_completion_tokens"), "{message}");
    });
}
