//! Configuration: read, checked, resolved once; reloaded whole or not at all.
//!
//! `raw` mirrors the file, `settings` holds checked values, `load` converts one
//! into the other and reports for every mistake its place and its remedy.

mod alerts;
mod database;
mod edge;
mod fuses;
pub mod limits;
pub mod load;
mod nearest;
mod otlp;
mod place;
mod pricing;
mod problems;
pub mod raw;
pub mod reload;
pub mod settings;
mod tags;
pub mod text;
pub mod units;

pub(crate) use database::schema;
pub use edge::way_to;
pub use load::{limits_of, load, sheet_file};
pub use problems::ConfigError;
pub(crate) use problems::secret;
pub use settings::Settings;

#[cfg(test)]
mod tests;
