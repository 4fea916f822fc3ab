//! Figures as each language writes them: numbers, money, shares, days, times.
//!
//! Whole numbers throughout. A rounded amount is exact in its title, or
//! on the page that it leads to.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::admin::dashboard::language::Lang;
use crate::domain::limit::Unit;
use crate::domain::{Money, Window};

/// Keeps a number on one line.
const NARROW: char = '\u{a0}';

/// A whole number in groups of three.
pub(super) fn number(lang: Lang, count: u64) -> String {
    let digits = count.to_string();
    // Polish leaves four digits together.
    if lang == Lang::Pl && digits.len() < 5 {
        return digits;
    }
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(if is_spaced(lang) { NARROW } else { ',' });
        }
        grouped.push(digit);
    }
    grouped
}

/// Whether groups are parted by spaces and fractions by a comma.
pub(super) const fn is_spaced(lang: Lang) -> bool {
    matches!(lang, Lang::Ka | Lang::Pl)
}

/// How many decimals show amounts of a size, so that a column has one width.
pub(super) fn decimals(largest: Money) -> usize {
    match largest.nano().saturating_abs() {
        1..10_000_000 => 6,
        10_000_000..10_000_000_000 => 4,
        _ => 2,
    }
}

/// An amount with so many decimals, rounded to the nearest.
pub(super) fn money(lang: Lang, amount: Money, decimals: usize) -> String {
    let nano = i128::from(amount.nano());
    let drop = u32::try_from(9_usize.saturating_sub(decimals)).unwrap_or(0);
    let step = 10_i128.pow(drop);
    let rounded = (nano.abs() + step / 2) / step;
    let unit = 10_i128.pow(u32::try_from(decimals).unwrap_or(0));
    let whole = number(lang, u64::try_from(rounded / unit).unwrap_or(u64::MAX));
    let fraction = if decimals == 0 { String::new() } else { format!("{:0decimals$}", rounded % unit) };
    let sign = if nano < 0 && rounded > 0 { "\u{2212}" } else { "" };
    let point = if is_spaced(lang) { "," } else { "." };
    let point = if fraction.is_empty() { "" } else { point };
    if is_spaced(lang) {
        format!("{sign}{whole}{point}{fraction}{NARROW}USD")
    } else {
        format!("{sign}${whole}{point}{fraction}")
    }
}

/// An amount with all its decimals, two at least.
pub(super) fn exact(lang: Lang, amount: Money) -> String {
    let plain = amount.to_string();
    let fraction = plain.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    money(lang, amount, fraction.max(2))
}

/// An amount in a limit's unit; money with so many decimals.
pub(super) fn amount(lang: Lang, unit: Unit, amount: i64, decimals: usize) -> String {
    let count = u64::try_from(amount).unwrap_or(0);
    let words = lang.words();
    match unit {
        Unit::Usd => money(lang, Money::from_nano(amount), decimals),
        Unit::Tokens => counted(lang, words.n_tokens, count),
        Unit::InputTokens => counted(lang, words.n_input_tokens, count),
        Unit::OutputTokens => counted(lang, words.n_output_tokens, count),
        Unit::Requests => counted(lang, words.n_requests, count),
    }
}

/// A count with its noun. The forms stand between bars, as many as the
/// language has: one and other, or one, few and many, or a single one.
pub(super) fn counted(lang: Lang, forms: &str, count: u64) -> String {
    let (tens, hundreds) = (count % 10, count % 100);
    let at = match lang {
        Lang::En => usize::from(count != 1),
        Lang::Pl if count == 1 => 0,
        Lang::Pl if (2..=4).contains(&tens) && !(12..=14).contains(&hundreds) => 1,
        Lang::Pl => 2,
        Lang::Ka | Lang::Ja => 0,
    };
    forms.split('|').nth(at).unwrap_or(forms).replace("{n}", &number(lang, count))
}

/// A share as a percentage for a drawing, to a hundredth: `42.31%`.
pub(super) fn share(part: i64, whole: i64) -> String {
    let hundredths = if whole <= 0 { 0 } else { i128::from(part) * 10_000 / i128::from(whole) };
    let hundredths = hundredths.clamp(0, 10_000);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// A share as a percentage for people, rounded down, so that 100% is all and 0% is nothing.
pub(super) fn percent(lang: Lang, part: i64, whole: i64) -> String {
    let exact = if whole <= 0 { 0 } else { i128::from(part).max(0) * 100 / i128::from(whole) };
    let less = if exact == 0 && part > 0 && whole > 0 { "<1" } else { "" };
    let percent = number(lang, u64::try_from(exact).unwrap_or(0));
    let percent = if less.is_empty() { percent.as_str() } else { less };
    if is_spaced(lang) { format!("{percent}{NARROW}%") } else { format!("{percent}%") }
}

/// How a day is written; the script writes it the same way.
pub(super) const fn day_form(lang: Lang) -> &'static str {
    match lang {
        Lang::En => "{m} {d}, {y}",
        Lang::Ja => "{y}年{m}{d}日",
        Lang::Ka | Lang::Pl => "{d} {m} {y}",
    }
}

