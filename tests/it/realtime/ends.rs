//! How sessions end, and what ends none: speech that is interrupted, clients that read nothing, an upstream that breaks.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{connected, opened, sound, until, usd};
use crate::accrual::{LIMIT, held};
use crate::harness::{House, run};
use crate::kill_switch::switch_on;
use crate::sockets::ends::{Act, house_before, house_within};
use crate::sockets::{Socket, next, say, settled};

const MODEL: &str = "model=gpt-realtime";

fn begun() -> Value {
    let response = json!({ "id": "resp_1", "status": "in_progress", "conversation_id": "conv_1" });
    json!({ "type": "response.created", "response": response })
}

/// The end of a response that has read ten tokens of text and said ten.
fn done() -> Value {
    let usage = json!({
        "total_tokens": 20, "input_tokens": 10, "output_tokens": 10,
        "input_token_details": { "text_tokens": 10, "audio_tokens": 0, "cached_tokens": 0 },
        "output_token_details": { "text_tokens": 10, "audio_tokens": 0 },
    });
    let response = json!({ "id": "resp_1", "status": "cancelled", "conversation_id": "conv_1", "output": [], "usage": usage });
    json!({ "type": "response.done", "response": response })
}

fn speech_began() -> Act {
    Act::Say(json!({ "type": "input_audio_buffer.speech_started", "audio_start_ms": 0, "item_id": "item_1" }))
}

/// What upstream says of speech that has become an item.
fn speech() -> Vec<Act> {
    let ended =
        json!({ "type": "input_audio_buffer.speech_stopped", "audio_end_ms": 100, "item_id": "item_1" });
    let committed = json!({ "type": "input_audio_buffer.committed", "item_id": "item_1" });
    vec![speech_began(), Act::Say(ended), Act::Say(committed)]
}

async fn closed(socket: &mut Socket) -> Option<u16> {
    loop {
        match tokio::time::timeout(Duration::from_secs(5), socket.next()).await.unwrap() {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

#[test]
fn the_room_of_a_response_that_is_interrupted_is_there_for_the_next_one() {
    run(async {
        // Enough for one response of 4,096 tokens of sound at 64 dollars a million.
        let house = house_within(&LIMIT.replace("hard = 1", "hard = 0.285"), |message| {
            let audio = message["audio"].as_str().unwrap_or_default();
            if message["type"] != "input_audio_buffer.append" {
                Vec::new()
            } else if audio.len() < 10_000 {
                speech()
            } else {
                vec![Act::Say(begun()), speech_began(), Act::Wait(200), Act::Say(done())]
            }
        })
        .await;
        let mut socket = connected(&house, &house.key, MODEL, &[]).await.unwrap();
        say(&mut socket, &sound(100, true)).await;
        until(&mut socket, "input_audio_buffer.committed").await;
        // The speaker goes on before the answer has begun.
        say(&mut socket, &sound(20_000, true)).await;
        until(&mut socket, "input_audio_buffer.speech_started").await;
        let ended = tokio::time::timeout(Duration::from_secs(1), until(&mut socket, "response.done")).await;
        assert!(ended.is_ok(), "it is read while the next hold is made");
        while held(&house).await == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let other = tokio::time::timeout(Duration::from_millis(300), socket.next()).await;
        assert!(other.is_err(), "the session goes on: {other:?}");
    });
}

#[test]
fn a_client_that_closes_and_reads_nothing_leaves_upstream_to_be_read_to_the_end() {
    run(async {
        let house = house_before(|message| match message["type"].as_str() {
            Some("response.create") => {
                let delta = "x".repeat(1 << 20);
                let delta =
                    json!({ "type": "response.output_audio.delta", "response_id": "resp_1", "delta": delta });
                let deltas = std::iter::repeat_with(|| Act::Say(delta.clone())).take(16);
                [Act::Say(begun())].into_iter().chain(deltas).collect()
            }
            Some("response.cancel") => vec![Act::Say(done())],
            _ => Vec::new(),
        })
        .await;
        let mut socket = connected(&house, &house.key, MODEL, &[]).await.unwrap();
        say(&mut socket, &json!({ "type": "response.create" })).await;
        assert_eq!(next(&mut socket).await["type"], "response.created");
        // Until no more fits between the two.
        tokio::time::sleep(Duration::from_millis(800)).await;
        socket.send(Message::Close(None)).await.unwrap();
        let entries = settled(&house).await;
        let booked: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "settle").collect();
        let [entry] = booked[..] else { panic!("{entries:?}") };
        assert_eq!((&entry["basis"], &entry["disconnected"]), (&json!("reported"), &json!(true)), "{entry}");
    });
}

#[test]
fn speech_that_may_be_answered_when_upstream_breaks_is_charged_and_none_is_when_it_closes() {
    run(async {
        for is_cut in [true, false] {
            let house = house_before(move |message| match message["type"].as_str() {
                Some("input_audio_buffer.append") => {
                    vec![speech_began(), if is_cut { Act::Cut } else { Act::Close(1_000) }]
                }
                Some("session.update") => {
                    vec![Act::Say(json!({ "type": "session.updated", "session": message["session"] }))]
                }
                _ => Vec::new(),
            })
            .await;
            let mut socket = connected(&house, &house.key, MODEL, &[]).await.unwrap();
            let input = json!({ "input": { "transcription": { "model": "gpt-4o-transcribe" } } });
            let session = json!({ "type": "realtime", "audio": input });
            say(&mut socket, &json!({ "type": "session.update", "session": session })).await;
            until(&mut socket, "session.updated").await;
            say(&mut socket, &sound(100, true)).await;
            assert_eq!(closed(&mut socket).await, Some(if is_cut { 1_011 } else { 1_000 }));
            let entries = settled(&house).await;
            let charged: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "settle").collect();
            let mut endpoints: Vec<_> =
                charged.iter().map(|entry| entry["endpoint"].as_str().unwrap()).collect();
            endpoints.sort_unstable();
            let expected: &[&str] =
                if is_cut { &["/v1/realtime", "/v1/realtime/transcriptions"] } else { &[] };
            assert_eq!(endpoints, expected, "{entries:?}");
            for entry in charged {
                assert_eq!((&entry["basis"], &entry["status"]), (&json!("assumed"), &json!(200)), "{entry}");
                assert_eq!(usd(&entry["cost_usd"]), usd(&entry["held_usd"]), "{entry}");
            }
        }
    });
}

#[test]
fn a_session_that_is_ended_with_nothing_open_is_closed_at_once() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "intent=transcription", &[]).await;
        let input = json!({ "input": { "transcription": { "model": "whisper-1" } } });
        let session = json!({ "type": "transcription", "audio": input });
        say(&mut socket, &json!({ "type": "session.update", "session": session })).await;
        until(&mut socket, "session.updated").await;
        switch_on(&house, "default", None).await;
        say(&mut socket, &sound(100, false)).await;
        assert_eq!(next(&mut socket).await["error"]["code"], "kill_switch");
        assert_eq!(closed(&mut socket).await, Some(1_008));
    });
}
