//! The requests on a socket: admitted, sent, and answered with the events of their lane.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::MutexGuard;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::protocol::openai::endpoint::Endpoint;
use crate::protocol::openai::socket::{self, Framed, Lane, Messages, with_own_input};
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::body::{self, AnswerError};
use crate::proxy::exchange::{self, MeteredExchange};
use crate::proxy::in_flight::InFlight;
use crate::proxy::prepare::AdmittedRequest;
use crate::proxy::refuse::{Billed, NoAnswer, Refusal};
use crate::proxy::socket::lanes::{First, Waiting};
use crate::proxy::socket::responses::Running;
use crate::proxy::socket::session::{Session, error_event};
use crate::proxy::socket::wire::{Sink, Unread, Writer, write};
use crate::proxy::socket::{ClientSocket, UpstreamSocket};
use crate::proxy::tap::StreamPolicy;
use crate::proxy::{Failed, Rules};
use crate::upstream::{AnswerBody, LatestPart, Passing, SendError, SendErrorKind};

/// A request that was admitted, and for whom.
pub(super) type Admission = (AdmittedRequest, InFlight, Caller);

impl Running {
    /// Serves the requests of a lane, one after the other.
    pub(super) async fn serve_lane(self: Arc<Self>, lane: Lane, request: Waiting) {
        let mut next = Some(request);
        while let Some(Waiting { body, room, .. }) = next {
            self.serve(&lane, Box::pin(self.serve_request(&lane, body))).await;
            drop(room);
            while let Some(afterwards) = self.lanes.take_up_afterwards(&lane) {
                self.serve(&lane, Box::pin(self.serve_afterwards(&lane, afterwards))).await;
            }
            next = self.lanes.next(&lane);
        }
    }

    /// Serves what a lane has open, as far as it outlives its client.
    async fn serve(&self, lane: &Lane, exchange: impl Future<Output = ()>) {
        self.unless_left(lane, exchange).await;
        let Some(source) = self.lanes.source(lane) else { return };
        if !self.pair.gone.is_cancelled() {
            // The answer has ended before its response, which must not go on.
            return self.pair.fail(CloseCode::Policy, "an answer was ended before its response");
        }
        // It may be read to its end for the exact usage.
        source.closed().await;
    }

    /// Runs an exchange until the client has been gone for as long as what is open is read on. It is
    /// dropped then, and a hold that was sent is charged.
    pub(super) async fn unless_left(&self, lane: &Lane, exchange: impl Future<Output = ()>) {
        let drain = self.session.shard.rules.load().drain;
        let without_client = async {
            self.pair.gone.cancelled().await;
            if let Some(most) = drain.filter(|_| self.lanes.has_open(lane)) {
                tokio::time::sleep(most).await;
            }
        };
        tokio::select! {
            biased;
            () = exchange => {}
            () = without_client => {}
        }
    }

    async fn serve_request(&self, lane: &Lane, request: Bytes) {
        let shard = &self.session.shard;
        let rules = shard.rules.load_full();
        match self.exchange(&rules, lane, request).await {
            Ok(answer) => self.pass_on(lane, answer).await,
            Err((refusal, in_flight)) => {
                let answer = shard.refuse(&rules, &refusal, in_flight);
                self.pass_on(lane, answer).await;
            }
        }
    }

    /// Admits a request, sends it, and waits for its answer.
    async fn exchange(
        &self,
        rules: &Arc<Rules>,
        lane: &Lane,
        request: Bytes,
    ) -> Result<Response<Answer>, Failed> {
        let (admitted, in_flight, caller) = self.admit_in(rules, lane, request).await?;
        // A request that is left before its turn to be written was not sent.
        let to_upstream = self.pair.to_upstream.lock().await;
        let sending = self.send(rules, lane, to_upstream, admitted.body);
        self.exchanged(rules, sending, admitted.exchange, in_flight, caller.key.pass_through).await
    }

