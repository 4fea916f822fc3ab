//! Fuses: rules that stop who spends too much in a short time.

use std::sync::Arc;

use crate::domain::Money;
use crate::domain::stop::{Spender, SpenderKind};

const DAY_MS: i64 = 86_400_000;

/// A bound on the spending of any span of a length, for each spender of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fuse {
    /// Unique among all fuses.
    pub name: Arc<str>,
    /// For whom it watches separately.
    pub per: SpenderKind,
    /// The projects that it watches, by id or name; all if empty.
    pub projects: Vec<String>,
    /// The keys that it watches, by id or name; all if empty.
    pub keys: Vec<String>,
    /// Blows if more is spent.
    pub usd: Option<Money>,
    /// Blows if so many times the usual amount is spent.
    pub times_usual: Option<u32>,
    /// Below this, no multiple of the usual amount blows it.
    pub usd_min: Money,
    /// The length of the span, in milliseconds.
    pub within_ms: i64,
    /// How long it stays blown, in milliseconds; until it is reset if absent.
    pub cool_down_ms: Option<i64>,
}

/// What a spender has spent on some days that are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastDays {
    /// On all of them.
    pub spent: Money,
    /// How many there are; at least one.
    pub days: i64,
}

impl Fuse {
    /// Whether it watches what `names` stand for: ids and names, of a project or of a key.
    pub fn watches(listed: &[String], names: [&str; 2]) -> bool {
        listed.is_empty() || listed.iter().any(|listed| names.contains(&listed.as_str()))
    }

    /// The spender that a key of a project counts for.
    pub fn spender(&self, project: &Arc<str>, key: &Arc<str>) -> Spender {
        self.per.of(project, key)
    }

    /// What may be spent within its span by one who has spent this in the past; `None` if only a
    /// multiple of the usual amount is bounded and nothing is known of the past.
    pub fn limit(&self, past: Option<PastDays>) -> Option<Money> {
        let usual = self.times_usual.zip(past).map(|(times, past)| self.multiple(times, past));
        self.usd.into_iter().chain(usual.map(|usual| usual.max(self.usd_min))).min()
    }

    /// So many times the mean amount that was spent in a span of its length.
    fn multiple(&self, times: u32, PastDays { spent, days }: PastDays) -> Money {
        let all = i128::from(spent.nano()) * i128::from(times) * i128::from(self.within_ms);
        let mean = all / (i128::from(days.max(1)) * i128::from(DAY_MS));
        Money::from_nano(i64::try_from(mean).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(dollars: i64) -> Money {
        Money::from_nano(dollars * 1_000_000_000)
    }

    #[test]
    fn the_lower_bound_counts_and_cents_of_a_quiet_past_don_t() {
        let fuse = Fuse {
            name: "runaway".into(),
            per: SpenderKind::Key,
            projects: Vec::new(),
            keys: Vec::new(),
            usd: Some(usd(50)),
            times_usual: Some(10),
            usd_min: usd(1),
            within_ms: DAY_MS / 24,
            cool_down_ms: None,
        };
        // 48 dollars in two days are a dollar an hour.
        let past = PastDays { spent: usd(48), days: 2 };
        assert_eq!(fuse.limit(Some(past)), Some(usd(10)));
        assert_eq!(fuse.limit(Some(PastDays { spent: usd(4_800), days: 2 })), Some(usd(50)));
        assert_eq!(fuse.limit(Some(PastDays { spent: Money::from_nano(1), days: 7 })), Some(usd(1)));
        assert_eq!(fuse.limit(None), Some(usd(50)));
        assert_eq!(Fuse { usd: None, ..fuse }.limit(None), None);
    }
}
