//! Tables for people, and the same rows for spreadsheets.

use serde_json::Value;

use crate::cli::{Failure, Format, say};

/// A column: its heading, and whether its cells are numbers.
pub(super) type Column = (&'static str, bool);

/// Prints rows under headings, as CSV, or as objects with the headings' names.
pub(super) fn print(format: Format, columns: &[Column], rows: &[Vec<String>]) -> Result<(), Failure> {
    let named = |row: &Vec<String>| -> Value {
        let fields = columns.iter().zip(row).map(|((heading, _), cell)| (name(heading), cell.clone().into()));
        Value::Object(fields.collect())
    };
    match format {
        Format::Table => {}
        Format::Csv => return csv(columns, rows),
        Format::Json | Format::Jsonl => {
            programs(format, &rows.iter().map(named).collect());
            return Ok(());
        }
    }
    let width = |at: usize, heading: &str| {
        let cells = rows.iter().map(|row| shown(&row[at]).chars().count());
        cells.max().unwrap_or(0).max(heading.len())
    };
    let widths: Vec<usize> =
        columns.iter().enumerate().map(|(at, (heading, _))| width(at, heading)).collect();
    let line = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).zip(columns).map(|((cell, width), (_, number))| {
            if *number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say(&line(columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()));
    for row in rows {
        say(&line(row.iter().map(|cell| shown(cell)).collect()));
    }
    Ok(())
}

fn csv(columns: &[Column], rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer.write_record(columns.iter().map(|(heading, _)| name(heading))).and_then(|()| {
        rows.iter().try_for_each(|row| writer.write_record(row.iter().map(|cell| cell_text(cell))))
    });
    written.map_err(|error| Failure::failed(error.to_string()))?;
    let bytes = writer.into_inner().map_err(|error| Failure::failed(error.to_string()))?;
    say(String::from_utf8_lossy(&bytes).trim_end());
    Ok(())
}

/// A cell that no spreadsheet reads as a formula.
pub(super) fn cell_text(text: &str) -> String {
    let number = text.parse::<crate::domain::Money>().is_ok();
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !number;
    if formula { format!("'{text}") } else { text.to_owned() }
}

/// A text without control characters, which could move a terminal's cursor.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A heading in the form for programs.
fn name(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "_")
}

/// Prints an answer as the API returned it, if the format is for programs: as a
/// whole, or one item per line. Returns whether it did.
pub(super) fn programs(format: Format, answer: &Value) -> bool {
    match (format, answer) {
        (Format::Table | Format::Csv, _) => return false,
        (Format::Json, answer) => say(&serde_json::to_string_pretty(answer).unwrap_or_default()),
        (Format::Jsonl, Value::Array(items)) => items.iter().for_each(|item| say(&item.to_string())),
        (Format::Jsonl, answer) => say(&answer.to_string()),
    }
    true
}

/// Prints the result of a command: as a sentence, or for programs.
pub(super) fn outcome(format: Format, answer: &Value, words: &str) {
    if !programs(format, answer) {
        say(words);
    }
}

/// A field as text; empty for null and absent.
pub(super) fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

/// A field of Unix seconds as a time of UTC.
pub(super) fn time(value: &Value, field: &str) -> String {
    let at = value[field].as_i64().and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.map_or_else(String::new, |at| at.to_string())
}

/// A decimal with two places at least.
pub(super) fn money(value: &Value, field: &str) -> String {
    let text = text(value, field);
    match text.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{fraction:0<2}"),
        None if text.is_empty() => text,
        None => format!("{text}.00"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_numbers_stay_numbers() {
        assert_eq!(cell_text("=1+1"), "'=1+1");
        assert_eq!(cell_text("@x"), "'@x");
        assert_eq!(cell_text("-1.23"), "-1.23");
    }

    #[test]
    fn terminals_get_no_control_characters() {
        assert_eq!(shown("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
