//! What is written to either socket, and how one ends.

use std::time::Duration;

use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// How long a side may take to read a message, or the end of its socket.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// The side of a socket that is written.
pub(super) type Sink<S> = Mutex<SplitSink<S, Message>>;

/// Sends a message, in time.
pub(super) async fn send<S: futures_util::Sink<Message> + Unpin>(
    to: &Sink<S>,
    message: Message,
) -> Result<(), ()> {
    let sending = async { to.lock().await.send(message).await };
    match tokio::time::timeout(WRITE_MAX, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

/// Closes a socket.
pub(super) async fn end<S: futures_util::Sink<Message> + Unpin>(socket: &Sink<S>, frame: Option<CloseFrame>) {
    let _ = send(socket, Message::Close(frame)).await;
    let closing = async { socket.lock().await.close().await };
    let _ = tokio::time::timeout(WRITE_MAX, closing).await;
}

pub(super) fn frame(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: Utf8Bytes::from_static(reason) }
}

/// What a client is sent whose message can't be read.
pub(super) fn closing(error: &Error) -> Option<CloseFrame> {
    if matches!(error, Error::Capacity(_)) {
        Some(frame(CloseCode::Size, "the message is too large"))
    } else if matches!(error, Error::Protocol(_)) {
        Some(frame(CloseCode::Protocol, "that is not the WebSocket protocol"))
    } else if matches!(error, Error::Utf8(_)) {
        Some(frame(CloseCode::Invalid, "the text is not UTF-8"))
    } else {
        None
    }
}
