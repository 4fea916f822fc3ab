//! The fake's `WebSocket`s: a realtime session, or one of `/responses`: each `response.create` is answered with the events of a
//! stream, those of several at the same time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::fake_openai::answers::Api;
use crate::fake_openai::{Answer, Fake, error, ordered_status, query, realtime, translations};

/// Messages that wait to be sent on a socket.
const WAITING_MAX: usize = 16;

type Io = TokioIo<Upgraded>;

impl Fake {
    /// Opens a socket. The headers of its request order what those of other requests do, for each
    /// response on it.
    pub(super) fn open_socket(self: &Arc<Self>, mut request: Request<Incoming>) -> Response<Answer> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, _) = request.into_parts();
        self.show(&head, &Bytes::new());
        let path = head.uri.path().to_owned();
        if !["/v1/responses", "/v1/realtime", "/v1/realtime/translations"].contains(&path.as_str()) {
            return error(StatusCode::NOT_FOUND, "unknown path", None);
        }
        let model = query(&head.uri, "model").map(str::to_owned);
        let key = head.headers.get(header::SEC_WEBSOCKET_KEY).map_or(&[][..], HeaderValue::as_bytes);
        let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) else {
            return error(StatusCode::BAD_REQUEST, "no key", None);
        };
        let fake = Arc::clone(self);
        self.sockets.spawn(async move {
            let Ok(io) = upgrade.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
            match path.as_str() {
                "/v1/realtime" => realtime::converse(fake, socket, head.headers, model).await,
                "/v1/realtime/translations" => translations::converse(socket, model).await,
                _ => fake.converse(socket, head.headers).await,
            }
        });
        let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        response
    }

    async fn converse(self: Arc<Self>, mut socket: WebSocketStream<Io>, headers: HeaderMap) {
        let (out, mut ready) = mpsc::channel(WAITING_MAX);
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        running.push(self.respond(text.to_string(), &headers, out.clone()));
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                Some(text) = ready.recv() => {
                    if socket.send(Message::text::<String>(text)).await.is_err() {
                        return;
                    }
                }
                Some(()) = running.next() => {}
            }
        }
    }

    /// Answers a message with events.
    async fn respond(self: &Arc<Self>, message: String, headers: &HeaderMap, out: mpsc::Sender<String>) {
        let mut request: Value = serde_json::from_str(&message).unwrap_or_default();
        let lane = request["stream_id"].as_str().map(str::to_owned);
        let send = async |mut event: Value| {
            if let Some(lane) = &lane {
                event["stream_id"] = json!(lane);
            }
            out.send(event.to_string()).await.is_ok()
        };
        if request["type"] != "response.create" {
            let error = json!({ "message": "unknown type", "type": "invalid_request_error", "param": "type", "code": null });
            send(json!({ "type": "error", "status": 400, "error": error })).await;
            return;
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
        request["stream"] = json!(true);
        let answer = match ordered_status(headers, "x-fake-status") {
            Some(status) => error(status, "injected", Some("injected")),
            None => self.generate(Api::Responses, headers, &Bytes::from(request.to_string())),
        };
        let status = answer.status();
        let mut body = answer.into_body();
        let mut unread = String::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(part) = frame.into_data() else { continue };
            unread.push_str(&String::from_utf8_lossy(&part));
            if !status.is_success() {
                continue;
            }
            while let Some(end) = unread.find("\n\n") {
                let event: String = unread.drain(..end + 2).collect();
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
                let Ok(event) = serde_json::from_str(data) else { continue };
                if !send(event).await {
                    return;
                }
            }
        }
        if !status.is_success() {
            let error: Value = serde_json::from_str(&unread).unwrap_or_default();
            send(json!({ "type": "error", "status": status.as_u16(), "error": error["error"] })).await;
        }
    }
}
