//! How far a ledger is copied from the other engine: a table that is in it as long as it is half a
//! copy, so that no guard starts on it and the same copy can go on.

use crate::store::sql::{Db, Error, Result, params};

/// The table. A ledger that has it is half a copy.
pub(crate) const TABLE: &str = "migration";
/// The version of its tables meanwhile: releases that don't know this table refuse it, too.
pub(crate) const HALF_COPIED: i64 = 0;

const CREATE: &str = "CREATE TABLE migration (name TEXT PRIMARY KEY, row_count BIGINT NOT NULL, \
                      checksum TEXT NOT NULL, copied BIGINT NOT NULL, last TEXT)";

/// How far a table is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The table's name.
    pub(crate) name: String,
    /// The rows that the source has of it.
    pub(crate) row_count: i64,
    /// Their checksum.
    pub(crate) checksum: String,
    /// The rows that were copied.
    pub(crate) copied: i64,
    /// The key of the last of them, as JSON.
    pub(crate) last: Option<String>,
}

/// Begins a copy of tables, of which nothing is copied yet.
pub(crate) fn begin(db: Db<'_>, tables: &[Progress]) -> Result<()> {
    db.execute(CREATE, &[])?;
    tables.iter().try_for_each(|of| {
        db.execute(
            "INSERT INTO migration (name, row_count, checksum, copied) VALUES (?1, ?2, ?3, 0)",
            params![of.name, of.row_count, of.checksum],
        )
        .map(drop)
    })
}

/// How far each table is copied.
pub(crate) fn progress(db: Db<'_>) -> Result<Vec<Progress>> {
    db.rows("SELECT name, row_count, checksum, copied, last FROM migration", &[], |row| {
        Ok(Progress {
            name: row.get(0)?,
            row_count: row.get(1)?,
            checksum: row.get(2)?,
            copied: row.get(3)?,
            last: row.get(4)?,
        })
    })
}

/// Notes that rows were copied behind those that `before` says, up to a key. An error if
/// another copy has noted something meanwhile.
pub(crate) fn note(db: Db<'_>, before: &Progress, rows: i64, last: &str) -> Result<()> {
    let changed = db.execute(
        "UPDATE migration SET copied = copied + ?3, last = ?4 WHERE name = ?1 AND copied = ?2",
        params![before.name, before.copied, rows, last],
    )?;
    if changed == 1 { Ok(()) } else { Err(Error::Changed { changed, wanted: 1 }) }
}

/// Ends a copy that is whole.
pub(crate) fn end(db: Db<'_>) -> Result<()> {
    db.execute("DROP TABLE migration", &[]).map(drop)
}
