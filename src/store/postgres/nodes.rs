//! The guards of one database: who is alive, and what a dead one has left.
//!
//! A guard has an epoch from its start to its end, and says every few seconds that it is
//! alive. One that has not for `node_timeout`, by the database's clock, is given up: its
//! lanes are closed under the lock that its groups take, so that it can admit nothing more
//! and end nothing more. What it held is charged afterwards.

use std::collections::HashSet;
use std::time::Duration;

use crate::ledger::entry::Hold;
use crate::store::StoreError;
use crate::store::postgres::clock::NOW_MS;
use crate::store::postgres::database::Config;
pub(super) use crate::store::postgres::database::LANES;
use crate::store::postgres::locks::lock_rules;
use crate::store::records::Names;
use crate::store::sql::codec::{HoldRow, uint};
use crate::store::sql::columns::json_from;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{Db, Result, params};

/// Holds of dead guards that are charged in one go.
const CHARGED_MAX: usize = 128;

/// A guard, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Which start of it this is; ascending over all guards.
    pub epoch: i64,
    /// The version of its program.
    pub version: String,
    /// When it started, in Unix milliseconds.
    pub since_ms: i64,
    /// When it last said that it is alive, in Unix milliseconds.
    pub seen_ms: i64,
    /// `alive`, `left` or `given_up`.
    pub state: String,
    /// Its open holds.
    pub holds: u64,
}

/// What came of an attempt to join.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The guard has an epoch.
    As(i64),
    /// A guard of that name was seen alive at this instant, in Unix milliseconds.
    Taken(i64),
}

