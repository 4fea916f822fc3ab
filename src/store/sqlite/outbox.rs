//! Alerts for operators, and the state of their deliveries.
//!
//! A crossing is routed once: each channel that is configured then gets a
//! delivery, and of e-mail each recipient. A delivery waits until it is sent or
//! given up, across restarts. An e-mail of a spend alert is for its own
//! recipients, as they are then.

mod digest;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use self::digest::{HOUR_MS, gather, hour, put_off};
use crate::domain::limit::Unit;
use crate::ledger::entry::AlertKind;
use crate::store::outbox::{Alert, Delivery, Due, EMAIL, NO_EMAIL, Outcome, recipient};
use crate::store::records::Channel as Mail;
use crate::store::sqlite::codec::{int, uint};
use crate::store::sqlite::organization::json;
use crate::store::sqlite::values::{json_text, named_from};

/// A delivery of the channel ?1, or of a recipient of it.
const OF_CHANNEL: &str = "(channel = ?1 OR (channel > ?1 || ':' AND channel < ?1 || ';'))";

const ALERT: &str = "crossing.id, mark, limit_name, subject, threshold, window_start_s, settled, at_ms, window_end_s, \
                     unit, period, hard, \
                     (SELECT max(1, count(*)) FROM crossing AS other WHERE other.digest = crossing.id)";

const DELIVERY: &str = "channel, state, attempts, next_ms, error, mail";

/// Makes deliveries to `channels` of all crossings that have none yet, and drops
/// those that wait for a channel that is no more. Of e-mail there is a name for
/// each recipient, by [`email_to`]. Returns when the hour ends of crossings that wait
/// to share one message, in Unix milliseconds.
pub(super) fn route(db: &mut Connection, channels: &[String], now_ms: i64) -> rusqlite::Result<Option<i64>> {
    let tx = db.transaction()?;
    put_off(&tx)?;
    gather(&tx, now_ms)?;
    let has_email = channels.iter().any(|channel| recipient(channel).is_some());
    for channel in channels {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO delivery SELECT crossing.id, ?1, 'waiting', 0, ?2, NULL, NULL FROM crossing \
             WHERE is_routed = 0 AND NOT (?3 AND EXISTS (SELECT 1 FROM spend_alert WHERE spend_alert.id = limit_name))",
        )?
        .execute(params![channel, now_ms, recipient(channel).is_some()])?;
    }
    if has_email {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO delivery SELECT crossing.id, ?1 || ':' || receiver.value, 'waiting', 0, ?2, NULL, \
                json_set(spend_alert.channel, '$.recipients', json_array(receiver.value)) \
             FROM crossing JOIN spend_alert ON spend_alert.id = limit_name, json_each(spend_alert.channel, '$.recipients') \
                AS receiver WHERE is_routed = 0",
        )?
        .execute(params![EMAIL, now_ms])?;
    } else {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO delivery SELECT crossing.id, ?1, 'dropped', 0, ?2, ?3, spend_alert.channel \
             FROM crossing JOIN spend_alert ON spend_alert.id = limit_name WHERE is_routed = 0",
        )?
        .execute(params![EMAIL, now_ms, NO_EMAIL])?;
    }
    tx.prepare_cached("UPDATE crossing SET is_routed = 1 WHERE is_routed = 0")?.execute([])?;
    let known = json_text(channels)?;
    tx.prepare_cached(
        "UPDATE delivery SET state = 'dropped' WHERE state = 'waiting' \
         AND channel NOT IN (SELECT value FROM json_each(?1)) AND NOT (?2 AND (channel = ?3 OR channel GLOB ?3 || ':*'))",
    )?
    .execute(params![known, has_email, EMAIL])?;
    let first = "SELECT min(at_ms) FROM crossing WHERE is_routed = 2";
    let first_ms: Option<i64> = tx.prepare_cached(first)?.query_row([], |row| row.get(0))?;
    tx.commit()?;
    Ok(first_ms.map(|at_ms| hour(at_ms) + HOUR_MS))
}

