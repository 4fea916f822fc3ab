//! How a socket ends: by upstream, by the guard, by a client that breaks the protocol, and while many
//! race for what is left.

use std::rc::Rc;

use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{Socket, create, next, opened, request, response, say, settled};
use crate::accrual::{LIMIT, held};
use crate::harness::{House, UPSTREAM_KEY, run};

/// What a scripted upstream does with a message.
pub(crate) enum Act {
    Say(Value),
    /// So many milliseconds.
    Wait(u64),
    Close(u16),
    /// It is gone without a word.
    Cut,
}

/// A guard before an upstream that answers each message as `reply` says.
pub(crate) async fn house_before(reply: impl Fn(&Value) -> Vec<Act> + 'static) -> House {
    house_within(LIMIT, reply).await
}

/// The same within a limit.
pub(crate) async fn house_within(limit: &str, reply: impl Fn(&Value) -> Vec<Act> + 'static) -> House {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let reply = Rc::new(reply);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let reply = Rc::clone(&reply);
            tokio::task::spawn_local(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(Message::Text(text))) = socket.next().await {
                    for act in reply(&serde_json::from_str(&text).unwrap()) {
                        match act {
                            // Its client may be gone.
                            Act::Say(event) => drop(socket.send(Message::text(event.to_string())).await),
                            Act::Wait(ms) => tokio::time::sleep(std::time::Duration::from_millis(ms)).await,
                            Act::Close(code) => {
                                let frame = CloseFrame { code: code.into(), reason: "bye".into() };
                                socket.close(Some(frame)).await.unwrap();
                            }
                            Act::Cut => return,
                        }
                    }
                }
            });
        }
    });
    House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), limit).await
}

fn begun() -> Value {
    json!({ "type": "response.created", "response": { "id": "resp_1", "model": "gpt-5", "status": "in_progress" } })
}

fn completed() -> Value {
    let usage = json!({ "input_tokens": 1_000, "output_tokens": 500, "total_tokens": 1_500 });
    let response =
        json!({ "id": "resp_1", "model": "gpt-5", "status": "completed", "output": [], "usage": usage });
    json!({ "type": "response.completed", "response": response })
}

fn delta() -> Value {
    json!({ "type": "response.output_text.delta", "delta": "word" })
}

fn create_gpt_5(more: Value) -> Value {
    let mut message = create(json!({ "model": "gpt-5" }));
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    message
}

/// The code that a socket is closed with, after its last events.
pub(super) async fn closed(socket: &mut Socket) -> Option<CloseCode> {
    loop {
        let message = tokio::time::timeout(std::time::Duration::from_secs(10), socket.next()).await.unwrap();
        match message {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

#[test]
fn what_is_open_when_upstream_is_gone_is_charged_its_hold() {
    run(async {
        let house = house_before(|_| vec![Act::Say(begun()), Act::Say(delta()), Act::Cut]).await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({ "max_output_tokens": 1_000 }))).await;
        assert_eq!(next(&mut socket).await, begun());
        assert_eq!(next(&mut socket).await, delta(), "byte for byte");
        let error = next(&mut socket).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(502)), "{error}");
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Error));
        let entries = settled(&house).await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(
            (&entries[0]["basis"], &entries[0]["cost_usd"]),
            (&json!("assumed"), &entries[0]["held_usd"])
        );
    });
}

#[test]
fn a_request_that_upstream_has_not_answered_is_charged_and_one_that_waits_for_it_is_not() {
    run(async {
        let house = house_before(|_| vec![Act::Close(1_012)]).await;
        let mut socket = opened(&house, &[]).await;
        for _ in 0..2 {
            say(&mut socket, &create_gpt_5(json!({}))).await;
        }
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Restart), "upstream's own");
        let entries = settled(&house).await;
        let ends: Vec<&Value> = entries.iter().map(|entry| &entry["basis"]).collect();
        assert_eq!(ends, [&json!("assumed")], "{entries:?}");
    });
}

#[test]
fn a_request_that_is_left_before_its_turn_to_be_written_is_not_charged() {
    run(async {
        // It reads nothing more after the first message.
        let house = house_before(|_| vec![Act::Say(begun()), Act::Wait(3_000), Act::Cut]).await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({ "max_output_tokens": 1_000 }))).await;
        assert_eq!(next(&mut socket).await, begun());
        let large =
            json!({ "model": "gpt-5-nano", "max_output_tokens": 1_000, "input": "x".repeat(24 << 20) });
        for (lane, more) in [("a", large), ("b", json!({ "max_output_tokens": 1_000 }))] {
            let before = held(&house).await;
            let mut message = create_gpt_5(more);
            message["stream_id"] = json!(lane);
            say(&mut socket, &message).await;
            while held(&house).await == before {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        drop(socket);
        let entries = settled(&house).await;
        let kinds: Vec<&Value> = entries.iter().map(|entry| &entry["kind"]).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == "release").count(), 1, "{entries:?}");
        let released = entries.iter().find(|entry| entry["kind"] == "release").unwrap();
        assert_eq!(released["model"], "gpt-5", "{entries:?}");
    });
}

