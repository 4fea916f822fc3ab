//! OpenTelemetry: a span for each request, and the metrics, to a collector over OTLP/HTTP.
//!
//! A request fills its span while it is served, and puts it into a bounded queue once it has
//! ended: it waits for nothing, and where the queue is full the span is dropped and counted.
//! Tasks beside the requests send spans in batches, and the series of `/metrics` at intervals.
//! What is sent has ids, amounts, names of models and the guard's own words; it has no prompt,
//! answer, secret, end user or tag.

mod batches;
mod collector;
mod points;
mod scrapes;
mod span;
mod stage;
pub mod trace_context;
mod tracer;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Uri};
use prometheus::proto::MetricFamily;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::telemetry::batches::Batches;
use crate::telemetry::collector::Collector;
use crate::telemetry::scrapes::Scrapes;
use crate::telemetry::stage::Stage;
use crate::telemetry::trace_context::Ids;
use crate::telemetry::wire::Identity;
use crate::upstream::HttpProxy;

pub use self::span::Span;
pub use self::tracer::{Ratio, Trace, Tracer};

/// Where spans and metrics are sent, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The collector's base URL; the paths of the signals are appended.
    pub endpoint: Uri,
    /// The HTTP proxy on the way to it.
    pub proxy: Option<HttpProxy>,
    /// Headers of each request to it, which may be secrets.
    pub headers: HeaderMap,
    /// The part of the requests that has a span, of those whose client does not decide it.
    pub ratio: Ratio,
    /// The time between two exports of the metrics; `None` to export none.
    pub metrics_interval: Option<Duration>,
    /// The time limit of one attempt to send.
    pub timeout: Duration,
    /// The spans that may wait to be sent.
    pub queue: usize,
}

/// Reads all series as they are now.
pub type Gather = Arc<dyn Fn() -> BoxFuture<'static, Vec<MetricFamily>> + Send + Sync>;

/// What the export works with.
#[derive(Clone)]
pub struct Parts {
    /// The time.
    pub clock: Arc<Clock>,
    /// Counts what is sent and what is dropped.
    pub metrics: Arc<Metrics>,
    /// Reads the series that are exported.
    pub gather: Gather,
    /// The root certificates that a collector's certificate is checked against.
    pub roots: Arc<rustls::ClientConfig>,
}

/// The export in force, and the owner of its tasks.
pub struct Telemetry {
    parts: Parts,
    ids: Arc<Ids>,
    identity: Arc<Identity>,
    running: Option<Running>,
    tasks: JoinSet<()>,
}

/// An export that runs. While it has a sender of spans, so may requests.
struct Running {
    config: Arc<Config>,
    spans: mpsc::Sender<Box<Span>>,
    full: Arc<Notify>,
    stage: watch::Sender<Stage>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.running.as_ref().map(|running| &running.config);
        f.debug_struct("Telemetry").field("config", &config).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Exports nothing yet.
    pub fn new(parts: Parts) -> Result<Self, getrandom::Error> {
        let identity = Arc::new(Identity::new(&parts.clock)?);
        Ok(Self { parts, ids: Arc::new(Ids::new()?), identity, running: None, tasks: JoinSet::new() })
    }

    /// Puts a configuration in force, and returns the tracer of requests to an upstream.
    ///
    /// An export whose configuration is the same goes on. One that is replaced sends the spans
    /// of the requests that it was in force for, and no metrics any more.
    pub fn configure(&mut self, config: Option<&Arc<Config>>, upstream: &Uri) -> Option<Arc<Tracer>> {
        // Those that have ended.
        while self.tasks.try_join_next().is_some() {}
        if self.running.as_ref().map(|running| &running.config) != config {
            if let Some(replaced) = self.running.take() {
                let _ = replaced.stage.send(Stage::Replaced);
            }
            self.running = config.map(|config| self.start(config));
        }
        let Running { config, spans, full, .. } = self.running.as_ref()?;
        let (ids, metrics) = (Arc::clone(&self.ids), Arc::clone(&self.parts.metrics));
        let queue = tracer::Queue { spans: spans.clone(), full: Arc::clone(full), metrics };
        Some(Arc::new(Tracer::new(ids, config.ratio, queue, upstream)))
    }

    fn start(&mut self, config: &Arc<Config>) -> Running {
        let Parts { clock, metrics, gather, .. } = &self.parts;
        metrics.exporting();
        let (spans, queue) = mpsc::channel(config.queue);
        let (stage, stages) = watch::channel(Stage::InForce);
        let full = Arc::new(Notify::new());
        let collector = |signal| Collector::new(config, signal, &self.parts, stages.clone());
        let batches = Batches {
            queue,
            full: Arc::clone(&full),
            collector: collector(collector::TRACES),
            identity: Arc::clone(&self.identity),
            metrics: Arc::clone(metrics),
        };
        let scrapes = config.metrics_interval.map(|interval| Scrapes {
            interval,
            gather: Arc::clone(gather),
            clock: Arc::clone(clock),
            collector: collector(collector::METRICS),
            identity: Arc::clone(&self.identity),
        });
        self.tasks.spawn(batches.run());
        if let Some(scrapes) = scrapes {
            self.tasks.spawn(scrapes.run());
        }
        Running { config: Arc::clone(config), spans, full, stage }
    }

    /// Sends what is there, within a time limit. To be called once no request is served any
    /// more.
    pub async fn finish(mut self, within: Duration) {
        let Some(Running { stage, .. }) = self.running.take() else { return };
        let _ = stage.send(Stage::Ending);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(within, all).await.is_err() {
            tracing::warn!(
                event = "otlp_not_flushed",
                "the last spans and metrics could not be sent to the collector in time"
            );
        }
        self.tasks.shutdown().await;
    }
}
