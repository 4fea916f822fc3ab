//! A client's socket and the one to upstream beside it: how both are served, and how they end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use crate::proxy::socket::wire::{Sink, Writer, closing, end, frame, ping};
use crate::proxy::socket::{ClientSocket, UpstreamSocket};

/// How long a client may take to close its side.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// How often a client that says nothing is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// What is written to both sockets, and what ends them.
pub(super) struct Pair {
    pub(super) to_client: Sink<ClientSocket>,
    pub(super) to_upstream: Sink<UpstreamSocket>,
    /// The client is gone.
    pub(super) gone: CancellationToken,
    /// Whether the client has sent anything since it was asked whether it is there.
    is_there: AtomicBool,
    /// Why the guard ends both sockets.
    ended: OnceCell<CloseFrame>,
    end: CancellationToken,
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
    /// It has closed its socket, or its socket has failed: how that of the client is closed.
    Closed(Option<CloseFrame>),
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
            is_there: AtomicBool::new(true),
            ended: OnceCell::new(),
            end: CancellationToken::new(),
        };
        (pair, Readers { from_client, from_upstream })
    }

    /// Ends both sockets.
    pub(super) fn fail(&self, code: CloseCode, reason: &'static str) {
        let _ = self.ended.set(frame(code, reason));
        self.end.cancel();
    }

    /// The next message of the client.
    pub(super) async fn next(
        &self,
        from_client: &mut SplitStream<ClientSocket>,
        budget: &Budget,
    ) -> FromClient {
        loop {
            let message = match from_client.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return FromClient::Closed(closing(&error)),
                None => return FromClient::Closed(None),
            };
            self.is_there.store(true, Ordering::Relaxed);
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

    /// Waits until the client does not answer, or can't be asked, whether it is there.
    async fn falls_silent(&self) {
        loop {
            tokio::time::sleep(PING_EVERY).await;
            if !self.is_there.swap(false, Ordering::Relaxed) || ping(&self.to_client).await.is_err() {
                return;
            }
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
                return FromUpstream::Closed(Some(frame(CloseCode::Error, "the socket to upstream failed")));
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
            traffic.close().await;
            end(&pair.to_client, close).await;
            // What is open goes on, as far as it outlives its client.
            tokio::select! {
                biased;
                _ = relaying.as_mut() => {}
                () = traffic.all_ended() => {}
            }
            None
        }
        () = pair.end.cancelled() => pair.ended.get().cloned(),
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

/// Serves the client until it closes its socket, reads no more, or is not there any more.
async fn served<T: Traffic>(traffic: &T, from_client: &mut SplitStream<ClientSocket>) -> Option<CloseFrame> {
    let pair = traffic.pair();
    let mut silent = pin!(pair.falls_silent());
    tokio::select! {
        biased;
        close = traffic.listen(from_client) => close,
        () = pair.gone.cancelled() => None,
        () = silent.as_mut() => None,
    }
}
