//! The embedded engine: one database in a folder, by SQLite in WAL mode.
//!
//! One connection writes, in groups; any number read. A lock file keeps a second guard
//! out: two guards on one database would each admit what only one of them may. A start
//! continues from a sound ledger or fails.

mod checkpoint;
mod commit;
mod commit_connection;
mod handle;
mod inspect;
mod journal;
mod leader;
mod lock;
mod migration;
mod pending;
mod permissions;
mod queue;
mod reader;
mod schema;
mod storage;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ledger::account::Account;
use crate::ledger::entry::{Entry, Hold, Life, OpenJob};
use crate::store::records::{KeyRow, Names, Stored};
use crate::store::sql::codec::{self, HoldRow};
use crate::store::sql::{self, Db, credit, entries, jobs, keys, load, pruned, usage};
use crate::store::sqlite::commit_connection::CommitConnection;
use crate::store::sqlite::handle::Shared;
use crate::store::sqlite::leader::GroupCommit;
use crate::store::sqlite::lock::{LastRun, Lock};
use crate::store::sqlite::pending::WrittenReleases;
use crate::store::{Durability, Observer, StoreError};

pub(super) use handle::Handle;
pub use journal::{BackgroundWriter, Journal, Queued, WriteAck};
pub(super) use migration::{Source, Target};
pub(super) use reader::Reader;
pub(super) use schema::VERSION;

/// How long another program's lock on the database is waited for; the commit connection,
/// which requests wait for, waits less.
const BUSY_MAX: Duration = Duration::from_secs(10);
const DATABASE: &str = "spendguard.db";

impl StoreError {
    /// What a failure of SQLite at a start means for its database.
    fn of(path: &Path, error: impl Into<sql::Error>) -> Self {
        let path = path.to_owned();
        let error = match error.into() {
            sql::Error::Sqlite(error) => error,
            error @ (sql::Error::Unreadable(_)
            | sql::Error::Postgres(_)
            | sql::Error::Unanswered
            | sql::Error::Column { .. }
            | sql::Error::Json(_)
            | sql::Error::NoRow
            | sql::Error::Changed { .. }) => return error.into(),
        };
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
            ) => Self::Unwritable { path, source: error.into() },
            _ => error.into(),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::FromSqlConversionFailure(_, _, cause) = error {
            // The cause says which value it is, and where.
            return Self::Unreadable(cause);
        }
        Self::Failed(error.into())
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

/// Open holds, each with its life, and the next free id.
pub(super) type Unfinished = (Vec<(Arc<Hold>, Life)>, u64);

impl Store {
    /// Opens or makes the database in a folder and takes the lock on it.
    ///
    /// What it can't read or write is an error before anything is changed.
    pub fn open(folder: &Path, durability: Durability) -> Result<Self, StoreError> {
        let at = |source| StoreError::Folder { path: folder.to_owned(), source };
        let (lock, last_run) = locked(folder)?;
        let path = folder.join(DATABASE);
        let found = inspect::ledger(&path, last_run)?;
        let opened = || -> sql::Result<Connection> {
            let mut keeper = connect(&path, durability)?;
            // Writes even where there is nothing to change: who can't write must not
            // start.
            let tx = keeper.transaction()?;
            schema::upgrade(&tx, found.version)?;
            tx.commit()?;
            if !found.has_rollups {
                let rows = schema::rebuild_rollups(&mut keeper)?;
                tracing::warn!(
                    event = "rollups_rebuilt",
                    rows,
                    "there were no rollups; they are rebuilt from the entries"
                );
            }
            Ok(keeper)
        };
        let keeper = opened().map_err(|error| StoreError::of(&path, error))?;
        // The log's name must not be lost to a power cut that the word survives.
        inspect::sync_folder(&path)?;
        lock.say_open().map_err(at)?;
        Ok(Self { path, durability, keeper: Some(Mutex::new(keeper)), lock })
    }

    /// The queue to the one connection that writes, and its background writer, which is to be
    /// started. At most `requests_max` requests are open at once.
    pub(in crate::store) fn begin<O: Observer>(
        self,
        requests_max: usize,
        observer: O,
    ) -> Result<(Arc<Handle>, BackgroundWriter), StoreError> {
        let checkpoints = self.connect()?;
        let released = Arc::new(WrittenReleases::default());
        let connection = CommitConnection::new(self.connect()?, Box::new(observer), Arc::clone(&released))?;
        let shared = Arc::new(Shared::new(GroupCommit::new(connection), released, self));
        let writer = BackgroundWriter::new(Arc::clone(&shared), checkpoints);
        Ok((Arc::new(Handle::new(shared, requests_max)), writer))
    }