    /// Admits the request that a lane serves, with the input that upstream has queued for it.
    async fn admit_in(&self, rules: &Rules, lane: &Lane, request: Bytes) -> Result<Admission, Failed> {
        let guard = &self.session.shard.guard;
        let Some(queued) = self.lanes.queued(lane) else { return self.admit(rules, request).await };
        let joined = guard.parsed(&request, move |request| queued.before(request)).await;
        let Some(joined) = joined else { return self.admit(rules, request).await };
        let (mut admitted, in_flight, caller) = self.admit(rules, joined.clone()).await?;
        // It is sent without that input, with what was written into it.
        let edited = std::mem::take(&mut admitted.body);
        if edited == joined {
            admitted.body = request;
            return Ok((admitted, in_flight, caller));
        }
        let body = guard.parsed(&edited, move |edited| with_own_input(edited, &request)).await;
        let Some(body) = body else {
            let message = "The input of the request can't be read.".to_owned();
            return Err((Refusal::Invalid(message, Some("input")), in_flight));
        };
        admitted.body = body;
        Ok((admitted, in_flight, caller))
    }

    /// Admits what a message asks for.
    pub(super) async fn admit(&self, rules: &Rules, request: Bytes) -> Result<Admission, Failed> {
        let Session { shard, operation, head, .. } = &self.session;
        let (caller, mut in_flight) = self.session.called(rules, operation).await?;
        if let Err(refusal) = shard.refuse_stopped(&Endpoint::Metered(operation), &caller).await {
            return Err((refusal, in_flight));
        }
        let prepared = shard.prepare(rules, operation, head, request, &caller, &mut in_flight).await;
        match prepared {
            Ok(admitted) => {
                in_flight.admitted(admitted.exchange.reservation.hold());
                Ok((admitted, in_flight, caller))
            }
            Err(refusal) => Err((refusal, in_flight)),
        }
    }

    /// Sends what was admitted, as `sending` does, and passes its answer through the tap.
    pub(super) async fn exchanged(
        &self,
        rules: &Arc<Rules>,
        sending: impl Future<Output = Result<Response<AnswerBody>, SendError>>,
        mut exchange: Box<MeteredExchange>,
        mut in_flight: InFlight,
        pass_through: bool,
    ) -> Result<Response<Answer>, Failed> {
        let shard = &self.session.shard;
        let policy =
            StreamPolicy { drain: rules.drain, idle: rules.answer_idle, tracker: shard.tracker.clone() };
        let gone = AtomicBool::new(false);
        exchange.reservation.mark_sent();
        let answer = exchange::answered(pin!(sending), &mut in_flight).await;
        let answer = exchange::metered(&shard.guard, answer, exchange, policy, in_flight, &gone).await;
        shard.concealed(rules, answer, pass_through).await
    }

    /// Sends a request and waits for the first event of its lane; the answer is an event stream of
    /// these events, or the error that upstream answers with.
    async fn send(
        &self,
        rules: &Rules,
        lane: &Lane,
        mut to_upstream: MutexGuard<'_, Writer<UpstreamSocket>>,
        body: Bytes,
    ) -> Result<Response<AnswerBody>, SendError> {
        let text = Utf8Bytes::try_from(body.clone()).map_err(|_| broken(false, "the request is no text"))?;
        let (first, events) =
            self.lanes.open(lane, &body).ok_or_else(|| broken(false, "the socket was closed before"))?;
        self.write(&mut to_upstream, text).await?;
        drop(to_upstream);
        let upstream = self.session.shard.upstream(rules);
        match tokio::time::timeout(upstream.response_timeout(), first).await {
            Ok(first) => answer(first.ok(), events),
            Err(_) => Err(self.unanswered(rules)),
        }
    }

    /// Writes a message to upstream, or ends both sockets.
    pub(super) async fn write(
        &self,
        to_upstream: &mut Writer<UpstreamSocket>,
        text: Utf8Bytes,
    ) -> Result<(), SendError> {
        write(to_upstream, text).await.map_err(|Unread| {
            self.pair.fail(CloseCode::Error, "upstream does not read");
            broken(true, "the socket broke")
        })
    }

    /// Ends both sockets, as upstream does not answer.
    pub(super) fn unanswered(&self, rules: &Rules) -> SendError {
        self.pair.fail(CloseCode::Error, "upstream does not answer");
        self.session.shard.upstream(rules).timed_out(true)
    }

