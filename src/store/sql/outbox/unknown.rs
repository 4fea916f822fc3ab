//! Deliveries that wait for a channel that is not configured.

use crate::store::outbox::{EMAIL, recipient};
use crate::store::sql::{Db, Result, params};

/// A delivery that waits for the channel ?1, unless it is of a crossing since the instant ?2.
const DROPPED: &str = "state = 'waiting' AND channel = ?1 AND NOT EXISTS \
                       (SELECT 1 FROM crossing WHERE crossing.id = delivery.crossing AND at_ms >= ?2)";

/// Drops what waits for a channel that is not among these, except of crossings since an instant,
/// in Unix milliseconds.
pub(super) fn drop_waiting(db: Db<'_>, channels: &[String], since_ms: i64) -> Result<()> {
    let sql = format!("UPDATE delivery SET state = 'dropped' WHERE {DROPPED}");
    for channel in unknown(db, channels)? {
        db.execute(&sql, params![channel, since_ms])?;
    }
    Ok(())
}

/// Whether there is something to be dropped.
pub(super) fn is_to_drop(db: Db<'_>, channels: &[String], since_ms: i64) -> Result<bool> {
    let sql = format!("SELECT 1 FROM delivery WHERE {DROPPED} LIMIT 1");
    for channel in unknown(db, channels)? {
        if db.exists(&sql, params![channel, since_ms])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The channels that deliveries wait for and that are not among these. With e-mail, every recipient
/// is known.
fn unknown(db: Db<'_>, channels: &[String]) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT channel FROM delivery WHERE state = 'waiting'";
    let mut waiting: Vec<String> = db.rows(sql, &[], |row| row.get(0))?;
    let has_email = channels.iter().any(|channel| recipient(channel).is_some());
    let is_email = |channel: &str| channel == EMAIL || recipient(channel).is_some();
    let is_known = |channel: &String| channels.contains(channel) || (has_email && is_email(channel));
    waiting.retain(|channel| !is_known(channel));
    Ok(waiting)
}
