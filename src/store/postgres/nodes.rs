//! The guards of one database: who is alive, and what a dead one has left.
//!
//! A guard has an epoch from its start to its end, a random number that it draws itself: so
//! an epoch that the database does not know was forgotten by it, and joining can be repeated
//! if its outcome is not known. Every second a guard says that it is alive. One that has not
//! for `node_timeout`, by the database's clock, is given up: its lanes are closed under the
//! lock that its groups take, so that it can admit nothing more and end nothing more. What it
//! held is charged afterwards.

use std::collections::HashSet;
use std::time::Duration;

use crate::ledger::entry::Hold;
use crate::store::StoreError;
use crate::store::postgres::clock::NOW_MS;
pub(super) use crate::store::postgres::database::LANES;
use crate::store::postgres::locks::lock_rules;
use crate::store::postgres::schema;
use crate::store::records::Names;
use crate::store::sql::codec::{HoldRow, int, uint};
use crate::store::sql::columns::json_from;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{Db, Result, params};

/// Holds of dead guards that are charged in one go.
const CHARGED_MAX: usize = 128;
/// Guards that ended or were given up so long ago are forgotten, in milliseconds: 30 days. One that
/// was only stopped or cut off, and goes on after that, is not known any more and has to be started
/// again; its holds were charged long before.
const FORGOTTEN_AGE_MS: i64 = 30 * 86_400_000;
/// Guards that are forgotten at once.
const FORGOTTEN_MAX: u32 = 100;

/// A guard, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Which start of it this is: a random number.
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
    /// The guard is one of those that are alive.
    Alive,
    /// A guard of that name was seen alive at this instant, in Unix milliseconds.
    Taken(i64),
    /// The tables are of this version by now, and not of the program's.
    Version(i64),
}

/// What a guard learns by saying that it is alive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is, since this instant of the database's clock, in Unix milliseconds.
    Alive(i64),
    /// It is not: it was given up, or the database knows nothing of it. Joining again tells which.
    Ended,
}

/// What came of an attempt to join again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rejoined {
    /// The guard is alive, and these of its holds are still open.
    With(HashSet<u64>),
    /// Another guard has its name by now.
    Taken,
    /// The database knows nothing of the lost epoch, nor of a new one.
    Unknown,
}

/// A new epoch.
pub(super) fn new_epoch() -> std::result::Result<i64, StoreError> {
    Ok(int(random()?.max(1)))
}

/// A number at random, below 2^52, so that every reader of JSON keeps it exact.
pub(super) fn random() -> std::result::Result<u64, StoreError> {
    Ok(getrandom::u64().map_err(|error| StoreError::Failed(error.into()))? >> 12)
}

