//! Entries are in a partition for each month in which requests were admitted, in UTC.
//!
//! Months are made before they begin, by each guard that finds one missing. An entry of a month
//! that has no partition is in the default one and counts like any other. It moves once
//! its month is made: while a table has a default partition, PostgreSQL refuses another one that
//! the default has rows of. A month that was pruned goes, and the few rows of it that stay for
//! ever, such as grants, move to the default one.
//!
//! Rows move while nothing reads or writes entries: who has looked up partitions before and rows
//! after would miss them. A snapshot may be taken long before it reads; so every one begins with a
//! lock (`Connection::begin_snapshot`) that keeps rows where they are.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::store::postgres::clock::now_ms;
use crate::store::sql::months::{Month, of_entries};
use crate::store::sql::postgres::Connection;
use crate::store::sql::{Db, Error, Result, params, pruned};

/// Months that are made ahead, with the current one.
const AHEAD: usize = 3;
/// How long a lock is waited for, and behind it all who read or write entries, in milliseconds. It
/// is less than `deadlock_timeout`, after which PostgreSQL ends what cleans up a table.
const LOCK_MAX_MS: u32 = 200;
/// How long a statement that moves rows may take.
const MOVE_MAX: Duration = Duration::from_secs(2);
/// Lets no one else read or write entries.
const ALONE: &str = "LOCK TABLE ONLY entry IN ACCESS EXCLUSIVE MODE";
/// A month that has more rows than this after it was pruned stays.
const LEFT_MAX: usize = 1_000;

/// Divides the entries of a schema that has them in one table, in the open transaction.
pub(super) fn divide(connection: &Connection) -> Result<()> {
    let db = Db::Postgres(connection);
    let with_entries = of_entries(db)?;
    connection.batch(include_str!("schema/months.sql"))?;
    let ahead = ahead(now_ms(db)?).filter(|month| !with_entries.contains(month)).collect::<Vec<_>>();
    make(connection, with_entries.iter().chain(&ahead))?;
    Ok(connection.batch(include_str!("schema/months_filled.sql"))?)
}

/// Makes those months that are not there, in the open transaction.
pub(super) fn make<'m>(connection: &Connection, months: impl IntoIterator<Item = &'m Month>) -> Result<()> {
    // Another guard may make them, too.
    connection.batch(ALONE)?;
    let known = known(Db::Postgres(connection))?;
    for month in months.into_iter().filter(|month| !known.contains(month)) {
        let Month { name, start_ms, end_ms } = month;
        connection.batch(&format!(
            "CREATE TABLE entry_{name} (LIKE entry INCLUDING ALL); \
             WITH moved AS (DELETE FROM entry_default WHERE admitted_ms >= {start_ms} AND admitted_ms < {end_ms} \
             RETURNING *) INSERT INTO entry_{name} SELECT * FROM moved; \
             ALTER TABLE entry ATTACH PARTITION entry_{name} FOR VALUES FROM ({start_ms}) TO ({end_ms})"
        ))?;
    }
    Ok(())
}

/// Makes the months that will be needed, and removes those that were pruned. What others are in
/// the way of is left for the next time.
pub(super) fn keep(connection: &Connection) -> Result<()> {
    let db = Db::Postgres(connection);
    let known = known(db)?;
    let missing: Vec<Month> = ahead(now_ms(db)?).filter(|month| !known.contains(month)).collect();
    if !missing.is_empty() {
        unless_in_use(connection, || make(connection, &missing))?;
    }
    let whole_since_ms = pruned::whole_since_s(db)?.saturating_mul(1_000);
    for month in known.iter().filter(|month| month.end_ms <= whole_since_ms) {
        if rows_left(db, month)? <= LEFT_MAX {
            unless_in_use(connection, || remove(connection, month))?;
        }
    }
    Ok(())
}

/// Removes a month. What is left of it moves to the default partition.
fn remove(connection: &Connection, month: &Month) -> Result<()> {
    connection.batch(ALONE)?;
    // Another guard may have removed it.
    if known(Db::Postgres(connection))?.contains(month) {
        let name = &month.name;
        connection.batch(&format!(
            "ALTER TABLE entry DETACH PARTITION entry_{name}; \
             INSERT INTO entry SELECT * FROM entry_{name} ORDER BY id; DROP TABLE entry_{name}"
        ))?;
    }
    Ok(())
}

/// How many rows a month has, counted as far as it makes a difference. By its index: the table
/// may have the pages of all that was pruned.
fn rows_left(db: Db<'_>, month: &Month) -> Result<usize> {
    let some = format!("SELECT id FROM entry_{} ORDER BY id LIMIT {}", month.name, LEFT_MAX + 1);
    Ok(db.rows(&some, &[], |_| Ok(()))?.len())
}

/// Does work in a transaction that no one waits for long, unless others keep it from its locks.
fn unless_in_use(connection: &Connection, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = Db::Postgres(connection).transaction(|| {
        connection.may_take(MOVE_MAX, MOVE_MAX)?;
        connection.batch(&format!("SET LOCAL lock_timeout = {LOCK_MAX_MS}"))?;
        work()
    });
    match done {
        Err(Error::Postgres(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(()),
        done => done,
    }
}

/// The current month by an instant, and those that are made ahead with it.
fn ahead(now_ms: i64) -> impl Iterator<Item = Month> {
    std::iter::successors(Month::of(now_ms), Month::next).take(AHEAD)
}

/// The months that have a partition, the earliest first.
fn known(db: Db<'_>) -> Result<Vec<Month>> {
    let sql = "SELECT CAST(relname AS TEXT) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
               WHERE inhparent = CAST('entry' AS regclass) ORDER BY 1";
    let names: Vec<String> = db.rows(sql, params![], |row| row.get(0))?;
    Ok(names.iter().filter_map(|name| Month::named(name.strip_prefix("entry_")?)).collect())
}
