//! `spendguard ledger …`.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::cli::api::segment;
use crate::cli::args::LedgerCommand;
use crate::cli::table::{self, money, text, time};
use crate::cli::{Connection, Failure, Format, complain, say};

const POLL_EVERY: Duration = Duration::from_secs(1);
const PAGE: usize = 1_000;

/// Fields of an entry, in the order of an export; those of `usage` last.
const FIELDS: [&str; 25] = [
    "id",
    "created_at",
    "admitted_at",
    "kind",
    "key_id",
    "project_id",
    "end_user",
    "endpoint",
    "model",
    "served_model",
    "service_tier",
    "status",
    "basis",
    "cost_usd",
    "held_usd",
    "tool_fees_usd",
    "price_version",
    "object_id",
    "upstream_request_id",
    "duration_ms",
    "ttft_ms",
    "stream",
    "disconnected",
    "corrects",
    "note",
];
const USAGE_FIELDS: [&str; 5] =
    ["input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"];

pub(super) async fn run(
    command: LedgerCommand,
    format: Option<Format>,
    connection: &Connection,
) -> Result<(), Failure> {
    let format_or_table = format.unwrap_or_default();
    match command {
        LedgerCommand::Tail { follow, number } => tail(format_or_table, follow, number, connection).await,
        LedgerCommand::Export { since, until } => {
            export(format.unwrap_or(Format::Csv), since, until, connection).await
        }
        LedgerCommand::Adjust { entry, usd, note } => {
            let path = format!("/guard/v1/ledger/{}/adjust", segment(&entry));
            let body = json!({ "amount_usd": &usd, "note": note });
            let made = connection.call(Method::POST, &path, Some(body)).await?;
            let [id, corrects, cost] = ["id", "corrects", "cost_usd"].map(|field| text(&made, field));
            // The correction of a grant moves credit and costs nothing.
            let by = if made["kind"] == "grant" { usd } else { cost };
            table::outcome(format_or_table, &made, &format!("{id} corrects {corrects} by {by} USD"));
            Ok(())
        }
        LedgerCommand::Verify => verify(format_or_table, connection).await,
    }
}

async fn page(connection: &Connection, query: &str) -> Result<(Vec<Value>, bool), Failure> {
    let page = connection.get(&format!("/guard/v1/ledger?{query}")).await?;
    Ok((page["data"].as_array().cloned().unwrap_or_default(), page["has_more"] == true))
}

async fn tail(format: Format, follow: bool, number: usize, connection: &Connection) -> Result<(), Failure> {
    let (mut entries, _) = page(connection, &format!("limit={}&order=desc", number.clamp(1, PAGE))).await?;
    entries.reverse();
    match format {
        Format::Table => say(&line(
            &["ENTRY", "CREATED", "KIND", "KEY", "MODEL", "BASIS", "IN", "OUT", "COST USD"]
                .map(str::to_owned),
        )),
        Format::Csv => say(&csv_head()),
        Format::Json | Format::Jsonl => {}
    }
    entries.iter().try_for_each(|entry| print_entry(format, entry))?;
    if !follow {
        return Ok(());
    }
    // Entries are numbered at admission and written when they end, so a later line
    // may have a smaller number: the shown ids are remembered.
    let mut shown: std::collections::BTreeSet<String> =
        entries.iter().map(|entry| text(entry, "id")).collect();
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        let (mut newest, _) = page(connection, &format!("limit={PAGE}&order=desc")).await?;
        newest.reverse();
        for entry in newest.iter().filter(|entry| shown.insert(text(entry, "id"))) {
            print_entry(format, entry)?;
        }
        let present: std::collections::BTreeSet<String> =
            newest.iter().map(|entry| text(entry, "id")).collect();
        shown.retain(|id| present.contains(id));
    }
}

fn print_line(entry: &Value) {
    let usage = &entry["usage"];
    let what = if text(entry, "kind") == "threshold" { text(entry, "note") } else { text(entry, "model") };
    say(&line(&[
        text(entry, "id"),
        time(entry, "created_at"),
        text(entry, "kind"),
        text(entry, "key_id"),
        what,
        text(entry, "basis"),
        text(usage, "input_tokens"),
        text(usage, "output_tokens"),
        money(entry, "cost_usd"),
    ]));
}

fn line(cells: &[String; 9]) -> String {
    let [id, at, kind, key, model, basis, input, output, cost] = cells;
    format!("{id:<10} {at:<20} {kind:<9} {key:<24} {model:<24} {basis:<8} {input:>8} {output:>8} {cost:>14}")
}

