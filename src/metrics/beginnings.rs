//! Creates counters before their first event. Prometheus sees a counter grow, not
//! appear: if the first refusal created its series, it would trigger no alert.

use crate::ledger::account;
use crate::metrics::Metrics;

impl Metrics {
    /// Starts the counters of a limit at zero.
    pub fn in_force(&self, limit: &str) {
        self.soft_crossings.with_label_values(&[limit]);
        self.rejections.with_label_values(&[limit, "spend_limit_exceeded"]);
    }

    /// Starts the counter of refusals for lack of credit at zero.
    pub(super) fn prepaid(&self) {
        self.rejections.with_label_values(&[account::NAME, "credit_balance_exhausted"]);
    }
}
