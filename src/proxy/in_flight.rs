//! One request from arrival to end: its id, and what is known of it, of which its log line, its
//! count and its span are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::clock::Clock;
use crate::domain::Money;
use crate::guard::Settled;
use crate::guard::sockets::OpenSocket;
use crate::keys::Key;
use crate::ledger::entry::Hold;
use crate::metrics::{Metrics, RequestLabels};
use crate::protocol::openai::operation::Operation;
use crate::proxy::auth::Caller;
use crate::proxy::headers::holds_key;
use crate::proxy::refuse::Refusal;
use crate::telemetry::Trace;
use crate::telemetry::trace_context::{TRACEPARENT, write_hex};

/// Makes request ids that differ between runs: a random start, then a count.
#[derive(Debug)]
pub struct RequestIds(AtomicU64);

impl RequestIds {
    /// Ids from a random start.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self(AtomicU64::new(getrandom::u64()?)))
    }

    /// The next one.
    pub fn next(&self) -> HeaderValue {
        let id = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut text = *b"req_0123456789abcdef";
        write_hex(&mut text, "req_".len(), &id.to_be_bytes());
        HeaderValue::from_bytes(&text).expect("hexadecimal digits fit a header")
    }
}

/// A request being served. Dropped before it has ended, it was cancelled.
#[derive(Debug)]
pub struct InFlight {
    /// The id that the client sees, unless upstream gives one.
    pub request_id: HeaderValue,
    /// The endpoint's label; `other` until it is known.
    pub endpoint: &'static str,
    /// The caller's key, once it is known.
    pub key: Option<Arc<Key>>,
    /// Whether upstream has yet to accept that key, which a client may have made up.
    pub is_unseen: bool,
    /// The status that the client gets.
    pub status: u16,
    /// What it was charged, as far as its hold has ended.
    cost: Money,
    /// Its span, where requests are exported.
    pub trace: Option<Trace>,
    /// The socket that it came on.
    pub socket: Option<Arc<OpenSocket>>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    arrived: Duration,
    ended: bool,
}

impl InFlight {
    /// A request that has just arrived.
    pub fn new(ids: &RequestIds, clock: Arc<Clock>, metrics: Arc<Metrics>, trace: Option<Trace>) -> Self {
        metrics.inflight().inc();
        let arrived = clock.running();
        let request_id = ids.next();
        Self {
            request_id,
            endpoint: "other",
            key: None,
            is_unseen: false,
            status: 0,
            cost: Money::ZERO,
            trace,
            socket: None,
            clock,
            metrics,
            arrived,
            ended: false,
        }
    }

    /// Time since the request arrived.
    pub fn age(&self) -> Duration {
        self.clock.running().saturating_sub(self.arrived)
    }

    /// Records upstream's response head: the class of its status, and the time until it.
    pub fn upstream_answered(&self, status: &str, took: Duration) {
        self.metrics.upstream_answered(self.endpoint, status, took);
    }

    /// Notes the caller. A trace whose ids contain the caller's key is not continued.
    pub fn called_by(&mut self, caller: &Caller, headers: &HeaderMap) {
        self.key = Some(Arc::clone(&caller.key));
        self.is_unseen = caller.unseen.is_some();
        if let Some(trace) = &mut self.trace {
            let ids = headers.get_all(TRACEPARENT);
            if ids.iter().any(|ids| holds_key(ids.as_bytes(), caller.secret.expose())) {
                trace.restart();
            }
        }
    }

    /// Notes what a metered request asks for. A model that contains a key is not shown.
    pub fn asks(&mut self, operation: &Operation, model: &str, caller: &Caller) {
        if let Some(trace) = self.trace.as_mut().filter(|trace| trace.is_sampled()) {
            let is_shown = !holds_key(model.as_bytes(), caller.secret.expose());
            trace.span.asks(operation.gen_ai_name, is_shown.then_some(model));
        }
    }

    /// Records the hold that it was admitted with, and the time that the guard took before sending.
    pub fn admitted(&mut self, hold: &Hold) {
        self.metrics.overhead("admission", self.age());
        if let Some(socket) = &self.socket {
            socket.admitted(&hold.attribution.tags);
        }
        if let Some(trace) = &mut self.trace {
            trace.span.entry = Some(hold.id);
        }
    }

    /// Notes what the ending of its hold came to.
    pub fn settled(&mut self, settled: &Settled) {
        self.cost = settled.cost;
        if let Some(trace) = self.trace.as_mut().filter(|trace| trace.is_sampled()) {
            trace.span.settled = Some(settled.clone());
        }
    }

    /// Notes why it is refused. A client without a valid key decides nothing about traces.
    pub fn refused(&mut self, refusal: &Refusal) {
        let Some(trace) = &mut self.trace else { return };
        if self.key.is_none() {
            trace.restart();
        }
        trace.span.refusal = Some((refusal.reason(), refusal.limit().map(|limit| Arc::clone(&limit.name))));
    }

    /// It was no request: nothing was asked for with what was held for it.
    pub fn uncounted(mut self) {
        self.ended = true;
    }

    /// The request has ended: it is counted, logged and exported, once. The log has ids, amounts
    /// and the guard's own words, and nothing that a client wrote.
    pub fn ended(&mut self, outcome: &'static str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (project, key) = self.key.as_ref().map_or(("", ""), |key| (&*key.project, &*key.id));
        let took = self.age();
        let is_made_up = self.is_unseen && !(200..300).contains(&self.status);
        let label = if is_made_up { "" } else { key };
        self.metrics.ended(RequestLabels { project, key: label, endpoint: self.endpoint }, outcome);
        if let Some(socket) = &self.socket {
            socket.ended(self.cost);
        }
        tracing::info!(
            event = "request_ended",
            request = self.request_id.to_str().unwrap_or_default(),
            endpoint = self.endpoint,
            project,
            key,
            status = self.status,
            outcome,
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            usd = %self.cost,
            "request"
        );
        if let Some(mut trace) = self.trace.take().filter(Trace::is_sampled) {
            let span = &mut trace.span;
            (span.endpoint, span.status, span.outcome) = (self.endpoint, self.status, outcome);
            (span.ended, span.took) = (self.clock.exact(), took);
            span.request = Some(self.request_id.clone());
            span.key.clone_from(&self.key);
            trace.end();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.ended("cancelled");
        self.metrics.inflight().dec();
    }
}