    /// What a guard reads once, at its start.
    pub fn load(&self) -> Result<Stored, StoreError> {
        self.reader()?.query(load::stored)
    }

    /// The account of prepaid credit with all that is settled on it, if any was granted,
    /// and the latest instant that a request was admitted at, in Unix milliseconds.
    pub fn account(&self) -> Result<(Option<Account>, i64), StoreError> {
        self.reader()?.query(|db| Ok((credit::account(db)?, credit::latest_ms(db)?)))
    }

    /// Hands out every key, one at a time.
    pub fn each_key(&self, each: impl FnMut(KeyRow)) -> Result<(), StoreError> {
        self.reader()?.query(|db| keys::each_key(db, each))
    }

    /// Hands out the ids of keys with Unix milliseconds at which they were used; a key may
    /// be handed out more than once.
    pub fn each_use(&self, each: impl FnMut(&str, i64)) -> Result<(), StoreError> {
        self.reader()?.query(|db| usage::each_use(db, each))
    }

    /// A connection that may write; only the ports and recovery have one.
    fn connect(&self) -> rusqlite::Result<Connection> {
        connect(&self.path, self.durability)
    }

    /// A reader with a connection of its own.
    fn reader(&self) -> Result<Reader, StoreError> {
        Ok(Reader::new(read_only(&self.path)?))
    }

    /// Writes the endings of unfinished holds and clears what held them.
    pub fn end_unfinished(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let written = || commit::write_endings(Db::Sqlite(&self.connect()?), entries);
        written().map_err(|error| StoreError::of(&self.path, error))
    }

    /// The holds that the last run left open, each with its life, and the next free id.
    pub fn unfinished(&self, names: &dyn Names) -> Result<Unfinished, StoreError> {
        let (rows, last) = self.open_rows().map_err(|error| StoreError::of(&self.path, error))?;
        let unreadable = |what| StoreError::Damaged { path: self.path.clone(), what };
        let rows = rows.map_err(unreadable)?;
        let jobs = self.reader()?.query(|db| jobs::all(db, names))?;
        let last = jobs.iter().map(|open| open.hold.id).fold(last, u64::max);
        let requests = rows.into_iter().map(|row| (Arc::new(row.hold(names)), Life::Request));
        let jobs = jobs.into_iter().map(|OpenJob { hold, job }| (hold, Life::Job(job)));
        Ok((requests.chain(jobs).collect(), last + 1))
    }

    /// The holds of requests without an entry, or what can't be read of them, and the last
    /// id: a hold that was skipped would be spending that is forgotten.
    fn open_rows(&self) -> sql::Result<(Result<Vec<HoldRow>, String>, u64)> {
        let connection = self.connect()?;
        let db = Db::Sqlite(&connection);
        // An id that was pruned is not given again.
        let pruned = pruned::pruned(db)?.map_or(0, |pruned| pruned.last_id);
        let mut last = entries::last_id(db)?.max(pruned);
        let jobs = jobs::ids(db)?;
        let mut open = Vec::new();
        for (first_id, text) in codec::hold_batches(db)? {
            for line in text.lines() {
                let Ok(hold) = serde_json::from_str::<HoldRow>(line) else {
                    return Ok((Err(format!("an open hold of hold_batch {first_id} can't be read")), last));
                };
                last = last.max(hold.id);
                if !jobs.contains(&hold.id) && !codec::has_entry(db, hold.id)? {
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
            tracing::warn!(
                event = "lock_file_not_closed", %error,
                "the lock file can't say that the ledger is closed; its log is kept"
            );
            std::mem::forget(self.keeper.take());
        }
    }
}

/// Makes a folder, unless it is there, and takes the lock on its ledger.
fn locked(folder: &Path) -> Result<(Lock, LastRun), StoreError> {
    let at = |source| StoreError::Folder { path: folder.to_owned(), source };
    // Other users of the machine must not read whose keys spent how much.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at)?;
    permissions::close(folder);
    Lock::take(folder)
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

/// A new database in memory, for tests of what runs on one.
#[cfg(test)]
pub(super) fn memory() -> Connection {
    let mut db = Connection::open_in_memory().unwrap();
    schema::create(&mut db).unwrap();
    db
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
