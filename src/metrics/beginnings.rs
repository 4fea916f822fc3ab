//! Counters that are there before they count. Prometheus sees a counter grow,
//! not begin: a first refusal that came with its series would never alert.

use crate::ledger::account;
use crate::metrics::Metrics;

impl Metrics {
    /// A limit is in force: what it may count starts at zero.
    pub fn in_force(&self, limit: &str) {
        self.soft_crossings.with_label_values(&[limit]);
        self.rejections.with_label_values(&[limit, "spend_limit_exceeded"]);
    }

    /// Credit was granted: what it may refuse starts at zero.
    pub(super) fn prepaid(&self) {
        self.rejections.with_label_values(&[account::NAME, "credit_balance_exhausted"]);
    }
}
