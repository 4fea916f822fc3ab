//! The side of the requests: begins a span, and queues it once the request has ended.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use tokio::sync::{Notify, mpsc};

use crate::metrics::{Metrics, SpanState};
use crate::telemetry::span::{Server, Span};
use crate::telemetry::trace_context::{Ids, Parent, TraceContext};

/// The spans of one batch.
pub(super) const BATCH: usize = 512;
/// The bits of a trace's id that decide whether it is recorded.
const RATIO_BITS: u32 = 56;

/// A part of all traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Traces are recorded whose last 56 bits are below it.
    below: u64,
}

impl Ratio {
    /// So many of so many, at most all.
    pub fn of(some: u64, all: u64) -> Self {
        let below = (u128::from(some) << RATIO_BITS) / u128::from(all.max(1));
        Self { below: u64::try_from(below).unwrap_or(u64::MAX) }
    }

    fn has(self, last_bits: u64) -> bool {
        last_bits < self.below
    }
}

/// The way to the task that sends spans.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) spans: mpsc::Sender<Box<Span>>,
    /// Called when a batch is there.
    pub(super) full: Arc<Notify>,
    pub(super) metrics: Arc<Metrics>,
}

/// Records the requests of one configuration.
#[derive(Debug)]
pub struct Tracer {
    ids: Arc<Ids>,
    ratio: Ratio,
    queue: Queue,
    server: Arc<Server>,
}

/// The trace of a request that is being served, and what its span says so far.
#[derive(Debug)]
pub struct Trace {
    tracer: Arc<Tracer>,
    /// The request's span.
    pub span: Box<Span>,
}

impl Tracer {
    pub(super) fn new(ids: Arc<Ids>, ratio: Ratio, queue: Queue, upstream: &Uri) -> Self {
        Self { ids, ratio, queue, server: Arc::new(Server::of(upstream)) }
    }

    /// Begins the span of a request: below its client's, else in a trace of its own.
    pub fn begin(self: &Arc<Self>, method: &Method, headers: &HeaderMap) -> Trace {
        let context = match Parent::of(headers) {
            Some(parent) => TraceContext::below(parent, &self.ids),
            None => self.root(),
        };
        Trace { tracer: Arc::clone(self), span: Box::new(Span::new(context, method)) }
    }

    fn root(&self) -> TraceContext {
        TraceContext::root(&self.ids, |last_bits| self.ratio.has(last_bits))
    }
}

impl Trace {
    /// Whether the span is recorded.
    pub fn is_sampled(&self) -> bool {
        self.span.context.is_sampled()
    }

    /// Puts the request into a trace of its own: its client's ids can't be passed on.
    pub fn restart(&mut self) {
        self.span.context = self.tracer.root();
    }

    /// Makes the span the parent of what upstream records of the request.
    pub fn put_on(&self, headers: &mut HeaderMap) {
        self.span.context.put_on(headers);
    }

    /// Queues the span of a request that has ended, or drops it if the queue is full.
    pub fn end(self) {
        let Self { tracer, mut span } = self;
        if !span.context.is_sampled() {
            return;
        }
        span.server = Some(Arc::clone(&tracer.server));
        let Queue { spans, full, metrics } = &tracer.queue;
        if spans.try_send(span).is_err() {
            metrics.spans(SpanState::Dropped, 1);
        }
        // The task looks by itself once a second, so that it is woken for whole batches only.
        if spans.max_capacity().saturating_sub(spans.capacity()) >= BATCH.min(spans.max_capacity()) {
            full.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_has_its_part_of_all_traces() {
        let ids = Ids::new().unwrap();
        let count = |some: u64| {
            let ratio = Ratio::of(some, 1_000);
            let sampled =
                (0..100_000).filter(|_| TraceContext::root(&ids, |bits| ratio.has(bits)).is_sampled());
            sampled.count()
        };
        assert_eq!((count(0), count(1_000)), (0, 100_000));
        // Six standard deviations of 100,000 draws.
        assert!((19_240..20_760).contains(&count(200)));
    }
}
