//! Windows: the calendar-aligned periods over which a limit counts.
//!
//! This module has their names and the span type; `ledger::calendar` finds the span
//! of an instant in a time zone.

use std::fmt;

/// The time over which a limit counts before it starts again from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// One request by itself.
    Request,
    /// A calendar minute; on requests and tokens a rolling rate.
    Minute,
    /// A calendar hour.
    Hour,
    /// A calendar day.
    Day,
    /// A week, starting on Monday.
    Week,
    /// A calendar month.
    Month,
    /// A quarter, starting in January, April, July or October.
    Quarter,
    /// A calendar year.
    Year,
    /// All time.
    Total,
}

impl Window {
    /// Every window, shortest first.
    pub const ALL: [Self; 9] = [
        Self::Request,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Quarter,
        Self::Year,
        Self::Total,
    ];

    /// The name in configuration and API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
            Self::Total => "total",
        }
    }

    /// The window of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|window| window.name() == name)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A half-open interval in Unix seconds: `start <= t < end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first second inside.
    pub start_s: i64,
    /// The first second after.
    pub end_s: i64,
}

impl Span {
    /// All time.
    pub const ALWAYS: Self = Self { start_s: i64::MIN, end_s: i64::MAX };

    /// Whether an instant lies inside.
    pub const fn contains(self, at_s: i64) -> bool {
        self.start_s <= at_s && at_s < self.end_s
    }

    /// Whether it starts or ends inside another.
    pub const fn cuts(self, other: Self) -> bool {
        (other.start_s < self.start_s && self.start_s < other.end_s)
            || (other.start_s < self.end_s && self.end_s < other.end_s)
    }
}
