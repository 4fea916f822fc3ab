//! Metrics and log events of database writes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::ledger::entry::{AlertKind, Crossing};
use crate::metrics::Metrics;
use crate::store::Observer;
use crate::sync::unpoisoned;

/// Wakes those who wait for what is written.
#[derive(Debug, Default)]
pub struct News {
    /// A crossing.
    pub crossed: Notify,
    /// Anything.
    pub committed: Notify,
}

/// Records the writer's work in metrics and log events.
pub struct WriteLog {
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    news: Arc<News>,
    began: Mutex<Duration>,
}

impl WriteLog {
    /// A log by a clock.
    pub fn new(clock: Arc<Clock>, metrics: Arc<Metrics>, news: Arc<News>) -> Self {
        Self { clock, metrics, news, began: Mutex::default() }
    }
}

impl Observer for WriteLog {
    fn committing(&self) {
        *unpoisoned(self.began.lock()) = self.clock.running();
    }

    fn committed(&self) {
        let began = *unpoisoned(self.began.lock());
        self.metrics.committed(self.clock.running().saturating_sub(began));
        self.news.committed.notify_one();
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::error!(
            event = "ledger_write_failed", %error,
            "the ledger can't be written; requests are refused until it can"
        );
    }

    fn recovered(&self) {
        tracing::info!(event = "ledger_write_recovered", "the ledger can be written again");
    }

    fn at_ms(&self, now_ms: i64) {
        self.clock.follow(now_ms);
    }

    fn crossed(&self, crossing: &Crossing) {
        self.news.crossed.notify_one();
        let Crossing { mark, limit, subject, threshold, settled, .. } = crossing;
        let (threshold, settled) = (limit.unit.phrase(*threshold), limit.unit.phrase(*settled));
        match mark {
            AlertKind::Soft => {
                self.metrics.crossed(&limit.name);
                tracing::warn!(
                    event = "soft_limit_crossed", limit = %limit.name, %subject, %threshold, %settled,
                    "a soft limit was crossed"
                );
            }
            AlertKind::Hard => {
                tracing::warn!(
                    event = "hard_limit_reached", limit = %limit.name, %subject, hard = %threshold, %settled,
                    "a hard limit refuses requests"
                );
            }
            AlertKind::Forecast => {
                tracing::warn!(
                    event = "hard_limit_forecast", limit = %limit.name, %subject, hard = %threshold, %settled,
                    "a hard limit is likely to be reached"
                );
            }
            AlertKind::CreditLow => {
                tracing::warn!(event = "credit_low", %threshold, used = %settled, "prepaid credit is low");
            }
            AlertKind::CreditUsedUp => {
                tracing::warn!(
                    event = "credit_used_up", used = %settled,
                    "requests are refused because prepaid credit is used up"
                );
            }
            // Written with their stops, by those who log them.
            AlertKind::FuseBlown | AlertKind::KillSwitch => {}
        }
    }
}
