//! Marks that meters have come to, as rows.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::ledger::calendar::Windows;
use crate::ledger::entry::Crossing;
use crate::store::sql::codec::{insert_entry, int};
use crate::store::sql::value::places;
use crate::store::sql::{Db, Result, params};

/// The columns of a mark, in the order in which it is written.
pub(crate) const COLUMNS: &str = "id, mark, limit_name, subject, threshold, window_start_s, window_end_s, settled, unit, period, hard, at_ms, is_routed";

static INSERT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO crossing ({COLUMNS}) VALUES ({}) \
         ON CONFLICT (limit_name, subject, mark, threshold, window_start_s) DO NOTHING",
        places(13)
    )
});

/// Writes marks that were come to, each with a line in the ledger. Returns those
/// that had not been written before.
pub(crate) fn insert(db: Db<'_>, crossings: &[Crossing]) -> Result<Vec<Crossing>> {
    let mut new = Vec::new();
    for crossing in crossings {
        if insert_mark(db, crossing)? == 1 {
            insert_entry(db, &crossing.entry(), "")?;
            new.push(crossing.clone());
        }
    }
    Ok(new)
}

/// Writes a mark without its line; returns how many rows it has become: none if it had been
/// written before.
pub(crate) fn insert_mark(db: Db<'_>, crossing: &Crossing) -> Result<u64> {
    let limit = &crossing.limit;
    db.execute(
        &INSERT,
        params![
            int(crossing.id),
            crossing.mark.name(),
            &*limit.name,
            crossing.subject,
            crossing.threshold,
            crossing.window_start_s,
            crossing.ends_s.unwrap_or_else(|| Windows::of(limit).span(crossing.window_start_s).end_s),
            crossing.settled,
            limit.unit.name(),
            limit.window.name(),
            limit.hard,
            crossing.at_ms,
            false,
        ],
    )
}

/// Whether a meter's soft threshold is recorded as crossed in the window that starts at a
/// time, in Unix seconds.
pub(crate) fn is_crossed(
    db: Db<'_>,
    limit: &str,
    subject: &str,
    threshold: i64,
    start_s: i64,
) -> Result<bool> {
    let sql = "SELECT 1 FROM crossing WHERE limit_name = ?1 AND subject = ?2 AND mark = 'soft' AND threshold = ?3 \
               AND window_start_s = ?4";
    db.exists(sql, params![limit, subject, threshold, start_s])
}

/// The soft thresholds of a limit that are recorded as crossed in windows from a time on, in Unix
/// seconds: subject, threshold, and where the window starts.
pub(crate) fn soft_since(db: Db<'_>, limit: &str, since_s: i64) -> Result<HashSet<(String, i64, i64)>> {
    let sql = "SELECT subject, threshold, window_start_s FROM crossing WHERE limit_name = ?1 AND mark = 'soft' \
               AND window_start_s >= ?2";
    let mut found = HashSet::new();
    db.each(sql, params![limit, since_s], |row| {
        found.insert((row.get(0)?, row.get(1)?, row.get(2)?));
        Ok(true)
    })?;
    Ok(found)
}
