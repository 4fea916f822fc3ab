//! One exchange with upstream: send, pass the answer on, settle.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, header};

use crate::domain::Money;
use crate::guard::{Ending, Guard, Reservation, Settled};
use crate::ledger::entry::Basis;
use crate::protocol::openai::ResponseState;
use crate::protocol::openai::sse::Hide;
use crate::protocol::openai::usage::{self, AnswerForm};
use crate::proxy::Failed;
use crate::proxy::answer::Answer;
use crate::proxy::background::{BackgroundStream, Beginning, Unnamed, in_a_task};
use crate::proxy::bill::{Bill, Exchange};
use crate::proxy::body::{self, ANSWER_BYTES_MAX, Bounds, EVENT_BYTES_MAX};
use crate::proxy::headers;
use crate::proxy::in_flight::InFlight;
use crate::proxy::record::Recording;
use crate::proxy::refuse::{Billed, NoAnswer, Refusal};
use crate::proxy::tap::{Cuts, SoundTap, StreamPolicy, Tap};
use crate::upstream::{AnswerBody, SendError, SendErrorKind};

/// The largest error that is read whole; OpenAI's are a few hundred bytes.
const ERROR_BYTES_MAX: usize = 1 << 20;
/// The end of an answer to a metered request is lost.
pub(super) const BROKEN_OFF: Refusal = Refusal::Upstream(NoAnswer::Unreachable(Billed::Perhaps));

/// A metered exchange: what was admitted, and how it will be billed.
#[derive(Debug)]
pub struct MeteredExchange {
    /// The hold.
    pub reservation: Reservation,
    /// How it is billed.
    pub bill: Bill,
    /// What the client gets of the usage of a stream.
    pub usage: StreamUsage,
    /// Where a stream is cut.
    pub cuts: Cuts,
    /// Headers to put on the answer.
    pub extra: HeaderMap,
    /// Records the objects that the answer creates at upstream.
    pub recording: Option<Box<Recording>>,
    /// What it becomes if it goes on in the background.
    pub background: Option<Box<Beginning>>,
}

/// What a client gets of the usage of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUsage {
    /// What upstream sends.
    AsSent,
    /// Nothing: the guard has asked for it.
    Hidden,
    /// The cost in addition.
    Priced,
}

/// A request that upstream has not accepted, as far as its answer says.
pub(super) struct NotAccepted {
    /// What the client gets.
    pub(super) answer: Result<Response<Answer>, Failed>,
    /// Whether upstream may have served it all the same: it was sent and not refused.
    pub(super) may_be_served: bool,
}

/// Sends a request that is billed at most a fee, as `sending` does, and streams its answer.
/// `fee` is called once upstream has served the request, and returns at most what is held.
pub(super) async fn unbilled(
    sending: impl Future<Output = Result<Response<AnswerBody>, SendError>>,
    (mut reservation, fee): (Reservation, impl AsyncFnOnce() -> Money),
    mut in_flight: InFlight,
    idle: Duration,
) -> Result<(Response<AnswerBody>, InFlight), NotAccepted> {
    reservation.mark_sent();
    let answer = match answered(sending, &mut in_flight).await {
        Ok(answer) => answer,
        Err(error) => {
            in_flight.settled(&end_unanswered(reservation, &error));
            let refusal = Refusal::Upstream(NoAnswer::of(&error, Billed::No));
            let answer = Err((refusal, in_flight));
            return Err(NotAccepted { answer, may_be_served: error.sent });
        }
    };
    let (mut head, body) = answer.into_parts();
    let (status, exchange) = (head.status, Exchange::of(head.status.as_u16(), &head.headers));
    headers::to_client(&mut head.headers);
    in_flight.status = status.as_u16();
    if status.is_success() {
        let fee = fee().await;
        let basis = if fee > Money::ZERO { Basis::Counted } else { Basis::Reported };
        let ending = Ending { cost: fee, tool_fees: fee, ..exchange.ending() };
        in_flight.settled(&reservation.settle(basis, ending));
        return Ok((Response::from_parts(head, body), in_flight));
    }
    let answer = if reservation.hold().bound.cost > Money::ZERO {
        Unserved { reservation, exchange, in_flight, idle }.pass_on(head, body).await
    } else {
        in_flight.settled(&reservation.release(exchange.ending()));
        in_flight.ended("upstream_error");
        Ok(Response::from_parts(head, Answer::Plain(body)))
    };
    Err(NotAccepted { answer, may_be_served: !status.is_client_error() })
}

