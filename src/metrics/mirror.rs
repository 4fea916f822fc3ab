//! Gauges that mirror the ledger, set just before they are scraped.

use crate::domain::Money;
use crate::metrics::{KEY_LABELS_MAX, LimitSample, Metrics, dollars, float};

impl Metrics {
    /// Sets the gauges that mirror the state, just before they are scraped.
    pub fn mirror(&self, in_doubt: Money, queue: usize, price_age_s: i64) {
        self.in_doubt.set(dollars(in_doubt));
        self.queue.set(i64::try_from(queue).unwrap_or(i64::MAX));
        self.price_age.set(price_age_s);
    }

    /// Sets the size of the database and its log, and the free space of their disk, in bytes.
    pub fn mirror_storage(&self, bytes: u64, free_bytes: Option<u64>) {
        let gauge = |bytes: u64| float(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.storage.with_label_values::<&str>(&[]).set(gauge(bytes));
        self.storage_free.reset();
        if let Some(free_bytes) = free_bytes {
            self.storage_free.with_label_values::<&str>(&[]).set(gauge(free_bytes));
        }
    }

    /// Sets how many requests wait for room.
    pub fn mirror_waiting(&self, count: usize) {
        self.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how many jobs of each kind run.
    pub fn mirror_jobs<'a>(&self, counts: impl Iterator<Item = (&'a str, u64)>) {
        self.jobs.reset();
        for (kind, count) in counts {
            let count = float(i64::try_from(count).unwrap_or(i64::MAX));
            self.jobs.with_label_values(&[kind, "open"]).set(count);
        }
    }

    /// Sets the gauges of the limits; a limit that is gone has no series.
    #[expect(clippy::float_arithmetic, reason = "metrics are floats")]
    pub fn mirror_limits(&self, samples: &[LimitSample]) {
        let all = [
            &self.limit_settled,
            &self.limit_held,
            &self.limit_soft,
            &self.limit_hard,
            &self.limit_remaining,
            &self.limit_reset,
        ];
        for family in all {
            family.reset();
        }
        for sample in samples {
            let labels = [sample.limit.as_str(), sample.subject.as_str(), sample.unit];
            self.limit_settled.with_label_values(&labels).set(sample.settled);
            self.limit_held.with_label_values(&labels).set(sample.held);
            if let Some(soft) = sample.soft {
                self.limit_soft.with_label_values(&labels).set(soft);
            }
            if let Some(hard) = sample.hard {
                self.limit_hard.with_label_values(&labels).set(hard);
                let remaining = (hard - sample.settled - sample.held).max(0.0);
                self.limit_remaining.with_label_values(&labels).set(remaining);
            }
            if let Some(reset_s) = sample.reset_s {
                self.limit_reset.with_label_values(&labels).set(reset_s);
            }
        }
    }

    /// Sets the forecast of the month.
    pub fn mirror_forecast(&self, bound: &str, amount: Money) {
        self.forecast.with_label_values(&[bound]).set(dollars(amount));
    }

    /// Sets when caps are likely to be reached: limit, subject, unit, Unix seconds.
    pub fn mirror_reached<'a>(&self, caps: impl Iterator<Item = ([&'a str; 3], i64)>) {
        self.limit_reached.reset();
        for (labels, at_s) in caps {
            self.limit_reached.with_label_values(&labels).set(float(at_s));
        }
    }

    /// Sets the map of key ids to names.
    pub fn mirror_keys<'a>(&self, keys: impl Iterator<Item = (&'a str, &'a str)>) {
        self.key_names.reset();
        for (id, name) in keys.take(KEY_LABELS_MAX) {
            self.key_names.with_label_values(&[id, name]).set(1.0);
        }
    }

    /// Sets the balance of prepaid credit; without credit there is no series.
    pub fn mirror_credit(&self, balance: Option<Money>) {
        self.credit_balance.reset();
        if let Some(balance) = balance {
            self.prepaid();
            self.credit_balance.with_label_values::<&str>(&[]).set(dollars(balance));
        }
    }
}
