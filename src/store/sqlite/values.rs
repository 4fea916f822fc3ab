//! Counts, JSON texts and names in columns: written whole, read whole or not at all.
//!
//! What can't be read is an error that names its row, never nothing: an empty
//! list of models, for one, allows every model.

use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A count as SQLite holds it.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count from what SQLite holds.
pub(crate) fn uint(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// A stored value that this release can't read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the column {column} of {row} can't be read: {why}. Put back a backup of the ledger, or, with the guard stopped, \
     write there by sqlite3 what it should say"
)]
pub(crate) struct Unreadable {
    /// Table and column, as `api_key.models`.
    column: &'static str,
    /// Which row.
    row: String,
    /// What is wrong with it.
    why: String,
}

/// The error of a value that can't be read.
pub(crate) fn unreadable(column: &'static str, row: String, why: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(Unreadable { column, row, why }))
}

/// The value that a column names.
pub(crate) fn named_from<T>(
    name: &str,
    column: &'static str,
    row: impl FnOnce() -> String,
    named: fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    named(name).ok_or_else(|| unreadable(column, row(), format!("{name:?} is not known")))
}

/// A value as the text of a column.
pub(crate) fn json_text<T: Serialize + ?Sized>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// The value of a column's text.
pub(crate) fn json_from<T: DeserializeOwned>(
    text: &str,
    column: &'static str,
    row: impl FnOnce() -> String,
) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(column, row(), error.to_string()))
}
