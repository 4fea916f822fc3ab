//! Prices: the sheet, what a usage costs, and the most a request can cost.
//!
//! Rates are whole picodollars per token; a cost is summed exactly and rounded
//! once, upward. A bound is an upper bound, never an estimate.

pub mod bound;
pub mod cost;
pub mod count;
mod facts;
pub mod image;
pub mod image_tool;
pub mod plan;
mod price;
pub mod rates;
mod raw;
pub mod sheet;
pub mod turns;
