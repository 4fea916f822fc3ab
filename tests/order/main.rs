//! The writer's hand-over and a limit's start, through many orders of steps.
//!
//! The files under test are the library's own, with the locks of `shuttle` in
//! place of the standard library's: it decides who goes next, and says so if
//! nobody can. `SHUTTLE_RANDOM_SEED` repeats an order.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod store;
mod sync;
mod waiting;
