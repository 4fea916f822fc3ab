//! What a key has used: by day and model, and as the old billing endpoint shows it.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::domain::{Class, Money, Quantities, Span, Window};
use crate::keys::Key;
use crate::ledger::calendar;
use crate::metrics::dollars;
use crate::proxy::refuse::Refusal;
use crate::store::Reports;
use crate::store::reports::UsageSum;

/// The longest time that a key's usage is summed up of at once, in days.
const BILLING_DAYS_MAX: i64 = 366;
const DAY_S: i64 = 86_400;
/// The most days that are shown, each by itself.
const DAYS_MAX: usize = 92;

/// A key's usage by day and model, from `since` up to `until`: Unix seconds, or days of the
/// organization's time zone, the end exclusive. Without them: of this month.
pub(super) async fn by_day_and_model(
    reports: &Reports,
    key: &Key,
    query: &str,
    (zone, now_s): (&TimeZone, i64),
) -> Result<Value, Refusal> {
    let given = |name: &'static str| value(query, name).map(|text| instant_s(text, zone, name)).transpose();
    let since_s = given("since")?.unwrap_or_else(|| calendar::span(Window::Month, zone, now_s).start_s);
    let until_s = given("until")?.unwrap_or(now_s + 1);
    let days = days(zone, since_s, until_s)?;
    let sums = reports.usage_of_key(key.id.to_string(), days.clone()).await;
    let sums = sums.map_err(|_| Refusal::LedgerUnavailable)?;
    let mut total = UsageSum::default();
    let mut data = Vec::new();
    for (day, models) in days.iter().zip(sums) {
        for (model, sum) in models {
            total.add(&sum);
            let mut row = shown(&sum);
            row.insert("day".to_owned(), json!(date(zone, day.start_s)));
            row.insert("model".to_owned(), json!(model));
            data.push(Value::Object(row));
        }
    }
    let mut answer = shown(&total);
    answer.insert("object".to_owned(), json!("guard.usage"));
    answer.insert("key".to_owned(), json!({ "id": *key.id, "name": *key.name, "project_id": *key.project }));
    answer.insert("since".to_owned(), json!(since_s));
    answer.insert("until".to_owned(), json!(until_s));
    answer.insert("data".to_owned(), Value::Array(data));
    Ok(Value::Object(answer))
}

/// A sum, with the names of the ledger's entries.
fn shown(sum: &UsageSum) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("requests".to_owned(), json!(sum.requests));
    shown.insert("usage".to_owned(), usage(&sum.quantities));
    shown.insert("cost_usd".to_owned(), json!(sum.cost.to_string()));
    shown
}

fn usage(used: &Quantities) -> Value {
    let mut usage = json!({
        "input_tokens": used.input_tokens_total(),
        "cached_input_tokens": used.cached_tokens_total(),
        "output_tokens": used.output_tokens_total(),
        "reasoning_tokens": used[Class::Reasoning],
        "total_tokens": used.tokens_total(),
    });
    for (class, count) in used.non_zero().filter(|(class, _)| !class.is_token()) {
        usage[class.name()] = json!(count);
    }
    usage
}

/// The days of a time; the first and the last may be parts of days.
fn days(zone: &TimeZone, since_s: i64, until_s: i64) -> Result<Vec<Span>, Refusal> {
    let mut days = Vec::new();
    let mut at_s = since_s;
    while at_s < until_s {
        if days.len() == DAYS_MAX {
            let message = format!("From since to until there may be {DAYS_MAX} days.");
            return Err(Refusal::Invalid(message, Some("since")));
        }
        let end_s = calendar::span(Window::Day, zone, at_s).end_s.min(until_s);
        days.push(Span { start_s: at_s, end_s });
        at_s = end_s;
    }
    Ok(days)
}

fn date(zone: &TimeZone, at_s: i64) -> Option<String> {
    let at = Timestamp::from_second(at_s).ok()?;
    Some(at.to_zoned(zone.clone()).date().to_string())
}

/// The value of a parameter; the old front-ends escape none.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Unix seconds, or the start of a day.
fn instant_s(text: &str, zone: &TimeZone, name: &'static str) -> Result<i64, Refusal> {
    let wrong =
        || Refusal::Invalid(format!("{name} must be Unix seconds or a date such as 2026-11-01."), Some(name));
    let at = match text.parse::<i64>() {
        Ok(seconds) => Timestamp::from_second(seconds).ok(),
        Err(_) => {
            text.parse::<Date>().ok().and_then(|date| Some(date.to_zoned(zone.clone()).ok()?.timestamp()))
        }
    };
    at.map(Timestamp::as_second).ok_or_else(wrong)
}

/// The key's spend between two days of UTC, the end exclusive, in cents.
#[expect(clippy::float_arithmetic, reason = "the old endpoint speaks floats")]
pub(super) async fn billing(reports: &Reports, key: &Key, query: &str) -> Result<Value, Refusal> {
    let day = |name: &'static str| {
        let date = value(query, name).and_then(|text| text.parse::<Date>().ok());
        let start = date.and_then(|date| date.to_zoned(TimeZone::UTC).ok());
        let wrong = || Refusal::Invalid(format!("{name} must be a date such as 2026-11-01."), Some(name));
        start.map(|start| start.timestamp().as_second()).ok_or_else(wrong)
    };
    let (since_s, until_s) = (day("start_date")?, day("end_date")?);
    if until_s.saturating_sub(since_s) > BILLING_DAYS_MAX * DAY_S {
        let message = format!("From start_date to end_date there may be {BILLING_DAYS_MAX} days.");
        return Err(Refusal::Invalid(message, Some("end_date")));
    }
    let span = Span { start_s: since_s, end_s: until_s };
    let sums = reports.usage_of_key(key.id.to_string(), vec![span]).await;
    let sums = sums.map_err(|_| Refusal::LedgerUnavailable)?.pop().unwrap_or_default();
    let cents = |cost: Money| dollars(cost) * 100.0;
    let items: Vec<_> =
        sums.iter().map(|(model, sum)| json!({ "name": model, "cost": cents(sum.cost) })).collect();
    let total: Money = sums.iter().map(|(_, sum)| sum.cost).sum();
    Ok(json!({
        "object": "list",
        "daily_costs": [{ "timestamp": since_s, "line_items": items }],
        "total_usage": cents(total),
    }))
}
