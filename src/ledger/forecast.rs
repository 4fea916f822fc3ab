//! The amount a window is likely to reach, judged by the days before it.
//!
//! Each weekday has a pace of its own once there are two weeks of data; before
//! that, all days share one. Integers throughout, so that a forecast is the same on
//! every machine.

use crate::domain::Span;

/// The number of past days that are used: four of each weekday.
pub const DAYS_BACK: usize = 28;
/// The number of days from which weekdays are treated separately.
const WEEKDAYS_FROM: usize = 14;
/// Of a normal distribution, four fifths lie within so many hundredths of its
/// standard deviation from the mean.
const FOUR_FIFTHS: i128 = 128;

/// The input of a forecast. Amounts are in the unit of the limit.
#[derive(Clone, Copy, Debug)]
pub struct ForecastInput<'a> {
    /// Sums of the complete days before today, yesterday first.
    pub before: &'a [i64],
    /// What the window has settled.
    pub settled: i64,
    /// Now, in Unix seconds.
    pub now_s: i64,
    /// The days from today to the window's end.
    pub days: &'a [Span],
    /// The cap, if there is one.
    pub hard: Option<i64>,
}

/// The projection of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// The most likely sum at its end.
    pub expected: i64,
    /// The sum is above this with a probability of nine tenths.
    pub low: i64,
    /// The sum is below this with a probability of nine tenths.
    pub high: i64,
    /// When the cap will be reached at the expected pace, in Unix seconds.
    pub reached_s: Option<i64>,
    /// The number of complete days that it is based on.
    pub days: usize,
}

/// Makes a forecast; `None` if there is no complete day to base it on.
pub fn forecast(input: &ForecastInput<'_>) -> Option<Forecast> {
    // Days before the first use are ignored.
    let used = input.before.iter().rposition(|sum| *sum != 0)? + 1;
    let before = &input.before[..used];
    let mut expected = i128::from(input.settled);
    let mut left_s: i128 = 0;
    let cap = input.hard.map(i128::from);
    let mut reached_s = cap.filter(|cap| expected >= *cap).map(|_| input.now_s);
    for (ahead, day) in input.days.iter().enumerate() {
        let from_s = day.start_s.max(input.now_s);
        let (rest_s, whole_s) = (i128::from(day.end_s - from_s), i128::from(day.end_s - day.start_s).max(1));
        let adds = i128::from(pace(before, ahead)) * rest_s / whole_s;
        if let Some(cap) = cap.filter(|cap| reached_s.is_none() && adds > 0 && expected + adds >= *cap) {
            let after_s = (cap - expected) * rest_s / adds;
            reached_s = Some(from_s.saturating_add(i64::try_from(after_s).unwrap_or(0)));
        }
        expected += adds;
        left_s += rest_s;
    }
    // Days deviate independently, so a sum of days deviates by the square root of their number.
    let spread = deviation(before) * (left_s * 1_000_000 / 86_400).isqrt() * FOUR_FIFTHS / 100_000;
    let amount = |sum: i128| i64::try_from(sum).unwrap_or(i64::MAX);
    Some(Forecast {
        expected: amount(expected),
        low: amount((expected - spread).max(i128::from(input.settled))),
        high: amount(expected + spread),
        reached_s,
        days: before.len(),
    })
}

/// The expected amount of a day that is `ahead` days after today.
fn pace(before: &[i64], ahead: usize) -> i64 {
    // The day before index `i` is `i + 1` days ago.
    let is_like = |at: usize| before.len() < WEEKDAYS_FROM || (at + 1 + ahead).is_multiple_of(7);
    let like = before.iter().enumerate().filter(|(at, _)| is_like(*at)).map(|(_, sum)| i128::from(*sum));
    let (sum, count) = like.fold((0, 0), |(sum, count), day| (sum + day, count + 1));
    i64::try_from(sum / i128::max(count, 1)).unwrap_or(i64::MAX)
}

