//! The proxy: the whole route of a request on one screen.
//!
//! Every path is one of three: metered, free, or refused. Nothing goes upstream
//! before its hold is in the database, and whatever happens afterwards ends the
//! hold once.

pub mod accrual;
pub mod admit;
pub mod answer;
pub mod asking;
pub mod auth;
pub mod background;
pub mod batches;
pub mod bill;
pub mod body;
mod client_secret;
pub mod conceal;
pub mod cors;
pub mod count;
mod detached;
pub mod exchange;
mod free;
pub mod headers;
mod hosted;
pub mod in_flight;
mod job;
mod lists;
mod mask;
mod models;
mod outgoing;
mod own;
mod pace;
pub mod permit;
mod prepare;
pub mod query;
pub mod reading;
pub mod receive;
pub mod record;
pub mod refuse;
mod room;
pub mod route;
mod rules;
mod secret_requests;
mod socket;
pub mod tags;
pub mod tap;
pub mod unpack;
mod upload;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::guard::{Guard, RateCheck};
use crate::protocol::openai::endpoint::{self, Endpoint};
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::cors::{Grant, Preflight};
use crate::proxy::detached::DetachOnDrop;
use crate::proxy::in_flight::{InFlight, RequestIds};
use crate::proxy::outgoing::{Content, outgoing};
use crate::proxy::prepare::AdmittedRequest;
use crate::proxy::refuse::Refusal;
pub use crate::proxy::rules::Rules;
use crate::proxy::tap::StreamPolicy;
use crate::startup::Opened;
use crate::upstream::Upstream;

/// How long an exchange goes on without its client where upstream's answer matters to the guard.
const WITHOUT_CLIENT_MAX: Duration = Duration::from_secs(600);

/// One shard of the proxy: shared state, and its number.
#[derive(Debug)]
pub struct Proxy {
    /// Admission.
    pub guard: Arc<Guard>,
    /// Finds the owner of a key, and answers self-service questions about limits and spending.
    pub opened: Opened,
    /// The rules in force.
    pub rules: Arc<ArcSwap<Rules>>,
    /// Which shard it is, from 0 on.
    pub shard: usize,
    /// Ids of requests.
    pub ids: Arc<RequestIds>,
    /// Owner of the exchanges that outlive their clients.
    pub tracker: TaskTracker,
    /// Becomes true when no new requests are accepted.
    pub stop: watch::Receiver<bool>,
}

/// A refusal, with the request that it ends.
type Failed = (Refusal, InFlight);

