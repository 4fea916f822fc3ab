//! Sends the series of `/metrics` at intervals.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use prost::Message as _;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::telemetry::Gather;
use crate::telemetry::collector::Collector;
use crate::telemetry::points::{self, Interval};
use crate::telemetry::stage::Stage;
use crate::telemetry::wire::{Identity, nanos, scope};

/// The points of one message: some two megabytes.
const POINTS_MAX: usize = 10_000;

/// The series, and where they are sent.
pub(super) struct Scrapes {
    pub(super) interval: Duration,
    pub(super) gather: Gather,
    pub(super) clock: Arc<Clock>,
    pub(super) collector: Collector,
    pub(super) identity: Arc<Identity>,
}

impl fmt::Debug for Scrapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrapes").field("interval", &self.interval).finish_non_exhaustive()
    }
}

impl Scrapes {
    /// Sends until the guard ends, then once more; or until it is replaced.
    pub(super) async fn run(mut self) {
        loop {
            let mut stages = self.collector.stages.clone();
            let stage = tokio::select! {
                () = sleep(self.interval) => Stage::InForce,
                changed = stages.wait_for(|stage| *stage != Stage::InForce) => {
                    changed.map_or(Stage::Replaced, |stage| *stage)
                }
            };
            if stage == Stage::Replaced {
                return;
            }
            self.send().await;
            if stage == Stage::Ending {
                return;
            }
        }
    }

    async fn send(&mut self) {
        let families = (self.gather)().await;
        let of = Interval { from_ns: self.identity.began_ns, to_ns: nanos(self.clock.now_ms()) };
        for part in points::parts(&families, of, POINTS_MAX) {
            let message = self.message(part);
            let Some(answer) = self.collector.send(message).await else { return };
            let answer = ExportMetricsServiceResponse::decode(answer).unwrap_or_default();
            let partly = answer.partial_success.unwrap_or_default();
            let rejected = u64::try_from(partly.rejected_data_points).unwrap_or(0);
            self.collector.took(rejected, &partly.error_message);
        }
    }

    fn message(&self, metrics: Vec<Metric>) -> Vec<u8> {
        let metrics = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
        let resource = Some(self.identity.resource());
        let all = ResourceMetrics { resource, scope_metrics: vec![metrics], ..ResourceMetrics::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![all] }.encode_to_vec()
    }
}
