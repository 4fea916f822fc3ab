//! Counts, JSON texts and names in columns: written whole, read whole or not at all.
//!
//! What can't be read is an error that names its row, never nothing: an empty
//! list of models, for one, allows every model.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::sql::value::Unreadable;
use crate::store::sql::{Error, Result, Row};

/// A count as a column holds it.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count from what a column holds.
pub(crate) fn uint(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// The error of a value that can't be read.
pub(crate) fn unreadable(column: &'static str, row: String, why: String) -> Error {
    Box::new(Unreadable { column, row, why }).into()
}

/// The value that a column names.
pub(crate) fn named_from<T>(
    name: &str,
    column: &'static str,
    row: impl FnOnce() -> String,
    named: fn(&str) -> Option<T>,
) -> Result<T> {
    named(name).ok_or_else(|| unreadable(column, row(), format!("{name:?} is not known")))
}

/// A value as the text of a column.
pub(crate) fn json_text<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}

/// The value of a column's text.
pub(crate) fn json_from<T: DeserializeOwned>(
    text: &str,
    column: &'static str,
    row: impl FnOnce() -> String,
) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(column, row(), error.to_string()))
}

/// The value of a column's text; the first column says which row it is.
pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, at: usize, column: &'static str) -> Result<T> {
    json_from(row.text(at)?, column, || {
        row.get::<String>(0).unwrap_or_else(|_| "a row without an id".to_owned())
    })
}
