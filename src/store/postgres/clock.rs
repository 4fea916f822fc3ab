//! The database's clock, which all guards follow.

use crate::store::sql::{Db, Result};

macro_rules! now_ms {
    () => {
        "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)"
    };
}

/// The time in Unix milliseconds, as an expression.
pub(super) const NOW_MS: &str = now_ms!();
/// The time in Unix seconds, as an expression.
pub(super) const NOW_S: &str = "CAST(floor(extract(epoch FROM clock_timestamp())) AS BIGINT)";
/// Reads the time in Unix milliseconds.
pub(super) const READ_NOW_MS: &str = concat!("SELECT ", now_ms!());

/// The time in Unix milliseconds.
pub(super) fn now_ms(db: Db<'_>) -> Result<i64> {
    db.row(READ_NOW_MS, &[], |row| row.get(0))
}
