//! Crossings that share one message.
//!
//! A limit per user has as many meters as clients invent users. So only the first crossings
//! of a limit in an hour have messages of their own; the others wait for the end of the
//! hour and share one message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::store::outbox::OWN_MESSAGES_MAX;
use crate::store::sql::columns::uint;
use crate::store::sql::{Db, Result, params};

pub(super) const HOUR_MS: i64 = 3_600_000;

/// Where the hour of an instant starts; both in Unix milliseconds.
fn hour(at_ms: i64) -> i64 {
    at_ms.div_euclid(HOUR_MS) * HOUR_MS
}

/// Puts off new crossings beyond those of their limit, mark and hour that have messages of
/// their own.
pub(super) fn put_off(db: Db<'_>) -> Result<()> {
    let sql = "SELECT id, limit_name, mark, at_ms FROM crossing WHERE is_routed = 0 ORDER BY id";
    let unrouted: Vec<(i64, (String, String, i64))> = db.rows(sql, &[], |row| {
        let at_ms: i64 = row.get(3)?;
        Ok((row.get(0)?, (row.get(1)?, row.get(2)?, hour(at_ms))))
    })?;
    let mut own: HashMap<(String, String, i64), u64> = HashMap::new();
    for (id, of) in unrouted {
        let count = match own.entry(of) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let (limit, mark, hour_ms) = place.key();
                let sent = messages_of(db, limit, mark, *hour_ms)?;
                place.insert(sent)
            }
        };
        *count += 1;
        if *count > OWN_MESSAGES_MAX {
            db.execute("UPDATE crossing SET is_routed = 2 WHERE id = ?1", params![id])?;
        }
    }
    Ok(())
}

/// How many crossings of a limit and mark have messages of their own in an hour; counted as
/// far as it makes a difference.
fn messages_of(db: Db<'_>, limit: &str, mark: &str, hour_ms: i64) -> Result<u64> {
    let sql = format!(
        "SELECT COUNT(*) FROM (SELECT 1 FROM crossing WHERE is_routed = 1 AND digest IS NULL \
         AND limit_name = ?1 AND mark = ?2 AND at_ms >= ?3 AND at_ms < ?4 LIMIT {OWN_MESSAGES_MAX}) AS own"
    );
    db.row(&sql, params![limit, mark, hour_ms, hour_ms + HOUR_MS], |row| row.get(0)).map(uint)
}

/// When the hour ends of crossings that are put off, in Unix milliseconds, if there are any.
pub(super) fn next_hour_ms(db: Db<'_>) -> Result<Option<i64>> {
    let first = "SELECT MIN(at_ms) FROM crossing WHERE is_routed = 2";
    let first_ms: Option<i64> = db.row(first, &[], |row| row.get(0))?;
    Ok(first_ms.map(|at_ms| hour(at_ms) + HOUR_MS))
}

/// Whether something was put off in an hour that is over.
pub(super) fn is_to_gather(db: Db<'_>, now_ms: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM crossing WHERE is_routed = 2 AND at_ms / ?1 <> ?2 LIMIT 1";
    db.exists(sql, params![HOUR_MS, now_ms / HOUR_MS])
}

/// Gathers what was put off in an hour that is over: it shares the message of the last of its limit
/// and mark, which is routed now.
pub(super) fn gather(db: Db<'_>, now_ms: i64) -> Result<()> {
    let groups: Vec<(i64, String, String, i64)> = db.rows(
        "SELECT MAX(id), limit_name, mark, at_ms / ?1 FROM crossing WHERE is_routed = 2 AND at_ms / ?1 <> ?2 \
         GROUP BY limit_name, mark, at_ms / ?1",
        params![HOUR_MS, now_ms / HOUR_MS],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    for (id, limit, mark, number) in groups {
        db.execute(
            "UPDATE crossing SET digest = ?1, is_routed = CASE WHEN id <> ?1 THEN 1 ELSE 0 END WHERE is_routed = 2 \
             AND limit_name = ?2 AND mark = ?3 AND at_ms / ?4 = ?5",
            params![id, limit, mark, HOUR_MS, number],
        )?;
    }
    Ok(())
}
