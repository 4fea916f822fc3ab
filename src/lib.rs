//! spendguard: a spend guard in front of the OpenAI API.
//!
//! The library behind the `spendguard` binary. Modules are rows that import only
//! downward; `ARCHITECTURE.md` describes them and the route of a request.

pub mod admin;
pub mod alerts;
pub mod app;
pub mod books;
pub mod cli;
pub mod clock;
pub mod config;
pub mod directory;
pub mod domain;
pub mod fake_openai;
pub mod guard;
pub mod jobs;
pub mod keys;
pub mod ledger;
pub mod media;
pub mod metrics;
pub mod net;
pub mod pricing;
pub mod protocol;
pub mod proxy;
pub mod rulebook;
pub mod startup;
pub mod stops;
pub mod store;
mod sync;
pub mod telemetry;
pub mod throttle;
pub mod upstream;
