//! A socket of `/responses`: its messages are requests, and the events of a lane are their answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
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
use crate::upstream::{Closed, Source};

/// The most bytes of events that are brought to a request together.
const TOGETHER_BYTES_MAX: usize = 16 << 10;
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

/// Events of one request that were there at once.
#[derive(Default)]
struct Together {
    to: Option<Arc<Source>>,
    stream: BytesMut,
    /// When the first of them came.
    came: Duration,
}

impl Together {
    fn is_empty(&self) -> bool {
        self.to.is_none()
    }

    /// Whether an event may be added to what is there.
    fn takes(&self, events: &Arc<Source>, text: &str) -> bool {
        let is_same = self.to.as_ref().is_none_or(|to| Arc::ptr_eq(to, events));
        is_same && self.stream.len() + text.len() <= TOGETHER_BYTES_MAX
    }

    fn add(&mut self, to: Arc<Source>, text: &str, came: Duration) {
        if self.is_empty() {
            (self.to, self.came) = (Some(to), came);
        }
        socket::frame(text, &mut self.stream);
    }
}

/// Events that wait to be read, with their room.
struct Kept {
    events: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.events
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
                let Some(target) = self.steered(&steer).await else { return };
                let this = Arc::clone(self);
                let served = async move { this.serve_steer(steer, target, (body, room)).await };
                self.session.shard.tracker.spawn(served);
            }
            Err(invalid) => self.refuse(refuse_invalid(invalid), &None).await,
        }
    }

    /// Reads the events of upstream and has each read by the request that it belongs to, until
    /// upstream closes its socket.
    async fn pass_events(&self, mut from_upstream: SplitStream<UpstreamSocket>) -> Option<CloseFrame> {
        let mut together = Together::default();
        loop {
            let text = match self.next_event(&mut from_upstream, &mut together).await {
                FromUpstream::Event(text) => text,
                FromUpstream::Closed(close) => return close,
                FromUpstream::Failed(close) => return Some(close),
            };
            if !self.pass_event(text, self.session.now(), &mut together).await {
                return Some(unasked("a response that was not asked for"));
            }
        }
    }

    /// The next event of upstream. If it is not there yet, those before it are brought to their request
    /// first.
    async fn next_event(
        &self,
        from_upstream: &mut SplitStream<UpstreamSocket>,
        together: &mut Together,
    ) -> FromUpstream {
        let next = if together.is_empty() { None } else { next_event(from_upstream).now_or_never() };
        if let Some(FromUpstream::Event(event)) = next {
            return FromUpstream::Event(event);
        }
        let _ = self.bring(together).await;
        match next {
            Some(end) => end,
            None => next_event(from_upstream).await,
        }
    }

    /// Passes an event of upstream on, which came at a running time, behind those that came together
    /// before it; returns false if it is about no response that was asked for.
    async fn pass_event(&self, text: Utf8Bytes, came: Duration, together: &mut Together) -> bool {
        let event = socket::event(&text);
        let is_error = matches!(event.says, Says::Error(_));
        let text = if is_error { socket::cleaned(&text).into() } else { text };
        let goes = self.lanes.route(&event);
        if !matches!(&goes, Goes::To(events) | Goes::LastTo(events) if together.takes(events, &text)) {
            let _ = self.bring(together).await;
        }
        match goes {
            Goes::To(events) => together.add(events, &text, came),
            Goes::LastTo(events) => {
                together.add(Arc::clone(&events), &text, came);
                if self.bring(together).await.is_ok() {
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

    /// Brings events to the request that they belong to.
    async fn bring(&self, together: &mut Together) -> Result<(), Closed> {
        let Together { to: Some(to), stream, came } = std::mem::take(together) else { return Ok(()) };
        // A request that has ended by itself reads no more.
        to.send_come(self.kept(stream.freeze()).await, came).await
    }

    /// Shows the client an event that is about no open response.
    pub(super) async fn show(&self, text: Utf8Bytes) {
        if let Some(text) = self.session.masked(text) {
            self.pair.tell(text).await;
        }
    }

    /// Events that take their room until they were read.
    async fn kept(&self, events: Bytes) -> Bytes {
        let bytes = u32::try_from(events.len()).unwrap_or(u32::MAX).min(EVENT_BYTES_MAX);
        let room = Arc::clone(&self.events).acquire_many_owned(bytes).await;
        Bytes::from_owner(Kept { events, _room: room.ok() })
    }
}
