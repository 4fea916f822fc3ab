//! Batches: requests that upstream answers within a day, at half the price.
//!
//! What the lines of a file cost at most is known when the file has passed (`scan`), and is
//! kept with it. A batch of it is admitted at that: each model of its lines has a hold, which
//! becomes a job once upstream has made the batch, and ends by the lines of the output.

mod create;
mod fetch;
mod file;
mod holds;
mod joined;
mod lines;
mod pricing;
mod scan;
mod settle;
mod tally;
mod terms;

pub(super) use self::file::BatchFile;
pub use self::holds::BATCH;
pub(super) use self::lines::{Depth, ScannedLines};
pub(super) use self::pricing::Pricing;
pub(super) use self::scan::Scan;
pub use self::settle::BatchSettler;
