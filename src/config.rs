//! Configuration: read, checked, resolved once; reloaded whole or not at all.
//!
//! `raw` mirrors the file, `settings` can't be wrong, `load` turns one into the
//! other and says for every mistake where it is and how to mend it.

mod alerts;
mod edge;
pub mod limits;
pub mod load;
mod nearest;
mod place;
mod pricing;
mod problems;
pub mod raw;
pub mod reload;
pub mod settings;
pub mod text;
pub mod units;

pub use edge::way_to;
pub use load::{load, sheet_file};
pub use problems::ConfigError;
pub use settings::Settings;

#[cfg(test)]
mod tests;
