//! Realtime sessions: what may be spent is held before upstream can begin it, and booked by its usage.

mod ends;
mod secrets;
mod stopped;
mod tags;
mod translations;
mod turns;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use spendguard::domain::Money;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use crate::accrual::{LIMIT, held};
use crate::harness::{House, run};
use crate::sockets::{Socket, next, request_at, say, settled};

/// Picodollars a token of gpt-realtime: text in and cached, sound in and cached, text and sound out
/// (OpenAI's page of the model).
const RATES: [u64; 6] = [4_000_000, 400_000, 32_000_000, 400_000, 16_000_000, 64_000_000];

async fn connected(
    house: &House,
    key: &str,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Error> {
    connected_at(house, &format!("/v1/realtime?{query}"), key, headers).await
}

pub(crate) async fn connected_at(
    house: &House,
    path: &str,
    key: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Error> {
    let stream = TcpStream::connect(house.proxy_address).await.unwrap();
    let request = request_at(house, path, key, headers);
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
}

/// A session, after its `session.created`.
async fn opened(house: &House, query: &str, headers: &[(&'static str, &str)]) -> Socket {
    let mut socket = connected(house, &house.key, query, headers).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "session.created");
    socket
}

/// The next event of a type; those before it are passed over.
async fn until(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let event = next(socket).await;
        if event["type"] == kind {
            return event;
        }
        assert_ne!(event["type"], "error", "{event}");
    }
}

/// A session whose client decides when there is a response.
async fn by_hand(house: &House, headers: &[(&'static str, &str)]) -> Socket {
    let mut socket = opened(house, "model=gpt-realtime", headers).await;
    let input = json!({ "input": { "turn_detection": null } });
    say(&mut socket, &json!({ "type": "session.update", "session": { "type": "realtime", "audio": input } }))
        .await;
    until(&mut socket, "session.updated").await;
    socket
}

fn create(more: Value) -> Value {
    json!({ "type": "response.create", "response": more })
}

fn text(text: &str) -> Value {
    let content = json!([{ "type": "input_text", "text": text }]);
    json!({ "type": "conversation.item.create", "item": { "type": "message", "role": "user", "content": content } })
}

/// So many milliseconds of samples, loud or silent.
fn sound(millis: usize, is_loud: bool) -> Value {
    let bytes = vec![u8::from(is_loud); millis * 48];
    json!({ "type": "input_audio_buffer.append", "audio": BASE64_STANDARD.encode(bytes) })
}

/// A speaker says something and stops.
async fn speak(socket: &mut Socket, millis: usize) {
    for _ in 0..millis.div_ceil(100) {
        say(socket, &sound(100, true)).await;
    }
    for _ in 0..5 {
        say(socket, &sound(100, false)).await;
    }
}

/// What a usage costs with gpt-realtime, in nano-dollars, rounded up.
fn cost(usage: &Value) -> i64 {
    let count = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap();
    let (text, sound) =
        (count("/input_token_details/text_tokens"), count("/input_token_details/audio_tokens"));
    let cached = |kind: &str| count(&format!("/input_token_details/cached_tokens_details/{kind}_tokens"));
    let (old_text, old_sound) = (cached("text"), cached("audio"));
    let tokens = [
        text - old_text,
        old_text,
        sound - old_sound,
        old_sound,
        count("/output_token_details/text_tokens"),
        count("/output_token_details/audio_tokens"),
    ];
    let pico: u64 = tokens.iter().zip(RATES).map(|(tokens, rate)| tokens * rate).sum();
    i64::try_from(pico.div_ceil(1_000)).unwrap()
}

fn usd(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<Money>().unwrap().nano()
}

#[test]
fn responses_that_are_asked_for_are_booked_by_what_their_conversation_cost() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = by_hand(&house, &[]).await;
        assert_eq!(held(&house).await, "0", "nothing begins by itself");
        let mut costs = Vec::new();
        for turn in 0..3 {
            say(&mut socket, &text(&format!("To be, or not to be {turn}"))).await;
            say(&mut socket, &create(json!({}))).await;
            let done = until(&mut socket, "response.done").await;
            costs.push(cost(&done["response"]["usage"]));
        }
        let entries = settled(&house).await;
        let mut booked: Vec<i64> = entries.iter().map(|entry| usd(&entry["cost_usd"])).collect();
        booked.sort_unstable();
        costs.sort_unstable();
        assert_eq!(booked, costs);
        for entry in &entries {
            assert_eq!((&entry["basis"], &entry["endpoint"]), (&json!("reported"), &json!("/v1/realtime")));
            assert_eq!(entry["model"], "gpt-realtime");
            assert!(usd(&entry["held_usd"]) >= usd(&entry["cost_usd"]), "{entry}");
        }
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn what_upstream_may_begin_by_itself_is_held_before_it_can() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "model=gpt-realtime", &[("x-fake-chunk-delay-ms", "100")]).await;
        let mut costs = 0;
        for _ in 0..3 {
            speak(&mut socket, 400).await;
            until(&mut socket, "input_audio_buffer.speech_stopped").await;
            until(&mut socket, "response.created").await;
            assert_ne!(held(&house).await, "0");
            costs += cost(&until(&mut socket, "response.done").await["response"]["usage"]);
        }
        assert_eq!(held(&house).await, "0", "without sound nothing begins by itself");
        say(&mut socket, &sound(100, true)).await;
        until(&mut socket, "input_audio_buffer.speech_started").await;
        assert_ne!(held(&house).await, "0", "the next response is held before upstream hears");
        socket.close(None).await.unwrap();
        house.settled().await;
        assert_eq!(held(&house).await, "0");
        assert_eq!(usd(&house.meter("all").await["settled"]), costs);
    });
}

