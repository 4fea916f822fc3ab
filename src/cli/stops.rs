//! `spendguard kill-switch …` and `spendguard fuses …`.

use http::Method;
use serde_json::{Value, json};

use crate::cli::api::segment;
use crate::cli::args::{FusesCommand, KillSwitchCommand};
use crate::cli::table::{self, text, time};
use crate::cli::{Connection, Failure, Format};

pub(super) async fn kill_switch(
    command: KillSwitchCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    let path = |subject: &str| format!("/guard/v1/kill-switches/{}", segment(subject));
    match command {
        KillSwitchCommand::On { subject, note } => {
            let stop = connection.call(Method::PUT, &path(&subject), Some(json!({ "note": note }))).await?;
            table::outcome(format, &stop, &format!("all spending of {subject} is stopped"));
            Ok(())
        }
        KillSwitchCommand::Off { subject } => {
            let off = connection.call(Method::DELETE, &path(&subject), None).await?;
            table::outcome(format, &off, &format!("the kill switch of {subject} is off"));
            Ok(())
        }
        KillSwitchCommand::List => list(format, connection).await,
    }
}

async fn list(format: Format, connection: &Connection) -> Result<(), Failure> {
    let stops = Value::Array(connection.all("/guard/v1/stops").await?);
    if table::programs(format, &stops) {
        return Ok(());
    }
    let columns = [
        ("SUBJECT", false),
        ("KIND", false),
        ("FUSE", false),
        ("SINCE", false),
        ("UNTIL", false),
        ("SPENT", true),
        ("LIMIT", true),
        ("BY", false),
        ("NOTE", false),
    ];
    let row = |stop: &Value| {
        let of = |field: &str| text(stop, field);
        let at = |field: &str| time(stop, field);
        vec![
            of("subject"),
            of("kind"),
            of("fuse"),
            at("since"),
            at("until"),
            of("spent_usd"),
            of("limit_usd"),
            of("by"),
            of("note"),
        ]
    };
    let rows: Vec<_> = stops.as_array().into_iter().flatten().map(row).collect();
    table::print(format, &columns, &rows)
}

pub(super) async fn fuses(
    command: FusesCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    match command {
        FusesCommand::List => list_fuses(format, connection).await,
        FusesCommand::Reset { name, subject } => {
            let path = format!("/guard/v1/fuses/{}/reset", segment(&name));
            let lifted = connection.call(Method::POST, &path, Some(json!({ "subject": subject }))).await?;
            let subjects: Vec<_> =
                lifted["data"].as_array().into_iter().flatten().map(|stop| text(stop, "subject")).collect();
            let whom = if subjects.is_empty() { "it had not blown".to_owned() } else { subjects.join(", ") };
            table::outcome(format, &lifted, &format!("fuse {name} is reset: {whom}"));
            Ok(())
        }
    }
}

async fn list_fuses(format: Format, connection: &Connection) -> Result<(), Failure> {
    let fuses = Value::Array(connection.all("/guard/v1/fuses").await?);
    if table::programs(format, &fuses) {
        return Ok(());
    }
    let columns = [
        ("FUSE", false),
        ("PER", false),
        ("WITHIN", true),
        ("USD", true),
        ("TIMES USUAL", true),
        ("SUBJECT", false),
        ("SPENT", true),
        ("LIMIT", true),
        ("STATE", false),
    ];
    let mut rows = Vec::new();
    for fuse in fuses.as_array().into_iter().flatten() {
        let blown = fuse["stops"].as_array().map_or(&[][..], Vec::as_slice);
        let quiet = fuse["subjects"].as_array().into_iter().flatten();
        let quiet = quiet.filter(|of| blown.iter().all(|stop| stop["subject"] != of["subject"]));
        let all = blown.iter().map(|stop| (stop, "blown")).chain(quiet.map(|of| (of, "")));
        let mut subjects: Vec<(&Value, &str)> = all.collect();
        // A fuse without a spender still has its line.
        if subjects.is_empty() {
            subjects.push((&Value::Null, ""));
        }
        for (subject, state) in subjects {
            let of = |field: &str| text(fuse, field);
            let at = |field: &str| text(subject, field);
            let within = format!("{}s", of("within_seconds"));
            let (usd, times) = (of("usd"), of("times_usual"));
            let (who, spent, limit) = (at("subject"), at("spent_usd"), at("limit_usd"));
            rows.push(vec![of("name"), of("per"), within, usd, times, who, spent, limit, state.to_owned()]);
        }
    }
    table::print(format, &columns, &rows)
}
