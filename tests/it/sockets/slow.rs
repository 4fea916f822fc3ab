//! A client that reads slowly.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::ends::{Act, house_before};
use super::http2::{connection, socket};
use super::{create, say};
use crate::harness::run;

fn event(kind: &str, lane: &str, more: &Value) -> Act {
    let response = json!({ "id": format!("resp_{lane}"), "status": "in_progress" });
    let mut event = json!({ "type": kind, "stream_id": lane, "response_id": format!("resp_{lane}") });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    if kind == "response.created" {
        event["response"] = response;
    }
    Act::Say(event)
}

#[test]
fn a_lane_that_has_much_to_say_to_a_slow_client_lets_others_speak() {
    run(async {
        let house = house_before(|message| {
            let lane = message["stream_id"].as_str().unwrap();
            let mut acts = vec![event("response.created", lane, &json!({}))];
            if lane == "b" {
                let much = json!({ "delta": "x".repeat(20_000) });
                for _ in 0..60 {
                    acts.push(event("response.output_text.delta", "a", &much));
                }
                acts.push(event("response.output_text.delta", "b", &json!({ "delta": "heard" })));
                for _ in 0..40 {
                    acts.push(event("response.output_text.delta", "a", &much));
                }
            }
            acts
        })
        .await;
        // Over HTTP/2 it is the client that says how much it takes.
        let mut sender = connection(&house, 16 << 10).await;
        let mut socket = socket(&house, &mut sender).await;
        say(&mut socket, &create(json!({ "stream_id": "a" }))).await;
        let begun = socket.next().await.unwrap().unwrap();
        assert!(begun.to_text().unwrap().contains("response.created"));
        say(&mut socket, &create(json!({ "stream_id": "b" }))).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let message = socket.next().await.unwrap().unwrap();
            if message.to_text().unwrap().contains("heard") {
                break;
            }
            before += 1;
        }
        // About those that upstream has sent before it.
        assert!((40..90).contains(&before), "{before} of 100");
    });
}
