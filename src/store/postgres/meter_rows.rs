//! The rows of meters: how many there are, and the removal of old ones.
//!
//! Clients name end users and models, so a limit that counts each of these apart has as many meters
//! as they name. Each guard counts the rows of such limits for itself, at a pace that costs the
//! database little: the more rows were found, the later they are counted again. Between two counts
//! it adds those that it makes. So it makes no more rows for requests once there are as many as
//! there may be, except for what other guards have made since it counted last.

use std::collections::HashMap;

use crate::ledger::meter::METERS_MAX;
use crate::ledger::shared::{Counted, RowCount};
use crate::store::postgres::clock::NOW_S;
use crate::store::postgres::shared::Shared;
use crate::store::sql::{Db, Result, params};

/// Rows that are counted in a second, on average: of two million, an index is read for about half
/// a second in each forty.
const COUNTED_A_SECOND: usize = 50_000;
/// Limits whose rows are counted in one look.
const LIMITS_AT_ONCE: usize = 32;
/// The wait after a count that failed, in looks.
const AGAIN_AFTER: u64 = 60;

/// Meters of windows that ended so long ago are removed, in seconds.
const METER_AGE_S: i64 = 86_400;
/// Meters of such windows that are removed at once.
const METERS_REMOVED: u32 = 1_000;
/// How often meters of limits that are gone are looked for, in looks, and how many are removed at once.
const GONE_EACH: u64 = 10;
const GONE_REMOVED: u32 = 5_000;

/// What is remembered of them between two looks. There is a look every second.
#[derive(Debug, Default)]
pub(super) struct MeterRows {
    counting: Counting,
    /// A limit that is gone, and of which there were more meters than were removed.
    gone: Option<String>,
}

/// When the rows of each limit are counted again, in looks.
#[derive(Debug, Default)]
struct Counting(HashMap<Counted, u64>);

impl MeterRows {
    /// Counts some, and removes some, in the look of this number.
    pub(super) fn look(&mut self, db: Db<'_>, shared: &Shared, look: u64) -> Result<()> {
        self.counting.count(db, shared, look)?;
        remove_old(db)?;
        if self.gone.is_none() && look % GONE_EACH == 1 {
            self.gone = gone(db)?;
        }
        if let Some(limit) = self.gone.take() {
            self.gone = (remove_gone(db, &limit)? > 0).then_some(limit);
        }
        Ok(())
    }
}

impl Counting {
    /// Counts the rows of limits whose turn it is in this look.
    fn count(&mut self, db: Db<'_>, shared: &Shared, look: u64) -> Result<()> {
        let limits = shared.ledger().counted_limits();
        let turn = |of: Counted| (self.0.get(&of).copied().unwrap_or(0), of);
        let mut turns: Vec<(u64, Counted)> = limits.into_iter().map(turn).collect();
        self.0 = turns.iter().map(|(at, of)| (of.clone(), *at)).collect();
        turns.sort_unstable();
        let mut rows_in_all = 0;
        for (_, of) in turns.into_iter().filter(|(at, _)| *at <= look).take(LIMITS_AT_ONCE) {
            self.0.insert(of.clone(), look + AGAIN_AFTER);
            let counts = rows_of(db, &of)?;
            let rows: usize = counts.iter().map(|count| count.rows).sum();
            shared.ledger().note_counted(&of, &counts);
            let pause = u64::try_from(rows / COUNTED_A_SECOND).unwrap_or(u64::MAX);
            self.0.insert(of, look.saturating_add(pause).saturating_add(1));
            rows_in_all += rows;
            if rows_in_all >= COUNTED_A_SECOND {
                break;
            }
        }
        Ok(())
    }
}

/// How many rows there are of a limit in each window that is not over, of a limit per tag also by
/// key, counted as far as it makes a difference.
fn rows_of(db: Db<'_>, of: &Counted) -> Result<Vec<RowCount>> {
    let key = if of.by_tag { "split_part(subject, '/', 1)" } else { "''" };
    let sql = format!(
        "SELECT start_s, key, COUNT(*) FROM (SELECT start_s, {key} AS key FROM meter WHERE limit_name = ?1 \
         AND end_s > {NOW_S} LIMIT {METERS_MAX}) AS current GROUP BY start_s, key"
    );
    db.rows(&sql, params![of.limit], |row| {
        let rows = usize::try_from(row.get::<i64>(2)?).unwrap_or(0);
        let key = Some(row.get(1)?).filter(|_| of.by_tag);
        Ok(RowCount { limit: of.limit.to_string(), start_s: row.get(0)?, key, rows })
    })
}

/// Removes some meters of windows that are long over and on which nothing is held.
fn remove_old(db: Db<'_>) -> Result<()> {
    let sql = format!(
        "DELETE FROM meter WHERE (limit_name, subject, start_s) IN (SELECT limit_name, subject, start_s FROM meter \
         WHERE end_s < {NOW_S} - ?1 AND held = 0 \
         ORDER BY end_s LIMIT {METERS_REMOVED} FOR UPDATE SKIP LOCKED)"
    );
    db.execute(&sql, params![METER_AGE_S]).map(drop)
}

/// A limit that is not in force and has meters: each name that meters have is found by the index.
fn gone(db: Db<'_>) -> Result<Option<String>> {
    let sql = "WITH RECURSIVE names (name) AS (SELECT MIN(limit_name) FROM meter UNION ALL \
               SELECT (SELECT MIN(limit_name) FROM meter WHERE limit_name > names.name) FROM names \
               WHERE names.name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL \
               AND NOT EXISTS (SELECT 1 FROM active_limit WHERE active_limit.name = names.name) LIMIT 1";
    db.optional(sql, &[], |row| row.get(0))
}

/// Removes some meters of a limit, unless it is in force. Returns how many. If it comes into force
/// meanwhile, its new meters are not among those that this statement sees.
fn remove_gone(db: Db<'_>, limit: &str) -> Result<u64> {
    let sql = format!(
        "DELETE FROM meter WHERE (limit_name, subject, start_s) IN (SELECT limit_name, subject, start_s FROM meter \
         WHERE limit_name = ?1 AND NOT EXISTS (SELECT 1 FROM active_limit WHERE name = ?1) \
         ORDER BY limit_name, subject, start_s LIMIT {GONE_REMOVED} FOR UPDATE OF meter SKIP LOCKED)"
    );
    db.execute(&sql, params![limit])
}
