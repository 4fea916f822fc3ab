//! The embedded database: the only durable state.
//!
//! SQLite in WAL mode. One connection writes, in groups; any number read. A lock
//! file keeps a second guard out: two guards on one database would each admit
//! what only one of them may. A start goes on from a sound ledger or not at all.

pub mod buckets;
mod checkpoint;
pub(crate) mod codec;
pub mod credit;
pub(crate) mod days;
mod desk;
mod facts;
mod found;
pub(crate) mod group;
mod handover;
mod lock;
pub mod objects;
pub mod of_key;
pub mod organization;
pub mod outbox;
pub mod past;
mod private;
pub mod pruned;
mod queue;
pub mod reader;
pub mod retention;
pub(crate) mod rollup;
pub mod rows;
pub mod rule;
mod schema;
pub mod settings;
pub mod trail;
pub mod verify;
pub mod writer;

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ledger::entry::{Entry, Hold};
use crate::store::lock::Lock;
use crate::store::rows::{HoldRow, Names};

pub use desk::Observer;
pub use facts::Slot;
pub use reader::Reader;
pub use writer::{Clerk, Writer, Written};

/// How long another program's lock on the database is waited for; the desk, where
/// requests wait, has less patience.
const BUSY_MAX: Duration = Duration::from_secs(10);
const DATABASE: &str = "spendguard.db";

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process (kill -9).
    #[default]
    Process,
    /// The loss of power, at the price of an fdatasync for every group.
    Power,
}

/// Why the database can't be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder can't be made or used.
    #[error("can't use the data folder {}: {source}; {}", path.display(), mend(source))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another guard has it.
    #[error("another spendguard is using {}; two guards on one database can't keep a limit", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The database is of another version.
    #[error(
        "the database has version {found}, this spendguard reads version {expected}; use the matching release"
    )]
    Version {
        /// The version found.
        found: i64,
        /// The version wanted.
        expected: i64,
    },
    /// What the database says can't be right.
    #[error(
        "the ledger {} is damaged: {what}. Nothing was changed. Put back a backup of its folder, or salvage what can be \
         read, in a new file: (sqlite3 {} .dump | sed 's/^ROLLBACK.*/COMMIT;/'; echo 'PRAGMA user_version = {};') | \
         sqlite3 salvaged.db", path.display(), path.display(), schema::VERSION
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There was a database, and it is gone.
    #[error(
        "the ledger {} is missing, though {} says that there was one. Put it back; to begin an empty ledger on purpose, \
         move {} away", path.display(), trace.display(), trace.display()
    )]
    Missing {
        /// The database.
        path: PathBuf,
        /// What it left behind.
        trace: PathBuf,
    },
    /// The last run died, and the log that has its last facts is gone.
    #[error(
        "{} is missing, though the last run ended without closing the ledger: its last facts were in there. Put it back. If \
         they are not needed, since another program has merged it or this is a restored backup, remove {}",
        wal.display(), lock.display()
    )]
    LogMissing {
        /// The write-ahead log.
        wal: PathBuf,
        /// What says that it is needed.
        lock: PathBuf,
    },
    /// The system lets nobody write it.
    #[error("the ledger {} can't be written: {source}; is its disk full, or is it read-only?", path.display())]
    Unwritable {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// SQLite failed, or a value in it can't be read.
    #[error("the database failed: {}", because(.0))]
    Sqlite(#[from] rusqlite::Error),
    /// The writer is gone or can't write.
    #[error("the ledger can't be written")]
    Unavailable,
    /// As many requests are open as may be (`guard.open_requests_max`).
    #[error("too many requests are open")]
    Full,
}

impl StoreError {
    /// What a failure of SQLite at a start means for its database.
    fn of(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, what: error.to_string() }
            }
            Some(
                ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied,
            ) => Self::Unwritable { path, source: error },
            _ => Self::Sqlite(error),
        }
    }
}

/// What SQLite said, or which value can't be read.
fn because(error: &rusqlite::Error) -> String {
    if let rusqlite::Error::FromSqlConversionFailure(_, _, cause) = error {
        return cause.to_string();
    }
    error.to_string()
}

fn mend(source: &io::Error) -> &'static str {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let is = |kind| source.kind() == kind;
    if is(StorageFull) || is(QuotaExceeded) {
        "free some space on its disk"
    } else if is(ReadOnlyFilesystem) {
        "it is mounted read-only"
    } else {
        "check storage.path and its owner"
    }
}

/// An open database and the lock on it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    durability: Durability,
    /// Open as long as the lock file says so: the last connection that is
    /// closed removes the write-ahead log.
    keeper: Option<Mutex<Connection>>,
    lock: Lock,
}