/// A day of the calendar.
pub(super) fn day(lang: Lang, date: Date) -> String {
    let (year, day) = (date.year().to_string(), date.day().to_string());
    day_form(lang).replace("{m}", month(lang, date)).replace("{d}", &day).replace("{y}", &year)
}

/// A day without its year, for axes.
pub(super) fn short_day(lang: Lang, date: Date) -> String {
    let month = month(lang, date);
    match lang {
        Lang::En => format!("{month} {}", date.day()),
        Lang::Ja => format!("{month}{}日", date.day()),
        Lang::Ka | Lang::Pl => format!("{} {month}", date.day()),
    }
}

fn month(lang: Lang, date: Date) -> &'static str {
    let at = usize::try_from(date.month() - 1).unwrap_or(0);
    lang.words().months.split(' ').nth(at).unwrap_or_default()
}

/// A time of day in UTC, to the second. The script replaces it by the viewer's own.
pub(super) fn clock(at_s: i64) -> String {
    let Some(at) = Timestamp::from_second(at_s).ok() else { return String::new() };
    let at = at.to_zoned(TimeZone::UTC);
    format!("{:02}:{:02}:{:02} UTC", at.hour(), at.minute(), at.second())
}

/// An instant in UTC, to the minute. The script replaces it by the viewer's own.
pub(super) fn moment(lang: Lang, at_s: i64) -> String {
    let Some(at) = Timestamp::from_second(at_s).ok() else { return String::new() };
    let at = at.to_zoned(TimeZone::UTC);
    format!("{}, {:02}:{:02} UTC", day(lang, at.date()), at.hour(), at.minute())
}

/// The instant in RFC 3339.
pub(super) fn rfc3339(at_s: i64) -> String {
    Timestamp::from_second(at_s).map(|at| at.to_string()).unwrap_or_default()
}

/// The day an instant falls on, in a zone.
pub(super) fn date_of(at_s: i64, zone: &TimeZone) -> Date {
    Timestamp::from_second(at_s).map(|at| at.to_zoned(zone.clone()).date()).unwrap_or_default()
}

/// A window's name.
pub(super) const fn window(lang: Lang, window: Window) -> &'static str {
    let words = lang.words();
    match window {
        Window::Request => words.window_request,
        Window::Minute => words.window_minute,
        Window::Hour => words.window_hour,
        Window::Day => words.window_day,
        Window::Week => words.window_week,
        Window::Month => words.window_month,
        Window::Quarter => words.window_quarter,
        Window::Year => words.window_year,
        Window::Total => words.window_total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_language_writes_figures_its_own_way() {
        let amount = Money::from_nano(1_234_567_890_000);
        assert_eq!(money(Lang::En, amount, 2), "$1,234.57");
        assert_eq!(money(Lang::Ja, amount, 2), "$1,234.57");
        assert_eq!(money(Lang::Pl, amount, 2), "1234,57\u{a0}USD");
        assert_eq!(money(Lang::Ka, amount, 2), "1\u{a0}234,57\u{a0}USD");
        assert_eq!(money(Lang::En, -amount, 0), "\u{2212}$1,235");
        assert_eq!(money(Lang::En, Money::from_nano(-1), 2), "$0.00", "no minus before nothing");
        assert_eq!(exact(Lang::En, Money::from_nano(1_500_000)), "$0.0015");
        assert_eq!(exact(Lang::En, Money::from_nano(i64::MIN)), "\u{2212}$9,223,372,036.854775808");
        assert_eq!(number(Lang::Pl, 12_345), "12\u{a0}345");
    }

    #[test]
    fn counts_take_the_form_of_their_noun() {
        let polish = |count| counted(Lang::Pl, "{n} klucz|{n} klucze|{n} kluczy", count);
        for (count, text) in [
            (0, "0 kluczy"),
            (1, "1 klucz"),
            (3, "3 klucze"),
            (12, "12 kluczy"),
            (22, "22 klucze"),
            (112, "112 kluczy"),
        ] {
            assert_eq!(polish(count), text);
        }
        assert_eq!(counted(Lang::En, "{n} key|{n} keys", 1), "1 key");
        assert_eq!(counted(Lang::En, "{n} key|{n} keys", 0), "0 keys");
        assert_eq!(counted(Lang::Ja, "キー{n}個", 2), "キー2個");
    }

    #[test]
    fn shares_neither_overflow_nor_leave_their_drawing() {
        assert_eq!(share(1, 3), "33.33%");
        assert_eq!(share(i64::MAX, 1), "100.00%");
        assert_eq!(share(-1, 1), "0.00%");
        assert_eq!(share(1, 0), "0.00%");
        assert_eq!(percent(Lang::En, 999, 1_000), "99%");
        assert_eq!(percent(Lang::Pl, 1, 1_000), "<1\u{a0}%");
        assert_eq!(percent(Lang::En, 0, 1_000), "0%");
    }
}
