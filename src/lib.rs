//! spendguard: a spend guard in front of the OpenAI API.
//!
//! The library behind the `spendguard` binary. Modules are rows that import
//! only downward; `ARCHITECTURE.md` draws them and tells a request's way.

pub mod domain;
pub mod openai;
