//! One request from arrival to end: its id, its log line, its count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;

use crate::clock::Clock;
use crate::domain::Money;
use crate::keys::Key;
use crate::metrics::{Metrics, RequestLabels};

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
        HeaderValue::from_str(&format!("req_{id:016x}")).expect("hexadecimal digits fit a header")
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
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    arrived: Duration,
    ended: bool,
}

impl InFlight {
    /// A request that has just arrived.
    pub fn new(ids: &RequestIds, clock: Arc<Clock>, metrics: Arc<Metrics>) -> Self {
        metrics.inflight().inc();
        let arrived = clock.running();
        let request_id = ids.next();
        Self {
            request_id,
            endpoint: "other",
            key: None,
            is_unseen: false,
            status: 0,
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

    /// Records the time that the guard took before sending.
    pub fn admitted(&self) {
        self.metrics.overhead("admission", self.age());
    }

    /// The request has ended: it is counted and logged, once. The log has ids, amounts and the
    /// guard's own words, and nothing that a client wrote.
    pub fn ended(&mut self, outcome: &str, cost: Option<Money>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (project, key) = self.key.as_ref().map_or(("", ""), |key| (&*key.project, &*key.id));
        let is_made_up = self.is_unseen && !(200..300).contains(&self.status);
        let label = if is_made_up { "" } else { key };
        self.metrics.ended(RequestLabels { project, key: label, endpoint: self.endpoint }, outcome);
        tracing::info!(
            event = "request_ended",
            request = self.request_id.to_str().unwrap_or_default(),
            endpoint = self.endpoint,
            project,
            key,
            status = self.status,
            outcome,
            ms = u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX),
            usd = %cost.unwrap_or_default(),
            "request"
        );
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.ended("cancelled", None);
        self.metrics.inflight().dec();
    }
}
