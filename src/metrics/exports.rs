//! Counters of the export over OTLP.

use prometheus::{IntCounterVec, Registry};

use crate::metrics::Metrics;
use crate::metrics::register::counter_vec;

const SIGNALS: [&str; 2] = ["traces", "metrics"];

/// What became of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanState {
    /// The collector took it.
    Exported,
    /// The queue was full.
    Dropped,
    /// The collector did not take it.
    Failed,
}

impl SpanState {
    const ALL: [Self; 3] = [Self::Exported, Self::Dropped, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// The series of the export.
#[derive(Debug)]
pub(super) struct Exports {
    spans: IntCounterVec,
    failures: IntCounterVec,
}

impl Exports {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let failures = "Failed attempts to send to the OTLP collector.";
        Ok(Self {
            spans: counter_vec(
                r,
                "spendguard_otlp_spans_total",
                "Spans by what became of them.",
                &["state"],
            )?,
            failures: counter_vec(r, "spendguard_otlp_failures_total", failures, &["signal"])?,
        })
    }
}

impl Metrics {
    /// Starts the counters of the export at zero.
    pub fn exporting(&self) {
        for state in SpanState::ALL {
            self.exports.spans.with_label_values(&[state.name()]);
        }
        for signal in SIGNALS {
            self.exports.failures.with_label_values(&[signal]);
        }
    }

    /// Counts spans.
    pub fn spans(&self, state: SpanState, count: u64) {
        self.exports.spans.with_label_values(&[state.name()]).inc_by(count);
    }

    /// Counts a failed attempt to send a signal.
    pub fn export_failed(&self, signal: &str) {
        self.exports.failures.with_label_values(&[signal]).inc();
    }
}
