//! Wire formats: pure functions and sans-I/O state over bytes.
//!
//! Each provider is a module of its own. No other module of the guard reads or writes
//! a provider's wire format.

pub mod label;
pub mod lines;
pub mod multipart;
pub mod openai;