    /// Passes an answer on to the client: its events, or an error as an event.
    pub(super) async fn pass_on(&self, lane: &Lane, answer: Response<Answer>) {
        let (head, mut body) = answer.into_parts();
        if !head.status.is_success() {
            // One that can't be read is still an error.
            let whole = body::read(body, self.session.error_bounds()).await.unwrap_or_default();
            return self.pass_error(Response::from_parts(head, whole), lane).await;
        }
        let (latest, messages, unsent) = (head.extensions.get(), Messages::default(), Vec::new());
        let mut events = Events { session: &self.session, lane, latest, messages, unsent };
        while let Some(part) = body.frame().await {
            match self.pair.unless_gone(events.pass(part, &mut body, &self.pair.to_client)).await {
                Some(Then::GoesOn) => {}
                Some(Then::BreaksOff) => return self.break_off(lane).await,
                Some(Then::Ends) | None => return,
            }
        }
    }

    /// Answers a message that is no request with an error.
    pub(super) async fn refuse(&self, refusal: Refusal, lane: &Lane) {
        let (refusal, in_flight) = self.session.refused(refusal).await;
        let shard = &self.session.shard;
        let answer = shard.refuse(&shard.rules.load(), &refusal, in_flight);
        self.pass_on(lane, answer).await;
    }

    /// Ends an answer that broke off with an error.
    async fn break_off(&self, lane: &Lane) {
        let shard = &self.session.shard;
        let (rules, now_s) = (shard.rules.load().refuse, shard.guard.clock().now_s());
        let refusal = Refusal::Upstream(NoAnswer::Unreachable(Billed::Perhaps));
        self.pass_error(refusal.response(rules, now_s, &shard.ids.next()), lane).await;
    }

    async fn pass_error(&self, answer: Response<Bytes>, lane: &Lane) {
        let event = error_event(&answer, lane.as_deref());
        self.pair.tell(event.into()).await;
    }
}

/// The events of an answer on their way to the client.
struct Events<'a> {
    session: &'a Session,
    lane: &'a Lane,
    latest: Option<&'a LatestPart>,
    messages: Messages,
    /// When those came that are written and not sent.
    unsent: Vec<Duration>,
}

/// What an answer does behind the parts that were passed on.
enum Then {
    GoesOn,
    Ends,
    BreaksOff,
}

impl Events<'_> {
    /// Sends what a part of the answer completes, with the parts that are there already. If the client
    /// lets one wait, others get their turn behind it.
    async fn pass(
        &mut self,
        part: Result<Frame<Bytes>, AnswerError>,
        body: &mut Answer,
        to: &Sink<ClientSocket>,
    ) -> Result<Then, Unread> {
        let mut to = to.lock().await;
        let began = self.session.now();
        let mut next = Some(part);
        let then = loop {
            match next {
                Some(Ok(part)) => self.write(part, &mut to).await?,
                Some(Err(_)) => break Then::BreaksOff,
                None => break Then::Ends,
            }
            if to.has_waited_since(began) {
                break Then::GoesOn;
            }
            let Some(ready) = body.frame().now_or_never() else { break Then::GoesOn };
            next = ready;
        };
        to.flush().await?;
        self.unsent.drain(..).for_each(|came| to.passed(came));
        Ok(then)
    }

    /// Writes what a part completes.
    async fn write(&mut self, part: Frame<Bytes>, to: &mut Writer<ClientSocket>) -> Result<(), Unread> {
        let Ok(part) = part.into_data() else { return Ok(()) };
        for Framed { message, is_own } in self.messages.feed(&part) {
            let message = if is_own { socket::in_lane(message, self.lane.as_deref()) } else { message };
            let Ok(text) = Utf8Bytes::try_from(message) else { continue };
            to.feed(text).await?;
            self.unsent.extend(self.latest.and_then(LatestPart::came).filter(|_| !is_own));
        }
        Ok(())
    }
}

/// An answer whose events come on a socket, after the first word of upstream; without one, the socket
/// was closed.
pub(super) fn answer(first: Option<First>, events: Passing) -> Result<Response<AnswerBody>, SendError> {
    let status = match first {
        Some(First::Status(status)) => StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
        Some(First::Nothing) | None => return Err(broken(true, "the socket was closed")),
    };
    let kind = if status.is_success() { "text/event-stream" } else { "application/json" };
    let latest = events.latest();
    let mut answer = Response::new(AnswerBody::Events(events));
    answer.extensions_mut().insert(latest);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(answer)
}

pub(super) fn broken(sent: bool, detail: &str) -> SendError {
    SendError { kind: SendErrorKind::Broken, sent, detail: detail.to_owned() }
}