#[test]
fn a_session_whose_next_response_can_not_be_held_is_ended_with_the_reason() {
    run(async {
        let limit = LIMIT.replace("hard = 1", "hard = 0.4");
        let house = House::with(&limit).await;
        // Spoken in full: a response costs up to 4,096 tokens of sound.
        let headers = [("x-fake-completion-tokens", "1600")];
        let mut socket = opened(&house, "model=gpt-realtime", &headers).await;
        let error = 'talking: loop {
            speak(&mut socket, 300).await;
            loop {
                let event = next(&mut socket).await;
                match event["type"].as_str().unwrap() {
                    "error" => break 'talking event,
                    "response.done" => break,
                    _ => {}
                }
            }
        };
        assert_eq!(
            (&error["status"], &error["error"]["type"]),
            (&json!(429), &json!("insufficient_quota")),
            "{error}"
        );
        assert_eq!(error["error"]["headers"]["x-should-retry"], "false");
        assert!(error["event_id"].is_string());
        let closed = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
        let tokio_tungstenite::tungstenite::Message::Close(Some(frame)) = closed else {
            panic!("{closed:?}")
        };
        assert_eq!(u16::from(frame.code), 1008);
        house.settled().await;
        let meter = house.meter("all").await;
        assert!(usd(&meter["settled"]) <= 400_000_000 && usd(&meter["settled"]) > 150_000_000, "{meter}");
        assert_eq!(meter["held"], "0");
    });
}

#[test]
fn a_response_that_is_asked_for_is_refused_alone_and_the_session_goes_on() {
    run(async {
        let house = House::with(&LIMIT.replace("hard = 1", "hard = 0.285")).await;
        let mut socket = by_hand(&house, &[("x-fake-chunk-delay-ms", "800")]).await;
        say(&mut socket, &create(json!({ "max_output_tokens": 4_096 }))).await;
        until(&mut socket, "response.created").await;
        let mut beside = create(json!({ "conversation": "none", "max_output_tokens": 4_096 }));
        beside["event_id"] = json!("mine");
        say(&mut socket, &beside).await;
        let error = loop {
            let event = next(&mut socket).await;
            if event["type"] == "error" {
                break event;
            }
        };
        assert_eq!((&error["status"], &error["error"]["event_id"]), (&json!(429), &json!("mine")), "{error}");
        assert_eq!(error["error"]["code"], "spend_limit_held");
        until(&mut socket, "response.done").await;
        say(&mut socket, &beside).await;
        assert_eq!(until(&mut socket, "response.done").await["response"]["status"], "completed");
    });
}

#[test]
fn the_output_of_each_response_is_bounded_by_what_the_guard_writes() {
    run(async {
        let house = House::with(&LIMIT.replace("hard = 1", "hard = 3")).await;
        let mut socket = opened(&house, "model=gpt-realtime-2", &[]).await;
        speak(&mut socket, 200).await;
        let mut shown = Vec::new();
        let begun = loop {
            let event = next(&mut socket).await;
            if event["type"] == "response.created" {
                break event;
            }
            shown.push(event["type"].as_str().unwrap().to_owned());
        };
        assert_eq!(begun["response"]["max_output_tokens"], 4_096, "the most that OpenAI takes");
        assert!(
            !shown.contains(&"session.updated".to_owned()),
            "the guard's own update is not shown: {shown:?}"
        );
        until(&mut socket, "response.done").await;
        // The client's own bound goes before the default, for the session and for one response.
        let session = json!({ "type": "realtime", "max_output_tokens": 500, "instructions": "short" });
        say(&mut socket, &json!({ "type": "session.update", "session": session })).await;
        let updated = until(&mut socket, "session.updated").await;
        assert_eq!(updated["session"]["max_output_tokens"], 500);
        say(&mut socket, &create(json!({ "max_output_tokens": 70 }))).await;
        let begun = until(&mut socket, "response.created").await;
        assert_eq!(begun["response"]["max_output_tokens"], 70);
        until(&mut socket, "response.done").await;
        speak(&mut socket, 200).await;
        let begun = until(&mut socket, "response.created").await;
        assert_eq!(begun["response"]["max_output_tokens"], 500);
    });
}

