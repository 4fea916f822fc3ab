//! The embedded database: the only durable state.
//!
//! SQLite in WAL mode. One thread writes, in groups; any number read. A lock
//! file keeps a second guard out: two guards on one database would each admit
//! what only one of them may.

mod checkpoint;
mod desk;
pub(crate) mod group;
mod handover;
mod queue;
pub mod reader;
pub(crate) mod rollup;
pub mod rows;
pub mod rule;
mod schema;
pub mod settings;
pub mod verify;
pub mod writer;

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::ledger::entry::{Entry, Hold};
use crate::store::rows::{HoldRow, Names};

pub use desk::{Observer, Slot};
pub use reader::Reader;
pub use writer::{Clerk, Writer};

const DATABASE: &str = "spendguard.db";
const LOCK: &str = "lock";

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
    #[error("can't use the data folder {}: {source}; check storage.path and its owner", path.display())]
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
    /// SQLite failed.
    #[error("the database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The writer is gone or can't write.
    #[error("the ledger can't be written")]
    Unavailable,
    /// As many requests are open as may be (`guard.open_requests_max`).
    #[error("too many requests are open")]
    Full,
}

/// An open database and the lock on it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    durability: Durability,
    /// Held as long as the store lives; the system frees it at any death.
    _lock: File,
}

impl Store {
    /// Opens or makes the database in a folder and takes the lock on it.
    pub fn open(folder: &Path, durability: Durability) -> Result<Self, StoreError> {
        let at = |source| StoreError::Folder { path: folder.to_owned(), source };
        // Whose keys spent how much is nobody else's business.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at)?;
        let lock = File::create(folder.join(LOCK)).map_err(at)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked { path: folder.to_owned() },
            TryLockError::Error(source) => at(source),
        })?;
        let store = Self { path: folder.join(DATABASE), durability, _lock: lock };
        schema::prepare(&mut store.connect()?)?
            .map_err(|found| StoreError::Version { found, expected: schema::VERSION })?;
        Ok(store)
    }

    /// A connection that may write; only the writer and recovery have one.
    pub(crate) fn connect(&self) -> rusqlite::Result<Connection> {
        let db = Connection::open(&self.path)?;
        db.busy_timeout(Duration::from_secs(10))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = match self.durability {
            Durability::Process => "NORMAL",
            Durability::Power => "FULL",
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        // A thread of its own does this.
        db.pragma_update(None, "wal_autocheckpoint", 0)?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(db)
    }

    /// A reader with a connection of its own.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        let db = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(Duration::from_secs(10))?;
        Ok(Reader::new(db))
    }

    /// Writes the endings of unfinished holds and clears what held them.
    pub fn end_unfinished(&self, entries: &[Entry]) -> Result<(), StoreError> {
        Ok(group::write_endings(&self.connect()?, entries)?)
    }

    /// The holds that the last run left open, and the next free id.
    pub fn unfinished(&self, names: &dyn Names) -> Result<(Vec<Hold>, u64), StoreError> {
        let db = self.connect()?;
        let mut holds = Vec::new();
        let mut last: i64 = db.query_row("SELECT COALESCE(MAX(id), 0) FROM entry", [], |row| row.get(0))?;
        let mut batches = db.prepare("SELECT holds FROM hold_batch ORDER BY first_id")?;
        let mut ended = db.prepare("SELECT 1 FROM entry WHERE id = ?1")?;
        let mut rows = batches.query([])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(0)?;
            for line in text.lines() {
                let Ok(hold) = serde_json::from_str::<HoldRow>(line) else { continue };
                last = last.max(rows::int(hold.id));
                if ended.query_row([rows::int(hold.id)], |_| Ok(())).optional()?.is_none() {
                    holds.push(hold.hold(names));
                }
            }
        }
        Ok((holds, u64::try_from(last).unwrap_or(0) + 1))
    }
}
