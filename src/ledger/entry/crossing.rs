//! Crossings: what operators are alerted of, each once.

use std::sync::Arc;

use crate::domain::Limit;
use crate::ledger::entry::{Entry, Kind};

/// The kinds of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// What is settled went past a soft threshold.
    Soft,
    /// A request was refused, since the hard cap leaves no room for it.
    Hard,
    /// The hard cap is likely to be reached before the window ends.
    Forecast,
    /// The balance of prepaid credit is low.
    CreditLow,
    /// A request was refused, since prepaid credit does not suffice.
    CreditUsedUp,
    /// A fuse has blown.
    FuseBlown,
    /// An operator has stopped spending.
    KillSwitch,
}

/// A meter that has reached a threshold; unique by all fields except `id`, `at_ms`
/// and `settled`.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// The id of its line in the ledger.
    pub id: u64,
    /// Whether it is a soft threshold or the hard cap.
    pub mark: AlertKind,
    /// The limit whose threshold it is.
    pub limit: Arc<Limit>,
    /// Whose meter, by the subject's label.
    pub subject: String,
    /// The threshold, in the limit's unit.
    pub threshold: i64,
    /// Where the meter's window starts, in Unix seconds.
    pub window_start_s: i64,
    /// When what it tells of ends by itself, in Unix seconds, if that is before the window ends.
    pub ends_s: Option<i64>,
    /// What the meter had settled by then.
    pub settled: i64,
    /// When, in Unix milliseconds.
    pub at_ms: i64,
}

impl Crossing {
    /// A soft threshold that a meter has passed. It has no id yet.
    pub fn soft(
        limit: &Arc<Limit>,
        subject: &str,
        threshold: i64,
        window_start_s: i64,
        settled: i64,
        at_ms: i64,
    ) -> Self {
        let (limit, subject) = (Arc::clone(limit), subject.to_owned());
        let (id, mark, ends_s) = (0, AlertKind::Soft, None);
        Self { id, mark, limit, subject, threshold, window_start_s, ends_s, settled, at_ms }
    }

    /// The crossing as a line of the ledger; it moves no money.
    pub fn entry(&self) -> Entry {
        let Self { limit, subject, threshold, settled, .. } = self;
        let (of, reached) = (limit.unit.phrase(*threshold), limit.unit.phrase(*settled));
        let (name, window) = (&limit.name, limit.window);
        let balance = || limit.unit.phrase(limit.hard.unwrap_or_default().saturating_sub(*settled));
        let note = match self.mark {
            AlertKind::Soft => format!("{name}: {subject} crossed {of} in this {window}, at {reached}"),
            AlertKind::Hard => {
                format!("{name}: {subject} has no room left under {of} in this {window}, at {reached}")
            }
            AlertKind::Forecast => {
                format!("{name}: {subject} is likely to reach {of} in this {window}, now at {reached}")
            }
            AlertKind::CreditLow => format!("{name}: {} are left, less than {of}", balance()),
            AlertKind::CreditUsedUp => {
                format!("{name}: a request needs more than the {} that are left", balance())
            }
            AlertKind::FuseBlown => format!("{name}: {subject} is stopped, {reached} are more than {of}"),
            AlertKind::KillSwitch => format!("{name}: {subject} is stopped by an operator"),
        };
        Entry::note(self.id, Kind::Threshold, self.at_ms, note)
    }
}

impl AlertKind {
    const ALL: [Self; 7] = [
        Self::Soft,
        Self::Hard,
        Self::Forecast,
        Self::CreditLow,
        Self::CreditUsedUp,
        Self::FuseBlown,
        Self::KillSwitch,
    ];

    /// The name in API and exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
            Self::Forecast => "forecast",
            Self::CreditLow => "credit_low",
            Self::CreditUsedUp => "credit_used_up",
            Self::FuseBlown => "fuse_blown",
            Self::KillSwitch => "kill_switch",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