/// Passes the answer to a metered request on frame by frame, and settles it. The reservation was
/// marked as sent before.
pub async fn metered(
    guard: &Arc<Guard>,
    answer: Result<Response<AnswerBody>, SendError>,
    mut metered: Box<MeteredExchange>,
    policy: StreamPolicy,
    mut in_flight: InFlight,
    gone: &AtomicBool,
) -> Result<Response<Answer>, (Refusal, InFlight)> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            in_flight.settled(&end_unanswered(metered.reservation, &error));
            let billed = if error.sent { Billed::Perhaps } else { Billed::No };
            let refused = metered.recording.filter(|_| !error.sent);
            if let Some(written) = refused.and_then(|recording| recording.refused()) {
                written.await;
            }
            return Err((Refusal::Upstream(NoAnswer::of(&error, billed)), in_flight));
        }
    };
    let (mut head, body) = answer.into_parts();
    let exchange = Exchange::of(head.status.as_u16(), &head.headers);
    let is_stream = is_event_stream(&head.headers, metered.reservation.hold().stream);
    let is_sound =
        !is_stream && metered.bill.operation.answers == AnswerForm::Speech && !is_json(&head.headers);
    headers::to_client(&mut head.headers);
    head.headers.extend(std::mem::take(&mut metered.extra));
    in_flight.status = head.status.as_u16();
    if !head.status.is_success() {
        let refused = metered.recording.filter(|_| !head.status.is_server_error());
        if let Some(written) = refused.and_then(|recording| recording.refused()) {
            written.await;
        }
        let failed = Unserved { reservation: metered.reservation, exchange, in_flight, idle: policy.idle };
        // Boxed, so that requests that succeed don't have its size.
        return Box::pin(failed.pass_on(head, body)).await;
    }
    if headers::is_encoded(&head.headers) {
        charge_compressed(metered.reservation, exchange, in_flight);
        return Ok(Response::from_parts(head, Answer::Plain(body)));
    }
    if is_stream {
        head.headers.remove(header::CONTENT_LENGTH);
        let stream = streamed(guard, body, *metered, exchange, policy, in_flight);
        return Ok(Response::from_parts(head, stream));
    }
    if is_sound {
        let MeteredExchange { reservation, bill, cuts, .. } = *metered;
        let account = (reservation, bill, exchange);
        let tap = SoundTap::new(body, account, &cuts, in_flight, Arc::clone(guard), policy);
        return Ok(Response::from_parts(head, Answer::Sound(Box::new(tap))));
    }
    let (bytes, ended) = match whole(body, metered, exchange, (&policy, gone), &mut in_flight).await {
        Ok(read) => read,
        Err(refusal) => return Err((refusal, in_flight)),
    };
    if let Some((_, amounts)) = ended {
        headers::add_amounts(&mut head.headers, amounts);
    }
    in_flight.ended(ended.map_or("job", |(outcome, _)| outcome.label(gone.load(Ordering::Relaxed))));
    Ok(Response::from_parts(head, Answer::whole(bytes)))
}

/// Charges the hold of an answer that is compressed although it was requested uncompressed:
/// the usage in it can't be read.
fn charge_compressed(reservation: Reservation, exchange: Exchange, mut in_flight: InFlight) {
    tracing::warn!(event = "compressed_answer_charged", "an answer is compressed, so its hold is charged");
    let ending = Ending { note: Some("the answer was compressed"), ..exchange.ending() };
    in_flight.settled(&reservation.assume(ending));
    in_flight.ended("ok");
}

/// The event stream of an answer, which is settled by its events or goes on in the background.
fn streamed(
    guard: &Arc<Guard>,
    body: AnswerBody,
    metered: MeteredExchange,
    exchange: Exchange,
    policy: StreamPolicy,
    in_flight: InFlight,
) -> Answer {
    let MeteredExchange { reservation, bill, usage, cuts, recording, background, .. } = metered;
    let hide = if usage == StreamUsage::Hidden { Hide::InjectedUsage } else { Hide::Nothing };
    let mut sse = bill.operation.tap(hide, EVENT_BYTES_MAX);
    if usage == StreamUsage::Priced {
        sse.hold_last_usage();
    }
    if let Some(beginning) = background {
        let unnamed = Unnamed { beginning: *beginning, reservation, exchange, recording };
        let stream = BackgroundStream::beginning(body, sse, unnamed, in_flight, policy);
        return Answer::Background(Box::new(stream));
    }
    let guard = Arc::clone(guard);
    let tap = Tap::new(body, sse, reservation, bill, exchange, in_flight, guard, policy, cuts, recording);
    Answer::Tapped(Box::new(tap))
}

/// An exchange that upstream, or something before it, answered with an error.
pub(super) struct Unserved {
    pub(super) reservation: Reservation,
    pub(super) exchange: Exchange,
    pub(super) in_flight: InFlight,
    pub(super) idle: Duration,
}