/// What a channel has to deliver by now, the oldest first. What is to wait for
/// longer than `wait_max_ms` was noted by a clock that was ahead.
pub(super) fn due(
    db: &Connection,
    channel: &str,
    now_ms: i64,
    wait_max_ms: i64,
    count_max: usize,
) -> rusqlite::Result<Vec<Due>> {
    let sql = format!(
        "SELECT {ALERT}, attempts, mail, channel FROM delivery JOIN crossing ON crossing.id = crossing \
         WHERE {OF_CHANNEL} AND state = 'waiting' AND (next_ms <= ?2 OR next_ms > ?3) ORDER BY next_ms, crossing.id LIMIT {count_max}"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params![channel, now_ms, now_ms.saturating_add(wait_max_ms)], |row| {
        Ok(Due {
            alert: alert_from(row)?,
            attempts: row.get(13)?,
            mail: mail_from(row, 14)?,
            channel: row.get(15)?,
        })
    })?;
    rows.collect()
}

/// When a channel has something to deliver next, in Unix milliseconds.
pub(super) fn next_ms(db: &Connection, channel: &str) -> rusqlite::Result<Option<i64>> {
    let sql = format!("SELECT min(next_ms) FROM delivery WHERE {OF_CHANNEL} AND state = 'waiting'");
    db.prepare_cached(&sql)?.query_row([channel], |row| row.get(0))
}

/// Notes what came of a try.
pub(super) fn note(
    db: &Connection,
    id: u64,
    channel: &str,
    now_ms: i64,
    outcome: &Outcome,
) -> rusqlite::Result<()> {
    let (state, next_ms, error) = match outcome {
        Outcome::Sent => ("sent", now_ms, None),
        Outcome::Again(next_ms, error) => ("waiting", *next_ms, Some(error)),
        Outcome::GivenUp(error) => ("given_up", now_ms, Some(error)),
    };
    db.prepare_cached(
        "UPDATE delivery SET state = ?3, attempts = attempts + 1, next_ms = ?4, error = ?5 \
         WHERE crossing = ?1 AND channel = ?2",
    )?
    .execute(params![int(id), channel, state, next_ms, error])?;
    Ok(())
}

/// What a channel did last, and how many deliveries wait for it.
pub(super) fn channel_state(db: &Connection, channel: &str) -> rusqlite::Result<(Option<Delivery>, u64)> {
    let last = format!(
        "SELECT {DELIVERY} FROM delivery WHERE {OF_CHANNEL} AND attempts > 0 ORDER BY crossing DESC, \
         state = 'sent' LIMIT 1"
    );
    let last = db.prepare_cached(&last)?.query_row([channel], delivery_from).optional()?;
    let waiting = format!("SELECT count(*) FROM delivery WHERE {OF_CHANNEL} AND state = 'waiting'");
    let waiting = db.prepare_cached(&waiting)?.query_row([channel], |row| row.get(0))?;
    Ok((last, uint(waiting)))
}

/// The newest alerts before an id, newest first, with the deliveries of the messages that
/// tell them.
pub(super) fn alerts(
    db: &Connection,
    before: Option<u64>,
    count_max: usize,
) -> rusqlite::Result<Vec<(Alert, Vec<Delivery>)>> {
    let sql = format!("SELECT {ALERT} FROM crossing WHERE id < ?1 ORDER BY id DESC LIMIT {count_max}");
    let mut statement = db.prepare_cached(&sql)?;
    let alerts = statement.query_map([before.map_or(i64::MAX, int)], alert_from)?;
    let of = format!(
        "SELECT {DELIVERY} FROM delivery WHERE crossing = \
         (SELECT coalesce(digest, id) FROM crossing WHERE id = ?1) ORDER BY channel"
    );
    let mut of = db.prepare_cached(&of)?;
    alerts
        .map(|alert| {
            let alert = alert?;
            let deliveries = of.query_map([int(alert.id)], delivery_from)?.collect::<Result<_, _>>()?;
            Ok((alert, deliveries))
        })
        .collect()
}

