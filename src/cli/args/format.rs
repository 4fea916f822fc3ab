//! The output formats of all commands.

use clap::ValueEnum;

/// Output formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table, for people.
    #[default]
    Table,
    /// For programs, as the API returns it.
    Json,
    /// For spreadsheets.
    Csv,
    /// One JSON object per line.
    Jsonl,
}
