//! The metrics for Prometheus. One function for each fact; floats are used only here.
//!
//! Labels are bounded: keys and projects are ids that an operator made (and
//! `other` beyond ten thousand), models are ids of the price sheet. Strings
//! that clients make up never become labels.

mod beginnings;
mod exports;
mod frames;
mod mirror;
mod register;
mod samples;
mod stops;

use std::time::Duration;

use dashmap::DashSet;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry,
};

use crate::domain::{Money, Quantities};
use crate::metrics::exports::Exports;
use crate::metrics::register::{counter_vec, float_vec, gauge, gauge_vec, histogram_vec, registered};
use crate::metrics::stops::Stops;

pub use exports::SpanState;
pub use frames::{FrameFrom, FrameTimes};
pub use samples::{LimitSample, RequestLabels};

/// Key ids that get series of their own.
const KEY_LABELS_MAX: usize = 10_000;
const OTHER: &str = "other";

const FAST: &[f64] = &[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 1.0];
const SLOW: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Every series, registered once.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    keys_seen: DashSet<String>,
    requests: IntCounterVec,
    spend: CounterVec,
    tokens: IntCounterVec,
    rejections: IntCounterVec,
    would_reject: IntCounterVec,
    soft_crossings: IntCounterVec,
    alerts: IntCounterVec,
    overrun: Counter,
    output_bound_hits: IntCounterVec,
    unpriced: IntCounter,
    in_doubt: Gauge,
    overhead: HistogramVec,
    upstream: HistogramVec,
    ttft: Histogram,
    inflight: IntGauge,
    streams: IntGauge,
    sockets: IntGauge,
    frames: HistogramVec,
    commit: Histogram,
    queue: IntGauge,
    waiting: IntGauge,
    jobs: GaugeVec,
    reload_failures: IntCounter,
    price_age: IntGauge,
    limit_settled: GaugeVec,
    limit_held: GaugeVec,
    limit_soft: GaugeVec,
    limit_hard: GaugeVec,
    limit_remaining: GaugeVec,
    limit_reset: GaugeVec,
    forecast: GaugeVec,
    credit_balance: GaugeVec,
    storage: GaugeVec,
    storage_free: GaugeVec,
    storage_pruned: IntCounter,
    limit_reached: GaugeVec,
    key_names: GaugeVec,
    exports: Exports,
    stops: Stops,
}

/// A count as a float, exact up to 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "metrics are floats")]
pub fn float(count: i64) -> f64 {
    count as f64
}

