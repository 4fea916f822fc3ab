//! Holds that outlive their requests, each with the job that it is for.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use crate::ledger::entry::{Hold, Job};
use crate::store::records::Names;
use crate::store::sqlite::codec::{HoldRow, int, uint};
use crate::store::sqlite::values::{json_from, json_text};

/// Writes the job that a hold is for.
pub(super) fn insert(db: &Connection, hold: &Hold, job: &Job) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO job VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![int(hold.id), job.kind, job.object, job.deadline_s, json_text(&HoldRow::of(hold))?])
        .map(drop)
}

/// Removes a job, whose hold has ended.
pub(super) fn remove(db: &Connection, hold: u64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM job WHERE hold_id = ?1")?.execute([int(hold)]).map(drop)
}

/// The ids of the holds of all jobs.
pub(super) fn ids(db: &Connection) -> rusqlite::Result<HashSet<u64>> {
    let mut statement = db.prepare_cached("SELECT hold_id FROM job")?;
    statement.query_map([], |row| row.get(0).map(uint))?.collect()
}

/// All jobs with their holds, in the order of admission. A hold that can't be read is an
/// error: it would be spending that is forgotten.
pub(super) fn all(db: &Connection, names: &dyn Names) -> rusqlite::Result<Vec<(Hold, Job)>> {
    let mut statement =
        db.prepare("SELECT hold_id, kind, object_id, deadline_s, hold FROM job ORDER BY hold_id")?;
    let rows = statement.query_map([], |row| {
        let id: i64 = row.get(0)?;
        let hold: HoldRow = json_from(row.get_ref(4)?.as_str()?, "job.hold", || format!("hold {id}"))?;
        let job = Job { kind: row.get(1)?, object: row.get(2)?, deadline_s: row.get(3)? };
        Ok((hold.hold(names), job))
    })?;
    rows.collect()
}
