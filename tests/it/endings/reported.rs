//! What an answer says that it used: charged as it says, wherever and in whatever form.

use http::Method;
use serde_json::{Value, json};

use super::{CHAT, RESPONSES, asks, check, chunk, ended, ending, object, says_text, stream};
use crate::bad_upstream::before;
use crate::harness::{House, run};

#[test]
fn usage_that_is_reported_is_charged_however_it_ended() {
    run(async {
        let usage = json!({ "usage": { "input_tokens": 1000, "output_tokens": 100 } });
        let cases = ["failed", "incomplete", "cancelled", "completed"]
            .map(|status| (status, stream(&ending(status, usage.clone())), "settle reported 0.00225"));
        check(RESPONSES, "gpt-5", cases.into()).await;
        let zero = json!({ "usage": { "input_tokens": 0, "output_tokens": 0, "total_tokens": 0 } });
        let body = json!({ "model": "gpt-5", "status": "completed", "output": [{ "type": "message" }], "usage": zero["usage"] });
        let (_, end) = ended(RESPONSES, &asks(RESPONSES, "gpt-5", false), object(&body)).await;
        assert_eq!(end, "settle reported 0");
    });
}

#[test]
fn a_usage_costs_what_it_says_in_whatever_form() {
    run(async {
        let usage = |more: Value| {
            let mut usage = json!({ "prompt_tokens": 1000, "completion_tokens": 100 });
            usage.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            object(&json!({ "model": "gpt-5", "choices": [], "usage": usage }))
        };
        let outside =
            json!({ "total_tokens": 1600, "completion_tokens_details": { "reasoning_tokens": 500 } });
        let (_, end) = ended(CHAT, &asks(CHAT, "gpt-5", false), usage(outside)).await;
        assert_eq!(end, "settle reported 0.00725", "reasoning that only the total has");
        let writes = json!({ "model": "gpt-6-luna", "status": "completed", "usage": {
            "input_tokens": 1000, "output_tokens": 0, "input_tokens_details": { "cache_write_tokens": 1000 } } });
        let mut long = asks(RESPONSES, "gpt-6-luna", false);
        long["prompt_cache_options"] = json!({ "ttl": "12h" });
        assert_eq!(ended(RESPONSES, &long, object(&writes)).await.1, "settle reported 0.00025");
    });
}

#[test]
fn a_tier_that_only_one_chunk_names_decides_the_price() {
    run(async {
        let choices =
            |text: &str| json!([{ "index": 0, "delta": { "content": text }, "finish_reason": null }]);
        let named =
            |tier: Value| chunk(json!({ "model": "gpt-5.1", "service_tier": tier, "choices": choices("a") }));
        let usage = chunk(
            json!({ "model": "gpt-5.1", "usage": { "prompt_tokens": 1000, "completion_tokens": 500 } }),
        );
        let last = format!("{usage}data: [DONE]\n\n");
        let cases = vec![
            (
                "null, then named",
                stream(&format!("{}{}{last}", named(Value::Null), named(json!("priority")))),
                "settle reported 0.0125",
            ),
            (
                "named, then null",
                stream(&format!("{}{}{last}", named(json!("priority")), named(Value::Null))),
                "settle reported 0.0125",
            ),
            ("never named", stream(&last), "settle reported 0.00625"),
        ];
        check(CHAT, "gpt-5.1", cases).await;
    });
}

#[test]
fn an_empty_error_in_each_chunk_is_none() {
    run(async {
        let text = says_text("hi").replace("data: {", "data: {\"error\":null,");
        let usage = "data: {\"error\":null,\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":500}}\n\n";
        let script = stream(&format!("{text}{text}{usage}data: [DONE]\n\n"));
        check(CHAT, "gpt-4o", vec![("null errors", script, "settle reported 0.0075")]).await;
    });
}

