//! One table, copied in batches in the order of its key.

use serde_json::Value as Json;

use crate::store::migrate::catalog::Table;
use crate::store::sql::batch::Kept;
use crate::store::sql::columns::{json_from, json_text};
use crate::store::sql::migration::{self, Progress};
use crate::store::sql::value::places;
use crate::store::sql::{Db, Error, Result, Value};

/// Rows that are copied in one transaction: some megabytes.
const ROWS_MAX: usize = 4_000;

/// On which side a copy failed.
pub(super) enum Failed {
    Reading(Error),
    Writing(Error),
}

/// Copies the rows of a table that are behind those that `before` says.
pub(super) fn table(
    from: Db<'_>,
    to: Db<'_>,
    table: &Table,
    before: &Progress,
) -> std::result::Result<(), Failed> {
    let mut at = before.clone();
    let columns = table.columns(to);
    loop {
        let rows = rows_after(from, table, at.last.as_deref()).map_err(Failed::Reading)?;
        let Some(last) = rows.last() else { return Ok(()) };
        let last = key_text(table, last).map_err(Failed::Reading)?;
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let written = to.transaction(|| {
            migration::note(to, &at, count, &last)?;
            to.insert_rows(&table.name, &columns, &rows)
        });
        written.map_err(Failed::Writing)?;
        if rows.len() < ROWS_MAX {
            return Ok(());
        }
        at = Progress { copied: at.copied + count, last: Some(last), ..at };
    }
}

/// The next rows behind a key, or the first ones.
fn rows_after(db: Db<'_>, table: &Table, last: Option<&str>) -> Result<Vec<Vec<Kept>>> {
    let columns = table.columns(db);
    let key: Vec<&str> = table.key.iter().map(|at| &*columns[*at]).collect();
    let (names, key) = (columns.join(", "), key.join(", "));
    let after = last.map(key_from).transpose()?.unwrap_or_default();
    let behind =
        if last.is_some() { format!("WHERE ({key}) > ({})", places(after.len())) } else { String::new() };
    let sql = format!("SELECT {names} FROM {} {behind} ORDER BY {key} LIMIT {ROWS_MAX}", table.name);
    let after: Vec<Value<'_>> = after.iter().map(Kept::value).collect();
    db.rows(&sql, &after, |row| (0..columns.len()).map(|at| Ok(row.value(at)?.into())).collect())
}

/// The key of a row as JSON.
fn key_text(table: &Table, row: &[Kept]) -> Result<String> {
    let part = |at: &usize| match &row[*at] {
        Kept::Int(number) => Json::from(*number),
        Kept::Text(text) => Json::from(text.as_str()),
        Kept::Null | Kept::Blob(_) => Json::Null,
    };
    json_text(&table.key.iter().map(part).collect::<Vec<_>>())
}

fn key_from(text: &str) -> Result<Vec<Kept>> {
    let parts: Vec<Json> = json_from(text, "migration.last", || "a table that is half copied".to_owned())?;
    let part = |part: &Json| match (part.as_i64(), part.as_str()) {
        (Some(number), _) => Kept::Int(number),
        (None, Some(text)) => Kept::Text(text.to_owned()),
        (None, None) => Kept::Null,
    };
    Ok(parts.iter().map(part).collect())
}
