//! Alerts for operators, and the state of their deliveries.
//!
//! A crossing is routed once: each channel that is configured then gets a
//! delivery, and of e-mail each recipient. A delivery waits until it is sent or
//! given up, across restarts. An e-mail of a spend alert is for its own
//! recipients, as they are then.

mod digest;
mod unknown;

use self::digest::{gather, is_to_gather, next_hour_ms, put_off};
use self::unknown::{drop_waiting, is_to_drop};
use crate::domain::limit::Unit;
use crate::ledger::entry::AlertKind;
use crate::store::outbox::{Alert, Delivery, Due, EMAIL, NO_EMAIL, Outcome, email_to, recipient};
use crate::store::records::Channel as Mail;
use crate::store::sql::columns::{int, json, json_text, named_from, uint};
use crate::store::sql::{Db, Result, Row, Value, params};

/// A delivery of the channel ?1, or of a recipient of it.
const OF_CHANNEL: &str = "(channel = ?1 OR (channel > ?1 || ':' AND channel < ?1 || ';'))";

const ALERT: &str = "crossing.id, mark, limit_name, subject, threshold, window_start_s, settled, at_ms, window_end_s, \
                     unit, period, hard, \
                     (SELECT COUNT(*) FROM crossing AS other WHERE other.digest = crossing.id)";

const DELIVERY: &str = "channel, state, attempts, next_ms, error, mail";

/// Makes deliveries to `channels` of all crossings that have none yet. Of e-mail there is a name
/// for each recipient, by [`email_to`]. Drops those that wait for a channel that is not among
/// them: at once if `others_for_ms` is `None`; else another guard may have it, and they wait for so
/// long from their crossing on. Returns when the hour ends of crossings that wait to share one
/// message, in Unix milliseconds.
pub(crate) fn route(
    db: Db<'_>,
    channels: &[String],
    now_ms: i64,
    others_for_ms: Option<i64>,
) -> Result<Option<i64>> {
    db.transaction(|| {
        put_off(db)?;
        gather(db, now_ms)?;
        let has_email = channels.iter().any(|channel| recipient(channel).is_some());
        for channel in channels {
            deliver(db, channel, now_ms)?;
        }
        if has_email || others_for_ms.is_some() {
            deliver_to_recipients(db, now_ms)?;
        } else {
            db.execute(
                "INSERT INTO delivery (crossing, channel, state, attempts, next_ms, error, mail) \
                 SELECT crossing.id, CAST(?1 AS TEXT), 'dropped', 0, CAST(?2 AS BIGINT), CAST(?3 AS TEXT), \
                    spend_alert.channel \
                 FROM crossing JOIN spend_alert ON spend_alert.id = limit_name WHERE is_routed = 0 \
                 ON CONFLICT (crossing, channel) DO NOTHING",
                params![EMAIL, now_ms, NO_EMAIL],
            )?;
        }
        db.execute("UPDATE crossing SET is_routed = 1 WHERE is_routed = 0", &[])?;
        let since_ms = others_for_ms.map_or(i64::MAX, |for_ms| now_ms.saturating_sub(for_ms));
        drop_waiting(db, channels, since_ms)?;
        next_hour_ms(db)
    })
}

/// What [`route`] would return, if there is nothing for it to do; `None` if there is something.
pub(crate) fn rest(
    db: Db<'_>,
    channels: &[String],
    now_ms: i64,
    others_for_ms: Option<i64>,
) -> Result<Option<Option<i64>>> {
    let since_ms = others_for_ms.map_or(i64::MAX, |for_ms| now_ms.saturating_sub(for_ms));
    db.snapshot(|| {
        let is_new = db.exists("SELECT 1 FROM crossing WHERE is_routed = 0 LIMIT 1", &[])?;
        if is_new || is_to_gather(db, now_ms)? || is_to_drop(db, channels, since_ms)? {
            return Ok(None);
        }
        next_hour_ms(db).map(Some)
    })
}

