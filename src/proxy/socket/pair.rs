//! A client's socket and the one to upstream beside it: how both are served, and how they end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use tokio::sync::{Mutex, OnceCell, watch};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::guard::Guard;
use crate::metrics::FrameFrom;
use crate::proxy::room::Room;
use crate::proxy::socket::budget::Budget;
use crate::proxy::socket::wire::{Sink, Unread, Writer, closing, end, frame, pass, ping, send};
use crate::proxy::socket::{ClientSocket, UpstreamSocket};

/// How long a client may take to close its side.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// How long a client may say nothing before it is asked whether it is there, and then again until it is
/// given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is written to both sockets, and what ends them.
pub(super) struct Pair {
    pub(super) to_client: Sink<ClientSocket>,
    pub(super) to_upstream: Sink<UpstreamSocket>,
    /// The client is gone.
    pub(super) gone: CancellationToken,
    /// The guard ends both sockets, and why.
    failed: CancellationToken,
    failure: OnceCell<CloseFrame>,
}

/// The sides that are read.
pub(super) struct Readers {
    from_client: SplitStream<ClientSocket>,
    from_upstream: SplitStream<UpstreamSocket>,
}

/// A message of a client.
pub(super) enum FromClient {
    /// A text, and the memory that it takes.
    Text(Utf8Bytes, Room),
    /// Bytes that are no text.
    Binary,
    /// It has closed its socket, or can't be read any more: how that is answered.
    Closed(Option<CloseFrame>),
}

/// A message of upstream.
pub(super) enum FromUpstream {
    /// An event.
    Event(Utf8Bytes),
    /// It has closed its socket: how that of the client is closed.
    Closed(Option<CloseFrame>),
    /// Its socket has failed: how that of the client is closed.
    Failed(CloseFrame),
}

/// What is done with the messages of a pair of sockets.
pub(super) trait Traffic: Sync {
    /// The sockets.
    fn pair(&self) -> &Pair;
    /// Reads what the client sends, until it closes its socket.
    fn listen(
        &self,
        from_client: &mut SplitStream<ClientSocket>,
    ) -> impl Future<Output = Option<CloseFrame>> + Send;
    /// Reads what upstream sends, until it closes its socket.
    fn relay(
        &self,
        from_upstream: SplitStream<UpstreamSocket>,
    ) -> impl Future<Output = Option<CloseFrame>> + Send;
    /// Begins nothing more.
    fn close(&self) -> impl Future<Output = ()> + Send;
    /// Upstream is gone.
    fn cut(&self);
    /// Waits until nothing is open.
    fn all_ended(&self) -> impl Future<Output = ()> + Send;
}

impl Pair {
    pub(super) fn of(client: ClientSocket, upstream: UpstreamSocket, guard: &Guard) -> (Self, Readers) {
        let (to_client, from_client) = client.split();
        let (to_upstream, from_upstream) = upstream.split();
        let times = |from| (Arc::clone(guard.clock()), guard.metrics().frames(from));
        let pair = Self {
            to_client: Mutex::new(Writer::new(to_client, times(FrameFrom::Upstream))),
            to_upstream: Mutex::new(Writer::new(to_upstream, times(FrameFrom::Client))),
            gone: CancellationToken::new(),
            failed: CancellationToken::new(),
            failure: OnceCell::new(),
        };
        (pair, Readers { from_client, from_upstream })
    }

    /// Ends both sockets.
    pub(super) fn fail(&self, code: CloseCode, reason: &'static str) {
        let _ = self.failure.set(frame(code, reason));
        self.failed.cancel();
    }

    /// Writes to the client, until it is gone; one that does not read is given up. Returns what was
    /// written, or `None`.
    pub(super) async fn unless_gone<T>(&self, writing: impl Future<Output = Result<T, Unread>>) -> Option<T> {
        tokio::select! {
            biased;
            written = writing => {
                if written.is_err() {
                    self.gone.cancel();
                }
                written.ok()
            }
            () = self.gone.cancelled() => None,
        }
    }

    /// Sends a text to the client, or gives it up.
    pub(super) async fn tell(&self, text: Utf8Bytes) {
        self.unless_gone(send(&self.to_client, text)).await;
    }

    /// Passes an event of upstream, which came at a running time, on to the client, or gives it up.
    pub(super) async fn pass_to_client(&self, event: Utf8Bytes, came: Duration) {
        self.unless_gone(pass(&self.to_client, event, came)).await;
    }