#[test]
fn what_is_about_no_response_passes_and_a_response_that_was_not_asked_for_does_not() {
    run(async {
        let house = house_before(|_| {
            let more = json!({ "type": "rate_limits.updated", "note": "of org-abc123" });
            [begun(), completed(), more, begun()].map(Act::Say).into()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        let mut passed = vec![next(&mut socket).await, next(&mut socket).await, next(&mut socket).await];
        let other =
            passed.iter().position(|event| event["type"] == "rate_limits.updated").expect("it passes");
        assert_eq!(passed.remove(other)["note"], "of org-***", "the account is masked");
        assert_eq!(passed, [begun(), completed()], "each lane in its order");
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
        let entries = settled(&house).await;
        assert_eq!((&entries[0]["cost_usd"], entries.len()), (&json!("0.00625"), 1), "{entries:?}");
    });
}

#[test]
fn an_event_of_another_response_than_the_one_that_was_begun_closes_the_socket() {
    run(async {
        let house = house_before(|_| {
            let mut other = completed();
            other["response"]["id"] = json!("resp_2");
            [begun(), delta(), other].map(Act::Say).into()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
        assert_eq!(settled(&house).await[0]["basis"], "assumed");
    });
}

fn failure() -> Value {
    let headers = json!({ "set-cookie": "a=b", "openai-organization": "acme", "retry-after": "1" });
    let error =
        json!({ "type": "server_error", "code": null, "message": "of org-abc123", "headers": headers });
    json!({ "type": "error", "status": 400, "error": error })
}

#[test]
fn an_error_ends_a_request_only_where_it_is_clear_which() {
    run(async {
        // The default lane has begun or waits for its answer; the other one waits.
        for has_begun in [true, false] {
            let house = house_before(move |message| match message.get("stream_id") {
                Some(_) => vec![Act::Say(failure())],
                None if has_begun => vec![Act::Say(begun())],
                None => Vec::new(),
            })
            .await;
            let mut socket = opened(&house, &[]).await;
            say(&mut socket, &create_gpt_5(json!({}))).await;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            say(&mut socket, &create_gpt_5(json!({ "stream_id": "a" }))).await;
            assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
            let entries = settled(&house).await;
            let are_assumed = entries.iter().all(|entry| entry["basis"] == "assumed");
            assert!(entries.len() == 2 && are_assumed, "{has_begun}: {entries:?}");
        }
    });
}

#[test]
fn an_error_names_neither_account_nor_cookies_and_its_response_may_fail_behind_it() {
    run(async {
        let house = house_before(|_| {
            let mut failed = completed();
            (failed["type"], failed["response"]["status"]) = (json!("response.failed"), json!("failed"));
            failed["response"]["usage"] = Value::Null;
            [begun(), failure(), failed].map(Act::Say).into()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        let events = [next(&mut socket).await, next(&mut socket).await, next(&mut socket).await];
        let error = &events.iter().find(|event| event["type"] == "error").expect("it passes")["error"];
        assert_eq!(
            (&error["message"], &error["headers"]),
            (&json!("of org-***"), &json!({ "retry-after": "1" }))
        );
        assert!(events.iter().any(|event| event["type"] == "response.failed"), "{events:?}");
        assert_eq!(settled(&house).await.len(), 1);
    });
}

#[test]
fn large_messages_pass_whole_in_both_directions() {
    run(async {
        let house = house_before(|message| {
            let mut done = completed();
            done["response"]["instructions"] = message["input"].clone();
            [begun(), done].map(Act::Say).into()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        let input = "äöü".repeat(100_000);
        say(&mut socket, &create_gpt_5(json!({ "input": input }))).await;
        let done = response(&mut socket).await.pop().unwrap();
        assert!(done["response"]["instructions"] == input.as_str(), "as it was sent");
    });
}

#[test]
fn an_answer_that_outgrows_its_hold_ends_with_an_error_and_so_does_its_response() {
    run(async {
        let house = house_before(|_| {
            let started = |id: &str| {
                let item = json!({ "type": "web_search_call", "id": id, "status": "in_progress" });
                json!({ "type": "response.output_item.added", "stream_id": "a", "item": item })
            };
            let mut begun = begun();
            begun["stream_id"] = json!("a");
            [begun, started("ws_1"), started("ws_2"), started("ws_3")].map(Act::Say).into()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        let tools = json!([{ "type": "web_search" }]);
        say(&mut socket, &create_gpt_5(json!({ "stream_id": "a", "tools": tools, "max_tool_calls": 2 })))
            .await;
        let error = response(&mut socket).await.pop().unwrap();
        assert_eq!((&error["type"], &error["stream_id"]), (&json!("error"), &json!("a")), "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains("more hosted tool calls"), "{error}");
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
        assert_eq!(settled(&house).await[0]["basis"], "assumed");
    });
}

#[test]
fn who_breaks_the_protocol_or_sends_too_much_is_closed_and_others_go_on() {
    run(async {
        let house = House::with(&format!("[server]\nrequest_body_max = \"1MiB\"\n{LIMIT}")).await;
        let mut other = opened(&house, &[]).await;
        let mut large = opened(&house, &[]).await;
        let text = "x".repeat(2 << 20);
        let _ = large.send(Message::text(create(json!({ "input": text })).to_string())).await;
        assert!(matches!(closed(&mut large).await, Some(CloseCode::Size) | None));
        // A frame that is not masked, and one that claims a gigabyte.
        let claims = [&[0x81, 0xFF][..], &(1_u64 << 30).to_be_bytes(), &[0; 4]].concat();
        for (frame, code) in [(vec![0x81, 1, b'x'], 1_002_u16), (claims, 1_009)] {
            let mut stream = TcpStream::connect(house.proxy_address).await.unwrap();
            let head = format!(
                "GET /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: \
                 websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                house.key
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&frame).await.unwrap();
            let mut all = Vec::new();
            let reading = stream.read_to_end(&mut all);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), reading).await.unwrap();
            let close = [&[0x88][..], &[all[all.len() - 1]]].concat();
            let text = String::from_utf8_lossy(&all).into_owned();
            let place = all.windows(2).position(|bytes| bytes == code.to_be_bytes());
            assert!(text.starts_with("HTTP/1.1 101 ") && place.is_some(), "{code}: {text:?} {close:?}");
        }
        say(&mut other, &create(json!({}))).await;
        assert_eq!(response(&mut other).await.last().unwrap()["type"], "response.completed");
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn three_hundred_requests_on_thirty_sockets_race_for_one_dollar_and_never_pass_it() {
    run(async {
        let house = House::with(LIMIT).await;
        let tokens = [("x-fake-completion-tokens", "80")];
        let asking = (0..30).map(|number| {
            let (house, tokens) = (&house, &tokens);
            async move {
                let mut socket = opened(house, tokens).await;
                let lanes = ["a", "b"];
                for request in 0..10 {
                    let asked = json!({
                        "model": "gpt-5.2-pro", "max_output_tokens": 80, "stream_id": lanes[(request + number) % 2],
                    });
                    say(&mut socket, &create(asked)).await;
                }
                let mut ended = 0;
                while ended < 10 {
                    let event = next(&mut socket).await;
                    ended += usize::from(matches!(event["type"].as_str(), Some("response.completed" | "error")));
                    let meter = house.meter("all").await;
                    let amount = |field: &str| meter[field].as_str().unwrap().parse::<f64>().unwrap();
                    assert!(amount("settled") + amount("held") <= 1.0, "{meter}");
                }
            }
        });
        join_all(asking).await;
        house.settled().await;
        let settled: f64 = house.meter("all").await["settled"].as_str().unwrap().parse().unwrap();
        assert!((0.95..=1.0).contains(&settled), "{settled}");
        let served: u64 = house.fake.served().values().map(|served| served.requests).sum();
        assert!(served < 300, "{served}");
    });
}

#[test]
fn browsers_send_the_key_as_a_protocol_and_nobody_sends_it_on() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut asked = request(&house, "", &[]);
        asked.headers_mut().remove("authorization");
        let protocol = format!("realtime, openai-insecure-api-key.{}", house.key);
        let value = HeaderValue::from_str(&protocol).unwrap();
        asked.headers_mut().insert("sec-websocket-protocol", value);
        let stream = TcpStream::connect(house.proxy_address).await.unwrap();
        let (_socket, answer) = tokio_tungstenite::client_async(asked, stream).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "realtime");
        let last =
            crate::harness::call(&house.fake_direct, Method::GET, "/__last", &[], bytes::Bytes::new()).await;
        let text = String::from_utf8_lossy(&last.body).into_owned();
        assert!(text.contains("/v1/responses") && !text.contains(&house.key), "{text}");
        assert!(!text.contains("insecure"), "{text}");
    });
}
