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
//! lock (`Connection::begin_snapshot`) that keeps rows where they are. All who read or write entries
//! wait meanwhile, so only so many rows move as take less than a second.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::store::postgres::clock::now_ms;
use crate::store::sql::months::{Month, of_entries};
use crate::store::sql::postgres::Connection;
use crate::store::sql::{Db, Error, Result, params, pruned};

/// Months that are made ahead, with the current one.
const AHEAD: usize = 3;
/// Those of them that are needed soon.
const SOON: usize = 2;
/// How long a lock is waited for, and behind it all who read or write entries, in milliseconds. It
/// is less than `deadlock_timeout`, after which PostgreSQL ends what cleans up a table.
const LOCK_MAX_MS: u32 = 200;
/// How long a statement that moves rows may take.
const MOVE_MAX: Duration = Duration::from_secs(2);
/// A month of which the default partition has more rows than this is not made: to move them takes
/// a third of a second, while all wait.
const MOVED_MAX: usize = 20_000;
/// Lets no one else read or write entries.
const ALONE: &str = "LOCK TABLE ONLY entry IN ACCESS EXCLUSIVE MODE";
/// A month that has more rows than this after it was pruned stays.
const LEFT_MAX: usize = 1_000;
/// How long it may take to count what is left of a month, which no one waits for: what it takes is
/// to be taken again while all wait.
const COUNT_MAX: Duration = Duration::from_millis(200);

/// Why a month was not made or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    /// Too many rows would move.
    #[error(
        "entry_default has more than {MOVED_MAX} rows of the month of entry_{0}, and to move them would keep requests \
         waiting: they count where they are; docs/many-guards.md says how they are moved while no guard runs"
    )]
    TooMany(String),
    /// Others used entries all the time.
    #[error(
        "entry_{0} is needed soon, and a transaction that has read or written entries is open: see pg_locks for the table \
         entry"
    )]
    InUse(String),
    /// The database failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

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

/// Makes the months that will be needed, and removes those that were pruned. Once others are in the
/// way, the rest is left for the next time: who reads or writes entries has waited for this.
pub(super) fn keep(connection: &Connection) -> Result<(), NotKept> {
    let db = Db::Postgres(connection);
    let known = known(db)?;
    let mut too_many = None;
    for (ahead, month) in ahead(now_ms(db)?).enumerate().filter(|(_, month)| !known.contains(month)) {
        if is_much_to_move(db, &month)? {
            too_many.get_or_insert(NotKept::TooMany(month.name));
        } else if !unless_in_use(connection, || make(connection, [&month]))? {
            return if ahead < SOON { Err(NotKept::InUse(month.name)) } else { Ok(()) };
        }
    }
    let whole_since_ms = pruned::whole_since_s(db)?.saturating_mul(1_000);
    for month in known.iter().filter(|month| month.end_ms <= whole_since_ms) {
        if is_little_left(connection, month)? && !unless_in_use(connection, || remove(connection, month))? {
            break;
        }
    }
    too_many.map_or(Ok(()), Err)
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

/// Whether the default partition has more rows of a month than may move.
fn is_much_to_move(db: Db<'_>, Month { start_ms, end_ms, .. }: &Month) -> Result<bool> {
    let more = format!(
        "SELECT 1 FROM entry_default WHERE admitted_ms >= ?1 AND admitted_ms < ?2 OFFSET {MOVED_MAX} LIMIT 1"
    );
    db.exists(&more, params![*start_ms, *end_ms])
}

/// Whether so little is left of a month that it can go. By its index: the table may have the pages
/// of all that was pruned.
fn is_little_left(connection: &Connection, month: &Month) -> Result<bool> {
    let db = Db::Postgres(connection);
    let more = format!("SELECT 1 FROM entry_{} ORDER BY id OFFSET {LEFT_MAX} LIMIT 1", month.name);
    let counted = db.transaction(|| {
        connection.may_take(COUNT_MAX, MOVE_MAX)?;
        db.exists(&more, &[])
    });
    match counted {
        // Another guard has removed it. Or rows that were pruned are in the way as long as a transaction may see them.
        Err(error) if is(&error, &[SqlState::UNDEFINED_TABLE, SqlState::QUERY_CANCELED]) => Ok(false),
        counted => counted.map(|is_more| !is_more),
    }
}

/// Does work in a transaction that no one waits for long; whether it is done, since others may keep
/// it from its locks.
fn unless_in_use(connection: &Connection, work: impl FnOnce() -> Result<()>) -> Result<bool> {
    let done = Db::Postgres(connection).transaction(|| {
        connection.may_take(MOVE_MAX, MOVE_MAX)?;
        connection.batch(&format!("SET LOCAL lock_timeout = {LOCK_MAX_MS}"))?;
        work()
    });
    match done {
        Err(error) if is(&error, &[SqlState::LOCK_NOT_AVAILABLE]) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Whether the database has said one of these.
fn is(error: &Error, states: &[SqlState]) -> bool {
    matches!(error, Error::Postgres(error) if error.code().is_some_and(|code| states.contains(code)))
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