/// Joins as a guard, unless one of that name is alive.
pub(super) fn join(
    connection: &Connection,
    name: &str,
    timeout: Duration,
) -> std::result::Result<Joined, StoreError> {
    let db = Db::Postgres(connection);
    let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    let joined = db.transaction(|| {
        // A lane is made under this lock, so that no change of the rules misses it.
        let version = lock_rules(db)?;
        let known = format!("SELECT epoch, seen_ms, {NOW_MS} FROM node WHERE name = ?1 AND state = 'alive'");
        let known = db.optional(&known, params![name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if let Some((epoch, seen_ms, now_ms)) = known {
            let (epoch, seen_ms, now_ms): (i64, i64, i64) = (epoch, seen_ms, now_ms);
            if now_ms.saturating_sub(seen_ms) < timeout_ms {
                return Ok(Joined::Taken(seen_ms));
            }
            close(db, epoch, "given_up")?;
        }
        make(db, name, version).map(Joined::As)
    });
    Ok(joined?)
}

/// Joins again after an epoch was given up, and takes back the holds of it that no other has
/// charged. Returns the new epoch and the ids of those holds.
pub(super) fn rejoin(
    connection: &Connection,
    config: &Config,
    lost: i64,
) -> std::result::Result<(i64, HashSet<u64>), StoreError> {
    let db = Db::Postgres(connection);
    let rejoined = db.transaction(|| {
        let version = lock_rules(db)?;
        // It may be here before the others.
        close(db, lost, "given_up")?;
        let epoch = make(db, &config.node, version)?;
        let kept = "SELECT id FROM hold WHERE epoch = ?1 ORDER BY id FOR UPDATE";
        let kept = db.rows(kept, params![lost], |row| row.get(0).map(uint))?;
        db.execute("UPDATE hold SET epoch = ?2 WHERE epoch = ?1", params![lost, epoch])?;
        Ok((epoch, kept.into_iter().collect()))
    });
    Ok(rejoined?)
}

/// Makes a guard that is alive, with its lanes. The rules are locked.
fn make(db: Db<'_>, name: &str, rules_version: i64) -> Result<i64> {
    let insert = format!(
        "INSERT INTO node (name, version, since_ms, seen_ms, state) VALUES (?1, ?2, {NOW_MS}, {NOW_MS}, 'alive') \
         RETURNING epoch"
    );
    let epoch: i64 = db.row(&insert, params![name, env!("CARGO_PKG_VERSION")], |row| row.get(0))?;
    for lane in LANES {
        db.execute(
            "INSERT INTO lane (epoch, lane, state, rules_version, group_id) VALUES (?1, ?2, 'alive', ?3, 0)",
            params![epoch, lane, rules_version],
        )?;
    }
    Ok(epoch)
}

/// Says that a guard is alive; `false` if it was given up.
pub(super) fn say_alive(db: Db<'_>, epoch: i64) -> Result<bool> {
    let sql = format!("UPDATE node SET seen_ms = {NOW_MS} WHERE epoch = ?1 AND state = 'alive'");
    Ok(db.execute(&sql, params![epoch])? == 1)
}

/// Gives up the guards that have said nothing for so long. Returns their names.
pub(super) fn give_up_dead(db: Db<'_>, own: i64, timeout: Duration) -> Result<Vec<String>> {
    let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT epoch, name FROM node WHERE state = 'alive' AND seen_ms < {NOW_MS} - ?1 AND epoch <> ?2 ORDER BY epoch"
    );
    let dead: Vec<(i64, String)> =
        db.rows(&sql, params![timeout_ms, own], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut given_up = Vec::new();
    for (epoch, name) in dead {
        let is_first = db.transaction(|| {
            lock_rules(db)?;
            // It may have said something meanwhile, or another guard has given it up.
            let sql = format!(
                "SELECT 1 FROM node WHERE epoch = ?1 AND state = 'alive' AND seen_ms < {NOW_MS} - ?2 FOR UPDATE"
            );
            if !db.exists(&sql, params![epoch, timeout_ms])? {
                return Ok(false);
            }
            close(db, epoch, "given_up")?;
            Ok(true)
        })?;
        if is_first {
            given_up.push(name);
        }
    }
    Ok(given_up)
}

/// Leaves: everything of this guard has ended.
pub(super) fn leave(db: Db<'_>, epoch: i64) -> Result<()> {
    db.transaction(|| {
        lock_rules(db)?;
        close(db, epoch, "left")
    })
}

/// Closes a guard's lanes, under the lock that each of its groups takes first.
fn close(db: Db<'_>, epoch: i64, state: &str) -> Result<()> {
    db.rows("SELECT lane FROM lane WHERE epoch = ?1 ORDER BY lane FOR UPDATE", params![epoch], |_| Ok(()))?;
    db.execute("UPDATE lane SET state = ?2 WHERE epoch = ?1", params![epoch, state])?;
    db.execute("UPDATE node SET state = ?2 WHERE epoch = ?1 AND state = 'alive'", params![epoch, state])?;
    Ok(())
}

/// Some open holds of guards that are no more.
pub(super) fn orphaned_holds(db: Db<'_>, names: &dyn Names) -> Result<Vec<Hold>> {
    let sql = format!(
        "SELECT id, holds FROM hold WHERE epoch IN (SELECT epoch FROM node WHERE state <> 'alive') \
         ORDER BY id LIMIT {CHARGED_MAX}"
    );
    db.rows(&sql, &[], |row| {
        let id: i64 = row.get(0)?;
        let hold: HoldRow = json_from(row.text(1)?, "hold.holds", || format!("hold {id}"))?;
        Ok(hold.hold(names))
    })
}

/// All guards that are alive or have open holds, and the latest others, newest first.
pub(in crate::store) fn nodes(db: Db<'_>, count_max: u32) -> Result<Vec<Node>> {
    let sql = "SELECT name, epoch, version, since_ms, seen_ms, state, \
               (SELECT COUNT(*) FROM hold WHERE hold.epoch = node.epoch) FROM node \
               ORDER BY CASE WHEN state = 'alive' THEN 0 ELSE 1 END, epoch DESC LIMIT ?1";
    db.rows(sql, params![i64::from(count_max)], |row| {
        Ok(Node {
            name: row.get(0)?,
            epoch: row.get(1)?,
            version: row.get(2)?,
            since_ms: row.get(3)?,
            seen_ms: row.get(4)?,
            state: row.get(5)?,
            holds: u64::try_from(row.get::<i64>(6)?).unwrap_or(0),
        })
    })
}
