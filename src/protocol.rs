//! What wire formats say, and nothing else: pure functions and sans-I/O state over bytes.
//!
//! Each provider is a module of its own. No other module of the guard reads or writes
//! what a provider's API says.

pub mod openai;
