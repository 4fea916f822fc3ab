//! The tables, made and brought up to date by the first guard that finds them missing or old.

use crate::store::StoreError;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{Db, params};

/// The version that this code reads and writes.
pub(crate) const VERSION: i64 = 2;

/// What brings a schema from each version to the next: at first the tables of the ledger, as
/// on every engine, and what several guards need beside them.
const STEPS: [&[&str]; 2] = [
    &[include_str!("schema/tables.sql"), include_str!("schema/cluster.sql")],
    &[include_str!("schema/rates.sql")],
];

/// Makes the tables, or brings them to this version. A schema that is newer than this program
/// is an error, and so is one that is not the guard's.
pub(super) fn prepare(connection: &Connection, schema: &str) -> Result<(), StoreError> {
    let db = Db::Postgres(connection);
    let prepared = db.transaction(|| {
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
        let tables = tables(db, schema)?;
        let found = if tables.is_empty() {
            0
        } else if tables.iter().any(|table| table == "schema_version") {
            db.row("SELECT version FROM schema_version WHERE id = 1", &[], |row| row.get(0))?
        } else {
            return Ok(Found::Foreign(tables.len()));
        };
        let done = usize::try_from(found).unwrap_or(usize::MAX);
        let Some(steps) = STEPS.get(done..).filter(|steps| !steps.is_empty()) else {
            return Ok(Found::Version(found));
        };
        steps.iter().flat_map(|step| step.iter()).try_for_each(|sql| connection.batch(sql))?;
        db.execute("UPDATE schema_version SET version = ?1 WHERE id = 1", params![VERSION])?;
        Ok(Found::Version(VERSION))
    });
    match prepared? {
        Found::Version(VERSION) => Ok(()),
        Found::Version(found) => Err(StoreError::Version { found, expected: VERSION }),
        Found::Foreign(tables) => Err(StoreError::Foreign { schema: schema.to_owned(), tables }),
    }
}

/// What a schema holds.
enum Found {
    /// The guard's tables, of a version.
    Version(i64),
    /// So many tables of another program.
    Foreign(usize),
}

fn tables(db: Db<'_>, schema: &str) -> crate::store::sql::Result<Vec<String>> {
    let sql = "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE CAST(table_schema AS TEXT) = ?1";
    db.rows(sql, params![schema], |row| row.get(0))
}