/// Makes deliveries to a channel. The e-mails of a spend alert are for others than those that
/// the channel is configured for.
fn deliver(db: Db<'_>, channel: &str, now_ms: i64) -> Result<()> {
    let unless = match recipient(channel) {
        Some(_) => " AND NOT EXISTS (SELECT 1 FROM spend_alert WHERE spend_alert.id = limit_name)",
        None => "",
    };
    let sql = format!(
        "INSERT INTO delivery (crossing, channel, state, attempts, next_ms, error, mail) \
         SELECT crossing.id, CAST(?1 AS TEXT), 'waiting', 0, CAST(?2 AS BIGINT), NULL, NULL FROM crossing \
         WHERE is_routed = 0{unless} ON CONFLICT (crossing, channel) DO NOTHING"
    );
    db.execute(&sql, params![channel, now_ms]).map(drop)
}

/// Makes deliveries to the recipients of spend alerts, each with a message of its own.
fn deliver_to_recipients(db: Db<'_>, now_ms: i64) -> Result<()> {
    let sql = "SELECT spend_alert.id, spend_alert.channel, crossing.id FROM crossing \
               JOIN spend_alert ON spend_alert.id = limit_name WHERE is_routed = 0 ORDER BY crossing.id";
    let crossed: Vec<(Mail, i64)> =
        db.rows(sql, &[], |row| Ok((json(row, 1, "spend_alert.channel")?, row.get(2)?)))?;
    for (mail, crossing) in crossed {
        for recipient in &mail.recipients {
            let own = json_text(&Mail { recipients: vec![recipient.clone()], ..mail.clone() })?;
            db.execute(
                "INSERT INTO delivery (crossing, channel, state, attempts, next_ms, error, mail) \
                 VALUES (?1, ?2, 'waiting', 0, ?3, NULL, ?4) ON CONFLICT (crossing, channel) DO NOTHING",
                params![crossing, email_to(recipient), now_ms, own],
            )?;
        }
    }
    Ok(())
}

/// What a channel has to deliver by now, the oldest first. What is to wait for
/// longer than `wait_max_ms` was noted by a clock that was ahead.
pub(crate) fn due(
    db: Db<'_>,
    channel: &str,
    now_ms: i64,
    wait_max_ms: i64,
    count_max: usize,
) -> Result<Vec<Due>> {
    let sql = format!(
        "SELECT {ALERT}, attempts, mail, channel FROM delivery JOIN crossing ON crossing.id = delivery.crossing \
         WHERE {OF_CHANNEL} AND state = 'waiting' AND (next_ms <= ?2 OR next_ms > ?3) ORDER BY next_ms, crossing.id LIMIT {count_max}"
    );
    db.rows(&sql, params![channel, now_ms, now_ms.saturating_add(wait_max_ms)], |row| {
        Ok(Due {
            alert: alert_from(row)?,
            attempts: row.get(13)?,
            mail: mail_from(row, 14)?,
            channel: row.get(15)?,
            claimed_until_ms: None,
        })
    })
}

/// When a channel has something to deliver next, in Unix milliseconds.
pub(crate) fn next_ms(db: Db<'_>, channel: &str) -> Result<Option<i64>> {
    let sql = format!("SELECT MIN(next_ms) FROM delivery WHERE {OF_CHANNEL} AND state = 'waiting'");
    db.row(&sql, params![channel], |row| row.get(0))
}

/// Claims a delivery until an instant, in Unix milliseconds: it is put off until then. The instant
/// is the claim: the next one is made after it, and so is for a later one.
pub(crate) fn claim(db: Db<'_>, due: &mut Due, until_ms: i64) -> Result<()> {
    due.claimed_until_ms = Some(until_ms);
    let sql = "UPDATE delivery SET next_ms = ?3 WHERE crossing = ?1 AND channel = ?2";
    db.execute(sql, params![int(due.alert.id), due.channel, until_ms]).map(drop)
}

