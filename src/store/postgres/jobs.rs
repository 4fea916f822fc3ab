//! Jobs as rows: which are due, and which guard asks upstream for their outcome.

use crate::store::jobs::{DueJob, PutOff};
use crate::store::postgres::clock::now_ms;
use crate::store::records::Names;
use crate::store::sql::codec::int;
use crate::store::sql::jobs::{self, COLUMNS};
use crate::store::sql::{Db, Result, params};

/// How long a guard may take to ask for an outcome, in milliseconds; then another one does.
const CLAIM_MS: i64 = 180_000;

/// Puts jobs off, and claims the first that are due. One that can't be read stays held until it
/// can, and is in the way of no other.
pub(super) fn due(db: Db<'_>, names: &dyn Names, put_off: &[PutOff], count_max: u32) -> Result<Vec<DueJob>> {
    // A parameter, so that the index of these times is used.
    let now_ms = now_ms(db)?;
    for PutOff { hold, polls, lasts } in put_off {
        let until_ms = now_ms.saturating_add(i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX));
        let hold = int(*hold);
        match polls {
            Some(polls) => db.execute(
                "UPDATE job SET poll_ms = ?2 WHERE hold_id = ?1 AND polls = ?3",
                params![hold, until_ms, i64::from(*polls) + 1],
            )?,
            // What was asked before counts no more.
            None => db.execute(
                "UPDATE job SET poll_ms = ?2, polls = polls + 1 WHERE hold_id = ?1",
                params![hold, until_ms],
            )?,
        };
    }
    if !db.exists("SELECT 1 FROM job WHERE poll_ms <= ?1 LIMIT 1", params![now_ms])? {
        return Ok(Vec::new());
    }
    let claim = format!(
        "UPDATE job SET polls = polls + 1, poll_ms = ?1 + {CLAIM_MS} WHERE hold_id IN (SELECT hold_id FROM job \
         WHERE poll_ms <= ?1 ORDER BY poll_ms LIMIT ?2 FOR UPDATE SKIP LOCKED) RETURNING {COLUMNS}, polls"
    );
    let mut due = Vec::new();
    db.each(&claim, params![now_ms, i64::from(count_max)], |row| {
        match jobs::job_from(row, names) {
            Ok(open) => {
                let polls = u32::try_from(row.get::<i64>(6)? - 1).unwrap_or(u32::MAX);
                due.push(DueJob { open, polls });
            }
            Err(error) => tracing::error!(
                event = "job_unreadable", %error,
                "the hold of a job can't be read; it stays held"
            ),
        }
        Ok(true)
    })?;
    Ok(due)
}
