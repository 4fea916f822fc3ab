//! The guard over real sockets, in front of the fake OpenAI.

mod bad_input;
mod crash;
mod harness;
mod metering;
mod operators;
mod race;
mod refusals;
mod streams;
