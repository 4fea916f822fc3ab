//! A client that reads slowly.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::ends::{Act, house_before};
use super::{create, request, say};
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
                let much = json!({ "delta": "x".repeat(60_000) });
                for _ in 0..120 {
                    acts.push(event("response.output_text.delta", "a", &much));
                }
                acts.push(event("response.output_text.delta", "b", &json!({ "delta": "heard" })));
                for _ in 0..120 {
                    acts.push(event("response.output_text.delta", "a", &much));
                }
            }
            acts
        })
        .await;
        let stream = TcpSocket::new_v4().unwrap();
        stream.set_recv_buffer_size(64 << 10).unwrap();
        let stream = stream.connect(house.proxy_address).await.unwrap();
        let (mut socket, _) =
            tokio_tungstenite::client_async(request(&house, &house.key, &[]), stream).await.unwrap();
        for lane in ["a", "b"] {
            say(&mut socket, &create(json!({ "stream_id": lane }))).await;
            // Both have begun.
            let created = socket.next().await.unwrap().unwrap();
            assert!(created.to_text().unwrap().contains("response.created"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let message = socket.next().await.unwrap().unwrap();
            if message.to_text().unwrap().contains("heard") {
                break;
            }
            before += 1;
        }
        assert!((120..200).contains(&before), "{before} of 240");
    });
}
