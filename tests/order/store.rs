//! The library's group commit where the library has it, with a connection of its own.

pub(crate) mod sqlite;
