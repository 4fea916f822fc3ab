//! The guard over real sockets, in front of the fake OpenAI.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "a test says its seed, and why it skips")]
#![expect(clippy::needless_pass_by_value, reason = "bodies are written in place with json!")]

mod alerts;
mod attack;
mod bad_input;
mod bad_upstream;
mod billed;
mod bound;
mod cluster;
mod cluster_changes;
mod cluster_faults;
mod cluster_limits;
mod cluster_locks;
mod cluster_meters;
mod cluster_nodes;
mod cluster_once;
mod cluster_rates;
mod cluster_shown;
mod cluster_turns;
mod commands;
mod crash;
mod credits;
mod crowd;
mod damage;
mod dashboard;
mod dearer;
mod disk;
mod edge;
mod endings;
mod explain;
mod failing;
mod forecast;
mod frames;
mod harness;
mod hosted_calls;
mod hostile;
mod hostile_admin;
mod hostile_http2;
mod jobs;
mod limits;
mod lists;
mod metering;
mod migrate;
mod models;
mod network;
mod objects;
mod openapi;
mod operators;
mod organization;
mod otlp;
mod postgres;
mod price_updates;
mod prices;
mod private;
mod process;
mod race;
mod refusals;
mod reload;
mod retention;
mod scripted;
mod smuggling;
mod streams;
mod tokens;
mod verify;
