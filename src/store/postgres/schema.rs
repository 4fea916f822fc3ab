//! The tables, made and brought up to date by the first guard that finds them missing or old.

use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use crate::store::StoreError;
use crate::store::postgres::clock::NOW_MS;
use crate::store::postgres::months;
use crate::store::sql::migration::HALF_COPIED;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db, params};

/// The version that this code reads and writes.
pub(crate) const VERSION: i64 = 7;

/// What brings a schema from each version to the next: at first the tables of the ledger, as
/// on every engine, and what several guards need beside them.
const STEPS: [fn(&Connection) -> sql::Result<()>; 7] = [
    |connection| {
        connection.batch(include_str!("schema/tables.sql"))?;
        Ok(connection.batch(include_str!("schema/cluster.sql"))?)
    },
    |connection| Ok(connection.batch(include_str!("schema/rates.sql"))?),
    |connection| Ok(connection.batch(include_str!("schema/turns.sql"))?),
    months::divide,
    |connection| Ok(connection.batch(include_str!("schema/jobs.sql"))?),
    |connection| Ok(connection.batch(include_str!("schema/batch_input.sql"))?),
    |connection| Ok(connection.batch(include_str!("schema/stops.sql"))?),
];

/// How long the tables may be brought up to date, and how long another guard that does so is waited
/// for.
const STEPS_MAX: Duration = Duration::from_secs(3_600);
/// How long a step waits for what others read or write, in milliseconds: meanwhile, requests of
/// guards that run wait behind it.
const LOCK_MAX_MS: u32 = 10_000;

/// Guards of this version and before must have ended before the tables are those of a later one. A
/// snapshot that one has taken before entries are divided sees none of them afterwards, and it would
/// add the tokens that a late correction takes back. Those of version 2 don't note their turns on
/// conversations either.
const NOT_BESIDE_LATER: i64 = 3;

/// Makes the tables, or brings them to this version. A schema that is newer than this program
/// is an error, and so is one that is not the guard's. A guard that has said nothing for
/// `node_timeout` counts as ended.
pub(super) fn prepare(
    connection: &Connection,
    schema: &str,
    node_timeout: Duration,
) -> Result<(), StoreError> {
    let db = Db::Postgres(connection);
    let prepared = db.transaction(|| {
        connection.may_take(STEPS_MAX, STEPS_MAX)?;
        // Two first starts at once wait for each other. Nothing else rests on this lock.
        db.row(
            "SELECT pg_advisory_xact_lock(hashtextextended('spendguard schema ' || ?1, 0))",
            params![schema],
            |_| Ok(()),
        )?;
        // A role that may not make schemas is given one.
        let sql = "SELECT 1 FROM information_schema.schemata WHERE CAST(schema_name AS TEXT) = ?1";
        if !db.exists(sql, params![schema])? {
            connection.batch(&format!("CREATE SCHEMA {schema}"))?;
        }
        let found = found(db, schema)?;
        let done = match found {
            Found::Nothing => 0,
            Found::Version(version) if HALF_COPIED < version && version < VERSION => version,
            Found::Version(_) | Found::OfOlderGuard(_) | Found::Foreign(_) => return Ok(found),
        };
        if (1..=NOT_BESIDE_LATER).contains(&done)
            && let Some(name) = alive(db, node_timeout)?
        {
            return Ok(Found::OfOlderGuard(name));
        }
        connection.batch(&format!("SET LOCAL lock_timeout = {LOCK_MAX_MS}"))?;
        let mut steps = STEPS.iter().skip(usize::try_from(done).unwrap_or(usize::MAX));
        steps.try_for_each(|step| step(connection))?;
        db.execute("UPDATE schema_version SET version = ?1 WHERE id = 1", params![VERSION])?;
        Ok(Found::Version(VERSION))
    });
    match prepared {
        Err(sql::Error::Postgres(error))
            if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) =>
        {
            let detail = error.as_db_error().and_then(DbError::detail).unwrap_or_default();
            // The name that it has while it is divided.
            Err(StoreError::Depended { what: detail.replace("entry_whole", "entry") })
        }
        prepared => prepared?.current_or_error(schema),
    }
}

/// What a schema holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No table.
    Nothing,
    /// The guard's tables, of a version.
    Version(i64),
    /// Older tables, on which a guard of this name works.
    OfOlderGuard(String),
    /// So many tables of another program.
    Foreign(usize),
}

/// Looks what a schema holds.
pub(super) fn found(db: Db<'_>, schema: &str) -> sql::Result<Found> {
    let tables = tables(db, schema)?;
    if tables.is_empty() {
        return Ok(Found::Nothing);
    }
    if !tables.iter().any(|table| table == "schema_version") {
        return Ok(Found::Foreign(tables.len()));
    }
    version(db).map(Found::Version)
}

/// The version of the guard's tables.
pub(super) fn version(db: Db<'_>) -> sql::Result<i64> {
    db.row("SELECT version FROM schema_version WHERE id = 1", &[], |row| row.get(0))
}

impl Found {
    /// An error unless it is a whole ledger of this version.
    pub(super) fn current_or_error(self, schema: &str) -> Result<(), StoreError> {
        match self {
            Self::Version(VERSION) => Ok(()),
            Self::Version(HALF_COPIED) => Err(StoreError::HalfCopied {
                ledger: format!("the schema {schema}"),
                undo: format!("drop it (DROP SCHEMA {schema} CASCADE)"),
            }),
            Self::Version(found) => Err(StoreError::Version { found, expected: VERSION }),
            Self::OfOlderGuard(node) => Err(StoreError::OlderGuard { node }),
            Self::Foreign(tables) => Err(StoreError::Foreign { schema: schema.to_owned(), tables }),
            Self::Nothing => Err(StoreError::NoLedger { ledger: format!("the schema {schema}") }),
        }
    }
}

/// A guard that has said that it is alive within a time.
fn alive(db: Db<'_>, within: Duration) -> sql::Result<Option<String>> {
    let within_ms = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
    let sql = format!("SELECT name FROM node WHERE state = 'alive' AND seen_ms > {NOW_MS} - ?1 LIMIT 1");
    db.optional(&sql, params![within_ms], |row| row.get(0))
}

fn tables(db: Db<'_>, schema: &str) -> sql::Result<Vec<String>> {
    let sql = "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE CAST(table_schema AS TEXT) = ?1";
    db.rows(sql, params![schema], |row| row.get(0))
}
