//! A socket of `/responses`: its messages are requests, and the events of a lane are their answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::protocol::openai::socket::{self, Asked, Says};
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::refuse::Refusal;
use crate::proxy::room::Room;
use crate::proxy::socket::lanes::{Afterwards, Entered, Goes, Lanes, Waiting};
use crate::proxy::socket::pair::{FromClient, FromUpstream, Pair, Traffic, next_event, unasked};
use crate::proxy::socket::session::{Session, not_binary};
use crate::proxy::socket::{ClientSocket, UpstreamSocket};

/// The most bytes of events that wait to be read by the requests of a socket.
const EVENT_BYTES_MAX: u32 = 8 << 20;

/// A session of responses.
pub(super) struct Running {
    pub(super) session: Session,
    pub(super) pair: Pair,
    pub(super) lanes: Lanes,
    /// Room for events that wait to be read.
    events: Arc<Semaphore>,
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

impl Running {
    pub(super) fn new(session: Session, pair: Pair) -> Self {
        let events = usize::try_from(EVENT_BYTES_MAX).unwrap_or(usize::MAX);
        Self { session, pair, lanes: Lanes::default(), events: Arc::new(Semaphore::new(events)) }
    }
}

impl Traffic for Arc<Running> {
    fn pair(&self) -> &Pair {
        &self.pair
    }

    async fn listen(&self, from_client: &mut SplitStream<ClientSocket>) -> Option<CloseFrame> {
        loop {
            match self.pair.next(from_client, &self.session.budget).await {
                FromClient::Text(text, room) => self.receive(text, room).await,
                FromClient::Binary => self.refuse(not_binary(), &None).await,
                FromClient::Closed(close) => return close,
            }
        }
    }

    async fn relay(&self, from_upstream: SplitStream<UpstreamSocket>) -> Option<CloseFrame> {
        self.pass_events(from_upstream).await
    }

    async fn close(&self) {
        self.lanes.close();
    }

    fn cut(&self) {
        self.lanes.cut();
    }

    async fn all_ended(&self) {
        self.lanes.all_ended().await;
    }
}

impl Running {
    async fn receive(self: &Arc<Self>, text: Utf8Bytes, room: Room) {
        let body = Bytes::from(text);
        match self.session.shard.guard.parsed(&body, |body| socket::asked(body)).await {
            Ok(Asked::Create { lane, previous }) => {
                match self.lanes.enter(&lane, Waiting { body, previous, room }) {
                    Entered::Now(request) => {
                        let this = Arc::clone(self);
                        let served = async move { this.serve_lane(lane, request).await };
                        self.session.shard.tracker.spawn(served);
                    }
                    Entered::Later => {}
                    Entered::Refused => self.refuse(Refusal::Overloaded, &lane).await,
                }
            }
            Ok(Asked::Steer(steer)) => {
                let Some(begun) = self.begin_steer(&steer).await else { return };
                let this = Arc::clone(self);
                let served = async move { this.serve_steer(steer, begun, (body, room)).await };
                self.session.shard.tracker.spawn(served);
            }
            Err(invalid) => self.refuse(refuse_invalid(invalid), &None).await,
        }
    }

    /// Reads the events of upstream and has each read by the request that it belongs to, until
    /// upstream closes its socket.
    async fn pass_events(&self, mut from_upstream: SplitStream<UpstreamSocket>) -> Option<CloseFrame> {
        loop {
            let text = match next_event(&mut from_upstream).await {
                FromUpstream::Event(text) => text,
                FromUpstream::Closed(close) => return close,
                FromUpstream::Failed(close) => return Some(close),
            };
            if !self.pass_event(text, self.session.now()).await {
                return Some(unasked("a response that was not asked for"));
            }
        }
    }

    /// Passes an event of upstream on, which came at a running time; returns false if it is about no
    /// response that was asked for.
    async fn pass_event(&self, text: Utf8Bytes, came: Duration) -> bool {
        let event = socket::event(&text);
        let is_error = matches!(event.says, Says::Error(_));
        let text = if is_error { socket::cleaned(&text).into() } else { text };
        match self.lanes.route(&event) {
            // A request that has ended by itself reads no more.
            Goes::To(events) => drop(events.send_come(self.kept(socket::framed(&text)).await, came).await),
            Goes::LastTo(events) => {
                if events.send_come(self.kept(socket::framed(&text)).await, came).await.is_ok() {
                    let _ = events.end().await;
                }
            }
            Goes::ErrorTo(events) => {
                if events.send(self.kept(text.into()).await).await.is_ok() {
                    let _ = events.end().await;
                }
            }
            Goes::ToClient => {
                if let Some(text) = self.session.masked(text) {
                    self.pair.pass_to_client(text, came).await;
                }
            }
            Goes::Afterwards { to, is_last } => {
                let event = if is_last { Afterwards::LastEvent } else { Afterwards::Event };
                return to.try_send(event(text)).is_ok();
            }
            Goes::Nowhere => return false,
        }
        true
    }

    /// Shows the client an event that is about no open response.
    pub(super) async fn show(&self, text: Utf8Bytes) {
        if let Some(text) = self.session.masked(text) {
            self.pair.tell(text).await;
        }
    }

    /// An event that takes its room until it was read.
    async fn kept(&self, event: Bytes) -> Bytes {
        let bytes = u32::try_from(event.len()).unwrap_or(u32::MAX).min(EVENT_BYTES_MAX);
        let room = Arc::clone(&self.events).acquire_many_owned(bytes).await;
        Bytes::from_owner(Kept { event, _room: room.ok() })
    }
}