/// Joins as a guard, unless one of that name is alive.
pub(super) fn join(
    connection: &Connection,
    name: &str,
    new: i64,
    timeout: Duration,
) -> std::result::Result<Joined, StoreError> {
    let db = Db::Postgres(connection);
    let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    let joined = db.transaction(|| {
        // A lane is made under this lock, so that no change of the rules misses it.
        let version = lock_rules(db)?;
        let tables = schema::version(db)?;
        if tables != schema::VERSION {
            return Ok(Joined::Version(tables));
        }
        let known = format!("SELECT epoch, seen_ms, {NOW_MS} FROM node WHERE name = ?1 AND state = 'alive'");
        let known = db.optional(&known, params![name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if let Some((epoch, seen_ms, now_ms)) = known {
            let (epoch, seen_ms, now_ms): (i64, i64, i64) = (epoch, seen_ms, now_ms);
            if now_ms.saturating_sub(seen_ms) < timeout_ms {
                return Ok(Joined::Taken(seen_ms));
            }
            close(db, epoch, "given_up")?;
        }
        make(db, name, new, version)?;
        Ok(Joined::Alive)
    });
    Ok(joined?)
}

/// Joins again as a new epoch, after one was given up, and takes back the holds of it that no
/// other has charged.
pub(super) fn rejoin(
    connection: &Connection,
    name: &str,
    lost: i64,
    new: i64,
) -> std::result::Result<Rejoined, StoreError> {
    let db = Db::Postgres(connection);
    let rejoined = db.transaction(|| {
        let version = lock_rules(db)?;
        let is_known = |epoch| db.exists("SELECT 1 FROM node WHERE epoch = ?1", params![epoch]);
        // It has, if the answer to the commit was lost; then the lost epoch may be forgotten by now.
        let has_joined = is_known(new)?;
        if !has_joined && !is_known(lost)? {
            return Ok(Rejoined::Unknown);
        }
        let is_taken = "SELECT 1 FROM node WHERE name = ?1 AND state = 'alive' AND epoch NOT IN (?2, ?3)";
        if db.exists(is_taken, params![name, lost, new])? {
            return Ok(Rejoined::Taken);
        }
        if !has_joined {
            // It may be here before the others.
            close(db, lost, "given_up")?;
            make(db, name, new, version)?;
            let kept = "SELECT id FROM hold WHERE epoch = ?1 ORDER BY id FOR UPDATE";
            db.each(kept, params![lost], |_| Ok(true))?;
            db.execute("UPDATE hold SET epoch = ?2 WHERE epoch = ?1", params![lost, new])?;
        }
        let kept =
            db.rows("SELECT id FROM hold WHERE epoch = ?1", params![new], |row| row.get(0).map(uint))?;
        Ok(Rejoined::With(kept.into_iter().collect()))
    });
    Ok(rejoined?)
}

/// Makes a guard that is alive, with its lanes. The rules are locked.
fn make(db: Db<'_>, name: &str, epoch: i64, rules_version: i64) -> Result<()> {
    let insert = format!(
        "INSERT INTO node (epoch, name, version, since_ms, seen_ms, state) \
         VALUES (?1, ?2, ?3, {NOW_MS}, {NOW_MS}, 'alive')"
    );
    db.execute(&insert, params![epoch, name, env!("CARGO_PKG_VERSION")])?;
    for lane in LANES {
        db.execute(
            "INSERT INTO lane (epoch, lane, state, rules_version, group_id) VALUES (?1, ?2, 'alive', ?3, 0)",
            params![epoch, lane, rules_version],
        )?;
    }
    Ok(())
}

/// Says that a guard is alive.
pub(super) fn say_alive(db: Db<'_>, epoch: i64) -> Result<Known> {
    let sql =
        format!("UPDATE node SET seen_ms = {NOW_MS} WHERE epoch = ?1 AND state = 'alive' RETURNING seen_ms");
    let now_ms = db.optional(&sql, params![epoch], |row| row.get(0))?;
    Ok(now_ms.map_or(Known::Ended, Known::Alive))
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

/// Forgets some guards that ended or were given up long ago and of which nothing is held.
pub(super) fn forget_old(db: Db<'_>) -> Result<()> {
    let sql = format!(
        "SELECT epoch FROM node WHERE state <> 'alive' AND seen_ms < {NOW_MS} - ?1 \
         AND NOT EXISTS (SELECT 1 FROM hold WHERE hold.epoch = node.epoch) ORDER BY epoch LIMIT {FORGOTTEN_MAX}"
    );
    // Lanes of these are closed, so that none of this can change any more.
    let old: Vec<i64> = db.rows(&sql, params![FORGOTTEN_AGE_MS], |row| row.get(0))?;
    if old.is_empty() {
        return Ok(());
    }
    db.transaction(|| {
        // One that joins again does so before this, or finds nothing.
        lock_rules(db)?;
        for epoch in old {
            db.execute("DELETE FROM lane WHERE epoch = ?1", params![epoch])?;
            db.execute("DELETE FROM node WHERE epoch = ?1", params![epoch])?;
        }
        Ok(())
    })
}

/// Some open holds of guards that are no more, but for these. One that can't be read stays
/// held: what it may have cost is not known. It is logged, unless it was `noted` before.
pub(super) fn orphaned_holds(
    db: Db<'_>,
    names: &dyn Names,
    but: &HashSet<u64>,
    noted: &mut HashSet<i64>,
) -> Result<Vec<Hold>> {
    let sql = format!(
        "SELECT id, holds FROM hold WHERE id > ?1 AND epoch IN (SELECT epoch FROM node WHERE state <> 'alive') \
         ORDER BY id LIMIT {CHARGED_MAX}"
    );
    let (mut holds, mut last) = (Vec::new(), i64::MIN);
    loop {
        let (after, mut read) = (last, 0);
        db.each(&sql, params![after], |row| {
            (last, read) = (row.get(0)?, read + 1);
            match json_from::<HoldRow>(row.text(1)?, "hold.holds", || format!("hold {last}")) {
                Ok(hold) if but.contains(&hold.id) => {}
                Ok(hold) => holds.push(hold.hold(names)),
                Err(error) if noted.insert(last) => tracing::error!(
                    event = "open_hold_unreadable", id = last, %error,
                    "a hold of a guard that is no more can't be read; it stays held"
                ),
                Err(_) => {}
            }
            Ok(holds.len() < CHARGED_MAX)
        })?;
        // Behind those that can't be charged there may be more.
        if read < CHARGED_MAX || holds.len() >= CHARGED_MAX {
            return Ok(holds);
        }
    }
}

/// All guards that are alive or have open holds, and the latest others, newest first.
pub(in crate::store) fn nodes(db: Db<'_>, count_max: u32) -> Result<Vec<Node>> {
    let sql = "SELECT name, epoch, version, since_ms, seen_ms, state, \
               (SELECT COUNT(*) FROM hold WHERE hold.epoch = node.epoch) FROM node \
               ORDER BY CASE WHEN state = 'alive' THEN 0 ELSE 1 END, since_ms DESC, epoch LIMIT ?1";
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