impl Store {
    /// Opens or makes the database in a folder and takes the lock on it.
    ///
    /// What it can't read or write is an error before anything is changed.
    pub fn open(folder: &Path, durability: Durability) -> Result<Self, StoreError> {
        let at = |source| StoreError::Folder { path: folder.to_owned(), source };
        // Whose keys spent how much is nobody else's business.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at)?;
        private::close(folder);
        let (lock, last_run) = Lock::take(folder)?;
        let path = folder.join(DATABASE);
        let found = found::ledger(&path, last_run)?;
        let opened = || {
            let mut keeper = connect(&path, durability)?;
            // Writes even where there is nothing to change: who can't write must not
            // start.
            let tx = keeper.transaction()?;
            schema::upgrade(&tx, found.version)?;
            tx.commit()?;
            if !found.has_rollups {
                let rows = schema::rebuild_rollups(&mut keeper)?;
                tracing::warn!(rows, "there were no rollups; they are made anew from the entries");
            }
            Ok(keeper)
        };
        let keeper = opened().map_err(|error| StoreError::of(&path, error))?;
        // The log's name must not be lost to a power cut that the word survives.
        found::sync_folder(&path)?;
        lock.say_open().map_err(at)?;
        Ok(Self { path, durability, keeper: Some(Mutex::new(keeper)), lock })
    }

    /// A connection that may write; only the writer and recovery have one.
    pub(crate) fn connect(&self) -> rusqlite::Result<Connection> {
        connect(&self.path, self.durability)
    }

    /// A reader with a connection of its own.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Ok(Reader::new(read_only(&self.path)?))
    }

    /// Writes the endings of unfinished holds and clears what held them.
    pub fn end_unfinished(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let written = self.connect().and_then(|db| group::write_endings(&db, entries));
        written.map_err(|error| StoreError::of(&self.path, error))
    }

    /// The holds that the last run left open, and the next free id.
    pub fn unfinished(&self, names: &dyn Names) -> Result<(Vec<Hold>, u64), StoreError> {
        let (rows, last) = self.open_rows().map_err(|error| StoreError::of(&self.path, error))?;
        let unreadable = |what| StoreError::Damaged { path: self.path.clone(), what };
        let rows = rows.map_err(unreadable)?;
        Ok((rows.into_iter().map(|row| row.hold(names)).collect(), last + 1))
    }

    /// The holds without an entry, or what can't be read of them, and the last
    /// id: a hold that was skipped would be spending that is forgotten.
    fn open_rows(&self) -> rusqlite::Result<(Result<Vec<HoldRow>, String>, u64)> {
        let db = self.connect()?;
        let last: i64 = db.query_row("SELECT COALESCE(MAX(id), 0) FROM entry", [], |row| row.get(0))?;
        // An id that was pruned is not given again.
        let pruned = pruned::pruned(&db)?.map_or(0, |pruned| pruned.last_id);
        let mut last = u64::try_from(last).unwrap_or(0).max(pruned);
        let mut open = Vec::new();
        for (first_id, text) in rows::hold_batches(&db)? {
            for line in text.lines() {
                let Ok(hold) = serde_json::from_str::<HoldRow>(line) else {
                    return Ok((Err(format!("an open hold of hold_batch {first_id} can't be read")), last));
                };
                last = last.max(hold.id);
                if !rows::has_entry(&db, hold.id)? {
                    open.push(hold);
                }
            }
        }
        Ok((Ok(open), last))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Said before the last connection is closed, which removes the log.
        if let Err(error) = self.lock.say_closed() {
            tracing::warn!(%error, "the lock file can't say that the ledger is closed; its log is kept");
            std::mem::forget(self.keeper.take());
        }
    }
}

/// A connection that only reads.
pub(crate) fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(BUSY_MAX)?;
    Ok(db)
}

fn connect(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_MAX)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    db.pragma_update(None, "synchronous", synchronous)?;
    // A thread of its own does this.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile_options() -> Vec<String> {
        let db = Connection::open_in_memory().unwrap();
        let mut options = db.prepare("PRAGMA compile_options").unwrap();
        let options: rusqlite::Result<Vec<String>> =
            options.query_map([], |row| row.get(0)).unwrap().collect();
        options.unwrap()
    }

    #[test]
    fn sqlite_takes_no_lock_of_the_process_to_allocate() {
        let options = compile_options();
        assert!(options.iter().any(|option| option == "DEFAULT_MEMSTATUS=0"), "{options:?}");
    }

    #[test]
    fn sqlite_is_compiled_without_modules_that_no_query_uses() {
        let options = compile_options();
        let unused =
            ["API_ARMOR", "COLUMN_METADATA", "DBSTAT_VTAB", "FTS", "LOAD_EXTENSION", "RTREE", "STAT4"];
        for name in unused {
            let enabled = format!("ENABLE_{name}");
            assert!(!options.iter().any(|option| option.starts_with(&enabled)), "{name} in {options:?}");
        }
    }
}
