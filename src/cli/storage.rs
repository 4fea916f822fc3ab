//! `spendguard storage …`.

use http::Method;
use serde_json::{Value, json};

use crate::cli::args::StorageCommand;
use crate::cli::table::{self, text, time};
use crate::cli::{Connection, Failure, Format, say};

pub(super) async fn run(
    command: StorageCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    match command {
        StorageCommand::Status => status(format, connection).await,
        StorageCommand::Migrate(_) => Err(Failure::wrong("this command does not talk to a guard")),
        StorageCommand::Prune { before, dry_run } => prune(&before, dry_run, format, connection).await,
    }
}

async fn status(format: Format, connection: &Connection) -> Result<(), Failure> {
    let storage = connection.get("/guard/v1/storage").await?;
    if table::programs(format, &storage) {
        return Ok(());
    }
    let bytes = |field: &str| storage[field].as_u64().map_or_else(|| "unknown".to_owned(), size);
    let keep = storage["keep_seconds"].as_u64().map(|seconds| format!("{} days", seconds / 86_400));
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let pruned = &storage["pruned"];
    let was_pruned = if pruned.is_null() {
        "nothing".to_owned()
    } else {
        let [entries, usd] = ["entries", "cost_usd"].map(|field| text(pruned, field));
        format!("{entries} entries before {}, of {usd} USD; their sums stay", time(pruned, "before"))
    };
    let rows = [
        ("database", format!("{}, {} of it reusable", bytes("database_bytes"), bytes("reusable_bytes"))),
        ("log", bytes("log_bytes")),
        ("free on its disk", bytes("free_bytes")),
        ("entries", text(&storage, "entries")),
        ("sums", text(&storage, "rollups")),
        ("oldest entry", or_none(time(&storage, "oldest_entry_at"))),
        ("kept for", keep.unwrap_or_else(|| "ever (storage.keep is not set)".to_owned())),
        ("pruned", was_pruned),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table::print(format, &[("WHAT", false), ("VALUE", false)], &rows)
}

/// Formats a number of bytes.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(name, shift)| format!("{}.{} {name}", bytes >> shift, ((bytes >> (shift - 10)) & 1023) * 10 / 1024),
    )
}

async fn prune(before: &str, dry_run: bool, format: Format, connection: &Connection) -> Result<(), Failure> {
    let body = json!({ "before": before, "dry_run": dry_run });
    let mut entries = 0;
    loop {
        let mut part = connection.call(Method::POST, "/guard/v1/storage/prune", Some(body.clone())).await?;
        entries += part["entries"].as_u64().unwrap_or(0);
        if part["has_more"] == true {
            if format == Format::Table {
                say(&format!("{entries} entries are pruned, and there are more"));
            }
            continue;
        }
        part["entries"] = Value::from(entries);
        let verb = if dry_run { "would be pruned" } else { "were pruned; their sums stay" };
        table::outcome(format, &part, &format!("{entries} entries before {} {verb}", time(&part, "before")));
        return Ok(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let shown = [0, 1_023, 1_536, 12 << 20, (7 << 30) + (1 << 29)].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.5 KiB", "12.0 MiB", "7.5 GiB"]);
    }
}