    /// The next message of the client. One that says nothing is asked whether it is there, and is
    /// given up if it does not answer.
    pub(super) async fn next(
        &self,
        from_client: &mut SplitStream<ClientSocket>,
        budget: &Budget,
    ) -> FromClient {
        loop {
            let message = tokio::select! {
                biased;
                message = from_client.next() => message,
                () = self.falls_silent() => return FromClient::Closed(None),
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => return FromClient::Closed(closing(&error)),
                None => return FromClient::Closed(None),
            };
            match message {
                Message::Text(text) => return FromClient::Text(text, budget.take()),
                Message::Binary(_) => {
                    drop(budget.take());
                    return FromClient::Binary;
                }
                Message::Close(frame) => return FromClient::Closed(frame),
                Message::Ping(sent) | Message::Pong(sent) => budget.leave_out(sent.len()),
                Message::Frame(_) => {}
            }
        }
    }

    /// Asks a client that says nothing whether it is there; returns once it has not answered, or can't
    /// be asked.
    async fn falls_silent(&self) {
        tokio::time::sleep(SILENCE_MAX).await;
        if ping(&self.to_client).await.is_ok() {
            tokio::time::sleep(SILENCE_MAX).await;
        }
    }
}

/// The next event of upstream.
pub(super) async fn next_event(from_upstream: &mut SplitStream<UpstreamSocket>) -> FromUpstream {
    loop {
        match from_upstream.next().await {
            Some(Ok(Message::Text(text))) => return FromUpstream::Event(text),
            // Its reason may name the account.
            Some(Ok(Message::Close(of))) => {
                return FromUpstream::Closed(of.map(|of| frame(of.code, "the upstream API has closed it")));
            }
            Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Err(error)) => {
                tracing::warn!(event = "upstream_socket_failed", %error, "a socket to upstream failed");
                return FromUpstream::Failed(frame(CloseCode::Error, "the socket to upstream failed"));
            }
            None => return FromUpstream::Closed(None),
        }
    }
}

/// How a client's socket is closed after an event of upstream about a response that was not asked for.
pub(super) fn unasked(reason: &'static str) -> CloseFrame {
    tracing::error!(
        event = "unasked_response",
        "an event of upstream is about no response that was asked for, so its socket is closed"
    );
    frame(CloseCode::Policy, reason)
}

/// Serves a pair until one side closes its own, or the guard stops; then ends what is open.
pub(super) async fn serve<T: Traffic>(traffic: &T, readers: Readers, mut stop: watch::Receiver<bool>) {
    let Readers { mut from_client, from_upstream } = readers;
    let pair = traffic.pair();
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
        traffic.close().await;
        traffic.all_ended().await;
    };
    let mut relaying = Box::pin(traffic.relay(from_upstream));
    let close = tokio::select! {
        biased;
        close = relaying.as_mut() => close,
        close = served(traffic, &mut from_client) => {
            pair.gone.cancel();
            let goodbye = tokio::time::timeout(GOODBYE_MAX, end(&pair.to_client, close));
            // What is open goes on meanwhile, as far as it outlives its client.
            let ending = async {
                traffic.close().await;
                traffic.all_ended().await;
            };
            let relayed = async {
                tokio::select! {
                    biased;
                    _ = relaying.as_mut() => {}
                    () = ending => {}
                }
            };
            let _ = tokio::join!(goodbye, relayed);
            None
        }
        () = pair.failed.cancelled() => pair.failure.get().cloned(),
        () = stopped => Some(frame(CloseCode::Restart, "spendguard is being restarted")),
    };
    // Nothing goes on at upstream while clients read what has come.
    drop(relaying);
    traffic.cut();
    end(&pair.to_upstream, None).await;
    traffic.all_ended().await;
    if !pair.gone.is_cancelled() {
        end(&pair.to_client, close).await;
        // What it has sent meanwhile must not cost the client the last events.
        let rest = async { while let Some(Ok(_)) = from_client.next().await {} };
        let _ = tokio::time::timeout(GOODBYE_MAX, rest).await;
    }
}

/// Serves the client until it closes its socket, or is given up.
async fn served<T: Traffic>(traffic: &T, from_client: &mut SplitStream<ClientSocket>) -> Option<CloseFrame> {
    tokio::select! {
        biased;
        close = traffic.listen(from_client) => close,
        () = traffic.pair().gone.cancelled() => None,
    }
}

#[cfg(test)]
mod tests;