/// How far a day lies from its pace, typically.
fn deviation(before: &[i64]) -> i128 {
    let off = before.iter().enumerate().map(|(at, sum)| {
        let like_ahead = (7 - (at + 1) % 7) % 7;
        let off = i128::from(*sum) - i128::from(pace(before, like_ahead));
        off.saturating_mul(off)
    });
    let sum = off.fold(0_i128, i128::saturating_add);
    (sum / i128::try_from(before.len().max(2) - 1).unwrap_or(1)).isqrt()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const DAY_S: i64 = 86_400;

    /// So many days from today on, which began at 0.
    fn days(count: i64) -> Vec<Span> {
        (0..count).map(|day| Span { start_s: day * DAY_S, end_s: (day + 1) * DAY_S }).collect()
    }

    #[test]
    fn an_even_pace_goes_on_and_reaches_the_cap_on_its_way() {
        let days = days(10);
        let input = ForecastInput {
            before: &[100; 28],
            settled: 500,
            now_s: DAY_S / 2,
            days: &days,
            hard: Some(1_000),
        };
        let forecast = forecast(&input).unwrap();
        assert_eq!((forecast.expected, forecast.low, forecast.high), (1_450, 1_450, 1_450));
        // 500 more at 100 a day, from noon on.
        assert_eq!(forecast.reached_s, Some(5 * DAY_S + DAY_S / 2));
    }

    #[test]
    fn a_quiet_weekend_is_expected_again() {
        // Today is a Monday: yesterday and the day before were quiet.
        let week = [0, 0, 70, 70, 70, 70, 70];
        let before: Vec<i64> = week.into_iter().cycle().take(28).collect();
        let days = days(7);
        let input = ForecastInput { before: &before, settled: 0, now_s: 0, days: &days, hard: None };
        assert_eq!(forecast(&input).unwrap().expected, 350);
        let saturday =
            ForecastInput { days: &days[5..], now_s: 5 * DAY_S, before: &before, settled: 350, hard: None };
        // Seen from a Saturday the same history lies differently.
        assert_eq!(
            forecast(&ForecastInput { before: &rotated(&before, 2), ..saturday }).unwrap().expected,
            350
        );
    }

    /// The history as it is seen so many days earlier in the week.
    fn rotated(before: &[i64], by: usize) -> Vec<i64> {
        before.iter().copied().cycle().skip(by).take(before.len()).collect()
    }

    #[test]
    fn without_a_day_to_tell_by_there_is_no_forecast_and_days_before_the_first_do_not_count() {
        let days = days(3);
        let input = ForecastInput { before: &[0; 28], settled: 50, now_s: 0, days: &days, hard: None };
        assert_eq!(forecast(&input), None);
        let input = ForecastInput { before: &[90, 30, 0, 0, 0], ..input };
        let forecast = forecast(&input).unwrap();
        assert_eq!((forecast.days, forecast.expected), (2, 50 + 3 * 60));
        assert!(forecast.low < forecast.expected && forecast.expected < forecast.high);
    }

    proptest! {
        #[test]
        fn a_forecast_is_in_order_and_never_below_what_is_settled(
            before in vec(0_i64..1 << 60, 1..29),
            settled in 0_i64..1 << 60,
            (count, now_s) in (1_i64..400, 0..DAY_S),
            hard in proptest::option::of(0_i64..1 << 61),
        ) {
            let days = days(count);
            let input = ForecastInput { before: &before, settled, now_s, days: &days, hard };
            let Some(forecast) = forecast(&input) else { return Ok(()) };
            prop_assert!(settled <= forecast.low && forecast.low <= forecast.expected.max(settled));
            prop_assert!(forecast.expected <= forecast.high);
            prop_assert_eq!(forecast.reached_s.is_some(), hard.is_some_and(|hard| hard <= forecast.expected));
            if let Some(reached_s) = forecast.reached_s {
                prop_assert!(now_s <= reached_s && reached_s <= count * DAY_S);
            }
        }
    }
}
