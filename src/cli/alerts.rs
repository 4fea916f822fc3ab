//! `spendguard alerts …`.

use http::Method;
use serde_json::Value;

use crate::cli::args::AlertsCommand;
use crate::cli::table::{self, text, time};
use crate::cli::{Connection, Failure, Format};

pub(super) async fn run(
    command: AlertsCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    match command {
        AlertsCommand::Test => test(format, connection).await,
        AlertsCommand::List => list(format, connection).await,
    }
}

async fn test(format: Format, connection: &Connection) -> Result<(), Failure> {
    let answer = connection.call(Method::POST, "/guard/v1/alerts/test", None).await?;
    let results = answer["data"].as_array().cloned().unwrap_or_default();
    if results.is_empty() {
        return Err(Failure::wrong("no channel is configured: see [alerts] in the configuration"));
    }
    let words = |result: &Value| format!("{}: {}", text(result, "channel"), outcome(result));
    table::outcome(format, &answer["data"], &results.iter().map(words).collect::<Vec<_>>().join("\n"));
    let all_sent = results.iter().all(|result| result["state"] == "sent");
    if all_sent { Ok(()) } else { Err(Failure::failed("not all channels took the test message")) }
}

/// A delivery in a few words.
fn outcome(delivery: &Value) -> String {
    match delivery["error"].as_str() {
        Some(error) => format!("{}, {error}", text(delivery, "state")),
        None => text(delivery, "state"),
    }
}

/// The channel, and whom it is for, if not those that it is configured for.
fn channel(delivery: &Value) -> String {
    let recipients = delivery["recipients"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let recipients: Vec<&str> = recipients.collect();
    let channel = text(delivery, "channel");
    if recipients.is_empty() { channel } else { format!("{channel} to {}", recipients.join(", ")) }
}

async fn list(format: Format, connection: &Connection) -> Result<(), Failure> {
    let answer = connection.get("/guard/v1/alerts").await?;
    if table::programs(format, &answer["data"]) {
        return Ok(());
    }
    let columns = [
        ("WHEN", false),
        ("KIND", false),
        ("LIMIT", false),
        ("SUBJECT", false),
        ("THRESHOLD", true),
        ("SETTLED", true),
        ("CHANNEL", false),
        ("STATE", false),
    ];
    let mut rows = Vec::new();
    for alert in answer["data"].as_array().into_iter().flatten() {
        let mut deliveries = alert["deliveries"].as_array().cloned().unwrap_or_default();
        if deliveries.is_empty() {
            deliveries.push(Value::Null);
        }
        for delivery in &deliveries {
            let mut row = vec![time(alert, "created_at")];
            row.extend(["kind", "limit", "subject", "threshold", "settled"].map(|field| text(alert, field)));
            row.extend([channel(delivery), outcome(delivery)]);
            rows.push(row);
        }
    }
    table::print(format, &columns, &rows)
}