impl Unserved {
    /// Passes the error on and ends the hold.
    ///
    /// Upstream bills nothing for what it refused, and neither for its own errors.
    /// But a 5xx in another form than OpenAI's is a gateway's on the way, behind
    /// which the request may have been served: it counts as sent and lost.
    pub(super) async fn pass_on(
        self,
        head: http::response::Parts,
        body: AnswerBody,
    ) -> Result<Response<Answer>, (Refusal, InFlight)> {
        let Self { reservation, exchange, mut in_flight, idle } = self;
        if !head.status.is_server_error() {
            in_flight.settled(&reservation.release(exchange.ending()));
            in_flight.ended("upstream_error");
            return Ok(Response::from_parts(head, Answer::Plain(body)));
        }
        let note = Some("a 5xx that is not OpenAI's");
        let Ok(bytes) = body::read(body, Bounds::answer(ERROR_BYTES_MAX, idle)).await else {
            in_flight.settled(&reservation.assume(Ending { note, ..exchange.ending() }));
            return Err((BROKEN_OFF, in_flight));
        };
        let settled = if usage::is_error_envelope(&bytes) {
            reservation.release(exchange.ending())
        } else {
            tracing::warn!(
                event = "gateway_error_charged",
                status = exchange.status,
                "a 5xx is not OpenAI's, so the hold is charged"
            );
            reservation.assume(Ending { note, ..exchange.ending() })
        };
        in_flight.settled(&settled);
        in_flight.ended("upstream_error");
        Ok(Response::from_parts(head, Answer::whole(bytes)))
    }
}

/// Reads a JSON answer whole, settles by the usage in it, and records what it makes. One that
/// goes on in the background is not settled.
async fn whole(
    body: AnswerBody,
    metered: Box<MeteredExchange>,
    mut exchange: Exchange,
    (policy, gone): (&StreamPolicy, &AtomicBool),
    in_flight: &mut InFlight,
) -> Result<(Bytes, Option<(usage::Outcome, headers::Amounts)>), Refusal> {
    let key = Arc::clone(&metered.reservation.hold().attribution.key);
    let bytes = match body::read(body, Bounds::paid_answer(ANSWER_BYTES_MAX, policy.idle, key)).await {
        Ok(bytes) => bytes,
        Err(error) => {
            // It was sent and its end is lost: the hold is charged.
            tracing::warn!(
                event = "metered_answer_failed",
                ?error,
                "an answer was cut off, so its hold is charged"
            );
            in_flight.settled(&metered.reservation.assume(exchange.ending()));
            return Err(BROKEN_OFF);
        }
    };
    let MeteredExchange { reservation, mut bill, recording, background, .. } = *metered;
    exchange.ttft = Some(reservation.age());
    exchange.disconnected = gone.load(Ordering::Relaxed);
    let answer = bill.operation.answer(&bytes);
    if let Some(beginning) = background.filter(|_| ResponseState::of(&bytes) != ResponseState::Ended) {
        let following = async move { beginning.follow(reservation, recording, &answer, exchange).await };
        in_a_task(&policy.tracker, following).await;
        return Ok((bytes, None));
    }
    bill.reused = recording.as_ref().map(|recording| recording.reused(&answer));
    let settled =
        bill.end(reservation, &answer, exchange, || bill.count_output(&bill.operation.output_text(&bytes)));
    in_flight.settled(&settled);
    let (outcome, amounts) = (answer.outcome, (settled.cost, settled.remaining));
    if let Some(recorded) = recording.and_then(|recording| recording.over(&answer)) {
        drop(answer);
        recorded.await;
    }
    Ok((bytes, Some((outcome, amounts))))
}

/// Waits for the answer of a request, and notes how long it took.
pub async fn answered(
    sending: impl Future<Output = Result<Response<AnswerBody>, SendError>>,
    in_flight: &mut InFlight,
) -> Result<Response<AnswerBody>, SendError> {
    let began = in_flight.age();
    let answer = sending.await.and_then(final_one);
    let took = in_flight.age().saturating_sub(began);
    let status = answer.as_ref().map_or("none", |answer| class(answer.status().as_u16()));
    in_flight.upstream_answered(status, took);
    answer.inspect_err(|error| {
        tracing::warn!(event = "upstream_request_failed", %error, sent = error.sent, "no answer from upstream");
    })
}

/// After a 101 the connection is not HTTP, and no client requested that.
fn final_one(answer: Response<AnswerBody>) -> Result<Response<AnswerBody>, SendError> {
    if answer.status().is_informational() {
        let detail = format!("it answered {}", answer.status());
        return Err(SendError { kind: SendErrorKind::Broken, sent: true, detail });
    }
    Ok(answer)
}

/// The class of a status, for metrics.
pub(super) fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

pub(super) fn end_unanswered(reservation: Reservation, error: &SendError) -> Settled {
    if error.sent {
        reservation.assume(Exchange::default().ending())
    } else {
        reservation.release(Exchange::default().ending())
    }
}

/// Whether a body is an event stream. Where one was asked for, anything but JSON and sound is
/// taken for one: some servers leave the type out, or say `text/plain`.
fn is_event_stream(head: &HeaderMap, was_asked: bool) -> bool {
    let is_other = is_json(head) || headers::has_type(head, b"audio/");
    headers::has_type(head, b"text/event-stream") || (was_asked && !is_other)
}

/// Whether a body is JSON.
fn is_json(head: &HeaderMap) -> bool {
    headers::has_type(head, b"application/json")
}
