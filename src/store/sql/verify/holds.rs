//! Holds in the database: those that are open, and what keeps them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::ledger::entry::{Hold, entry_id};
use crate::store::records::Names;
use crate::store::reports::{Difference, Report};
use crate::store::sql::codec::{HoldRow, has_entry, hold_batches};
use crate::store::sql::{Db, Result, jobs};

/// Notes holds that can't be read, and batches that are kept for nothing.
pub(super) fn compare(db: Db<'_>, report: &mut Report) -> Result<()> {
    let jobs = jobs::ids(db)?;
    report.holds += u64::try_from(jobs.len()).unwrap_or(u64::MAX);
    for (first_id, text) in hold_batches(db)? {
        let mut open = 0;
        let mut last_ended = None;
        for (number, line) in text.lines().enumerate() {
            match serde_json::from_str::<HoldRow>(line) {
                Ok(row) if jobs.contains(&row.id) || has_entry(db, row.id)? => last_ended = Some(row.id),
                Ok(_) => open += 1,
                Err(error) => {
                    open += 1;
                    report.note(|| unreadable(first_id, number + 1, &error));
                }
            }
        }
        report.holds += open;
        if open == 0 {
            report.note(|| all_ended(first_id, last_ended));
        }
    }
    Ok(())
}

fn unreadable(first_id: i64, line: usize, error: &serde_json::Error) -> Difference {
    Difference {
        kind: "hold",
        about: format!("hold_batch {first_id} line {line}"),
        what: format!("line {line} of hold_batch {first_id} is no hold: {error}"),
        meaning: "if its request is open and the guard dies, its charge is unknown: it refuses to start".to_owned(),
        remedy: "stop the guard in order (SIGTERM), which ends and clears all holds; if it does not start any more, put \
               back a backup"
            .to_owned(),
    }
}

fn all_ended(first_id: i64, last: Option<u64>) -> Difference {
    let which = last.map_or_else(
        || "has no holds".to_owned(),
        |id| format!("is kept, though all its holds up to {} have an entry", entry_id(id)),
    );
    Difference {
        kind: "hold",
        about: format!("hold_batch {first_id}"),
        what: format!("hold_batch {first_id} {which}"),
        meaning: "no limit counts it: a hold that has an entry is not charged again".to_owned(),
        remedy: "the next start clears it".to_owned(),
    }
}

/// The holds that have no entry yet; those that can't be read are left out.
pub(crate) fn open_holds(db: Db<'_>, names: &dyn Names) -> Result<Vec<Hold>> {
    let mut open: Vec<Hold> =
        jobs::all(db, names)?.into_iter().map(|open| Arc::unwrap_or_clone(open.hold)).collect();
    let jobs: HashSet<u64> = open.iter().map(|hold| hold.id).collect();
    for (_, text) in hold_batches(db)? {
        for row in text.lines().filter_map(|line| serde_json::from_str::<HoldRow>(line).ok()) {
            if !jobs.contains(&row.id) && !has_entry(db, row.id)? {
                open.push(row.hold(names));
            }
        }
    }
    Ok(open)
}
