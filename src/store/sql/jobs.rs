//! Holds that outlive their requests, each with the job that it is for.

use std::collections::HashSet;
use std::sync::Arc;

use crate::ledger::entry::{Hold, Job, OpenJob};
use crate::store::records::Names;
use crate::store::sql::codec::{HoldRow, int, uint};
use crate::store::sql::columns::{json_from, json_text};
use crate::store::sql::{Db, Result, Row, params};

/// The columns of a job that is read.
pub(crate) const COLUMNS: &str = "hold_id, kind, object_id, deadline_s, hold, terms";

/// Writes the job that a hold is for.
pub(crate) fn insert(db: Db<'_>, hold: &Hold, job: &Job) -> Result<()> {
    db.execute(
        "INSERT INTO job (hold_id, kind, object_id, deadline_s, hold, terms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            int(hold.id),
            job.kind,
            job.object,
            job.deadline_s,
            json_text(&HoldRow::of(hold))?,
            job.terms
        ],
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
pub(crate) fn all(db: Db<'_>, names: &dyn Names) -> Result<Vec<OpenJob>> {
    db.rows(&format!("SELECT {COLUMNS} FROM job ORDER BY hold_id"), &[], |row| job_from(row, names))
}

/// The job of an object, if it runs.
pub(crate) fn find(db: Db<'_>, names: &dyn Names, kind: &str, object: &str) -> Result<Option<OpenJob>> {
    let sql = format!("SELECT {COLUMNS} FROM job WHERE kind = ?1 AND object_id = ?2");
    db.optional(&sql, params![kind, object], |row| job_from(row, names))
}

/// A job, from a row that begins with its [`COLUMNS`].
pub(crate) fn job_from(row: &Row<'_>, names: &dyn Names) -> Result<OpenJob> {
    let id: i64 = row.get(0)?;
    let hold: HoldRow = json_from(row.text(4)?, "job.hold", || format!("hold {id}"))?;
    let (kind, object) = (row.get(1)?, row.get(2)?);
    let job = Job { kind, object, deadline_s: row.get(3)?, terms: row.get(5)? };
    Ok(OpenJob { hold: Arc::new(hold.hold(names)), job })
}
