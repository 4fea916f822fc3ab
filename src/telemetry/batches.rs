//! Sends spans in batches.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::metrics::{Metrics, SpanState};
use crate::telemetry::collector::Collector;
use crate::telemetry::span::Span;
use crate::telemetry::stage::{Stage, ending};
use crate::telemetry::tracer::BATCH;
use crate::telemetry::wire::{Identity, scope};

/// The time after which a batch is sent that is not full.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// The spans that wait, and where they are sent.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) queue: mpsc::Receiver<Box<Span>>,
    pub(super) full: Arc<Notify>,
    pub(super) collector: Collector,
    pub(super) identity: Arc<Identity>,
    pub(super) metrics: Arc<Metrics>,
}

impl Batches {
    /// Sends until the guard ends, or no request has a place in the queue any more.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                () = sleep(BATCH_WAIT) => {}
                () = self.full.notified() => {}
                () = ending(&mut self.collector.stages) => {}
            }
            let is_last = self.queue.is_closed() || self.is_ending();
            while let Some(batch) = self.next() {
                // A collector that fails now does not delay the guard's end by each batch.
                if !self.send(&batch).await && self.is_ending() {
                    return;
                }
            }
            if is_last {
                return;
            }
        }
    }

    fn is_ending(&self) -> bool {
        *self.collector.stages.borrow() == Stage::Ending
    }

    /// The next batch, if any span waits.
    fn next(&mut self) -> Option<Vec<Span>> {
        let batch: Vec<_> =
            std::iter::from_fn(|| self.queue.try_recv().ok().map(|span| *span)).take(BATCH).collect();
        (!batch.is_empty()).then_some(batch)
    }

    /// Sends a batch; returns whether the collector took it.
    async fn send(&mut self, batch: &[Span]) -> bool {
        let spans = ScopeSpans {
            scope: Some(scope()),
            spans: batch.iter().map(Span::to_wire).collect(),
            ..ScopeSpans::default()
        };
        let resource = Some(self.identity.resource());
        let all = ResourceSpans { resource, scope_spans: vec![spans], ..ResourceSpans::default() };
        let message = ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec();
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let Some(answer) = self.collector.send(message).await else {
            self.metrics.spans(SpanState::Failed, count);
            return false;
        };
        // An answer in another form says nothing of rejected spans.
        let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        let partly = answer.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partly.rejected_spans).unwrap_or(0).min(count);
        self.collector.took(rejected, &partly.error_message);
        self.metrics.spans(SpanState::Failed, rejected);
        self.metrics.spans(SpanState::Exported, count - rejected);
        true
    }
}
