//! What all sockets have in common: who asks, for what, and how it is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, Uri};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::guard::sockets::Listed;
use crate::net::InUse;
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::socket;
use crate::proxy::auth::Caller;
use crate::proxy::body::{self, Bounds};
use crate::proxy::in_flight::InFlight;
use crate::proxy::mask::masked;
use crate::proxy::refuse::Refusal;
use crate::proxy::socket::budget::Budget;
use crate::proxy::socket::pair::Pair;
use crate::proxy::{Failed, Proxy, Rules};

/// The largest error that is passed on.
const ERROR_BYTES_MAX: usize = 1 << 20;

/// A socket of a client and the one to upstream beside it.
pub(super) struct Session {
    pub(super) shard: Arc<Proxy>,
    pub(super) operation: &'static Operation,
    /// The head of the request for the socket, as one of each request on it.
    pub(super) head: http::request::Parts,
    /// What the client sends of a message.
    pub(super) budget: Budget,
    /// Its entry in the list of open sockets.
    pub(super) listed: Listed,
    /// The key that upstream was called with and no client may see; `None` if it is the client's own.
    pub(super) upstream_key: Option<String>,
    /// Keeps a connection over HTTP/2 open.
    pub(super) _in_use: Option<InUse>,
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

    /// A request of the session that has just been made.
    pub(super) fn in_flight(&self, rules: &Rules, operation: &'static Operation) -> InFlight {
        let (shard, head) = (&self.shard, &self.head);
        let (clock, metrics) = (Arc::clone(shard.guard.clock()), Arc::clone(shard.guard.metrics()));
        let trace = rules.tracer.as_ref().map(|tracer| tracer.begin(&head.method, &head.headers));
        let mut in_flight = InFlight::new(&shard.ids, clock, metrics, trace);
        in_flight.endpoint = operation.path;
        in_flight.socket = Some(Arc::clone(&self.listed.socket));
        in_flight
    }

    /// The same by the caller of now.
    pub(super) async fn called(
        &self,
        rules: &Rules,
        operation: &'static Operation,
    ) -> Result<(Caller, InFlight), Failed> {
        let mut in_flight = self.in_flight(rules, operation);
        match self.shard.caller(rules, &self.head.headers).await {
            Ok(caller) => {
                in_flight.called_by(&caller, &self.head.headers);
                Ok((caller, in_flight))
            }
            Err(refusal) => Err((refusal, in_flight)),
        }
    }

    /// A message that asks for nothing that could be held, and why it is refused.
    pub(super) async fn refused(&self, refusal: Refusal) -> Failed {
        let called = self.called(&self.shard.rules.load_full(), self.operation).await;
        called.map_or_else(|failed| failed, |(_, in_flight)| (refusal, in_flight))
    }

    /// The guard's running time.
    pub(super) fn now(&self) -> Duration {
        self.shard.guard.clock().running()
    }

    /// An id that no other message has.
    pub(super) fn new_id(&self) -> String {
        self.shard.ids.next().to_str().unwrap_or_default().to_owned()
    }

    /// The bounds within which an error is read.
    pub(super) fn error_bounds(&self) -> Bounds {
        Bounds::answer(ERROR_BYTES_MAX, self.shard.rules.load().answer_idle)
    }

    /// Answers a message of a session that keeps a conversation with the refusal of what it asks for,
    /// as an error event that names it.
    pub(super) async fn refuse(&self, pair: &Pair, (refusal, in_flight): Failed, event_id: Option<&str>) {
        let rules = self.shard.rules.load();
        let (head, body) = self.shard.refuse(&rules, &refusal, in_flight).into_parts();
        let body = body::read(body, self.error_bounds()).await.unwrap_or_default();
        let event = self.named_error(&Response::from_parts(head, body), event_id);
        pair.tell(event.into()).await;
    }

    /// Answers a message that asks for nothing that could be held.
    pub(super) async fn refuse_message(&self, pair: &Pair, refusal: Refusal, event_id: Option<&str>) {
        let failed = self.refused(refusal).await;
        self.refuse(pair, failed, event_id).await;
    }

    fn named_error(&self, answer: &Response<Bytes>, event_id: Option<&str>) -> String {
        let mut event: Value = serde_json::from_str(&error_event(answer, None)).unwrap_or_default();
        event["event_id"] = self.new_id().into();
        event["error"]["event_id"] = event_id.into();
        event.to_string()
    }

    /// An error of upstream as the client may see it.
    pub(super) fn masked(&self, text: Utf8Bytes) -> Option<Utf8Bytes> {
        let Some(key) = self.upstream_key.as_deref() else { return Some(text) };
        Utf8Bytes::try_from(masked(text.as_bytes(), key)).ok()
    }
}

/// An answer that refuses a request, as an event of its lane.
pub(super) fn error_event(answer: &Response<Bytes>, lane: Option<&str>) -> String {
    let headers = answer.headers().iter();
    let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    socket::error_event(answer.status().as_u16(), headers, answer.body(), lane)
}

/// Why a message is refused that is no text.
pub(super) fn not_binary() -> Refusal {
    Refusal::Invalid("A message is a text in JSON, and not binary.".to_owned(), None)
}
