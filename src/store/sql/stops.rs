//! Stops as rows: of each spender the kill switch, and the last time that each fuse has blown.

use crate::domain::stop::Cause;
use crate::domain::{Money, Spender, SpenderKind, Stop};
use crate::store::sql::columns::{int, named_from, uint, unreadable};
use crate::store::sql::{Db, Result, Row, params};

/// The fuse of a kill switch.
const NO_FUSE: &str = "";

/// Every stop.
pub(crate) fn stops(db: Db<'_>) -> Result<Vec<Stop>> {
    let sql = "SELECT id, spender_kind, spender, fuse, note, actor_name, since_ms, until_ms, lifted_ms, spent_nano, \
               limit_nano FROM stop ORDER BY id";
    db.rows(sql, &[], stop_from)
}

fn stop_from(row: &Row<'_>) -> Result<Stop> {
    let id: i64 = row.get(0)?;
    let row_of = || format!("stop_{id}");
    let spender: String = row.get(2)?;
    let kind = named_from(row.text(1)?, "stop.spender_kind", row_of, SpenderKind::named)?;
    let (spent, limit): (Option<i64>, Option<i64>) = (row.get(9)?, row.get(10)?);
    let cause = match (row.text(3)?, spent.zip(limit)) {
        (NO_FUSE, None) => Cause::KillSwitch { note: row.get(4)? },
        (NO_FUSE, Some(_)) => {
            return Err(unreadable("stop.fuse", row_of(), "amounts need a fuse".to_owned()));
        }
        (_, None) => return Err(unreadable("stop.spent_nano", row_of(), "a fuse needs amounts".to_owned())),
        (name, Some((spent, limit))) => {
            Cause::Fuse { name: name.into(), spent: Money::from_nano(spent), limit: Money::from_nano(limit) }
        }
    };
    Ok(Stop {
        id: uint(id),
        spender: match kind {
            SpenderKind::Organization => Spender::Organization,
            SpenderKind::Project => Spender::Project(spender.into()),
            SpenderKind::Key => Spender::Key(spender.into()),
        },
        cause,
        by: row.get(5)?,
        since_ms: row.get(6)?,
        until_ms: row.get(7)?,
        lifted_ms: row.get(8)?,
    })
}

/// Writes a stop in place of the last one of its spender and fuse.
pub(crate) fn put(db: Db<'_>, stop: &Stop) -> Result<()> {
    let (fuse, note, amounts) = match &stop.cause {
        Cause::KillSwitch { note } => (NO_FUSE, note.as_deref(), None),
        Cause::Fuse { name, spent, limit } => (&**name, None, Some((spent.nano(), limit.nano()))),
    };
    let (spent, limit) = amounts.unzip();
    db.execute(
        "INSERT INTO stop (id, spender_kind, spender, fuse, note, actor_name, since_ms, until_ms, lifted_ms, \
         spent_nano, limit_nano) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
         ON CONFLICT (spender_kind, spender, fuse) DO UPDATE SET id = excluded.id, note = excluded.note, \
         actor_name = excluded.actor_name, since_ms = excluded.since_ms, until_ms = excluded.until_ms, \
         lifted_ms = excluded.lifted_ms, spent_nano = excluded.spent_nano, limit_nano = excluded.limit_nano",
        params![
            int(stop.id),
            stop.spender.kind().name(),
            stop.spender.label(),
            fuse,
            note,
            stop.by,
            stop.since_ms,
            stop.until_ms,
            stop.lifted_ms,
            spent,
            limit,
        ],
    )
    .map(drop)
}

/// Removes a stop.
pub(crate) fn remove(db: Db<'_>, id: u64) -> Result<()> {
    db.execute("DELETE FROM stop WHERE id = ?1", params![int(id)]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    #[test]
    fn a_stop_is_read_as_it_was_written_and_one_that_can_t_be_is_named() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let switch = Stop {
            id: 7,
            spender: Spender::Organization,
            cause: Cause::KillSwitch { note: Some("a leak".to_owned()) },
            by: "ann".to_owned(),
            since_ms: 5,
            until_ms: None,
            lifted_ms: None,
        };
        let (spent, limit) = (Money::from_nano(6), Money::from_nano(5));
        let blown = Stop {
            id: 8,
            spender: Spender::Key("key_1".into()),
            cause: Cause::Fuse { name: "runaway".into(), spent, limit },
            until_ms: Some(9),
            ..switch.clone()
        };
        [&switch, &blown].into_iter().try_for_each(|stop| put(db, stop)).unwrap();
        assert_eq!(stops(db).unwrap(), [switch.clone(), blown.clone()]);
        let again = Stop { id: 10, lifted_ms: Some(11), ..blown };
        put(db, &again).unwrap();
        remove(db, 7).unwrap();
        assert_eq!(stops(db).unwrap(), [again], "one row for each spender and fuse");
        db.execute("UPDATE stop SET limit_nano = NULL", &[]).unwrap();
        assert!(stops(db).unwrap_err().to_string().contains("stop_10"));
    }
}
