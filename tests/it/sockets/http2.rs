//! `WebSocket`s over HTTP/2, each a stream of a connection that has others (RFC 8441).

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::seen::frames;
use super::{create, response, say, settled};
use crate::accrual::LIMIT;
use crate::harness::{House, run};

type Sender = http2::SendRequest<Empty<Bytes>>;

/// A connection over HTTP/2 whose client takes so many bytes unread, once it is known what the guard speaks.
pub(super) async fn connection(house: &House, window_bytes: u32) -> Sender {
    let stream = TcpStream::connect(house.proxy_address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window_bytes);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::task::spawn_local(connection);
    let asked = Request::get(format!("http://{}/livez", house.proxy_address)).body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::OK);
    sender
}

/// A socket on a connection.
pub(super) async fn socket(
    house: &House,
    sender: &mut Sender,
) -> WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
    let answer = asked(house, sender, &house.key, "websocket").await;
    assert_eq!(answer.status(), StatusCode::OK);
    let io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

async fn asked(house: &House, sender: &mut Sender, key: &str, protocol: &'static str) -> Response<Incoming> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://{}/v1/responses", house.proxy_address))
        .header("authorization", format!("Bearer {key}"))
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static(protocol))
        .body(Empty::new());
    sender.send_request(request.unwrap()).await.unwrap()
}

#[test]
fn a_socket_over_http_2_is_served_and_is_no_idle_connection() {
    run(async {
        let config = format!("[server]\nidle_timeout = \"1s\"\nheader_timeout = \"1s\"\n{LIMIT}");
        let house = House::with(&config).await;
        let mut sender = connection(&house, 1 << 20).await;
        let mut sockets = Vec::new();
        for _ in 0..2 {
            sockets.push(socket(&house, &mut sender).await);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        for socket in &mut sockets {
            say(socket, &create(json!({}))).await;
            assert_eq!(response(socket).await.last().unwrap()["type"], "response.completed");
        }
        assert_eq!(settled(&house).await.len(), 2);
        let slow = ["from=\"upstream\"", "reader=\"slow\""];
        assert_eq!(frames(&house, &slow).await, 0, "they read at once");
    });
}

#[test]
fn other_protocols_and_wrong_keys_open_nothing_over_http_2() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut sender = connection(&house, 1 << 20).await;
        let wrong = asked(&house, &mut sender, "sk-guard-wrong", "websocket").await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
        let other = asked(&house, &mut sender, &house.key, "connect-udp").await;
        assert_eq!(other.status(), StatusCode::FORBIDDEN);
    });
}
