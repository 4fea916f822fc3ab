//! Months in UTC, by which a shared database divides entries.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::domain::{Span, Window};
use crate::ledger::calendar::{span, utc};
use crate::store::sql::{Db, Result, params};

/// A month in UTC, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Month {
    /// Its year and number, such as `2026_11`.
    pub(crate) name: String,
    /// Its first millisecond.
    pub(crate) start_ms: i64,
    /// The first one after it.
    pub(crate) end_ms: i64,
}

impl Month {
    /// The month that an instant is in, in Unix milliseconds; `None` unless its year has four digits.
    pub(crate) fn of(at_ms: i64) -> Option<Self> {
        let Span { start_s, end_s } = span(Window::Month, &TimeZone::UTC, at_ms.div_euclid(1_000));
        let first_day = utc(start_s);
        let (name, rest) = first_day.split_at_checked(7)?;
        (rest == "-01T00:00:00Z").then(|| Self {
            name: name.replace('-', "_"),
            start_ms: start_s.saturating_mul(1_000),
            end_ms: end_s.saturating_mul(1_000),
        })
    }

    /// The month of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let first_day: Timestamp = format!("{}-01T00:00:00Z", name.replace('_', "-")).parse().ok()?;
        Self::of(first_day.as_millisecond()).filter(|month| month.name == name)
    }

    /// The month after it.
    pub(crate) fn next(&self) -> Option<Self> {
        Self::of(self.end_ms)
    }
}

/// The months that requests were admitted in which have entries, the earliest first.
pub(crate) fn of_entries(db: Db<'_>) -> Result<Vec<Month>> {
    let sql = format!("SELECT MIN(admitted_ms) FROM entry{} WHERE admitted_ms >= ?1", db.by_time());
    let (mut months, mut from_ms) = (Vec::new(), 0);
    loop {
        let first_ms: Option<i64> = db.row(&sql, params![from_ms], |row| row.get(0))?;
        let Some(month) = first_ms.and_then(Month::of) else { return Ok(months) };
        from_ms = month.end_ms;
        months.push(month);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_millisecond_is_in_one_month_of_utc() {
        let month = Month::of(1_795_910_400_000).unwrap();
        let wanted =
            Month { name: "2026_11".to_owned(), start_ms: 1_793_491_200_000, end_ms: 1_796_083_200_000 };
        assert_eq!(month, wanted);
        assert_eq!(Month::of(month.start_ms), Some(month.clone()));
        assert_eq!(Month::of(month.start_ms - 1).unwrap().name, "2026_10");
        assert_eq!(Month::of(month.end_ms - 1), Some(month.clone()));
        assert_eq!(month.next().unwrap().name, "2026_12");
        assert_eq!(month.next().and_then(|next| next.next()).unwrap().name, "2027_01");
    }

    #[test]
    fn a_month_is_found_by_its_name_and_nothing_else_is() {
        let month = Month::of(1_772_323_200_000).unwrap();
        assert_eq!((&*month.name, Month::named("2026_03")), ("2026_03", Some(month.clone())));
        for odd in ["", "default", "2026_13", "2026-03", "2026_3", "12026_03"] {
            assert_eq!(Month::named(odd), None, "{odd}");
        }
        // No calendar has these, or no name of seven letters.
        for odd in [i64::MIN, i64::MAX, -99_999_999_999_999, 999_999_999_999_999] {
            assert_eq!(Month::of(odd), None, "{odd}");
        }
    }
}
