//! Crossings that share one message.
//!
//! A limit per user has as many meters as clients invent users. So only the first crossings
//! of a limit in an hour have messages of their own; the others wait for the end of the
//! hour and share one message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{Connection, Row, params};

use crate::store::outbox::OWN_MESSAGES_MAX;
use crate::store::sqlite::codec::uint;

pub(super) const HOUR_MS: i64 = 3_600_000;

/// Where the hour of an instant starts; both in Unix milliseconds.
pub(super) fn hour(at_ms: i64) -> i64 {
    at_ms.div_euclid(HOUR_MS) * HOUR_MS
}

/// Puts off new crossings beyond those of their limit, mark and hour that have messages of
/// their own.
pub(super) fn put_off(tx: &Connection) -> rusqlite::Result<()> {
    let mut unrouted = tx
        .prepare_cached("SELECT id, limit_name, mark, at_ms FROM crossing WHERE is_routed = 0 ORDER BY id")?;
    let mut rows = unrouted.query([])?;
    let mut own: HashMap<(String, String, i64), u64> = HashMap::new();
    let mut beyond: Vec<i64> = Vec::new();
    while let Some(row) = rows.next()? {
        let count = match own.entry((row.get(1)?, row.get(2)?, hour(row.get(3)?))) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let (limit, mark, hour_ms) = place.key();
                let sql = format!(
                    "SELECT count(*) FROM (SELECT 1 FROM crossing WHERE is_routed = 1 AND digest IS NULL \
                     AND limit_name = ?1 AND mark = ?2 AND at_ms >= ?3 AND at_ms < ?4 LIMIT {OWN_MESSAGES_MAX})"
                );
                let of_hour = params![limit, mark, hour_ms, hour_ms + HOUR_MS];
                let sent: i64 = tx.prepare_cached(&sql)?.query_row(of_hour, |row| row.get(0))?;
                place.insert(uint(sent))
            }
        };
        *count += 1;
        if *count > OWN_MESSAGES_MAX {
            beyond.push(row.get(0)?);
        }
    }
    let mut put_off = tx.prepare_cached("UPDATE crossing SET is_routed = 2 WHERE id = ?1")?;
    beyond.into_iter().try_for_each(|id| put_off.execute([id]).map(drop))
}

/// Gathers what was put off in an hour that is over: it shares the message of the last of its limit
/// and mark, which is routed now.
pub(super) fn gather(tx: &Connection, now_ms: i64) -> rusqlite::Result<()> {
    let mut put_off = tx.prepare_cached(
        "SELECT max(id), limit_name, mark, at_ms / ?1 FROM crossing WHERE is_routed = 2 AND at_ms / ?1 <> ?2 / ?1 \
         GROUP BY limit_name, mark, at_ms / ?1",
    )?;
    let group = |row: &Row<'_>| -> rusqlite::Result<(i64, String, String, i64)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    };
    let groups: Vec<_> = put_off.query_map([HOUR_MS, now_ms], group)?.collect::<Result<_, _>>()?;
    let mut gathered = tx.prepare_cached(
        "UPDATE crossing SET digest = ?1, is_routed = (id <> ?1) WHERE is_routed = 2 AND limit_name = ?2 \
         AND mark = ?3 AND at_ms / ?4 = ?5",
    )?;
    for (id, limit, mark, number) in groups {
        gathered.execute(params![id, limit, mark, HOUR_MS, number])?;
    }
    Ok(())
}
