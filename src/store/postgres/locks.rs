//! What keeps others out, and connections that are kept for later.

use std::sync::Arc;

use crate::store::StoreError;
use crate::store::postgres::database::Database;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db};

/// What is locked while some work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Locks {
    /// The rules: such work of any guard waits, and so do changes of the rules.
    Rules,
    /// All lanes as well: admission and endings wait, on every guard.
    RulesAndLanes,
}

/// A connection that works, made again if the last one is gone.
pub(super) fn working<'a>(
    database: &Arc<Database>,
    kept: &'a mut Option<Connection>,
) -> Result<&'a Connection, StoreError> {
    match kept.take().filter(|known| !known.is_closed()) {
        Some(known) => Ok(kept.insert(known)),
        None => Ok(kept.insert(database.connection()?)),
    }
}

/// The version of the rules.
pub(super) fn rules_version(db: Db<'_>) -> sql::Result<i64> {
    db.row("SELECT version FROM rules WHERE id = 1", &[], |row| row.get(0))
}

/// Locks the rules: their changes, and starts and ends of guards, are one at a time. Returns
/// their version.
pub(super) fn lock_rules(db: Db<'_>) -> sql::Result<i64> {
    db.row("SELECT version FROM rules WHERE id = 1 FOR UPDATE", &[], |row| row.get(0))
}

/// Locks what keeps others out: first the rules, then all lanes in their order.
pub(super) fn lock(db: Db<'_>, locks: Locks) -> sql::Result<()> {
    lock_rules(db)?;
    if locks == Locks::RulesAndLanes {
        lock_lanes(db)?;
    }
    Ok(())
}

/// Locks all lanes: when this returns, no group is open anywhere.
pub(super) fn lock_lanes(db: Db<'_>) -> sql::Result<()> {
    let sql = "SELECT 1 FROM lane WHERE state = 'alive' ORDER BY epoch, lane FOR UPDATE";
    db.each(sql, &[], |_| Ok(true))
}