impl Proxy {
    /// This shard's connections to upstream.
    fn upstream<'a>(&self, rules: &'a Rules) -> &'a Arc<Upstream> {
        &rules.upstreams[self.shard]
    }

    /// Serves one request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let path = request.uri().path();
        let health = || route::health(request.method(), path, || self.guard.core().is_healthy());
        if let Some(answer) = route::root(request.method(), path).or_else(health) {
            return self.identified(answer);
        }
        let rules = self.rules.load_full();
        let is_framed_oddly = receive::is_framed_oddly(request.headers());
        let grant = rules.cors.grant(request.headers());
        let preflight = Preflight::of(request.method(), request.headers());
        let mut response = match preflight.filter(|_| grant.as_ref().is_some_and(Grant::is_allowed)) {
            Some(preflight) => self.identified(preflight.answer()),
            None => self.answer(&rules, request).await,
        };
        if is_framed_oddly {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(grant) = grant {
            grant.put_on(response.headers_mut());
        }
        response
    }

    /// An answer of the guard's own with an id, as all others have.
    fn identified(&self, mut response: Response<Answer>) -> Response<Answer> {
        response.headers_mut().insert("x-request-id", self.ids.next());
        response
    }

    async fn answer(self: &Arc<Self>, rules: &Arc<Rules>, request: Request<Incoming>) -> Response<Answer> {
        let (clock, metrics) = (Arc::clone(self.guard.clock()), Arc::clone(self.guard.metrics()));
        let trace = rules.tracer.as_ref().map(|tracer| tracer.begin(request.method(), request.headers()));
        let in_flight = InFlight::new(&self.ids, clock, metrics, trace);
        let request_id = in_flight.request_id.clone();
        let mut response = match self.serve(rules, request, in_flight).await {
            Ok(response) => response,
            Err((refusal, in_flight)) => self.refuse(rules, &refusal, in_flight),
        };
        // Every answer can be named in a report: by upstream's id, else by the guard's.
        if response.headers().get("x-request-id").is_none_or(HeaderValue::is_empty) {
            response.headers_mut().insert("x-request-id", request_id);
        }
        response
    }

    async fn serve(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        request: Request<Incoming>,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let (mut head, body) = request.into_parts();
        let (caller, endpoint, deployment) = match self.routed(rules, &mut head, &mut in_flight).await {
            Ok(routed) => routed,
            Err(refusal) => {
                body::discard_unless_awaited(&head.headers, body).await;
                if refusal.is_wrong_key() {
                    tokio::time::sleep(self.guard.note_wrong_key()).await;
                }
                return Err((refusal, in_flight));
            }
        };
        if let Endpoint::Upload(upload) = endpoint
            && upload::is_streamed(upload, &head.headers)
        {
            return Box::pin(self.upload(rules, upload, (head, body), caller, in_flight)).await;
        }
        let body = match receive::read(&self.guard, body, &head, rules, &caller).await {
            Ok(body) => body,
            Err(refusal) => return Err((refusal, in_flight)),
        };
        match endpoint {
            Endpoint::Socket(of, form) => {
                Box::pin(self.open_socket(rules, (of, form), head, caller, in_flight)).await
            }
            Endpoint::ClientSecret => {
                self.answer_with_secret(rules, (&head, &body), &caller, in_flight).await
            }
            Endpoint::SelfService(own) => self.answer_own(rules, own, (&head, &caller), in_flight).await,
            Endpoint::Batch => Box::pin(self.batch(rules, (head, body), caller, in_flight)).await,
            // Boxed, so that metered requests don't have its size.
            Endpoint::Free(_) | Endpoint::Allowed | Endpoint::Upload(_) => {
                Box::pin(self.forward_free(rules, (head, body), caller, in_flight)).await
            }
            Endpoint::Hosted(of, _) => Box::pin(self.host(rules, of, (head, body), caller, in_flight)).await,
            Endpoint::Metered(operation) => {
                let prepared = async {
                    let body = match deployment {
                        Some(named) => self.with_deployment(operation, &head.headers, &body, named).await?,
                        None => body,
                    };
                    self.prepare(rules, operation, &head, body, &caller, &mut in_flight).await
                };
                match prepared.await {
                    Ok(prepared) => self.forward(rules, head, prepared, caller, in_flight).await,
                    Err(refusal) => Err((refusal, in_flight)),
                }
            }
        }
    }

    /// Finds who asks for what, and whether that may be asked for; its body is not read yet.
    async fn routed(
        &self,
        rules: &Rules,
        head: &mut http::request::Parts,
        in_flight: &mut InFlight,
    ) -> Result<(Caller, Endpoint, Option<String>), Refusal> {
        receive::well_formed(head)?;
        let caller = self.caller(rules, &head.headers).await?;
        in_flight.called_by(&caller, &head.headers);
        let (endpoint, deployment) = route::routed(rules, head, &caller)?;
        in_flight.endpoint = route::label(&endpoint);
        caller.may_request(endpoint, self.guard.clock().now_s())?;
        self.refuse_stopped(&endpoint, &caller).await?;
        Ok((caller, endpoint, deployment))
    }

    /// Finds the caller. A key that is not known here, or not valid any more, may have been made
    /// or changed on another guard a moment ago. It works at its first use, so such a key may cause
    /// a look at the database, and anybody can send one; therefore those who do so at the same time
    /// share a look, and looks are bounded in time. A text that can be no key causes none.
    async fn caller(&self, rules: &Rules, headers: &http::HeaderMap) -> Result<Caller, Refusal> {
        let find = || {
            let (directory, key) = (&self.opened.directory, rules.upstream_key.as_ref());
            auth::caller(headers, directory, key, rules.pass_through)
        };
        match find() {
            Err(refusal)
                if refusal.is_wrong_key() && self.guard.core().is_shared() && auth::may_be_newer(headers) =>
            {
                let are_read = self.guard.core().look_for_rules().await;
                // A key is wrong if no guard knows it, not if the database is away.
                find().map_err(|refusal| if are_read { refusal } else { Refusal::LedgerUnavailable })
            }
            found => found,
        }
    }

    /// Forwards an unmetered request, and masks the account in its answer.
    async fn forward_free(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        (head, body): (http::request::Parts, Bytes),
        caller: Caller,
        in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let pass_through = caller.key.pass_through;
        let shows_content = endpoint::shows_content(head.uri.path());
        let answer = self.free(rules, (head, body), caller, in_flight).await?;
        if shows_content && answer.status().is_success() {
            return Ok(answer);
        }
        self.concealed(rules, Ok(answer), pass_through).await
    }

    /// Runs an exchange to its end, whether its client stays or leaves.
    async fn to_its_end<T>(&self, exchange: Pin<Box<impl Future<Output = T> + Send + 'static>>) -> T {
        let gone = Arc::new(AtomicBool::new(false));
        DetachOnDrop::new(exchange, gone, Some(WITHOUT_CLIENT_MAX), self.tracker.clone()).await
    }

    /// Sends an admitted request; the exchange outlives a client that leaves.
    async fn forward(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        head: http::request::Parts,
        admitted: AdmittedRequest,
        caller: Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        in_flight.admitted(admitted.exchange.reservation.hold());
        let outgoing = outgoing(rules, head, admitted.body, &caller, admitted.content, &in_flight);
        let pass_through = caller.key.pass_through;
        let policy =
            StreamPolicy { drain: rules.drain, idle: rules.answer_idle, tracker: self.tracker.clone() };
        let gone = Arc::new(AtomicBool::new(false));
        let (shard, left) = (Arc::clone(self), Arc::clone(&gone));
        let upstream = Arc::clone(self.upstream(rules));
        let exchange = async move {
            let mut metered = admitted.exchange;
            metered.reservation.mark_sent();
            // Pinned here, since each future that takes another one by value has room for it twice.
            let answer = exchange::answered(pin!(outgoing.send(&upstream)), &mut in_flight).await;
            let answer = exchange::metered(&shard.guard, answer, metered, policy, in_flight, &left).await;
            if caller.unseen.is_some() {
                Box::pin(shard.remember(&caller, is_accepted(&answer))).await;
            }
            answer
        };
        let answer = DetachOnDrop::new(Box::pin(exchange), gone, rules.drain, self.tracker.clone()).await;
        self.concealed(rules, answer, pass_through).await
    }

    /// Returns an answer as the client may see it: the guard's own account is masked,
    /// and a refusal of the guard's own key is not passed on as the client's fault.
    async fn concealed(
        &self,
        rules: &Rules,
        answer: Result<Response<Answer>, Failed>,
        pass_through: bool,
    ) -> Result<Response<Answer>, Failed> {
        let answer = answer?;
        let Some(key) = rules.own_secret(pass_through) else { return Ok(answer) };
        let is_success = answer.status().is_success();
        let is_plain = matches!(answer.body(), Answer::Plain(_));
        if is_success && !is_plain {
            return Ok(conceal::answer(answer, key));
        }
        let id = answer.headers().get("x-request-id").cloned();
        // Boxed, so that metered requests that succeed don't have its size.
        let concealed = if is_success {
            Box::pin(conceal::plain(answer, key, rules.answer_idle)).await
        } else {
            Box::pin(conceal::error(answer, key, rules.answer_idle)).await
        };
        Ok(concealed.unwrap_or_else(|refusal| {
            let id = id.unwrap_or(HeaderValue::from_static("req_unknown"));
            refusal.response(rules.refuse, self.guard.clock().now_s(), &id).map(Answer::whole)
        }))
    }

    /// Lists a client's own key once upstream has accepted it.
    async fn remember(&self, caller: &Caller, is_accepted: bool) {
        let Some(redacted) = caller.unseen.clone().filter(|_| is_accepted) else { return };
        if let Err(error) = self.opened.directory.remember_pass_through(caller.key.hash, redacted).await {
            tracing::warn!(
                event = "pass_through_key_not_written", %error,
                "a pass-through key could not be listed"
            );
        }
    }

    fn refuse(&self, rules: &Rules, refusal: &Refusal, mut in_flight: InFlight) -> Response<Answer> {
        let now_s = self.guard.clock().now_s();
        let response = refusal.response(rules.refuse, now_s, &in_flight.request_id);
        let limit = refusal.limit().map(|limit| &limit.name);
        let key = in_flight.key.as_ref().map(|key| &key.id);
        if refusal.is_wrong_key() {
            // A client that tries keys must not displace the rejections that operators look for.
            self.guard.metrics().rejected("", refusal.reason());
        } else {
            self.guard.note_rejection(key, in_flight.endpoint, refusal.reason(), limit);
        }
        if let Refusal::Denied(denial, _) = refusal {
            self.guard.core().note_denial(denial);
        }
        in_flight.status = response.status().as_u16();
        in_flight.refused(refusal);
        in_flight.ended("refused");
        response.map(Answer::whole)
    }
}

fn is_accepted(answer: &Result<Response<Answer>, Failed>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.status().is_success())
}

fn rate_headers(rate_check: &RateCheck) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for left in rate_check.left() {
        refuse::rate_headers(&mut headers, left);
    }
    headers
}
