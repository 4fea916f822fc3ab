//! The group commit and the activation of a limit, through many orders of steps.
//!
//! The files under test are the library's own, with the locks of `shuttle` in place
//! of the standard library's: it decides which thread runs next, and reports a
//! deadlock. `SHUTTLE_RANDOM_SEED` repeats an order.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod store;
mod sync;
mod waiting;