#[test]
fn usage_in_every_chunk_is_charged_and_hidden_from_a_client_that_did_not_ask() {
    run(async {
        let choices = |text: &str, finish: Value| json!([{ "index": 0, "delta": { "content": text }, "finish_reason": finish }]);
        let with = |text: &str, finish: Value, output: u64| {
            chunk(
                json!({ "choices": choices(text, finish), "usage": { "prompt_tokens": 1000, "completion_tokens": output } }),
            )
        };
        let events = with("a", Value::Null, 1) + &with("b", json!("stop"), 500) + "data: [DONE]\n\n";
        let direct = chunk(json!({ "choices": choices("a", Value::Null) }))
            + &chunk(json!({ "choices": choices("b", json!("stop")) }))
            + "data: [DONE]\n\n";
        let (answer, end) = ended(CHAT, &asks(CHAT, "gpt-4o", true), stream(&events)).await;
        assert_eq!(
            (String::from_utf8_lossy(&answer.body).as_ref(), end.as_str()),
            (direct.as_str(), "settle reported 0.0075")
        );
        let mut asked = asks(CHAT, "gpt-4o", true);
        asked["stream_options"] = json!({ "include_usage": true });
        let (answer, _) = ended(CHAT, &asked, stream(&events)).await;
        assert_eq!(answer.body, events);
    });
}

async fn metric(house: &House, name: &str) -> String {
    let answer = house.admin(Method::GET, "/metrics", None).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    text.lines().find(|line| line.starts_with(name)).unwrap_or("").to_owned()
}

#[test]
fn answers_that_ended_at_their_output_bound_are_counted() {
    run(async {
        let length = json!([{ "index": 0, "message": { "content": "a" }, "delta": { "content": "a" }, "finish_reason": "length" }]);
        let usage = json!({ "prompt_tokens": 5, "completion_tokens": 1 });
        let chat = json!({ "model": "gpt-4o-mini", "choices": length, "usage": usage });
        let incomplete = json!({ "incomplete_details": { "reason": "max_output_tokens" } });
        let filtered = json!({ "incomplete_details": { "reason": "content_filter" } });
        let natural = json!([{ "message": {}, "finish_reason": "stop" }]);
        let natural = json!({ "model": "gpt-4o-mini", "choices": natural, "usage": usage });
        for (path, model, is_stream, script, hits) in [
            (CHAT, "gpt-4o-mini", false, object(&chat), 1),
            (CHAT, "gpt-4o-mini", true, stream(&format!("{}data: [DONE]\n\n", chunk(chat.clone()))), 1),
            (RESPONSES, "gpt-4o-mini", true, stream(&ending("incomplete", incomplete)), 1),
            (RESPONSES, "gpt-4o-mini", true, stream(&ending("incomplete", filtered)), 0),
            (CHAT, "gpt-4o-mini", false, object(&natural), 0),
            (CHAT, "invented-by-a-client", false, object(&chat), 1),
        ] {
            let (house, _) = before(script, "").await;
            house.post(path, &[], &asks(path, model, is_stream)).await;
            let label = if model == "gpt-4o-mini" { model } else { "other" };
            let expected = if hits == 0 {
                String::new()
            } else {
                format!("spendguard_output_bound_hits_total{{model=\"{label}\"}} {hits}")
            };
            assert_eq!(
                metric(&house, "spendguard_output_bound_hits_total{").await,
                expected,
                "{path} {is_stream}"
            );
        }
    });
}

#[test]
fn more_than_the_hold_is_booked_in_full_and_counted() {
    run(async {
        let usage = json!({ "prompt_tokens": 1_000_000, "completion_tokens": 1 });
        let body = json!({ "model": "gpt-4o-mini", "choices": [], "usage": usage });
        let (house, _) = before(object(&body), "").await;
        let mut asked = asks(CHAT, "gpt-4o-mini", false);
        asked["max_completion_tokens"] = json!(10);
        house.post(CHAT, &[], &asked).await;
        let entry = &house.entries().await[0];
        assert_eq!(
            (&entry["basis"], &entry["cost_usd"]),
            (&json!("reported"), &json!("0.1500006")),
            "{entry}"
        );
        let over = metric(&house, "spendguard_overrun_usd_total").await;
        assert!(over.starts_with("spendguard_overrun_usd_total 0.149"), "{over}");
    });
}
