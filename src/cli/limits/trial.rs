//! `spendguard limits try …`.

use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use crate::cli::table::{self, text, time};
use crate::cli::{Connection, Failure, Format, say};
use crate::clock::Clock;
use crate::config::{self, units};
use crate::domain::Limit;
use crate::rulebook::rule::LimitRule;

pub(super) async fn run(
    file: &Path,
    since: &str,
    until: Option<String>,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    let limits =
        config::limits_of(file, std::env::vars()).map_err(|error| Failure::wrong(error.to_string()))?;
    let limits = limits.iter().map(|limit| named(limit)).collect::<Result<Vec<_>, _>>()?;
    let mut body = json!({ "limits": limits, "since": moment(since) });
    if let Some(until) = until {
        body["until"] = until.into();
    }
    let trial = connection.call(Method::POST, "/guard/v1/limits/try", Some(body)).await?;
    if table::programs(format, &trial) {
        return Ok(());
    }
    say(&format!(
        "from {} to {}: {} of {} requests would have been rejected, which have cost {} USD",
        time(&trial, "since"),
        time(&trial, "until"),
        text(&trial, "rejected"),
        text(&trial, "requests"),
        text(&trial, "rejected_usd"),
    ));
    if trial["unpriced"] != 0 {
        say(&format!("{} of them are of a model without a price, under a cap in dollars", trial["unpriced"]));
    }
    for name in trial["untried"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say(&format!("limit {name} is a rate, which is not tried"));
    }
    print(format, &trial)
}

/// A line for each limit, and one for each of its subjects that are listed.
fn print(format: Format, trial: &Value) -> Result<(), Failure> {
    let columns = [
        ("LIMIT", false),
        ("SUBJECT", false),
        ("REJECTED", true),
        ("USD", true),
        ("PEAK", true),
        ("FIRST", false),
        ("LAST", false),
    ];
    let mut rows = Vec::new();
    for limit in trial["limits"].as_array().into_iter().flatten() {
        let name = text(limit, "name");
        let cells = |of: &Value, subject: String| {
            let [rejected, usd] = ["rejected", "rejected_usd"].map(|field| text(of, field));
            let [first, last] = ["first_at", "last_at"].map(|field| time(of, field));
            vec![name.clone(), subject, rejected, usd, text(of, "peak"), first, last]
        };
        rows.push(cells(limit, "(all)".to_owned()));
        let subjects = limit["subjects"].as_array().into_iter().flatten();
        rows.extend(subjects.map(|subject| cells(subject, text(subject, "subject"))));
    }
    table::print(format, &columns, &rows)
}

/// A limit as the API takes it, with its name.
fn named(limit: &Limit) -> Result<Value, Failure> {
    let rule = serde_json::to_value(LimitRule::of(limit));
    let mut rule = rule.map_err(|error| Failure::failed(error.to_string()))?;
    rule["name"] = (*limit.name).into();
    Ok(rule)
}

/// A time as the API takes it: so long ago, or as it was written.
fn moment(text: &str) -> Value {
    let ago = units::duration(text).ok().and_then(|ago| i64::try_from(ago.as_secs()).ok());
    ago.map_or_else(|| text.into(), |ago_s| Clock::default().now_s().saturating_sub(ago_s).into())
}