async fn export(
    format: Format,
    since: Option<String>,
    until: Option<String>,
    connection: &Connection,
) -> Result<(), Failure> {
    let (mut window, since_text) = (String::new(), since.clone());
    for (name, value) in [("since", since), ("until", until)] {
        if let Some(value) = value {
            window.push_str(&format!("&{name}={}", segment(&value)));
        }
    }
    match format {
        Format::Csv => say(&csv_head()),
        Format::Jsonl | Format::Json => {}
        Format::Table => return Err(Failure::wrong("an export is csv or jsonl")),
    }
    say_what_is_pruned(since_text.as_deref(), connection).await?;
    let mut after = String::new();
    loop {
        let (entries, has_more) = page(connection, &format!("limit={PAGE}&order=asc{window}{after}")).await?;
        for entry in &entries {
            print_entry(format, entry)?;
        }
        match entries.last() {
            Some(last) if has_more => after = format!("&after={}", text(last, "id")),
            _ => return Ok(()),
        }
    }
}

/// Warns on standard error if an export reaches back to pruned entries, so that it can't be complete.
async fn say_what_is_pruned(since: Option<&str>, connection: &Connection) -> Result<(), Failure> {
    let storage = connection.get("/guard/v1/storage").await?;
    let Some(before_s) = storage["pruned"]["before"].as_i64() else { return Ok(()) };
    let before = time(&storage["pruned"], "before");
    let reaches_back = since.is_none_or(|since| match since.parse::<i64>() {
        Ok(since_s) => since_s < before_s,
        // Days sort as text.
        Err(_) => since < before.as_str(),
    });
    if reaches_back {
        complain(&format!(
            "entries before {before} were pruned and are not in this export; `spendguard usage` has their sums"
        ));
    }
    Ok(())
}

/// Prints an entry: in columns, as CSV, or as an object on a line.
fn print_entry(format: Format, entry: &Value) -> Result<(), Failure> {
    match format {
        Format::Table => print_line(entry),
        Format::Csv => say(&csv_line(entry)?),
        Format::Jsonl | Format::Json => say(&entry.to_string()),
    }
    Ok(())
}

fn csv_head() -> String {
    FIELDS.into_iter().chain(USAGE_FIELDS).chain(["tags"]).collect::<Vec<_>>().join(",")
}

fn csv_line(entry: &Value) -> Result<String, Failure> {
    let own = FIELDS.iter().map(|field| text(entry, field));
    let usage = USAGE_FIELDS.iter().map(|field| text(&entry["usage"], field));
    let cells = own.chain(usage).chain([entry["tags"].to_string()]);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |error: String| Failure::failed(error);
    writer
        .write_record(cells.map(|cell| table::cell_text(&cell)))
        .map_err(|error| failed(error.to_string()))?;
    let bytes = writer.into_inner().map_err(|error| failed(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

async fn verify(format: Format, connection: &Connection) -> Result<(), Failure> {
    let report = connection.get("/guard/v1/ledger/verify").await?;
    let of = |field: &str| text(&report, field);
    let compared = format!(
        "{} entries, {} rollups, {} open holds and {} limits compared",
        of("entries"),
        of("rollups"),
        of("holds"),
        of("meters")
    );
    let is_ok = report["ok"] == true;
    let pruned = &report["pruned"];
    match format {
        Format::Json | Format::Jsonl => {
            table::programs(format, &report);
        }
        Format::Table => {
            print_differences(&report);
            if !pruned.is_null() {
                let (entries, before) = (text(pruned, "entries"), time(pruned, "before"));
                say(&format!(
                    "{entries} entries before {before} were pruned; their sums were compared all together"
                ));
            }
            if is_ok {
                say(&format!("ok: {compared}"));
            }
        }
        Format::Csv => return Err(Failure::wrong("a verification is a table or json")),
    }
    if is_ok {
        Ok(())
    } else {
        Err(Failure::failed(format!("the ledger does not agree with itself: {compared}")))
    }
}

fn print_differences(report: &Value) {
    for difference in report["differences"].as_array().into_iter().flatten() {
        let of = |field: &str| table::shown(&text(difference, field));
        say(&format!("{}: {}", of("kind"), of("what")));
        say(&format!("    means: {}", of("meaning")));
        say(&format!("    mend:  {}", of("mend")));
    }
    if let Some(more @ 1..) = report["differences_unlisted"].as_u64() {
        say(&format!("and {more} more"));
    }
}