/// Notes what came of a try; nothing if another guard has claimed the delivery since, or dropped
/// it.
pub(crate) fn note(db: Db<'_>, due: &Due, now_ms: i64, outcome: &Outcome) -> Result<()> {
    let (state, next_ms, error) = match outcome {
        Outcome::Sent => ("sent", now_ms, None),
        Outcome::Again(next_ms, error) => ("waiting", *next_ms, Some(error)),
        Outcome::GivenUp(error) => ("given_up", now_ms, Some(error)),
    };
    db.execute(
        "UPDATE delivery SET state = ?3, attempts = attempts + 1, next_ms = ?4, error = ?5 \
         WHERE crossing = ?1 AND channel = ?2 \
         AND (CAST(?6 AS BIGINT) IS NULL OR (state = 'waiting' AND delivery.next_ms = ?6))",
        params![int(due.alert.id), due.channel, state, next_ms, error, due.claimed_until_ms],
    )
    .map(drop)
}

/// What a channel did last, and how many deliveries wait for it.
pub(crate) fn channel_state(db: Db<'_>, channel: &str) -> Result<(Option<Delivery>, u64)> {
    let last = format!(
        "SELECT {DELIVERY} FROM delivery WHERE {OF_CHANNEL} AND attempts > 0 ORDER BY crossing DESC, \
         state = 'sent' LIMIT 1"
    );
    let last = db.optional(&last, params![channel], delivery_from)?;
    let waiting = format!("SELECT COUNT(*) FROM delivery WHERE {OF_CHANNEL} AND state = 'waiting'");
    let waiting = db.row(&waiting, params![channel], |row| row.get(0))?;
    Ok((last, uint(waiting)))
}

/// The newest alerts before an id, newest first, with the deliveries of the messages that
/// tell them.
pub(crate) fn alerts(
    db: Db<'_>,
    before: Option<u64>,
    count_max: usize,
) -> Result<Vec<(Alert, Vec<Delivery>)>> {
    let sql = format!("SELECT {ALERT} FROM crossing WHERE id < ?1 ORDER BY id DESC LIMIT {count_max}");
    let of = format!(
        "SELECT {DELIVERY} FROM delivery WHERE delivery.crossing = \
         (SELECT COALESCE(digest, id) FROM crossing WHERE id = ?1) ORDER BY channel"
    );
    db.snapshot(|| {
        let alerts = db.rows(&sql, params![before.map_or(i64::MAX, int)], alert_from)?;
        let with_deliveries = |alert: Alert| {
            let deliveries = db.rows(&of, params![int(alert.id)], delivery_from)?;
            Ok((alert, deliveries))
        };
        alerts.into_iter().map(with_deliveries).collect()
    })
}

fn alert_from(row: &Row<'_>) -> Result<Alert> {
    let (id, mark, unit) = (row.get::<i64>(0)?, row.text(1)?, row.text(9)?);
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
        count: uint(row.get(12)?).max(1),
    })
}

