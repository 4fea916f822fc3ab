//! What containers cost that requests use again.

use http::StatusCode;
use serde_json::{Value, json};

use super::Two;
use crate::harness::run;

#[test]
fn a_container_that_is_named_by_its_id_costs_what_it_was_made_with() {
    run(async {
        let two = Two::new().await;
        let tool =
            |container: Value| json!({ "tools": [{ "type": "code_interpreter", "container": container }] });
        let made = two.respond(&two.a, tool(json!({ "type": "auto" }))).await.json();
        let container = &made["output"][2]["container_id"];
        assert_eq!(two.respond(&two.a, tool(container.clone())).await.status, StatusCode::OK);
        let costs: Vec<_> = two.house.entries().await.iter().map(|entry| entry["cost_usd"].clone()).collect();
        // 100 tokens in, 20 out, and a session of 1 GB.
        assert_eq!(costs, ["0.030325", "0.030325"]);
    });
}

#[test]
fn a_container_that_is_used_again_costs_what_it_was_made_with_whatever_is_asked_for() {
    run(async {
        for stream in [false, true] {
            let two = Two::new().await;
            let asked = |memory: &str, more: Value| {
                let container = json!({ "type": "auto", "memory_limit": memory });
                let mut body = json!({ "stream": stream, "tools": [{ "type": "code_interpreter", "container": container }] });
                body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
                body
            };
            let made = two.respond(&two.a, asked("64g", json!({}))).await;
            let text = String::from_utf8_lossy(&made.body).into_owned();
            let id = |prefix: &str| text[text.find(prefix).unwrap()..][..prefix.len() + 8].to_owned();
            let (first, container) = (id("resp_"), id("cntr_"));
            let again = json!({ "previous_response_id": first, "metadata": { "container": container } });
            two.respond(&two.a, asked("1g", again)).await;
            let call = json!({ "type": "code_interpreter_call", "id": "ci_1", "code": "run()", "container_id": container });
            let repeated = json!({ "input": [call], "metadata": { "container": container } });
            two.respond(&two.a, asked("1g", repeated)).await;
            two.respond(&two.a, asked("1g", json!({}))).await;
            two.house.settled().await;
            let entries = two.house.entries().await;
            let costs: Vec<_> = entries.iter().rev().map(|entry| entry["cost_usd"].clone()).collect();
            // 100 tokens in, 20 out, and a session of the container.
            assert_eq!(costs, ["1.920325", "1.920325", "1.920325", "0.030325"], "{stream}");
            let amount = |text: &Value| text.as_str().unwrap().parse::<f64>().unwrap();
            for entry in &entries {
                assert!(amount(&entry["held_usd"]) >= amount(&entry["cost_usd"]), "{entry}");
            }
        }
    });
}

#[test]
fn reads_of_a_container_at_once_are_charged_for_the_same_minutes_once() {
    run(async {
        let two = Two::new().await;
        let made = two.respond(&two.a, asked("1g", json!({}))).await.json();
        let container = made["output"][2]["container_id"].as_str().unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let path = format!("/v1/containers/{container}");
        let get = || two.get(&two.a, &path);
        let answers = tokio::join!(get(), get(), get(), get(), get());
        assert_eq!((answers.0.status, answers.4.status), (StatusCode::OK, StatusCode::OK));
        get().await;
        two.house.settled().await;
        let entries = two.house.entries().await;
        let of_reads = entries.iter().filter(|entry| entry["endpoint"] == "/v1/containers/{}");
        let mut costs: Vec<_> = of_reads.map(|entry| entry["cost_usd"].as_str().unwrap()).collect();
        costs.sort_unstable();
        // Of the first minute after the container was made.
        assert_eq!(costs.iter().filter(|cost| **cost != "0").collect::<Vec<_>>(), [&"0.0015"], "{costs:?}");
    });
}

fn asked(memory: &str, more: Value) -> Value {
    let container = json!({ "type": "auto", "memory_limit": memory });
    let mut body = json!({ "tools": [{ "type": "code_interpreter", "container": container }] });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    body
}

