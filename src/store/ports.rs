//! The ports of an open database, the same on every engine.

mod access;
mod records;
mod reports;
mod start;

use access::{Access, Reader};
pub use records::{Records, RulesChange};
pub use reports::Reports;
