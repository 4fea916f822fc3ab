//! What is written to either socket, and how one ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{FutureExt as _, SinkExt as _};
use tokio::sync::Mutex;
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::clock::Clock;
use crate::metrics::FrameTimes;

/// How long a side may take to read a part of a message, or the end of its socket.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// The parts in which a larger message is written, each once the one before has left the buffer, so
/// that a slow reader has the time for each.
const PART_BYTES: usize = 64 << 10;

/// The side of a socket that is written.
pub(super) type Sink<S> = Mutex<Writer<S>>;

/// Writes messages, and measures those of the other side.
pub(super) struct Writer<S> {
    sink: SplitSink<S, Message>,
    clock: Arc<Clock>,
    /// The times of messages that are passed on.
    times: FrameTimes,
    /// Until when its reader has last let a message wait.
    waited_until: Duration,
    /// Whether a large message was begun and is not whole: if that one is left, nothing but the end
    /// may follow.
    is_in_message: bool,
}

/// A side did not read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread;

impl<S: futures_util::Sink<Message, Error = Error> + Unpin> Writer<S> {
    pub(super) fn new(sink: SplitSink<S, Message>, (clock, times): (Arc<Clock>, FrameTimes)) -> Self {
        Self { sink, clock, times, waited_until: Duration::ZERO, is_in_message: false }
    }

    async fn put(&mut self, message: Message) -> Result<(), Unread> {
        let sent = in_time(self.sink.send(message)).await;
        self.mark_slow(sent)
    }

    /// Writes a text, a large one in parts.
    async fn write(&mut self, text: Utf8Bytes) -> Result<(), Unread> {
        if self.is_in_message {
            return Err(Unread);
        }
        if text.len() <= PART_BYTES {
            return self.put(Message::Text(text)).await;
        }
        let mut rest = Bytes::from(text);
        let mut kind = Data::Text;
        self.is_in_message = true;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(PART_BYTES));
            self.put(Message::Frame(Frame::message(part, OpCode::Data(kind), rest.is_empty()))).await?;
            kind = Data::Continue;
        }
        self.is_in_message = false;
        Ok(())
    }

    /// Writes a text of the other side, a small one when those behind it are [flushed](Self::flush).
    pub(super) async fn feed(&mut self, text: Utf8Bytes) -> Result<(), Unread> {
        if text.len() > PART_BYTES || self.is_in_message {
            return self.write(text).await;
        }
        let fed = in_time(self.sink.feed(Message::Text(text))).await;
        self.mark_slow(fed)
    }

    pub(super) async fn flush(&mut self) -> Result<(), Unread> {
        let flushed = in_time(self.sink.flush()).await;
        self.mark_slow(flushed)
    }

    /// Remembers until when the reader is slow, if it has let a message wait.
    fn mark_slow(&mut self, written: Result<Pace, Unread>) -> Result<(), Unread> {
        let pace = written?;
        if pace == Pace::Slow {
            self.waited_until = self.clock.running();
        }
        Ok(())
    }

    /// Whether its reader has let a message wait since a running time.
    pub(super) fn has_waited_since(&self, time: Duration) -> bool {
        time < self.waited_until
    }

    /// Notes that a message of the other side, which came at a running time, is written.
    pub(super) fn passed(&self, came: Duration) {
        let took = self.clock.running().saturating_sub(came);
        self.times.passed(self.has_waited_since(came), took);
    }
}

/// How a side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Ready,
    /// It lets what is written wait.
    Slow,
}

/// Waits for a reader, for as long as it may take.
async fn in_time(writing: impl Future<Output = Result<(), Error>>) -> Result<Pace, Unread> {
    let mut writing = pin!(writing);
    // The share of its thread that a task has used up says nothing about the reader. Over HTTP/2, the
    // connection takes what is written in a task of its own, which has to run in between.
    for _ in 0..2 {
        if let Some(written) = unconstrained(writing.as_mut()).now_or_never() {
            return written.map(|()| Pace::Ready).map_err(|_| Unread);
        }
        yield_now().await;
    }
    match tokio::time::timeout(WRITE_MAX, writing).await {
        Ok(Ok(())) => Ok(Pace::Slow),
        Ok(Err(_)) | Err(_) => Err(Unread),
    }
}

/// Sends a text behind what others send.
pub(super) async fn send<S>(to: &Sink<S>, text: Utf8Bytes) -> Result<(), Unread>
where
    S: futures_util::Sink<Message, Error = Error> + Unpin,
{
    to.lock().await.write(text).await
}

/// Passes a text of the other side on, which came at a running time.
pub(super) async fn pass<S>(to: &Sink<S>, text: Utf8Bytes, came: Duration) -> Result<(), Unread>
where
    S: futures_util::Sink<Message, Error = Error> + Unpin,
{
    let mut to = to.lock().await;
    to.write(text).await?;
    to.passed(came);
    Ok(())
}

/// Writes a text, a large one in parts.
pub(super) async fn write<S>(to: &mut Writer<S>, text: Utf8Bytes) -> Result<(), Unread>
where
    S: futures_util::Sink<Message, Error = Error> + Unpin,
{
    to.write(text).await
}

/// Asks the other side whether it is there.
pub(super) async fn ping<S: futures_util::Sink<Message, Error = Error> + Unpin>(
    to: &Sink<S>,
) -> Result<(), Unread> {
    to.lock().await.put(Message::Ping(Bytes::new())).await
}

/// Closes a socket.
pub(super) async fn end<S: futures_util::Sink<Message, Error = Error> + Unpin>(
    socket: &Sink<S>,
    frame: Option<CloseFrame>,
) {
    let mut socket = socket.lock().await;
    // It may be closed already, and then its answer is to be sent.
    let _ = socket.put(Message::Close(frame)).await;
    let _ = in_time(socket.sink.close()).await;
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::io::duplex;
    use tokio::time::timeout;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::guard::opened;
    use crate::metrics::FrameFrom;

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_left_in_its_middle_is_followed_by_nothing_but_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _writer) = opened(folder.path());
        let (ours, theirs) = duplex(4 << 10);
        let ours = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let mut theirs = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let times = (Arc::clone(guard.clock()), guard.metrics().frames(FrameFrom::Client));
        let to = Mutex::new(Writer::new(ours.split().0, times));
        let writing = timeout(Duration::from_secs(1), send(&to, "x".repeat(200_000).into()));
        assert!(writing.await.is_err(), "the other side reads nothing");
        let other = async {
            assert!(send(&to, "other".into()).await.is_err());
            assert!(to.lock().await.feed("other".into()).await.is_err());
            end(&to, None).await;
        };
        let (read, ()) = tokio::join!(theirs.next(), other);
        assert!(matches!(read, Some(Ok(Message::Close(None)))), "{read:?}");
    }
}
