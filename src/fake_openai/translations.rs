//! The fake's sessions that translate: each part of the sound comes back.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Serves a session until its client closes it.
pub(super) async fn converse(mut socket: WebSocketStream<TokioIo<Upgraded>>, model: Option<String>) {
    let session = json!({ "type": "translation", "id": "sess_1", "model": model, "audio": {} });
    let mut event = json!({ "type": "session.created", "event_id": "event_0", "session": session });
    loop {
        if socket.send(Message::text(event.to_string())).await.is_err() || event["type"] == "session.closed" {
            return;
        }
        let message: Value = loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => break serde_json::from_str(&text).unwrap_or_default(),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            }
        };
        event = match message["type"].as_str().unwrap_or_default() {
            "session.input_audio_buffer.append" => {
                json!({ "type": "session.output_audio.delta", "event_id": "event_1", "delta": message["audio"] })
            }
            "session.update" => json!({ "type": "session.updated", "session": message["session"] }),
            "session.close" => json!({ "type": "session.closed", "event_id": "event_2" }),
            _ => {
                json!({ "type": "error", "error": { "type": "invalid_request_error", "message": "unknown type" } })
            }
        };
    }
}