/// Dollars as a float.
#[expect(clippy::float_arithmetic, reason = "metrics are floats")]
pub fn dollars(amount: Money) -> f64 {
    float(amount.nano()) / 1e9
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new().expect("the names and labels of the metrics are fixed and valid")
    }
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a list of all series, one each, is best read whole")]
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let meter = ["limit", "subject", "unit"];
        let build =
            gauge_vec(r, "spendguard_build_info", "Version of the running guard, always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Ok(Self {
            requests: counter_vec(
                r,
                "spendguard_requests_total",
                "Requests by how they ended.",
                &["project", "key", "endpoint", "outcome"],
            )?,
            spend: float_vec(
                r,
                "spendguard_spend_usd_total",
                "Dollars settled.",
                &["project", "key", "model", "basis"],
            )?,
            tokens: counter_vec(
                r,
                "spendguard_tokens_total",
                "Tokens settled by class.",
                &["project", "key", "model", "class"],
            )?,
            rejections: counter_vec(
                r,
                "spendguard_rejections_total",
                "Requests refused, by limit (empty if none) and reason.",
                &["limit", "reason"],
            )?,
            would_reject: counter_vec(
                r,
                "spendguard_would_reject_total",
                "Requests that a limit in shadow mode would have refused.",
                &["limit"],
            )?,
            soft_crossings: counter_vec(
                r,
                "spendguard_soft_crossings_total",
                "Soft thresholds crossed.",
                &["limit"],
            )?,
            alerts: counter_vec(
                r,
                "spendguard_alerts_total",
                "Attempts to deliver an alert, by result.",
                &["channel", "state"],
            )?,
            overrun: registered(
                r,
                Counter::with_opts(Opts::new(
                    "spendguard_overrun_usd_total",
                    "Dollars settled in excess of their holds.",
                ))?,
            )?,
            output_bound_hits: counter_vec(
                r,
                "spendguard_output_bound_hits_total",
                "Answers that ended because of their output bound.",
                &["model"],
            )?,
            unpriced: registered(
                r,
                IntCounter::new(
                    "spendguard_unpriced_requests_total",
                    "Metered requests let through without a price.",
                )?,
            )?,
            in_doubt: registered(
                r,
                Gauge::with_opts(Opts::new("spendguard_in_doubt_usd", "Dollars held for open requests."))?,
            )?,
            overhead: histogram_vec(
                r,
                "spendguard_overhead_seconds",
                "Time spent in the guard itself.",
                &["phase"],
                FAST,
            )?,
            upstream: histogram_vec(
                r,
                "spendguard_upstream_seconds",
                "Time until upstream's response head.",
                &["endpoint", "status"],
                SLOW,
            )?,
            ttft: registered(
                r,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "spendguard_time_to_first_token_seconds",
                        "Time from admission to the first byte of a stream.",
                    )
                    .buckets(SLOW.to_vec()),
                )?,
            )?,
            inflight: gauge(r, "spendguard_inflight_requests", "Requests being served.")?,
            streams: gauge(r, "spendguard_streams_open", "Event streams being passed on.")?,
            sockets: gauge(r, "spendguard_sockets_open", "WebSockets that are open.")?,
            frames: frames::frames(r)?,
            commit: registered(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("spendguard_ledger_commit_seconds", "Time of one group commit.")
                        .buckets(FAST.to_vec()),
                )?,
            )?,
            queue: gauge(r, "spendguard_ledger_queue_entries", "Slots taken in the ledger's queue.")?,
            waiting: gauge(r, "spendguard_waiting_requests", "Requests that wait for room under a limit.")?,
            jobs: gauge_vec(r, "spendguard_jobs", "Jobs at upstream that run.", &["kind", "state"])?,
            reload_failures: registered(
                r,
                IntCounter::new(
                    "spendguard_config_reload_failures_total",
                    "Configurations refused on reload.",
                )?,
            )?,
            price_age: gauge(r, "spendguard_price_sheet_age_seconds", "Age of the price sheet.")?,
            limit_settled: gauge_vec(
                r,
                "spendguard_limit_settled",
                "Settled in the current window.",
                &meter,
            )?,
            limit_held: gauge_vec(r, "spendguard_limit_held", "Held for open requests.", &meter)?,
            limit_soft: gauge_vec(r, "spendguard_limit_soft", "The lowest soft threshold.", &meter)?,
            limit_hard: gauge_vec(r, "spendguard_limit_hard", "The hard cap.", &meter)?,
            limit_remaining: gauge_vec(
                r,
                "spendguard_limit_remaining",
                "The hard cap less settled and held.",
                &meter,
            )?,
            limit_reset: gauge_vec(
                r,
                "spendguard_limit_reset_timestamp_seconds",
                "When the window ends.",
                &meter,
            )?,
            forecast: gauge_vec(
                r,
                "spendguard_forecast_usd",
                "Forecast of the month's spending.",
                &["bound"],
            )?,
            storage: gauge_vec(
                r,
                "spendguard_storage_bytes",
                "Size of the ledger's database and its write-ahead log.",
                &[],
            )?,
            storage_free: gauge_vec(
                r,
                "spendguard_storage_free_bytes",
                "Free space on the ledger's disk.",
                &[],
            )?,
            storage_pruned: registered(
                r,
                IntCounter::new(
                    "spendguard_storage_pruned_entries_total",
                    "Old entries that were pruned; their sums stay.",
                )?,
            )?,
            credit_balance: gauge_vec(r, "spendguard_credit_balance_usd", "Balance of prepaid credit.", &[])?,
            limit_reached: gauge_vec(
                r,
                "spendguard_limit_reached_timestamp_seconds",
                "When the hard cap will be reached, if before the window ends.",
                &meter,
            )?,
            key_names: gauge_vec(r, "spendguard_key_info", "Names of keys, always 1.", &["key", "name"])?,
            exports: Exports::new(r)?,
            stops: Stops::new(r)?,
            keys_seen: DashSet::new(),
            registry,
        })
    }

    /// All series as they are now.
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }

    /// Counts a request that has ended.
    pub fn ended(&self, of: RequestLabels<'_>, outcome: &str) {
        let key = self.key_label(of.key);
        self.requests.with_label_values(&[of.project, key, of.endpoint, outcome]).inc();
    }

    /// Money and tokens have been settled.
    pub fn settled(&self, of: RequestLabels<'_>, model: &str, basis: &str, cost: Money, used: &Quantities) {
        let key = self.key_label(of.key);
        self.spend.with_label_values(&[of.project, key, model, basis]).inc_by(dollars(cost.max(Money::ZERO)));
        for (class, count) in used.non_zero().filter(|(class, _)| class.is_token()) {
            self.tokens.with_label_values(&[of.project, key, model, class.name()]).inc_by(count);
        }
    }

    /// A cost was more than its hold.
    pub fn overran(&self, by: Money) {
        self.overrun.inc_by(dollars(by));
    }

    /// An answer of a model ended because of its output bound.
    pub fn hit_output_bound(&self, model: &str) {
        self.output_bound_hits.with_label_values(&[model]).inc();
    }

    /// A request was refused.
    pub fn rejected(&self, limit: &str, reason: &str) {
        self.rejections.with_label_values(&[limit, reason]).inc();
    }

    /// A limit in shadow mode would have refused a request.
    pub fn would_have_rejected(&self, limit: &str) {
        self.would_reject.with_label_values(&[limit]).inc();
    }

    /// A soft threshold was crossed.
    pub fn crossed(&self, limit: &str) {
        self.soft_crossings.with_label_values(&[limit]).inc();
    }

    /// Counts an attempt to deliver an alert, by the kind of channel and the result.
    pub fn alerted(&self, channel: &str, state: &str) {
        self.alerts.with_label_values(&[channel, state]).inc();
    }

    /// A metered request went through without a price.
    pub fn unpriced(&self) {
        self.unpriced.inc();
    }

    /// Counts pruned entries.
    pub fn pruned(&self, entries: u64) {
        self.storage_pruned.inc_by(entries);
    }

    /// Records the time that the guard itself took for a phase of a request.
    pub fn overhead(&self, phase: &str, took: Duration) {
        self.overhead.with_label_values(&[phase]).observe(took.as_secs_f64());
    }

    /// Records the time until upstream's response head.
    pub fn upstream_answered(&self, endpoint: &str, status: &str, took: Duration) {
        self.upstream.with_label_values(&[endpoint, status]).observe(took.as_secs_f64());
    }

    /// Records the time until the first byte of a stream.
    pub fn first_token(&self, took: Duration) {
        self.ttft.observe(took.as_secs_f64());
    }

    /// The number of requests being served; add one, take one away.
    pub fn inflight(&self) -> &IntGauge {
        &self.inflight
    }

    /// The number of streams being passed on; add one, take one away.
    pub fn streams_open(&self) -> &IntGauge {
        &self.streams
    }

    /// The number of sockets that are open; add one, take one away.
    pub fn sockets_open(&self) -> &IntGauge {
        &self.sockets
    }

    /// Records the time of a group commit.
    pub fn committed(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
    }

    /// A changed configuration was refused.
    pub fn reload_failed(&self) {
        self.reload_failures.inc();
    }

    fn key_label<'a>(&self, key: &'a str) -> &'a str {
        if self.keys_seen.contains(key) {
            return key;
        }
        if self.keys_seen.len() >= KEY_LABELS_MAX {
            return OTHER;
        }
        self.keys_seen.insert(key.to_owned());
        key
    }
}
