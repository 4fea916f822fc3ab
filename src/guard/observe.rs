//! What the guard says of its writer: metrics and log lines.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::ledger::entry::Crossing;
use crate::metrics::Metrics;
use crate::store::Observer;

/// Turns what the writer does into metrics and log lines.
pub(super) struct WriterLog {
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    began: Mutex<Duration>,
}

impl WriterLog {
    pub(super) fn new(clock: Arc<Clock>, metrics: Arc<Metrics>) -> Self {
        Self { clock, metrics, began: Mutex::default() }
    }
}

impl Observer for WriterLog {
    fn committing(&self) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.running();
    }

    fn committed(&self) {
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.committed(self.clock.running().saturating_sub(began));
    }

    fn failed(&self, error: &rusqlite::Error) {
        tracing::error!(%error, "the ledger can't be written; requests are refused until it can");
    }

    fn recovered(&self) {
        tracing::info!("the ledger can be written again");
    }

    fn crossed(&self, crossing: &Crossing) {
        let unit = crossing.limit.unit;
        self.metrics.crossed(&crossing.limit.name);
        tracing::warn!(
            limit = %crossing.limit.name,
            subject = %crossing.subject,
            threshold = %unit.phrase(crossing.threshold),
            settled = %unit.phrase(crossing.settled),
            "a soft limit was crossed"
        );
    }
}
