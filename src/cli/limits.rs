//! `spendguard limits …`.

mod trial;

use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::api::segment;
use crate::cli::args::LimitsCommand;
use crate::cli::table::{self, text, time};
use crate::cli::{Connection, Failure, Format, say};

pub(super) async fn run(
    command: LimitsCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    match command {
        LimitsCommand::List => list(format, connection).await,
        LimitsCommand::Set { name, per, unit, window, hard, soft, only, zone, shadow } => {
            let mode = if shadow { "shadow" } else { "enforce" };
            let mut body = json!({ "per": per, "unit": unit, "window": window, "soft": soft, "mode": mode });
            body["hard"] = hard.into();
            body["zone"] = zone.into();
            body["only"] = narrowed(&only)?;
            let path = format!("/guard/v1/limits/{}", segment(&name));
            let limit = connection.call(Method::PUT, &path, Some(body)).await?;
            table::outcome(format, &limit, &format!("limit {name} is in force"));
            Ok(())
        }
        LimitsCommand::Remove { name } => {
            let path = format!("/guard/v1/limits/{}", segment(&name));
            let removed = connection.call(Method::DELETE, &path, None).await?;
            table::outcome(format, &removed, &format!("limit {name} is removed"));
            Ok(())
        }
        LimitsCommand::Try { file, since, until } => {
            trial::run(&file, &since, until, format, connection).await
        }
        LimitsCommand::Explain { name } => explain(&name, format, connection).await,
    }
}

/// `project=a`, `key=b`, `model=c*`, `tag:team=search` in the form that the API takes.
fn narrowed(only: &[String]) -> Result<Value, Failure> {
    let mut parts: Map<String, Value> = Map::new();
    for part in only {
        let wrong = || Failure::wrong(format!("{part:?}: use project=…, key=…, model=… or tag:NAME=…"));
        let (what, value) = part.split_once('=').ok_or_else(wrong)?;
        let list = match what.split_once(':') {
            Some(("tag", tag)) => {
                let tags = parts.entry("tag").or_insert_with(|| json!({}));
                &mut tags[tag]
            }
            None if ["project", "key", "model"].contains(&what) => parts.entry(what).or_insert(Value::Null),
            _ => return Err(wrong()),
        };
        if let Value::Array(values) = list {
            values.push(value.into());
        } else {
            *list = json!([value]);
        }
    }
    Ok(Value::Object(parts))
}

async fn list(format: Format, connection: &Connection) -> Result<(), Failure> {
    let limits = Value::Array(connection.all("/guard/v1/limits").await?);
    if table::programs(format, &limits) {
        return Ok(());
    }
    let columns = [
        ("LIMIT", false),
        ("PER", false),
        ("UNIT", false),
        ("WINDOW", false),
        ("SUBJECT", false),
        ("SETTLED", true),
        ("HELD", true),
        ("HARD", true),
        ("REMAINING", true),
        ("RESETS", false),
        ("MODE", false),
        ("SOURCE", false),
    ];
    let (mut rows, mut unlisted) = (Vec::new(), 0);
    for limit in limits.as_array().into_iter().flatten() {
        let meters = limit["meters"].as_array().cloned().unwrap_or_default();
        let total = limit["meters_total"].as_u64().and_then(|total| usize::try_from(total).ok());
        unlisted += total.unwrap_or(0).saturating_sub(meters.len());
        // A limit without a meter yet still has its line.
        for meter in if meters.is_empty() { vec![Value::Null] } else { meters } {
            let of = |field: &str| text(limit, field);
            let at = |field: &str| text(&meter, field);
            rows.push(vec![
                of("name"),
                of("per"),
                of("unit"),
                of("window"),
                at("subject"),
                at("settled"),
                at("held"),
                of("hard"),
                at("remaining"),
                time(&meter, "resets_at"),
                of("mode"),
                of("source"),
            ]);
        }
    }
    table::print(format, &columns, &rows)?;
    if unlisted > 0 {
        say(&format!(
            "{unlisted} more meters, less full than these, are at /guard/v1/limits/NAME?after=SUBJECT"
        ));
    }
    Ok(())
}

/// Prints the part of a limit's numbers whose entries were pruned.
fn say_what_is_pruned(pruned: &Value) {
    let Some(sums) = pruned["settled"].as_object() else { return };
    let sums: Vec<_> =
        sums.keys().map(|subject| format!("{subject} {}", text(&pruned["settled"], subject))).collect();
    say(&format!("entries before {} were pruned; of them are: {}", time(pruned, "before"), sums.join(", ")));
}

async fn explain(name: &str, format: Format, connection: &Connection) -> Result<(), Failure> {
    let explained = connection.get(&format!("/guard/v1/limits/{}/explain?limit=1000", segment(name))).await?;
    if table::programs(format, &explained) {
        return Ok(());
    }
    for meter in explained["meters"].as_array().into_iter().flatten() {
        let of = |field: &str| text(meter, field);
        let subject = of("subject");
        let entries = text(&explained["settled_from_entries"], &subject);
        say(&format!(
            "{subject}: settled {} (entries add up to {}), held {}, remaining {}",
            of("settled"),
            if entries.is_empty() { "0" } else { &entries },
            of("held"),
            of("remaining"),
        ));
    }
    say_what_is_pruned(&explained["pruned"]);
    let meters = explained["meters"].as_array().map_or(0, Vec::len);
    if explained["meters_total"]
        .as_u64()
        .is_some_and(|total| usize::try_from(total).is_ok_and(|t| t > meters))
    {
        say(&format!("these are {meters} of {} meters", explained["meters_total"]));
    }
    say(&format!(
        "{} open holds, {} entries; the newest:",
        explained["holds_total"], explained["entries_total"]
    ));
    let columns = [
        ("ENTRY", false),
        ("AT", false),
        ("SUBJECT", false),
        ("KEY", false),
        ("MODEL", false),
        ("BASIS", false),
        ("AMOUNT", true),
    ];
    let row = |entry: &Value| {
        vec![
            text(entry, "id"),
            time(entry, "created_at"),
            text(entry, "subject"),
            text(entry, "key_id"),
            text(entry, "model"),
            text(entry, "basis"),
            text(entry, "amount"),
        ]
    };
    let rows: Vec<_> = explained["entries"].as_array().into_iter().flatten().map(row).collect();
    table::print(format, &columns, &rows)?;
    if explained["agrees"] == true {
        Ok(())
    } else {
        Err(Failure::failed(
            "meter and entries do not agree right now; look again when traffic is quiet, or run `spendguard ledger verify`",
        ))
    }
}
