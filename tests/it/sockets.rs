//! `WebSocket`s of `/v1/responses`: each request on one is admitted, billed and refused like any other.

pub(crate) mod ends;
mod http2;
mod seen;
mod slow;
mod steering;
mod stopped;
mod tags;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::accrual::{LIMIT, held};
use crate::harness::{House, run, true_cost_nano};

pub(crate) type Socket = WebSocketStream<TcpStream>;

fn request(house: &House, key: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    request_at(house, "/v1/responses", key, headers)
}

/// A request for a socket at a path.
pub(crate) fn request_at(
    house: &House,
    path: &str,
    key: &str,
    headers: &[(&'static str, &str)],
) -> Request<()> {
    let url = format!("ws://{}{path}", house.proxy_address);
    let mut request = url.into_client_request().unwrap();
    let bearer = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
    request.headers_mut().insert("authorization", bearer);
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

async fn connected(house: &House, key: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
    let stream = TcpStream::connect(house.proxy_address).await.unwrap();
    let opened = tokio_tungstenite::client_async(request(house, key, headers), stream).await;
    opened.map(|(socket, _)| socket)
}

async fn opened(house: &House, headers: &[(&'static str, &str)]) -> Socket {
    connected(house, &house.key, headers).await.unwrap()
}

pub(crate) async fn say<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, message: &Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

fn create(more: Value) -> Value {
    let mut body = json!({ "type": "response.create", "model": "gpt-4o-mini", "input": "hello" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub(crate) async fn next<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Value {
    let message = tokio::time::timeout(std::time::Duration::from_secs(10), socket.next()).await;
    let message = message.unwrap().unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap_or_else(|_| panic!("{message:?}"))
}

/// The events of one response, until its last.
async fn response<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        events.push(next(socket).await);
        let kind = events.last().unwrap()["type"].as_str().unwrap().to_owned();
        if matches!(kind.as_str(), "response.completed" | "response.failed" | "error") {
            return events;
        }
    }
}

pub(crate) async fn settled(house: &House) -> Vec<Value> {
    house.settled().await;
    let entries = house.entries().await;
    entries.into_iter().filter(|entry| matches!(entry["kind"].as_str(), Some("settle" | "release"))).collect()
}

#[test]
fn each_request_on_a_socket_is_booked_and_its_events_pass_as_they_are() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, &[]).await;
        for _ in 0..2 {
            say(&mut socket, &create(json!({ "metadata": { "a": "b" } }))).await;
            let events = response(&mut socket).await;
            assert_eq!(events[0]["type"], "response.created", "{events:?}");
            let last = events.last().unwrap();
            assert_eq!(last["type"], "response.completed");
            assert!(last["response"]["usage"]["output_tokens"].as_u64().unwrap() > 0, "{last}");
            assert!(last.get("stream_id").is_none());
        }
        let entries = settled(&house).await;
        assert_eq!(entries.len(), 2, "{entries:?}");
        for entry in &entries {
            assert_eq!((&entry["basis"], &entry["endpoint"]), (&json!("reported"), &json!("/v1/responses")));
            assert_eq!((&entry["stream"], &entry["disconnected"]), (&json!(true), &json!(false)));
        }
        let meter = house.meter("all").await;
        let booked: Money = meter["settled"].as_str().unwrap().parse().unwrap();
        assert_eq!(u64::try_from(booked.nano()), Ok(true_cost_nano(&house.fake)));
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn responses_of_several_lanes_run_at_once_and_those_of_one_follow_one_another() {
    run(async {
        let house = House::with(LIMIT).await;
        let slow = [("x-fake-chunk-delay-ms", "30")];
        let mut socket = opened(&house, &slow).await;
        for lane in ["a", "b", "a"] {
            say(&mut socket, &create(json!({ "stream_id": lane }))).await;
        }
        let (mut open, mut most, mut done) = (std::collections::BTreeMap::new(), 0, 0);
        while done < 3 {
            let event = next(&mut socket).await;
            let lane = event["stream_id"].as_str().unwrap().to_owned();
            match event["type"].as_str().unwrap() {
                "response.created" => assert_eq!(open.insert(lane, true), None, "one at a time"),
                "response.completed" => {
                    done += 1;
                    assert_eq!(open.remove(&lane), Some(true));
                }
                _ => {}
            }
            most = most.max(open.len());
        }
        assert_eq!(most, 2, "both lanes at once");
        assert_eq!(settled(&house).await.len(), 3);
    });
}

#[test]
fn a_refusal_is_an_event_and_the_socket_stays_open() {
    run(async {
        let house = House::with(&LIMIT.replace("hard = 1", "hard = 0.0002")).await;
        let mut socket = opened(&house, &[]).await;
        say(
            &mut socket,
            &create(json!({ "model": "gpt-5", "max_output_tokens": 100_000, "stream_id": "a" })),
        )
        .await;
        let refused = next(&mut socket).await;
        assert_eq!((&refused["type"], &refused["status"]), (&json!("error"), &json!(400)), "{refused}");
        assert_eq!(refused["stream_id"], "a");
        assert_eq!(refused["error"]["code"], "request_cost_exceeds_limit", "{refused}");
        assert_eq!(refused["error"]["headers"]["x-spendguard-limit"], "all", "{refused}");
        for (message, param) in [
            (json!({ "type": "session.update" }), json!("type")),
            (create(json!({ "background": true })), json!("background")),
            (create(json!({ "model": 5 })), json!("model")),
        ] {
            say(&mut socket, &message).await;
            let refused = next(&mut socket).await;
            assert_eq!((&refused["status"], &refused["error"]["param"]), (&json!(400), &param), "{refused}");
        }
        socket.send(Message::text("{")).await.unwrap();
        assert_eq!(next(&mut socket).await["status"], 400);
        socket.send(Message::binary(vec![1, 2])).await.unwrap();
        assert_eq!(next(&mut socket).await["status"], 400);
        say(&mut socket, &create(json!({ "max_output_tokens": 16 }))).await;
        assert_eq!(response(&mut socket).await.last().unwrap()["type"], "response.completed");
        assert_eq!(settled(&house).await.len(), 1, "what was refused is not booked");
    });
}

#[test]
fn a_revoked_key_and_a_lowered_limit_bind_from_the_next_request_on() {
    run(async {
        let house = House::with(LIMIT).await;
        let made = house.make_key(json!({ "name": "second" })).await;
        let mut second = connected(&house, made["value"].as_str().unwrap(), &[]).await.unwrap();
        say(&mut second, &create(json!({}))).await;
        assert_eq!(response(&mut second).await.last().unwrap()["type"], "response.completed");
        let path = format!("/guard/v1/keys/{}", made["id"].as_str().unwrap());
        house.admin(http::Method::DELETE, &path, None).await;
        say(&mut second, &create(json!({}))).await;
        let refused = next(&mut second).await;
        assert_eq!((&refused["status"], &refused["error"]["code"]), (&json!(401), &json!("invalid_api_key")));
        let mut socket = opened(&house, &[]).await;
        let limit = json!({ "per": "organization", "unit": "requests", "window": "total", "hard": "0" });
        let made = house.admin(http::Method::PUT, "/guard/v1/limits/none", Some(limit)).await;
        assert!(made.status.is_success(), "{made:?}");
        say(&mut socket, &create(json!({}))).await;
        let refused = next(&mut socket).await;
        assert_eq!(
            (&refused["status"], &refused["error"]["type"]),
            (&json!(429), &json!("insufficient_quota"))
        );
        assert_eq!(refused["error"]["headers"]["x-should-retry"], "false", "{refused}");
    });
}

#[test]
fn what_upstream_answers_with_an_error_is_free_and_passes() {
    run(async {
        let house = House::with(LIMIT).await;
        for status in ["400", "500"] {
            let mut socket = opened(&house, &[("x-fake-status", status)]).await;
            say(&mut socket, &create(json!({ "stream_id": "x" }))).await;
            let refused = next(&mut socket).await;
            assert_eq!(refused["status"].to_string(), status, "{refused}");
            assert_eq!(
                (&refused["stream_id"], &refused["error"]["message"]),
                (&json!("x"), &json!("injected"))
            );
        }
        let entries = settled(&house).await;
        assert!(entries.iter().all(|entry| entry["kind"] == "release"), "{entries:?}");
        assert_eq!((entries.len(), held(&house).await.as_str()), (2, "0"));
    });
}

#[test]
fn a_response_is_continued_on_its_socket_though_it_is_not_stored() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create(json!({ "store": false }))).await;
        let first = response(&mut socket).await;
        let id = first.last().unwrap()["response"]["id"].clone();
        say(&mut socket, &create(json!({ "store": false, "previous_response_id": id }))).await;
        assert_eq!(response(&mut socket).await.last().unwrap()["type"], "response.completed");
        say(&mut socket, &create(json!({ "previous_response_id": "resp_of_another" }))).await;
        assert_eq!(next(&mut socket).await["status"], 404);
    });
}

#[test]
fn a_client_that_leaves_pays_what_its_response_has_cost() {
    run(async {
        let house = House::with(LIMIT).await;
        let slow = [("x-fake-chunk-delay-ms", "20")];
        let mut socket = opened(&house, &slow).await;
        say(&mut socket, &create(json!({}))).await;
        assert_eq!(next(&mut socket).await["type"], "response.created");
        drop(socket);
        let entries = settled(&house).await;
        assert_eq!((entries.len(), &entries[0]["basis"]), (1, &json!("reported")), "{entries:?}");
        assert_eq!(entries[0]["disconnected"], true);
    });
}

#[test]
fn a_socket_needs_a_key_and_a_handshake() {
    run(async {
        let house = House::with(LIMIT).await;
        let Err(Error::Http(answer)) = connected(&house, "sk-guard-wrong", &[]).await else {
            panic!("the key is wrong")
        };
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let Err(Error::Http(answer)) = connected(&house, &house.key, &[("sec-websocket-version", "8")]).await
        else {
            panic!("version 8 is not spoken")
        };
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let mut socket = opened(&house, &[]).await;
        socket.send(Message::Ping(vec![7].into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(vec![7].into()));
        let metrics = house.admin(http::Method::GET, "/metrics", None).await;
        assert!(
            String::from_utf8_lossy(&metrics.body).contains("spendguard_sockets_open 1"),
            "{}",
            String::from_utf8_lossy(&metrics.body)
        );
        socket.close(None).await.unwrap();
        assert!(matches!(socket.next().await, Some(Ok(Message::Close(_))) | None));
    });
}

#[test]
fn an_idle_socket_is_closed_when_the_guard_stops() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create(json!({}))).await;
        response(&mut socket).await;
        let closing = tokio::task::spawn_local(house.close());
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("it is closed") };
        assert_eq!(frame.code, CloseCode::Restart);
        closing.await.unwrap();
    });
}