fn alert_from(row: &Row<'_>) -> rusqlite::Result<Alert> {
    let (id, mark, unit) = (row.get::<_, i64>(0)?, row.get_ref(1)?.as_str()?, row.get_ref(9)?.as_str()?);
    let row_of = || format!("alert_{id}");
    Ok(Alert {
        id: uint(id),
        mark: named_from(mark, "crossing.mark", row_of, AlertKind::named)?,
        limit: row.get(2)?,
        subject: row.get(3)?,
        threshold: row.get(4)?,
        window_start_s: row.get(5)?,
        settled: row.get(6)?,
        at_ms: row.get(7)?,
        window_end_s: row.get(8)?,
        // Of what version 1 wrote it is not known.
        unit: if unit.is_empty() {
            Unit::Usd
        } else {
            named_from(unit, "crossing.unit", row_of, Unit::named)?
        },
        period: row.get(10)?,
        hard: row.get(11)?,
        count: uint(row.get(12)?),
    })
}

fn delivery_from(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let name: String = row.get(0)?;
    let of = recipient(&name).map(str::to_owned);
    Ok(Delivery {
        channel: if of.is_some() { EMAIL.to_owned() } else { name },
        recipient: of,
        state: row.get(1)?,
        attempts: row.get(2)?,
        next_ms: row.get(3)?,
        error: row.get(4)?,
        mail: mail_from(row, 5)?,
    })
}

fn mail_from(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Mail>> {
    if row.get_ref(at)? == ValueRef::Null { Ok(None) } else { json(row, at, "delivery.mail").map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::outbox::OWN_MESSAGES_MAX;
    use crate::store::sqlite::schema;

    fn crossed(db: &Connection, limit: &str, mark: &str, subjects: std::ops::Range<u32>, at_ms: i64) {
        for subject in subjects {
            let id = db.query_row("SELECT coalesce(max(id), 0) + 1 FROM crossing", [], |row| row.get(0));
            let row = params![id.unwrap_or(1_i64), mark, limit, subject.to_string(), at_ms];
            db.execute(
                "INSERT INTO crossing VALUES (?1, ?2, ?3, ?4, 5, 0, 9, 7, 'usd', 'day', 10, ?5, 0, NULL)",
                row,
            )
            .unwrap();
        }
    }

    /// What a channel has to deliver: the limit, the mark and how many crossings.
    fn delivered(db: &Connection) -> Vec<(String, &'static str, u64)> {
        let due = due(db, "hook", i64::MAX / 2, i64::MAX / 2, 1_000).unwrap();
        due.into_iter().map(|Due { alert, .. }| (alert.limit, alert.mark.name(), alert.count)).collect()
    }

    fn count(db: &Connection) -> u64 {
        delivered(db).len().try_into().unwrap()
    }

    #[test]
    fn beyond_some_messages_an_hour_a_limit_has_one_digest() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::create(&mut db).unwrap();
        let channels = ["hook".to_owned()];
        crossed(&db, "users", "soft", 0..8, 10);
        assert_eq!(route(&mut db, &channels, 20).unwrap(), None);
        crossed(&db, "users", "soft", 8..500, 30);
        crossed(&db, "users", "hard", 0..3, 30);
        crossed(&db, "other", "soft", 0..1, 30);
        assert_eq!(route(&mut db, &channels, 40).unwrap(), Some(HOUR_MS));
        assert_eq!(count(&db), OWN_MESSAGES_MAX + 3 + 1, "another kind or limit has messages all the same");
        assert!(delivered(&db).iter().all(|(.., count)| *count == 1));

        assert_eq!(route(&mut db, &channels, HOUR_MS - 1).unwrap(), Some(HOUR_MS));
        assert_eq!(count(&db), OWN_MESSAGES_MAX + 4);
        crossed(&db, "users", "soft", 500..501, HOUR_MS);
        assert_eq!(route(&mut db, &channels, HOUR_MS).unwrap(), None);
        let digests: Vec<_> = delivered(&db).into_iter().filter(|(.., count)| *count > 1).collect();
        assert_eq!(digests, [("users".to_owned(), "soft", 490)]);
        assert_eq!(count(&db), OWN_MESSAGES_MAX + 6, "the next hour has messages of its own again");

        let (put_off, deliveries) = alerts(&db, Some(300), 1).unwrap().remove(0);
        assert_eq!((put_off.count, deliveries.len()), (1, 1), "it shows the delivery of the digest");
        assert_eq!(route(&mut db, &channels, 2 * HOUR_MS).unwrap(), None);
        assert_eq!(count(&db), OWN_MESSAGES_MAX + 6, "each is sent once");
    }
}
