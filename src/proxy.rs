//! The proxy: a request's whole way on one screen.
//!
//! Every path is one of three: metered, free, or refused. Nothing goes upstream
//! before its hold is in the database, and whatever happens afterwards ends the
//! hold once.

pub mod admit;
pub mod auth;
pub mod bill;
pub mod body;
pub mod count;
pub mod exchange;
mod free;
pub mod headers;
mod lists;
pub mod own;
mod prepare;
pub mod record;
pub mod refuse;
pub mod tap;
pub mod visit;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use crate::guard::Guard;
use crate::openai::endpoint::{self, Endpoint, Own};
use crate::pricing::sheet::Sheet;
use crate::proxy::auth::Caller;
use crate::proxy::body::{Answer, Bounds, ReadError};
use crate::proxy::exchange::{Outgoing, Surviving};
use crate::proxy::prepare::Prepared;
use crate::proxy::refuse::Refusal;
use crate::proxy::tap::Manner;
use crate::proxy::visit::{RequestIds, Visit};
use crate::throttle::Paced;
use crate::upstream::Upstream;

/// The rules that one configuration makes; a reload replaces them whole.
#[derive(Debug)]
pub struct Rules {
    /// The largest request body.
    pub request_body_bytes_max: usize,
    /// The longest wait for a step of a request body.
    pub request_idle: Duration,
    /// The longest silence of an answer.
    pub answer_idle: Duration,
    /// The authorization of the guard's own upstream key.
    pub upstream_key: Option<HeaderValue>,
    /// Whether clients may send their own OpenAI keys.
    pub pass_through: bool,
    /// Endpoints that the operator forwards unmetered.
    pub allowed: Vec<(Method, String)>,
    /// Whether projects share the objects that they made at upstream.
    pub shared_objects: bool,
    /// How tight admissions are handled.
    pub admit: admit::Config,
    /// Whether to read on when a client has gone, and for how long at most.
    pub drain: Option<Duration>,
    /// Whether a model without a price is charged as the dearest.
    pub unknown_as_dearest: bool,
    /// How refusals are worded.
    pub refuse: refuse::Config,
    /// The prices.
    pub sheet: Arc<Sheet>,
}

/// One shard of the proxy: shared state, and a pool of upstream connections.
#[derive(Debug)]
pub struct Proxy {
    /// The guard.
    pub guard: Arc<Guard>,
    /// The rules in force.
    pub rules: Arc<ArcSwap<Rules>>,
    /// Where requests go.
    pub upstream: ArcSwap<Upstream>,
    /// Ids of requests.
    pub ids: Arc<RequestIds>,
    /// Owner of the exchanges that outlive their clients.
    pub tracker: TaskTracker,
}

/// A refusal, with the visit it ends.
type Failed = (Refusal, Visit);

impl Proxy {
    /// Serves one request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let rules = self.rules.load_full();
        let (clock, metrics) = (Arc::clone(self.guard.clock()), Arc::clone(self.guard.metrics()));
        let visit = Visit::new(&self.ids, clock, metrics);
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let mut response = match self.serve(&rules, request, visit).await {
            Ok(response) => response,
            Err((refusal, visit)) => self.refuse(&rules, &refusal, visit),
        };
        if is_chunked {
            // hyper drops a Content-Length beside it unseen. Who believed that one
            // would see another request in what follows, so nothing may.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn serve(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        request: Request<Incoming>,
        mut visit: Visit,
    ) -> Result<Response<Answer>, Failed> {
        let (head, body) = request.into_parts();
        if head.method == Method::GET && head.uri.path() == "/" {
            // A person or a probe that has no key is told what this is, too.
            visit.endpoint = label(&Endpoint::Own(Own::Root));
            return Ok(json(own::ROOT.into(), visit));
        }
        let caller = well_formed(&head).and_then(|()| {
            auth::caller(&head.headers, &self.guard, rules.upstream_key.as_ref(), rules.pass_through)
        });
        let caller = match caller {
            Ok(caller) => caller,
            Err(refusal) => {
                body::discard_unless_awaited(&head.headers, body).await;
                return Err((refusal, visit));
            }
        };
        visit.key = Some(Arc::clone(&caller.key));
        let endpoint = classified(rules, &head.method, head.uri.path());
        visit.endpoint = label(&endpoint);
        match endpoint {
            Endpoint::Own(own) => {
                let query = head.uri.query().unwrap_or_default();
                match own::answer(&self.guard, own, &caller.key, query).await {
                    Ok(bytes) => Ok(json(bytes, visit)),
                    Err(refusal) => Err((refusal, visit)),
                }
            }
            Endpoint::Refused => {
                body::discard_unless_awaited(&head.headers, body).await;
                let endpoint = format!("{} {}", head.method, bounded(head.uri.path()));
                Err((Refusal::EndpointNotAllowed(endpoint), visit))
            }
            Endpoint::Free(_) => {
                let body = read(body, rules).await;
                match body {
                    // Boxed, so that metered requests don't have its size.
                    Ok(body) => Box::pin(self.free(rules, (head, body), caller, visit)).await,
                    Err(refusal) => Err((refusal, visit)),
                }
            }
            Endpoint::Metered(metered) => {
                let prepared = async {
                    let body = read(body, rules).await?;
                    self.prepare(rules, metered, &head, body, &caller).await
                };
                match prepared.await {
                    Ok(prepared) => self.forward(rules, head, prepared, caller, visit).await,
                    Err(refusal) => Err((refusal, visit)),
                }
            }
        }
    }

