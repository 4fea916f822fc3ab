//! One socket of a client and its socket to upstream, from the handshake to the last hold.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use http::{Method, Uri};
use tokio::sync::{Mutex, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::guard::UnderWay;
use crate::net::InUse;
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::socket::{self, Asked, Says};
use crate::proxy::Proxy;
use crate::proxy::mask::masked;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::refuse::Refusal;
use crate::proxy::room::Room;
use crate::proxy::socket::budget::Budget;
use crate::proxy::socket::lanes::{Entered, Goes, Lanes, Waiting};
use crate::proxy::socket::wire::{Sink, closing, end, frame, ping, send};
use crate::proxy::socket::{ClientSocket, UpstreamSocket};

/// How long a client may take to close its side.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// How often a client that says nothing is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// The most bytes of events that wait to be read by the requests of a socket.
const EVENT_BYTES_MAX: u32 = 8 << 20;

/// A socket of a client and the one to upstream beside it.
pub(super) struct Session {
    pub(super) shard: Arc<Proxy>,
    pub(super) operation: &'static Operation,
    /// The head of the request for the socket, as one of each request on it.
    pub(super) head: http::request::Parts,
    /// What the client sends of a message.
    pub(super) budget: Budget,
    /// One of the sockets that its key has.
    pub(super) _place: UnderWay,
    /// The key that upstream was called with and no client may see; `None` if it is the client's own.
    pub(super) upstream_key: Option<String>,
    /// Keeps a connection over HTTP/2 open.
    pub(super) _in_use: Option<InUse>,
}

/// A session that has both sockets.
pub(super) struct Running {
    pub(super) session: Session,
    pub(super) to_client: Sink<ClientSocket>,
    pub(super) to_upstream: Sink<UpstreamSocket>,
    pub(super) lanes: Lanes,
    /// The client is gone.
    pub(super) gone: CancellationToken,
    /// Whether the client has sent anything since it was asked whether it is there.
    is_there: AtomicBool,
    /// Room for events that wait to be read.
    events: Arc<Semaphore>,
    /// Why the guard ends both sockets.
    ended: OnceCell<CloseFrame>,
    end: CancellationToken,
}

/// An event that waits to be read, with its room.
struct Kept {
    event: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.event
    }
}

impl Session {
    /// The head of each request on a socket that was asked for with this head.
    pub(super) fn request_head(
        mut head: http::request::Parts,
        operation: &Operation,
    ) -> http::request::Parts {
        head.method = Method::POST;
        head.uri = Uri::from_static(operation.path);
        head.extensions.clear();
        head
    }

    /// Serves the client once there are both sockets, until one side closes its own; then ends what
    /// is open.
    pub(super) fn begin(
        self,
        sockets: impl Future<Output = hyper::Result<(ClientSocket, UpstreamSocket)>> + Send + 'static,
    ) {
        let tracker = self.shard.tracker.clone();
        tracker.spawn(async move {
            match sockets.await {
                Ok((client, upstream)) => self.run(client, upstream).await,
                Err(error) => {
                    tracing::debug!(event = "no_socket", %error, "a client is gone before its socket is open");
                }
            }
        });
    }

    async fn run(self, client: ClientSocket, upstream: UpstreamSocket) {
        let metrics = Arc::clone(self.shard.guard.metrics());
        metrics.sockets_open().inc();
        let (to_client, from_client) = client.split();
        let (to_upstream, from_upstream) = upstream.split();
        let running = Arc::new(Running {
            session: self,
            to_client: Mutex::new(to_client),
            to_upstream: Mutex::new(to_upstream),
            lanes: Lanes::default(),
            gone: CancellationToken::new(),
            is_there: AtomicBool::new(true),
            events: Arc::new(Semaphore::new(usize::try_from(EVENT_BYTES_MAX).unwrap_or(usize::MAX))),
            ended: OnceCell::new(),
            end: CancellationToken::new(),
        });
        running.serve(from_client, from_upstream).await;
        metrics.sockets_open().dec();
    }
}

impl Running {
    async fn serve(
        self: &Arc<Self>,
        mut from_client: SplitStream<ClientSocket>,
        from_upstream: SplitStream<UpstreamSocket>,
    ) {
        let mut stop = self.session.shard.stop.clone();
        let stopped = async {
            let _ = stop.wait_for(|stop| *stop).await;
            self.lanes.close();
            self.lanes.all_ended().await;
        };
        let mut relaying = Box::pin(self.relay(from_upstream));
        let close = tokio::select! {
            close = relaying.as_mut() => {
                self.lanes.cut();
                close
            }
            close = self.served(&mut from_client) => {
                self.gone.cancel();
                self.lanes.close();
                end(&self.to_client, close).await;
                // What is open goes on, as far as it outlives its client.
                tokio::select! {
                    _ = relaying.as_mut() => self.lanes.cut(),
                    () = self.lanes.all_ended() => {}
                }
                None
            }
            () = self.end.cancelled() => {
                self.lanes.cut();
                self.ended.get().cloned()
            }
            () = stopped => Some(frame(CloseCode::Restart, "spendguard is being restarted")),
        };
        // Nothing goes on at upstream while clients read what has come.
        drop(relaying);
        end(&self.to_upstream, None).await;
        self.lanes.all_ended().await;
        if !self.gone.is_cancelled() {
            end(&self.to_client, close).await;
            // What it has sent meanwhile must not cost the client the last events.
            let rest = async { while let Some(Ok(_)) = from_client.next().await {} };
            let _ = tokio::time::timeout(GOODBYE_MAX, rest).await;
        }
    }

