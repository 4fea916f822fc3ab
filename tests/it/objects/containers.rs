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
        let container = two.make(&two.a, "/v1/containers", json!({ "memory_limit": "1g" })).await;
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

#[test]
fn a_container_of_kept_context_is_held_and_costs_what_it_was_made_with() {
    run(async {
        let two = Two::new().await;
        let asked = |memory: &str, more: Value| {
            let container = json!({ "type": "auto", "memory_limit": memory });
            let mut body = json!({ "tools": [{ "type": "code_interpreter", "container": container }] });
            body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            body
        };
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
        let other = two.make(&two.a, "/v1/conversations", json!({})).await;
        two.respond(&two.a, asked("4g", json!({ "conversation": other }))).await;
        two.house.settled().await;
        let entries = two.house.entries().await;
        let entries: Vec<_> =
            entries.iter().rev().filter(|entry| entry["endpoint"] == "/v1/responses").collect();
        let costs: Vec<_> = entries.iter().map(|entry| entry["cost_usd"].clone()).collect();
        assert_eq!(costs, ["1.920325", "1.920325", "1.920325", "1.920325", "0.120325"]);
        let amount = |text: &Value| text.as_str().unwrap().parse::<f64>().unwrap();
        for entry in &entries {
            assert!(amount(&entry["held_usd"]) >= amount(&entry["cost_usd"]), "{entry}");
        }
        // The rest of the last hold is tokens: 16,000 for each of the calls, and the text.
        let held = amount(&entries[4]["held_usd"]);
        assert!(held < 1.92, "a new conversation holds no container of 64 GB: {held}");
    });
}
