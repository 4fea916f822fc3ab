//! Open holds of requests, which each engine stores in its own way.

use crate::ledger::entry::Hold;
use crate::store::sql::codec::{HoldRow, has_entry, hold_batches};
use crate::store::sql::columns::json_from;
use crate::store::sql::rollup::Ids;
use crate::store::sql::{Db, Result, jobs};

/// The holds of requests that have no entry. One that can't be read is an error: it would be
/// spending that is forgotten.
pub(super) fn open(db: Db<'_>) -> Result<Vec<Hold>> {
    let jobs = jobs::ids(db)?;
    let mut open = Vec::new();
    for (first_id, lines) in hold_batches(db)? {
        for line in lines.lines() {
            let row: HoldRow = json_from(line, "holds", || format!("the open holds from {first_id} on"))?;
            if !jobs.contains(&row.id) && !has_entry(db, row.id)? {
                open.push(row.hold(&Ids));
            }
        }
    }
    Ok(open)
}