#[test]
fn what_is_said_is_written_down_at_the_price_of_the_model_that_does_it() {
    run(async {
        // 10 tokens of sound a second at 2.5 dollars a million, 12 tokens of text at 10; 0.006 dollars a minute.
        for (model, usd_nano) in [("gpt-4o-transcribe", 13 * 2_500 + 12 * 10_000), ("whisper-1", 2 * 100_000)]
        {
            let house = House::with(LIMIT).await;
            let mut socket = opened(&house, "intent=transcription", &[]).await;
            let input = json!({ "input": { "transcription": { "model": model, "language": "en" } } });
            let session = json!({ "type": "transcription", "audio": input });
            say(&mut socket, &json!({ "type": "session.update", "session": session })).await;
            until(&mut socket, "session.updated").await;
            // 300 ms before the speech, 500 ms of it, and 500 ms of silence.
            say(&mut socket, &sound(400, false)).await;
            say(&mut socket, &sound(100, true)).await;
            until(&mut socket, "input_audio_buffer.speech_started").await;
            assert_ne!(held(&house).await, "0", "the next item is held");
            speak(&mut socket, 400).await;
            let kind = "conversation.item.input_audio_transcription.completed";
            assert_eq!(until(&mut socket, kind).await["transcript"], "To be");
            socket.close(None).await.unwrap();
            house.settled().await;
            let entries = settled(&house).await;
            let booked: Vec<&Value> = entries.iter().filter(|entry| entry["kind"] == "settle").collect();
            let [entry] = booked[..] else { panic!("{entries:?}") };
            assert_eq!(usd(&entry["cost_usd"]), usd_nano, "{entry}");
            assert_eq!(
                (&entry["model"], &entry["endpoint"]),
                (&json!(model), &json!("/v1/realtime/transcriptions"))
            );
            assert_eq!(held(&house).await, "0");
        }
    });
}

#[test]
fn what_can_not_be_metered_is_refused_and_never_passed_on() {
    run(async {
        let house = House::with(LIMIT).await;
        let twice = ["model=a&model=b", "%6Dodel=gpt-realtime&model=gpt-realtime-mini"];
        let both = ["model=gpt-realtime&intent=transcription", "%6Dodel=gpt-realtime&intent=transcription"];
        for query in ["", "model=", "call_id=rtc_1"].into_iter().chain(twice).chain(both) {
            let Err(Error::Http(answer)) = connected(&house, &house.key, query, &[]).await else {
                panic!("{query}")
            };
            assert_eq!(answer.status(), 400, "{query}");
        }
        let old = [("openai-beta", "realtime=v1")];
        let Err(Error::Http(answer)) = connected(&house, &house.key, "model=gpt-realtime", &old).await else {
            panic!("old")
        };
        assert_eq!(answer.status(), 400);
        let mut socket = by_hand(&house, &[]).await;
        let session = |more: Value| json!({ "type": "session.update", "session": more });
        let item = |part: Value| json!({ "type": "conversation.item.create", "item": { "type": "message", "role": "user", "content": [part] } });
        for (message, says) in [
            (session(json!({ "model": "gpt-realtime-2" })), "can't be changed"),
            (
                session(
                    json!({ "tools": [{ "type": "mcp", "server_label": "a", "server_url": "https://a" }] }),
                ),
                "function",
            ),
            (session(json!({ "prompt": { "id": "pmpt_1" } })), "Stored prompts"),
            (session(json!({ "turn_detection": null })), "first version"),
            (session(json!({ "type": "transcription" })), "type of a session"),
            (session(json!({ "max_output_tokens": -1 })), "whole number"),
            (json!({ "type": "session.update" }), "is an object"),
            (create(json!({ "tools": [{ "type": "mcp", "server_label": "a" }] })), "function"),
            (create(json!({ "prompt": { "id": "pmpt_1" } })), "Stored prompts"),
            (item(json!({ "type": "input_file", "file_id": "file-1" })), "Files"),
            (json!({ "type": "transcription_session.update" }), "documents"),
            (json!({ "type": "response.create", "event_id": 7 }), "event_id"),
            (json!(["a"]), "JSON object"),
        ] {
            say(&mut socket, &message).await;
            let error = next(&mut socket).await;
            assert_eq!(error["type"], "error", "{message}");
            assert!(error["error"]["message"].as_str().unwrap().contains(says), "{message}: {error}");
        }
        say(&mut socket, &create(json!({}))).await;
        until(&mut socket, "response.done").await;
        assert_eq!(settled(&house).await.len(), 1, "nothing else was booked");
    });
}