/// What was held and what was charged for each response, in their order.
async fn amounts(two: &Two) -> Vec<(f64, f64)> {
    two.house.settled().await;
    let amount = |entry: &Value, name: &str| entry[name].as_str().unwrap().parse::<f64>().unwrap();
    let entries = two.house.entries().await;
    let responses = entries.iter().rev().filter(|entry| entry["endpoint"] == "/v1/responses");
    responses.map(|entry| (amount(entry, "held_usd"), amount(entry, "cost_usd"))).collect()
}

/// A session of 64 GB, which these requests cost or hold if they may run in one.
const LARGEST: f64 = 1.92;

async fn all_cost_the_largest(two: &Two) {
    for (held, cost) in amounts(two).await {
        assert!((LARGEST..=held).contains(&cost), "{cost} of {held}");
    }
}

#[test]
fn a_container_of_kept_context_is_held_and_costs_what_it_was_made_with() {
    run(async {
        let two = Two::new().await;
        let conversation = two.make(&two.a, "/v1/conversations", json!({})).await;
        let made = two.respond(&two.a, asked("64g", json!({ "conversation": conversation }))).await.json();
        let (call, container) = (&made["output"][2]["id"], &made["output"][2]["container_id"]);
        let named = [
            json!({ "conversation": conversation }),
            json!({ "input": [{ "type": "item_reference", "id": call }] }),
            json!({ "input": [{ "type": "code_interpreter_call", "id": call, "code": "run()" }] }),
        ];
        for mut more in named {
            more["metadata"] = json!({ "container": container });
            two.respond(&two.a, asked("1g", more)).await;
        }
        all_cost_the_largest(&two).await;
    });
}

#[test]
fn only_calls_that_may_run_in_a_large_container_are_held_at_it() {
    run(async {
        let two = Two::new().await;
        let large = two.make(&two.a, "/v1/conversations", json!({})).await;
        two.respond(&two.a, asked("64g", json!({ "conversation": large }))).await;
        let small = two.respond(&two.a, asked("1g", json!({}))).await.json();
        let small = small["output"][2]["container_id"].as_str().unwrap();
        let file = two.make(&two.a, "/v1/files", json!({})).await;
        let content = json!([{ "type": "input_file", "file_id": file }]);
        let items = json!({ "items": [{ "type": "message", "role": "user", "content": content }] });
        let with_file = two.make(&two.a, "/v1/conversations", items).await;
        let tool = json!([{ "type": "code_interpreter", "container": small }]);
        for body in [
            json!({ "tools": tool, "conversation": large, "metadata": { "container": small }, "max_tool_calls": 1 }),
            asked("1g", json!({ "conversation": with_file, "max_tool_calls": 1 })),
            asked("4g", json!({ "input": "hello", "max_tool_calls": 1 })),
        ] {
            assert_eq!(two.respond(&two.a, body).await.status, StatusCode::OK);
        }
        for (held, cost) in amounts(&two).await.into_iter().skip(1) {
            assert!(cost <= held && held < LARGEST, "{cost} of {held}");
        }
    });
}

#[test]
fn a_call_that_names_no_container_may_have_run_in_the_largest_of_its_context() {
    run(async {
        let two = Two::new().await;
        let conversation = two.make(&two.a, "/v1/conversations", json!({})).await;
        let unnamed = json!({ "container": "unnamed" });
        for memory in ["64g", "1g"] {
            let more = json!({ "conversation": conversation, "metadata": unnamed });
            two.respond(&two.a, asked(memory, more)).await;
        }
        all_cost_the_largest(&two).await;
    });
}

#[test]
fn what_goes_on_from_a_stream_that_broke_off_is_held_at_the_container_that_it_may_have_started() {
    run(async {
        let two = Two::new().await;
        let early = json!({ "stream": true, "metadata": { "ends": "early" } });
        let cut = two.respond(&two.a, asked("64g", early)).await;
        let text = String::from_utf8_lossy(&cut.body).into_owned();
        let first = &text[text.find("resp_").unwrap()..][.."resp_".len() + 8];
        // Its container is not known by its id.
        let more = json!({ "previous_response_id": first, "metadata": { "container": "cntr_unseen" } });
        two.respond(&two.a, asked("1g", more)).await;
        let last = amounts(&two).await[1];
        assert!((LARGEST..=last.0).contains(&last.1), "{last:?}");
    });
}
