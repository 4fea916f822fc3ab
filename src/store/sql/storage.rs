//! How much there is of entries and sums.

use crate::store::reports::{Sizes, Storage};
use crate::store::sql::codec::uint;
use crate::store::sql::{Db, Result, pruned};

/// What the database is, and takes by `sizes`; `reusable_bytes` of it are free for what is
/// written next.
pub(crate) fn of(db: Db<'_>, sizes: Sizes, reusable_bytes: u64) -> Result<Storage> {
    let count = |sql: &str| db.row(sql, &[], |row| row.get(0)).map(uint);
    Ok(Storage {
        database_bytes: sizes.database,
        log_bytes: sizes.log,
        reusable_bytes,
        free_bytes: sizes.free,
        entries: count(&format!("SELECT COUNT(*) FROM entry{}", db.by_time()))?,
        rollups: count("SELECT COUNT(*) FROM rollup")?,
        oldest_ms: db.row("SELECT MIN(admitted_ms) FROM entry", &[], |row| row.get(0))?,
        pruned: pruned::pruned(db)?,
    })
}