    /// Serves the client until it closes its socket, reads no more, or is not there any more.
    async fn served(self: &Arc<Self>, from_client: &mut SplitStream<ClientSocket>) -> Option<CloseFrame> {
        let mut silent = pin!(async {
            loop {
                tokio::time::sleep(PING_EVERY).await;
                if !self.is_there.swap(false, Ordering::Relaxed) || ping(&self.to_client).await.is_err() {
                    return;
                }
            }
        });
        tokio::select! {
            close = self.listen(from_client) => close,
            () = self.gone.cancelled() => None,
            () = silent.as_mut() => None,
        }
    }

    /// Ends both sockets.
    pub(super) fn fail(&self, code: CloseCode, reason: &'static str) {
        let _ = self.ended.set(frame(code, reason));
        self.end.cancel();
    }

    /// Reads what the client sends, until it closes its socket.
    async fn listen(self: &Arc<Self>, from_client: &mut SplitStream<ClientSocket>) -> Option<CloseFrame> {
        loop {
            let message = match from_client.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return closing(&error),
                None => return None,
            };
            self.is_there.store(true, Ordering::Relaxed);
            match message {
                Message::Text(text) => {
                    let room = self.session.budget.take();
                    self.receive(text, room).await;
                }
                Message::Binary(_) => {
                    drop(self.session.budget.take());
                    let message = "A message is a text in JSON, and not binary.";
                    self.refuse(Refusal::Invalid(message.to_owned(), None), &None).await;
                }
                Message::Close(frame) => return frame,
                Message::Ping(sent) | Message::Pong(sent) => self.session.budget.leave_out(sent.len()),
                Message::Frame(_) => {}
            }
        }
    }

    async fn receive(self: &Arc<Self>, text: Utf8Bytes, room: Room) {
        let body = Bytes::from(text);
        match self.session.shard.guard.parsed(&body, |body| socket::asked(body)).await {
            Ok(Asked::Create(lane)) => match self.lanes.enter(&lane, Waiting { body, room }) {
                Entered::Now(request) => {
                    let this = Arc::clone(self);
                    self.session.shard.tracker.spawn(async move { this.serve_lane(lane, request).await });
                }
                Entered::Later => {}
                Entered::Refused => self.refuse(Refusal::Overloaded, &lane).await,
            },
            Ok(Asked::Steer(refused)) => drop(send(&self.to_client, refused.into()).await),
            Err(invalid) => self.refuse(refuse_invalid(invalid), &None).await,
        }
    }

    /// Reads the events of upstream and has each read by the request that it belongs to, until
    /// upstream closes its socket.
    async fn relay(&self, mut from_upstream: SplitStream<UpstreamSocket>) -> Option<CloseFrame> {
        loop {
            let message = match from_upstream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    tracing::warn!(event = "upstream_socket_failed", %error, "a socket to upstream failed");
                    return Some(frame(CloseCode::Error, "the socket to upstream failed"));
                }
                None => return None,
            };
            match message {
                Message::Text(text) => {
                    if !self.pass_event(text).await {
                        tracing::error!(
                            event = "unasked_response",
                            "an event of upstream is about no response that was asked for, so its socket is closed"
                        );
                        return Some(frame(CloseCode::Policy, "a response that was not asked for"));
                    }
                }
                // Its reason may name the account.
                Message::Close(of) => return of.map(|of| frame(of.code, "the upstream API has closed it")),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Passes an event of upstream on, or returns false if it is about no response that was asked for.
    async fn pass_event(&self, text: Utf8Bytes) -> bool {
        let event = socket::event(&text);
        let is_error = matches!(event.says, Says::Error(_));
        let text = if is_error { socket::cleaned(&text).into() } else { text };
        match self.lanes.route(&event) {
            // A request that has ended by itself reads no more.
            Goes::To(events) => drop(events.send(self.kept(socket::framed(&text)).await).await),
            Goes::LastTo(events) => {
                if events.send(self.kept(socket::framed(&text)).await).await.is_ok() {
                    let _ = events.end().await;
                }
            }
            Goes::ErrorTo(events) => {
                if events.send(self.kept(text.into()).await).await.is_ok() {
                    let _ = events.end().await;
                }
            }
            Goes::ToClient => {
                let key = self.session.upstream_key.as_deref();
                let shown = key.map(|key| masked(text.as_bytes(), key));
                let text = shown.map_or(Some(text), |shown| Utf8Bytes::try_from(shown).ok());
                if let Some(text) = text {
                    let _ = send(&self.to_client, text).await;
                }
            }
            Goes::Nowhere => return false,
        }
        true
    }

    /// An event that takes its room until it was read.
    async fn kept(&self, event: Bytes) -> Bytes {
        let bytes = u32::try_from(event.len()).unwrap_or(u32::MAX).min(EVENT_BYTES_MAX);
        let room = Arc::clone(&self.events).acquire_many_owned(bytes).await;
        Bytes::from_owner(Kept { event, _room: room.ok() })
    }
}
