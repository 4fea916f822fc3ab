//! Turns that end otherwise than well, and those of several at once.

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::json;

use super::{by_hand, connected, cost, create, opened, sound, speak, text, until, usd};
use crate::accrual::{LIMIT, held};
use crate::harness::{House, run};
use crate::sockets::ends::{Act, house_before};
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
fn speech_is_answered_within_its_hold_though_another_response_was_asked_for_meanwhile() {
    run(async {
        let usage = json!({
            "total_tokens": 30, "input_tokens": 20, "output_tokens": 10,
            "input_token_details": { "text_tokens": 19, "audio_tokens": 1, "cached_tokens": 0 },
            "output_token_details": { "text_tokens": 4, "audio_tokens": 6 },
        });
        let response = move |id: &str| {
            let done = json!({ "id": id, "status": "completed", "output": [], "usage": usage });
            [
                json!({ "type": "response.created", "response": { "id": id, "conversation_id": "conv_1" } }),
                json!({ "type": "response.done", "response": done }),
            ]
        };
        let house = house_before(move |message| {
            let said = match message["type"].as_str().unwrap() {
                "session.update" => {
                    vec![json!({ "type": "session.updated", "session": message["session"] })]
                }
                "input_audio_buffer.append" => vec![
                    json!({ "type": "input_audio_buffer.speech_started", "audio_start_ms": 0 }),
                    json!({ "type": "input_audio_buffer.speech_stopped", "audio_end_ms": 100 }),
                    json!({ "type": "input_audio_buffer.committed", "item_id": "item_1" }),
                ],
                // The one that is asked for, then the answer to what was said.
                _ => [response("resp_1"), response("resp_2")].concat(),
            };
            said.into_iter().map(Act::Say).collect()
        })
        .await;
        let mut socket = connected(&house, &house.key, "model=gpt-realtime", &[]).await.unwrap();
        say(&mut socket, &sound(100, true)).await;
        until(&mut socket, "input_audio_buffer.committed").await;
        say(&mut socket, &create(json!({}))).await;
        for id in ["resp_1", "resp_2"] {
            assert_eq!(until(&mut socket, "response.done").await["response"]["id"], id);
        }
        let entries = settled(&house).await;
        assert_eq!(entries.len(), 2, "{entries:?}");
        assert!(entries.iter().all(|entry| entry["basis"] == "reported"), "{entries:?}");
        assert_eq!(held(&house).await, "0", "nothing begins by itself any more");
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

#[test]
fn speech_that_is_sent_at_once_is_held_in_full_before_it_is_answered() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "model=gpt-realtime", &[("x-fake-chunk-delay-ms", "100")]).await;
        // Five minutes: 3,000 tokens of sound at 32 dollars a million, beside 4,096 of output at 64.
        say(&mut socket, &sound(300_000, true)).await;
        until(&mut socket, "input_audio_buffer.speech_started").await;
        let held = held(&house).await.parse::<f64>().unwrap();
        assert!(held > 0.262_144 + 0.096, "{held}");
        speak(&mut socket, 0).await;
        let done = until(&mut socket, "response.done").await;
        drop(socket);
        house.settled().await;
        let entries = settled(&house).await;
        let booked = entries.iter().find(|entry| entry["kind"] == "settle").unwrap();
        assert_eq!(usd(&booked["cost_usd"]), cost(&done["response"]["usage"]));
        assert!(usd(&booked["held_usd"]) >= usd(&booked["cost_usd"]), "{booked}");
    });
}

#[test]
fn a_client_that_leaves_when_it_has_spoken_pays_for_the_answer_that_has_begun() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "model=gpt-realtime", &[("x-fake-chunk-delay-ms", "50")]).await;
        speak(&mut socket, 300).await;
        until(&mut socket, "input_audio_buffer.speech_stopped").await;
        drop(socket);
        house.settled().await;
        let entries = settled(&house).await;
        let booked: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "settle").collect();
        let [entry] = booked[..] else { panic!("{entries:?}") };
        assert_eq!((&entry["basis"], &entry["disconnected"]), (&json!("reported"), &json!(true)), "{entry}");
    });
}

#[test]
fn a_client_is_shown_its_own_updates_and_not_those_of_the_guard() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "model=gpt-realtime", &[]).await;
        for timeout in [6_000, 7_000] {
            let detection = json!({ "type": "server_vad", "idle_timeout_ms": timeout });
            let session =
                json!({ "type": "realtime", "audio": { "input": { "turn_detection": detection } } });
            say(&mut socket, &json!({ "type": "session.update", "session": session })).await;
            let updated = until(&mut socket, "session.updated").await;
            let shown = &updated["session"]["audio"]["input"]["turn_detection"]["idle_timeout_ms"];
            assert_eq!(shown, timeout, "{updated}");
        }
        assert_ne!(held(&house).await, "0", "upstream may ask after a silence");
    });
}

#[test]
fn an_item_is_written_down_at_the_price_of_the_model_of_its_time() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "intent=transcription", &[]).await;
        let with = |model: &str| {
            let input = json!({ "input": { "transcription": { "model": model }, "turn_detection": null } });
            json!({ "type": "session.update", "session": { "type": "transcription", "audio": input } })
        };
        say(&mut socket, &with("gpt-realtime-whisper")).await;
        until(&mut socket, "session.updated").await;
        // Too short, then long enough; and another model at once.
        let commit = json!({ "type": "input_audio_buffer.commit", "event_id": "mine" });
        say(&mut socket, &commit).await;
        say(&mut socket, &sound(3_000, true)).await;
        say(&mut socket, &commit).await;
        say(&mut socket, &with("whisper-1")).await;
        let mut errors = 0;
        let done = loop {
            let event = next(&mut socket).await;
            match event["type"].as_str().unwrap() {
                "error" => {
                    assert_eq!(event["error"]["event_id"], "mine", "{event}");
                    errors += 1;
                }
                "conversation.item.input_audio_transcription.completed" => break event,
                _ => {}
            }
        };
        assert!(errors >= 1, "{done}");
        drop(socket);
        house.settled().await;
        let entries = settled(&house).await;
        let booked: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "settle").collect();
        let [entry] = booked[..] else { panic!("{entries:?}") };
        // Three seconds of 0.017 dollars a minute.
        assert_eq!(
            (&entry["model"], usd(&entry["cost_usd"]) / 1_000),
            (&json!("gpt-realtime-whisper"), 850),
            "{entry}"
        );
        assert_eq!(held(&house).await, "0");
    });
}
