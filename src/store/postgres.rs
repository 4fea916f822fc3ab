//! The shared engine: one PostgreSQL database for several guards.
//!
//! Requests and endings are gathered into groups, and each group is decided inside the
//! transaction that writes it (`lane`), on rows that are locked meanwhile. What operators
//! change is one transaction that every group notices (`change`). Nothing rests on clocks,
//! but for giving up a guard that has died.

mod activation;
mod arrays;
mod calls;
mod change;
mod claims;
mod clock;
mod database;
mod group;
mod jobs;
mod lane;
mod lanes;
mod lease;
mod locks;
mod looks;
mod meter_rows;
mod migration;
mod months;
mod nodes;
mod opening;
mod past;
mod pipeline;
mod pool;
mod reader;
mod schema;
mod session;
mod shared;
#[cfg(test)]
mod simulation;
mod start;
mod tables;
mod tls;
mod transaction;
mod upkeep;
mod url;
mod whole;
mod writer;
mod writing;

pub use calls::{AdmittedHold, NotReserved};
pub(super) use change::Change;
pub use database::{CONNECTIONS_MIN, Config};
pub use lanes::Lanes;
pub(super) use locks::Locks;
pub(super) use migration::{Source, Target};
pub use nodes::Node;
pub(super) use nodes::nodes;
pub use past::Pasts;
pub(super) use pool::Work;
pub(super) use reader::Reader;
pub use shared::RulesFollower;
pub use start::{RulesReader, SharedEngine, SharedStore, StoredRules};
pub use whole::SharedMeters;
pub(super) use writer::Writer;
