//! Which span of a window holds an instant, in a time zone's calendar.
//!
//! Roll-over is this arithmetic and nothing else: no job resets anything. Days
//! of 23 and 25 hours, months of any length and leap years fall out of it.

use std::cell::Cell;

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

use crate::domain::{Limit, Span, Window};

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 3_600;

/// The windows of one limit; the calendar is asked once a window.
#[derive(Debug)]
pub struct Windows {
    window: Window,
    zone: TimeZone,
    last: Cell<Span>,
}

impl Windows {
    /// The windows of a limit, in its time zone.
    pub fn of(limit: &Limit) -> Self {
        let zone = TimeZone::get(&limit.zone).unwrap_or(TimeZone::UTC);
        Self { window: limit.window, zone, last: Cell::new(Span { start_s: 0, end_s: 0 }) }
    }

    /// The span that holds the instant `at_s`, in Unix seconds.
    pub fn span(&self, at_s: i64) -> Span {
        if !self.last.get().contains(at_s) {
            self.last.set(span(self.window, &self.zone, at_s));
        }
        self.last.get()
    }
}

/// The span of `window` that holds the instant `at_s`, in Unix seconds.
///
/// A request window is the instant itself; an instant that no calendar can
/// name falls into all of time.
pub fn span(window: Window, zone: &TimeZone, at_s: i64) -> Span {
    match window {
        Window::Request => Span { start_s: at_s, end_s: at_s.saturating_add(1) },
        Window::Minute => aligned(at_s, 0, MINUTE_S),
        Window::Hour => aligned(at_s, offset_s(zone, at_s), HOUR_S),
        Window::Day | Window::Week | Window::Month | Window::Quarter | Window::Year => {
            calendar_span(window, zone, at_s).unwrap_or(Span::ALWAYS)
        }
        Window::Total => Span::ALWAYS,
    }
}

fn aligned(at_s: i64, offset_s: i64, length_s: i64) -> Span {
    let start_s = at_s - (at_s + offset_s).rem_euclid(length_s);
    Span { start_s, end_s: start_s + length_s }
}

fn offset_s(zone: &TimeZone, at_s: i64) -> i64 {
    Timestamp::from_second(at_s).map_or(0, |at| i64::from(zone.to_offset(at).seconds()))
}

fn calendar_span(window: Window, zone: &TimeZone, at_s: i64) -> Result<Span, jiff::Error> {
    let today = Timestamp::from_second(at_s)?.to_zoned(zone.clone()).date();
    let (first, next) = dates(window, today)?;
    let start_s = first.to_zoned(zone.clone())?.timestamp().as_second();
    let end_s = next.to_zoned(zone.clone())?.timestamp().as_second();
    Ok(Span { start_s, end_s })
}

/// The first day of the window that holds `today`, and of the one after it.
fn dates(window: Window, today: Date) -> Result<(Date, Date), jiff::Error> {
    use jiff::ToSpan as _;
    match window {
        Window::Week => {
            let monday = today.checked_sub(i64::from(today.weekday().since(Weekday::Monday)).days())?;
            Ok((monday, monday.checked_add(1.week())?))
        }
        Window::Month => {
            let first = today.first_of_month();
            Ok((first, first.checked_add(1.month())?))
        }
        Window::Quarter => {
            let month = (today.month() - 1) / 3 * 3 + 1;
            let first = Date::new(today.year(), month, 1)?;
            Ok((first, first.checked_add(3.months())?))
        }
        Window::Year => {
            let first = today.first_of_year();
            Ok((first, first.checked_add(1.year())?))
        }
        Window::Day | Window::Request | Window::Minute | Window::Hour | Window::Total => {
            Ok((today, today.tomorrow()?))
        }
    }
}

/// An instant in Unix seconds as text, in UTC.
pub fn utc(at_s: i64) -> String {
    jiff::Timestamp::from_second(at_s).map_or_else(|_| at_s.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn zoned(window: Window, zone: &str, instant: &str) -> (String, String) {
        let zone = TimeZone::get(zone).unwrap();
        let span = span(window, &zone, at(instant));
        let show = |s| Timestamp::from_second(s).unwrap().to_string();
        assert!(span.contains(at(instant)));
        (show(span.start_s), show(span.end_s))
    }

    #[test]
    fn windows_follow_the_calendar_of_their_zone() {
        let cases = [
            (Window::Day, "UTC", "2026-11-21T04:43:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            (Window::Month, "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (
                Window::Month,
                "Asia/Tokyo",
                "2026-10-31T15:00:00Z",
                "2026-10-31T15:00:00Z",
                "2026-11-30T15:00:00Z",
            ),
            (Window::Week, "UTC", "2026-11-22T12:00:00Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
            (Window::Week, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Window::Quarter, "UTC", "2026-12-31T23:59:59Z", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Window::Year, "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (
                Window::Hour,
                "Asia/Kathmandu",
                "2026-01-01T00:10:00Z",
                "2025-12-31T23:15:00Z",
                "2026-01-01T00:15:00Z",
            ),
            (Window::Minute, "UTC", "2026-01-01T00:10:59Z", "2026-01-01T00:10:00Z", "2026-01-01T00:11:00Z"),
        ];
        for (window, zone, instant, start, end) in cases {
            assert_eq!(zoned(window, zone, instant), (start.into(), end.into()), "{window} {zone} {instant}");
        }
    }

    #[test]
    fn days_of_23_and_25_hours_are_one_window_each() {
        let spring = zoned(Window::Day, "Europe/Warsaw", "2026-03-29T12:00:00Z");
        assert_eq!(spring, ("2026-03-28T23:00:00Z".into(), "2026-03-29T22:00:00Z".into()));
        let autumn = zoned(Window::Day, "Europe/Warsaw", "2026-10-25T12:00:00Z");
        assert_eq!(autumn, ("2026-10-24T22:00:00Z".into(), "2026-10-25T23:00:00Z".into()));
    }

    #[test]
    fn consecutive_spans_touch_without_gap_or_overlap() {
        let zone = TimeZone::get("America/Sao_Paulo").unwrap();
        for window in [Window::Day, Window::Week, Window::Month, Window::Quarter, Window::Year] {
            let mut current = span(window, &zone, at("2017-01-15T00:00:00Z"));
            for _ in 0..30 {
                let next = span(window, &zone, current.end_s);
                assert_eq!(next.start_s, current.end_s, "{window}");
                assert_eq!(span(window, &zone, current.end_s - 1), current);
                current = next;
            }
        }
    }
}