    /// Sends an admitted request; the exchange outlives a client that leaves.
    async fn forward(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        head: http::request::Parts,
        prepared: Prepared,
        caller: Caller,
        visit: Visit,
    ) -> Result<Response<Answer>, Failed> {
        visit.admitted();
        let outgoing = outgoing(head, prepared.body, &caller, true);
        let manner = Manner {
            drain: rules.drain,
            idle: rules.answer_idle,
            cut_at_tokens: None,
            tracker: self.tracker.clone(),
        };
        let gone = Arc::new(AtomicBool::new(false));
        let (shard, left) = (Arc::clone(self), Arc::clone(&gone));
        let exchange = async move {
            let upstream = shard.upstream.load_full();
            let metering = prepared.metering;
            let answer =
                exchange::metered(&shard.guard, &upstream, outgoing, metering, manner, visit, &left).await;
            if caller.unseen.is_some() {
                let is_accepted = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
                Box::pin(shard.remember(&caller, is_accepted)).await;
            }
            answer
        };
        Surviving::new(exchange, gone, rules.drain, self.tracker.clone()).await
    }

    /// Lists a client's own key once upstream has accepted it.
    async fn remember(&self, caller: &Caller, is_accepted: bool) {
        let Some(redacted) = caller.unseen.clone().filter(|_| is_accepted) else { return };
        if let Err(error) = self.guard.remember_pass_through(caller.key.hash, redacted).await {
            tracing::warn!(%error, "a pass-through key could not be listed");
        }
    }

    fn refuse(&self, rules: &Rules, refusal: &Refusal, mut visit: Visit) -> Response<Answer> {
        let now_s = self.guard.clock().now_s();
        let response = refusal.response(rules.refuse, now_s, &visit.request_id);
        let limit = refusal.limit().map(|limit| &limit.name);
        let key = visit.key.as_ref().map(|key| &key.id);
        self.guard.note_refusal(key, visit.endpoint, refusal.reason(), limit);
        if let Refusal::Denied(denial) = refusal {
            self.guard.note_denial(denial);
        }
        visit.status = response.status().as_u16();
        visit.ended("refused", None);
        response.map(Answer::whole)
    }
}

const SHOWN_CHARS_MAX: usize = 200;

/// A client's text as far as it is shown back.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}

fn label(endpoint: &Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Metered(metered) => metered.name(),
        Endpoint::Free(label) => label,
        Endpoint::Own(_) => "own",
        Endpoint::Refused => "refused",
    }
}

/// What a path is; one that would be refused may be allowed by the operator.
fn classified(rules: &Rules, method: &Method, path: &str) -> Endpoint {
    let endpoint = endpoint::classify(method, path);
    let allowed = |(known, pattern): &(Method, String)| known == method && endpoint::is_of(pattern, path);
    let is_refused = matches!(endpoint, Endpoint::Refused) && !endpoint::looks_metered(path);
    if is_refused && rules.allowed.iter().any(allowed) {
        return Endpoint::Free("allowed");
    }
    endpoint
}

/// Refuses what upstream might read as another request than we do.
fn well_formed(head: &http::request::Parts) -> Result<(), Refusal> {
    let wrong = |message: &str| Err(Refusal::Invalid(message.to_owned(), None));
    let h1 = head.version <= Version::HTTP_11;
    if h1 && head.uri.authority().is_some() {
        return wrong("The request target must be a path, not a whole URL.");
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return wrong("Transfer-Encoding must be chunked, and nothing else.");
    }
    if headers::is_encoded(&head.headers) {
        return wrong("Compressed request bodies are not accepted.");
    }
    if head.headers.get_all(header::AUTHORIZATION).iter().count() > 1 {
        return wrong("More than one Authorization header was sent.");
    }
    Ok(())
}

async fn read(incoming: Incoming, rules: &Rules) -> Result<Bytes, Refusal> {
    let max = rules.request_body_bytes_max;
    body::read(incoming, Bounds::request(max, rules.request_idle)).await.map_err(|error| match error {
        ReadError::TooLarge => Refusal::TooLarge(max),
        ReadError::NoRoom => Refusal::Overloaded,
        ReadError::TooSlow => Refusal::TooSlow,
        ReadError::Broken(_) => Refusal::Invalid("The request body broke off.".to_owned(), None),
    })
}

/// What goes upstream. A metered body was read as JSON, so it is sent as JSON.
fn outgoing(head: http::request::Parts, body: Bytes, caller: &Caller, as_json: bool) -> Outgoing {
    let suffix = suffix(&head.uri);
    let mut headers = head.headers;
    headers::to_upstream(&mut headers, caller.authorization.clone(), !caller.key.pass_through);
    if as_json {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Outgoing { method: head.method, suffix, headers, body }
}

fn suffix(uri: &Uri) -> String {
    let path = endpoint::canonical(uri.path());
    uri.query().map_or_else(|| path.to_string(), |query| format!("{path}?{query}"))
}

fn rate_headers(paced: &Paced) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for left in &paced.left {
        refuse::rate_headers(&mut headers, left);
    }
    headers
}

fn json(bytes: Bytes, mut visit: Visit) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert("x-request-id", visit.request_id.clone());
    visit.status = 200;
    visit.ended("ok", None);
    response
}
