//! What a start finds in the data folder, and whether it may go on from there.
//!
//! A ledger that is damaged or gone must never pass for an empty one: limits
//! would start again from zero. So a new database comes into its place whole, by a rename,
//! and an old one is looked at before anything is written. A large one is not
//! read through: what is old and rotten in it is found by `ledger verify`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::store::StoreError;
use crate::store::sql::{self, Db, Owned, migration, pruned};
use crate::store::sqlite::lock::{LOCK, LastRun};
use crate::store::sqlite::{read_only, schema};

/// A database up to this size is checked whole, in about half a second.
const CHECKED_WHOLE_BYTES_MAX: i64 = 256 << 20;
/// Of a larger one, as many entries: far more than a second of writing, and a
/// crash reaches no further back than the last checkpoint.
const CHECKED_ENTRIES: i64 = 10_000;

/// A sound ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The version of its tables.
    pub(super) version: i64,
    /// Whether it has rollups; else they have to be rebuilt.
    pub(super) has_rollups: bool,
}

/// Makes a ledger where there was none, or looks at the one that is there.
pub(super) fn ledger(path: &Path, last_run: LastRun) -> Result<Found, StoreError> {
    let wal = beside(path, "-wal");
    if !path.exists() {
        let has_log = fs::metadata(&wal).is_ok_and(|log| log.len() > 0);
        if has_log || last_run != LastRun::None {
            let trace = if has_log { wal } else { path.with_file_name(LOCK) };
            return Err(StoreError::Missing { path: path.to_owned(), trace });
        }
        make(path)?;
    }
    existing(path, last_run)
}

/// Looks at the ledger that is there.
pub(super) fn existing(path: &Path, last_run: LastRun) -> Result<Found, StoreError> {
    let wal = beside(path, "-wal");
    if last_run == LastRun::Died && !wal.exists() {
        return Err(StoreError::LogMissing { wal, lock: path.with_file_name(LOCK) });
    }
    check(path)
}

/// Makes a database in another place and renames it when it is whole, so that
/// one that is there has tables, whenever a death comes.
fn make(path: &Path) -> Result<(), StoreError> {
    let new = beside(path, ".new");
    for leftover in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(&new, leftover)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(folder(path, error)),
            _ => {}
        }
    }
    // SQLite gives the log the mode of the file, and takes an empty one for a new database.
    let file = File::options().write(true).create_new(true).mode(0o600).open(&new);
    file.map_err(|error| folder(path, error))?;
    let made = || -> rusqlite::Result<()> {
        let mut db = Connection::open(&new)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        schema::create(&mut db)?;
        // Closing moves the log into the file and waits for the disk.
        db.close().map_err(|(_, error)| error)
    };
    made().map_err(|error| StoreError::of(path, error))?;
    fs::rename(&new, path).map_err(|error| folder(path, error))?;
    sync_folder(path)
}

/// Waits until the folder's names are on the disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| folder(path, error))
}

fn folder(path: &Path, source: io::Error) -> StoreError {
    StoreError::Folder { path: path.parent().unwrap_or(path).to_owned(), source }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Looks at a database without writing to it.
fn check(path: &Path) -> Result<Found, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    // Not for SQLite to find out: beside an empty file it removes the log.
    if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        return Err(damaged("it is empty".to_owned()));
    }
    let failed = |error: rusqlite::Error| StoreError::of(path, error);
    let db = read_only(path).map_err(failed)?;
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let tables = tables(&db).map_err(failed)?;
    let version = number("PRAGMA user_version")?;
    if version == migration::HALF_COPIED && tables.iter().any(|table| table == migration::TABLE) {
        let ledger = path.parent().unwrap_or(path).display().to_string();
        let undo = format!("remove {ledger}");
        return Err(StoreError::HalfCopied { ledger, undo });
    }
    if version == 0 {
        return Err(damaged("what it holds is no ledger".to_owned()));
    }
    if !(1..=schema::VERSION).contains(&version) {
        return Err(StoreError::Version { found: version, expected: schema::VERSION });
    }
    let mut needed = schema::NEEDED.iter().filter(|(since, _)| *since <= version).map(|(_, table)| *table);
    if let Some(gone) = needed.find(|needed| !tables.iter().any(|table| table == needed)) {
        return Err(damaged(format!("its table {gone:?} is missing")));
    }
    let bytes = number("PRAGMA page_count")?.saturating_mul(number("PRAGMA page_size")?);
    let wrong =
        if bytes <= CHECKED_WHOLE_BYTES_MAX { quick_check(&db, "") } else { check_in_part(&db, &tables) };
    if let Some(what) = wrong.map_err(failed)? {
        return Err(damaged(what));
    }
    let has_rollups = tables.iter().any(|table| table == "rollup");
    if !has_rollups
        && version >= 4
        && pruned::is_any(Db::Sqlite(&db)).map_err(|error| StoreError::of(path, error))?
    {
        let what = "its table \"rollup\" is missing, and old entries that it summed up are pruned";
        return Err(damaged(what.to_owned()));
    }
    Ok(Found { version, has_rollups })
}

/// All that SQLite's own check finds in a database.
pub(super) fn damage_of(connection: &Owned) -> sql::Result<Vec<String>> {
    match connection {
        Owned::Sqlite(db) => Ok(damage(db)?),
        Owned::Postgres(_) => Ok(Vec::new()),
    }
}

/// The same of a connection.
pub(super) fn damage(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut check = db.prepare("PRAGMA quick_check")?;
    let answers = check.query_map([], |row| row.get::<_, String>(0))?;
    let answers = answers.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(answers.into_iter().filter(|answer| answer != "ok").collect())
}

fn tables(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

/// What SQLite's own check finds first in a table, or in all.
fn quick_check(db: &Connection, table: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = match table {
        "" => db.prepare("PRAGMA quick_check(1)")?,
        table => db.prepare(&format!("PRAGMA quick_check({table:?})"))?,
    };
    let answer: String = statement.query_row([], |row| row.get(0))?;
    Ok((answer != "ok").then(|| answer.trim().replace('\n', ", ")))
}

/// All that a start does not read whole anyway, and of entries the newest.
fn check_in_part(db: &Connection, tables: &[String]) -> rusqlite::Result<Option<String>> {
    let is_small = |table: &&String| *table != "entry" && !table.starts_with("rollup");
    for table in tables.iter().filter(is_small) {
        if let Some(what) = quick_check(db, table)? {
            return Ok(Some(what));
        }
    }
    for order in ["id", "admitted_ms"] {
        let sql = format!("SELECT * FROM entry ORDER BY {order} DESC LIMIT {CHECKED_ENTRIES}");
        let mut statement = db.prepare(&sql)?;
        let last = statement.column_count() - 1;
        let mut rows = statement.query([])?;
        // Read to its last column, a row has been read whole.
        while let Some(row) = rows.next()? {
            row.get_ref(last)?;
        }
    }
    Ok(None)
}
