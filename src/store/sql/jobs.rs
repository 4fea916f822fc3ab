//! Holds that outlive their requests, each with the job that it is for.

use std::collections::HashSet;

use crate::ledger::entry::{Hold, Job};
use crate::store::records::Names;
use crate::store::sql::codec::{HoldRow, int, uint};
use crate::store::sql::columns::{json_from, json_text};
use crate::store::sql::{Db, Result, params};

/// Writes the job that a hold is for.
pub(crate) fn insert(db: Db<'_>, hold: &Hold, job: &Job) -> Result<()> {
    db.execute(
        "INSERT INTO job (hold_id, kind, object_id, deadline_s, hold) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![int(hold.id), job.kind, job.object, job.deadline_s, json_text(&HoldRow::of(hold))?],
    )
    .map(drop)
}

/// Removes a job, whose hold has ended.
pub(crate) fn remove(db: Db<'_>, hold: u64) -> Result<()> {
    db.execute("DELETE FROM job WHERE hold_id = ?1", params![int(hold)]).map(drop)
}

/// The ids of the holds of all jobs.
pub(crate) fn ids(db: Db<'_>) -> Result<HashSet<u64>> {
    Ok(db.rows("SELECT hold_id FROM job", &[], |row| row.get(0).map(uint))?.into_iter().collect())
}

/// All jobs with their holds, in the order of admission. A hold that can't be read is an
/// error: it would be spending that is forgotten.
pub(crate) fn all(db: Db<'_>, names: &dyn Names) -> Result<Vec<(Hold, Job)>> {
    let sql = "SELECT hold_id, kind, object_id, deadline_s, hold FROM job ORDER BY hold_id";
    db.rows(sql, &[], |row| {
        let id: i64 = row.get(0)?;
        let hold: HoldRow = json_from(row.text(4)?, "job.hold", || format!("hold {id}"))?;
        let job = Job { kind: row.get(1)?, object: row.get(2)?, deadline_s: row.get(3)? };
        Ok((hold.hold(names), job))
    })
}
