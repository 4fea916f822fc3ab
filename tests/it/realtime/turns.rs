//! Turns that end otherwise than well, and those of several at once.

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::json;

use super::{by_hand, connected, cost, create, opened, speak, text, until, usd};
use crate::accrual::{LIMIT, held};
use crate::harness::{House, run};
use crate::sockets::{next, say, settled};

#[test]
fn a_client_that_leaves_has_its_response_cancelled_and_pays_for_what_was_said() {
    run(async {
        let house = House::with(LIMIT).await;
        let slow = [("x-fake-chunk-delay-ms", "200"), ("x-fake-completion-tokens", "400")];
        let mut socket = by_hand(&house, &slow).await;
        say(&mut socket, &text("hello")).await;
        say(&mut socket, &create(json!({}))).await;
        until(&mut socket, "response.output_audio.delta").await;
        drop(socket);
        house.settled().await;
        let entries = settled(&house).await;
        let [entry] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((&entry["basis"], &entry["disconnected"]), (&json!("reported"), &json!(true)), "{entry}");
        let output = entry["usage"]["output_tokens"].as_u64().unwrap();
        assert!((100..400).contains(&output), "{entry}");
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn an_interrupted_response_is_booked_by_its_usage_and_the_next_one_follows() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "model=gpt-realtime", &[("x-fake-chunk-delay-ms", "300")]).await;
        speak(&mut socket, 200).await;
        until(&mut socket, "response.output_audio.delta").await;
        speak(&mut socket, 200).await;
        let first = until(&mut socket, "response.done").await;
        assert_eq!(first["response"]["status"], "cancelled");
        let second = until(&mut socket, "response.done").await;
        assert_eq!(second["response"]["status"], "completed");
        let costs = [&first, &second].map(|done| cost(&done["response"]["usage"]));
        drop(socket);
        house.settled().await;
        assert_eq!(usd(&house.meter("all").await["settled"]), costs.iter().sum::<i64>());
    });
}

#[test]
fn an_error_of_upstream_ends_the_hold_of_what_it_refuses_and_names_the_clients_message() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = by_hand(&house, &[("x-fake-chunk-delay-ms", "100")]).await;
        say(&mut socket, &create(json!({}))).await;
        until(&mut socket, "response.created").await;
        let mut again = create(json!({}));
        say(&mut socket, &again).await;
        again["event_id"] = json!("mine");
        say(&mut socket, &again).await;
        let mut named = Vec::new();
        while named.len() < 2 {
            let event = next(&mut socket).await;
            if event["type"] == "error" {
                assert_eq!(event["error"]["code"], "conversation_already_has_active_response");
                named.push(event["error"]["event_id"].clone());
            }
        }
        assert_eq!(named, [json!(null), json!("mine")]);
        until(&mut socket, "response.done").await;
        assert_eq!(held(&house).await, "0");
        let entries = settled(&house).await;
        assert_eq!(entries.iter().filter(|entry| entry["kind"] == "release").count(), 2, "{entries:?}");
    });
}

#[test]
fn responses_beside_the_conversation_run_with_it_and_are_booked() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = by_hand(&house, &[("x-fake-chunk-delay-ms", "50")]).await;
        say(&mut socket, &text("hello")).await;
        say(&mut socket, &create(json!({}))).await;
        let beside = json!({ "conversation": "none", "output_modalities": ["text"], "input": [], "metadata": { "a": "b" } });
        say(&mut socket, &create(beside)).await;
        let one = until(&mut socket, "response.done").await;
        let two = until(&mut socket, "response.done").await;
        let costs = [&one, &two].map(|done| cost(&done["response"]["usage"]));
        house.settled().await;
        assert_eq!(usd(&house.meter("all").await["settled"]), costs.iter().sum::<i64>());
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn sessions_that_race_for_a_dollar_use_it_and_never_pass_it() {
    run(async {
        let house = House::with(LIMIT).await;
        let talk = async || {
            let mut socket = by_hand(&house, &[("x-fake-completion-tokens", "200")]).await;
            for _ in 0..10 {
                say(&mut socket, &create(json!({ "max_output_tokens": 200 }))).await;
                loop {
                    let event = next(&mut socket).await;
                    let meter = house.meter("all").await;
                    assert!(usd(&meter["settled"]) + usd(&meter["held"]) <= 1_000_000_000, "{meter}");
                    match event["type"].as_str().unwrap() {
                        "response.done" => break,
                        "error" => return,
                        _ => {}
                    }
                }
            }
        };
        join_all((0..30).map(|_| talk())).await;
        house.settled().await;
        let used = usd(&house.meter("all").await["settled"]);
        assert!((950_000_000..=1_000_000_000).contains(&used), "{used}");
    });
}

#[test]
fn a_session_of_a_revoked_key_begins_nothing_more() {
    run(async {
        let house = House::with(LIMIT).await;
        let made = house.make_key(json!({ "name": "second" })).await;
        let (id, key) = (made["id"].as_str().unwrap(), made["value"].as_str().unwrap());
        let mut socket = connected(&house, key, "model=gpt-realtime", &[]).await.unwrap();
        say(&mut socket, &create(json!({}))).await;
        until(&mut socket, "response.done").await;
        house.admin(http::Method::DELETE, &format!("/guard/v1/keys/{id}"), None).await;
        say(&mut socket, &create(json!({}))).await;
        let error = next(&mut socket).await;
        assert_eq!(
            (&error["status"], &error["error"]["code"]),
            (&json!(401), &json!("invalid_api_key")),
            "{error}"
        );
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    });
}
