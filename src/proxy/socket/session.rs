//! One socket of a client and its socket to upstream, from the handshake to the last hold.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use http::{Method, Uri};
use tokio::sync::{Mutex, OnceCell};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::socket::{self, Asked};
use crate::proxy::Proxy;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::refuse::Refusal;
use crate::proxy::room::Room;
use crate::proxy::socket::budget::Budget;
use crate::proxy::socket::lanes::{Entered, Goes, Lanes, Waiting};
use crate::proxy::socket::wire::{Sink, closing, end, frame, send};
use crate::proxy::socket::{ClientSocket, UpstreamSocket};

/// A socket of a client and the one to upstream beside it.
pub(super) struct Session {
    pub(super) shard: Arc<Proxy>,
    pub(super) operation: &'static Operation,
    /// The head of the request for the socket, as one of each request on it.
    pub(super) head: http::request::Parts,
    budget: Budget,
}

/// A session that has both sockets.
pub(super) struct Running {
    pub(super) session: Session,
    pub(super) to_client: Sink<ClientSocket>,
    pub(super) to_upstream: Sink<UpstreamSocket>,
    pub(super) lanes: Lanes,
    /// The client is gone.
    pub(super) gone: CancellationToken,
    /// Why the guard ends both sockets.
    ended: OnceCell<CloseFrame>,
    end: CancellationToken,
}

impl Session {
    pub(super) fn new(
        shard: &Arc<Proxy>,
        operation: &'static Operation,
        mut head: http::request::Parts,
        budget: Budget,
    ) -> Self {
        head.method = Method::POST;
        head.uri = Uri::from_static(operation.path);
        head.extensions.clear();
        Self { shard: Arc::clone(shard), operation, head, budget }
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
        from_client: SplitStream<ClientSocket>,
        from_upstream: SplitStream<UpstreamSocket>,
    ) {
        let mut stop = self.session.shard.stop.clone();
        let stopped = async {
            let _ = stop.wait_for(|stop| *stop).await;
            self.lanes.close();
            self.lanes.all_ended().await;
        };
        let mut relaying = pin!(self.relay(from_upstream));
        let close = tokio::select! {
            close = relaying.as_mut() => {
                self.lanes.cut();
                self.lanes.all_ended().await;
                close
            }
            close = self.listen(from_client) => {
                self.gone.cancel();
                self.lanes.close();
                // What is open goes on, as far as it outlives its client.
                tokio::select! {
                    _ = relaying.as_mut() => self.lanes.cut(),
                    () = self.lanes.all_ended() => {}
                }
                close
            }
            () = self.end.cancelled() => {
                self.lanes.cut();
                self.ended.get().cloned()
            }
            () = stopped => Some(frame(CloseCode::Restart, "spendguard is being restarted")),
        };
        tokio::join!(end(&self.to_client, close.clone()), end(&self.to_upstream, close));
    }

    /// Ends both sockets.
    pub(super) fn fail(&self, code: CloseCode, reason: &'static str) {
        let _ = self.ended.set(frame(code, reason));
        self.end.cancel();
    }

    /// Reads what the client sends, until it closes its socket.
    async fn listen(self: &Arc<Self>, mut from_client: SplitStream<ClientSocket>) -> Option<CloseFrame> {
        loop {
            let message = match from_client.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return closing(&error),
                None => return None,
            };
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
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn receive(self: &Arc<Self>, text: Utf8Bytes, room: Room) {
        match socket::asked(&text) {
            Ok(Asked::Create(lane)) => match self.lanes.enter(&lane, Waiting { body: text.into(), room }) {
                Entered::Now(request) => {
                    let this = Arc::clone(self);
                    self.session.shard.tracker.spawn(async move { this.serve_lane(lane, request).await });
                }
                Entered::Later => {}
                Entered::Refused => self.refuse(Refusal::Overloaded, &lane).await,
            },
            Ok(Asked::Cancel) => drop(send(&self.to_upstream, Message::Text(text)).await),
            Ok(Asked::Steer) => {
                let failed = socket::steer_failed(&text);
                let _ = send(&self.to_client, Message::text(failed)).await;
            }
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
                    let event = socket::event(&text);
                    match self.lanes.route(&event) {
                        // A request that has ended by itself reads no more.
                        Goes::To(events) => drop(events.send(socket::framed(&text)).await),
                        Goes::LastTo(events) => {
                            if events.send(socket::framed(&text)).await.is_ok() {
                                let _ = events.end().await;
                            }
                        }
                        Goes::ErrorTo(events) => {
                            if events.send(text.into()).await.is_ok() {
                                let _ = events.end().await;
                            }
                        }
                        Goes::ToClient => drop(send(&self.to_client, Message::Text(text)).await),
                        Goes::Unasked => {
                            tracing::error!(
                                event = "unasked_response",
                                "upstream has begun a response that was not asked for, so its socket is closed"
                            );
                            return Some(frame(CloseCode::Policy, "a response that was not asked for"));
                        }
                    }
                }
                Message::Close(frame) => return frame,
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}