fn delivery_from(row: &Row<'_>) -> Result<Delivery> {
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

fn mail_from(row: &Row<'_>, at: usize) -> Result<Option<Mail>> {
    if row.value(at)? == Value::Null { Ok(None) } else { json(row, at, "delivery.mail").map(Some) }
}

#[cfg(test)]
mod tests {
    use super::digest::HOUR_MS;
    use super::*;
    use crate::store::outbox::{NEWS_MS, OWN_MESSAGES_MAX};
    use crate::store::records::AlertRow;
    use crate::store::sql::organization;
    use crate::store::sqlite;

    fn crossed(db: Db<'_>, limit: &str, mark: &str, subjects: std::ops::Range<u32>, at_ms: i64) {
        for subject in subjects {
            let id: i64 =
                db.row("SELECT COALESCE(MAX(id), 0) + 1 FROM crossing", &[], |row| row.get(0)).unwrap();
            db.execute(
                "INSERT INTO crossing (id, mark, limit_name, subject, threshold, window_start_s, window_end_s, settled, \
                 unit, period, hard, at_ms, is_routed) VALUES (?1, ?2, ?3, ?4, 5, 0, 9, 7, 'usd', 'day', 10, ?5, 0)",
                params![id, mark, limit, subject.to_string(), at_ms],
            )
            .unwrap();
        }
    }

    /// Routes; before it and after it, [`rest`] says whether there is something to do.
    fn routed(db: Db<'_>, channels: &[String], now_ms: i64, others_for_ms: Option<i64>) -> Option<i64> {
        let changes = || db.row("SELECT total_changes()", &[], |row| row.get::<i64>(0)).unwrap();
        let resting = || rest(db, channels, now_ms, others_for_ms).unwrap();
        let (before, changes_before) = (resting(), changes());
        let next_ms = route(db, channels, now_ms, others_for_ms).unwrap();
        let is_idle = changes() == changes_before;
        assert_eq!((before, resting()), (is_idle.then_some(next_ms), Some(next_ms)));
        next_ms
    }

    /// What a channel has to deliver: the limit, the mark and how many crossings.
    fn delivered(db: Db<'_>) -> Vec<(String, &'static str, u64)> {
        let due = due(db, "hook", i64::MAX / 2, i64::MAX / 2, 1_000).unwrap();
        due.into_iter().map(|Due { alert, .. }| (alert.limit, alert.mark.name(), alert.count)).collect()
    }

    fn count(db: Db<'_>) -> u64 {
        delivered(db).len().try_into().unwrap()
    }

    #[test]
    fn beyond_some_messages_an_hour_a_limit_has_one_digest() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let channels = ["hook".to_owned()];
        crossed(db, "users", "soft", 0..8, 10);
        assert_eq!(routed(db, &channels, 20, None), None);
        crossed(db, "users", "soft", 8..500, 30);
        crossed(db, "users", "hard", 0..3, 30);
        crossed(db, "other", "soft", 0..1, 30);
        assert_eq!(routed(db, &channels, 40, None), Some(HOUR_MS));
        assert_eq!(count(db), OWN_MESSAGES_MAX + 3 + 1, "another kind or limit has messages all the same");
        assert!(delivered(db).iter().all(|(.., count)| *count == 1));

        assert_eq!(routed(db, &channels, HOUR_MS - 1, None), Some(HOUR_MS));
        assert_eq!(count(db), OWN_MESSAGES_MAX + 4);
        crossed(db, "users", "soft", 500..501, HOUR_MS);
        assert_eq!(routed(db, &channels, HOUR_MS, None), None);
        let digests: Vec<_> = delivered(db).into_iter().filter(|(.., count)| *count > 1).collect();
        assert_eq!(digests, [("users".to_owned(), "soft", 490)]);
        assert_eq!(count(db), OWN_MESSAGES_MAX + 6, "the next hour has messages of its own again");

        let (put_off, deliveries) = alerts(db, Some(300), 1).unwrap().remove(0);
        assert_eq!((put_off.count, deliveries.len()), (1, 1), "it shows the delivery of the digest");
        assert_eq!(routed(db, &channels, 2 * HOUR_MS, None), None);
        assert_eq!(count(db), OWN_MESSAGES_MAX + 6, "each is sent once");
    }

    /// The deliveries of a crossing: channel or recipient, state and own recipients.
    fn deliveries(db: Db<'_>, crossing: u64) -> Vec<(String, String, Option<Vec<String>>)> {
        let (_, deliveries) = alerts(db, Some(crossing + 1), 1).unwrap().remove(0);
        let of = |delivery: Delivery| {
            let mail = delivery.mail.map(|mail| mail.recipients);
            (delivery.recipient.unwrap_or(delivery.channel), delivery.state, mail)
        };
        deliveries.into_iter().map(of).collect()
    }

    #[test]
    fn the_recipients_of_a_spend_alert_have_its_messages_and_a_removed_channel_has_none() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let recipients = vec!["a@x.y".to_owned(), "b@x.y".to_owned(), "a@x.y".to_owned()];
        let channel = Mail { kind: EMAIL.to_owned(), recipients, subject_prefix: None };
        let alert = AlertRow { id: "alert_1".to_owned(), project: None, channel };
        organization::put_alert(db, &alert).unwrap();
        let row = |channel: &str, state: &str, of: &[&str]| {
            let mail = of.iter().map(|recipient| (*recipient).to_owned()).collect::<Vec<_>>();
            (channel.to_owned(), state.to_owned(), Some(mail).filter(|mail| !mail.is_empty()))
        };
        let waiting = |channel: &str, of: &[&str]| row(channel, "waiting", of);

        crossed(db, "alert_1", "soft", 0..1, 10);
        crossed(db, "users", "soft", 1..2, 10);
        routed(db, &["hook".to_owned(), email_to("ops@x.y")], 20, None);
        let own = [waiting("a@x.y", &["a@x.y"]), waiting("b@x.y", &["b@x.y"]), waiting("hook", &[])];
        assert_eq!(deliveries(db, 1), own);
        assert_eq!(deliveries(db, 2), [waiting("ops@x.y", &[]), waiting("hook", &[])]);

        crossed(db, "alert_1", "soft", 2..3, 30);
        routed(db, &[], 40, None);
        let dropped = |(channel, _, mail)| (channel, "dropped".to_owned(), mail);
        assert_eq!(deliveries(db, 1), own.map(dropped));
        assert_eq!(deliveries(db, 2), ["ops@x.y", "hook"].map(|channel| row(channel, "dropped", &[])));
        assert_eq!(deliveries(db, 3), [row(EMAIL, "dropped", &["a@x.y", "b@x.y", "a@x.y"])]);
    }

    #[test]
    fn a_message_for_a_channel_of_another_guard_waits_as_long_as_it_is_news() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let states = || -> Vec<(String, String)> {
            let sql = "SELECT channel, state FROM delivery ORDER BY crossing, channel";
            db.rows(sql, &[], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        let state = |channel: &str, state: &str| (channel.to_owned(), state.to_owned());
        crossed(db, "users", "soft", 0..1, 10);
        routed(db, &["hook".to_owned(), email_to("a@x.y")], 20, Some(NEWS_MS));
        routed(db, &[], NEWS_MS, Some(NEWS_MS));
        assert_eq!(states(), [state("email:a@x.y", "waiting"), state("hook", "waiting")]);
        routed(db, &[], NEWS_MS + 11, Some(NEWS_MS));
        assert_eq!(states(), [state("email:a@x.y", "dropped"), state("hook", "dropped")]);
    }

    #[test]
    fn the_outcome_of_a_claim_that_has_passed_to_another_guard_is_not_noted() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        crossed(db, "users", "soft", 0..1, 10);
        routed(db, &["hook".to_owned()], 20, Some(NEWS_MS));
        let claimed = |now_ms: i64| {
            let mut due = due(db, "hook", now_ms, NEWS_MS, 1).unwrap().pop()?;
            claim(db, &mut due, now_ms + 100).unwrap();
            Some(due)
        };
        let first = claimed(20).unwrap();
        assert_eq!(claimed(100), None, "it is the first guard's");
        let second = claimed(120).unwrap();
        let state = || alerts(db, None, 1).unwrap().remove(0).1.remove(0);
        note(db, &first, 130, &Outcome::Again(140, "late".to_owned())).unwrap();
        assert_eq!((state().attempts, state().next_ms), (0, 220), "it is the second guard's");
        note(db, &second, 150, &Outcome::Sent).unwrap();
        assert_eq!((state().attempts, state().state.as_str()), (1, "sent"));
        note(db, &second, 160, &Outcome::Again(170, "twice".to_owned())).unwrap();
        assert_eq!(state().state, "sent");
    }
}
