//! What every engine has in common: statements, and what their rows mean.
//!
//! The texts of the statements are of the part of SQL that SQLite and PostgreSQL 15 understand
//! alike, where each INTEGER of SQLite is a BIGINT, each TEXT a `TEXT COLLATE "C"` and each BLOB
//! a BYTEA. Placeholders are numbered (`?1`). The statements run on a [`Db`], which alone knows
//! the engine; an engine's own folder has what differs beyond that.

pub(crate) mod audit;
pub(crate) mod batch;
pub(crate) mod changes;
pub(crate) mod codec;
pub(crate) mod columns;
mod connection;
mod copy_text;
pub(crate) mod credit;
pub(crate) mod crossings;
pub(crate) mod days;
mod dialect;
pub(crate) mod entries;
pub(crate) mod history;
pub(crate) mod jobs;
pub(crate) mod key_usage;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod migration;
pub(crate) mod months;
pub(crate) mod objects;
pub(crate) mod organization;
pub(crate) mod outbox;
pub(crate) mod postgres;
pub(crate) mod pruned;
mod quantities;
pub(crate) mod retention;
pub(crate) mod rollup;
pub(crate) mod spend;
pub(crate) mod stops;
pub(crate) mod storage;
pub(crate) mod usage;
pub(crate) mod usage_rows;
pub(crate) mod value;
pub(crate) mod verify;

pub(crate) use connection::{Db, Error, Lent, Owned, Result, Row};
pub(crate) use value::{Value, params};
