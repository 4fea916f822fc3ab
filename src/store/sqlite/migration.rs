//! The ledger of a folder that is copied to or from the other engine, while no guard runs on it.

use std::path::Path;
use std::sync::Mutex;

use rusqlite::Connection;

use crate::ledger::entry::Hold;
use crate::store::sql::batch::Kept;
use crate::store::sql::codec::{HoldRow, int};
use crate::store::sql::columns::json_text;
use crate::store::sql::migration::HALF_COPIED;
use crate::store::sql::{self, Db};
use crate::store::sqlite::lock::Lock;
use crate::store::sqlite::schema::VERSION;
use crate::store::sqlite::{DATABASE, Store, connect, inspect, locked, read_only};
use crate::store::{Durability, StoreError};

/// Pages of the write-ahead log after which it is moved into the database.
const LOG_PAGES: i64 = 1_000;

/// A ledger that is read. Nothing in its folder is changed.
pub(in crate::store) struct Source {
    connection: Connection,
    _lock: Lock,
}

/// A ledger that is filled.
pub(in crate::store) struct Target {
    connection: Connection,
    /// Says that the ledger is closed once the connection is.
    _store: Store,
}

impl Source {
    /// Opens the ledger of a folder that no guard runs on.
    pub(in crate::store) fn open(folder: &Path) -> Result<Self, StoreError> {
        let (path, ledger) = (folder.join(DATABASE), folder.display().to_string());
        if !path.exists() {
            return Err(StoreError::NoLedger { ledger });
        }
        let (lock, last_run) = Lock::take(folder)?;
        let found = inspect::existing(&path, last_run)?;
        if found.version != VERSION {
            let what = format!("has version {}, and {VERSION} is needed", found.version);
            return Err(StoreError::NotUpToDate { ledger, what });
        }
        if !found.has_rollups {
            return Err(StoreError::NotUpToDate { ledger, what: "has no sums of its entries".to_owned() });
        }
        let connection = read_only(&path).map_err(|error| StoreError::of(&path, error))?;
        Ok(Self { connection, _lock: lock })
    }

    pub(in crate::store) fn db(&self) -> Db<'_> {
        Db::Sqlite(&self.connection)
    }

    /// What SQLite's own check finds.
    pub(in crate::store) fn damage(&self) -> sql::Result<Vec<String>> {
        Ok(inspect::damage(&self.connection)?)
    }
}

impl Target {
    /// Opens or makes the ledger of a folder. Returns whether it is half a copy already.
    pub(in crate::store) fn open(folder: &Path) -> Result<(Self, bool), StoreError> {
        let at = |source| StoreError::Folder { path: folder.to_owned(), source };
        let (lock, last_run) = locked(folder)?;
        let path = folder.join(DATABASE);
        let is_begun = match inspect::ledger(&path, last_run) {
            Ok(found) if found.version == VERSION => false,
            Ok(found) => return Err(StoreError::Version { found: found.version, expected: VERSION }),
            Err(StoreError::HalfCopied { .. }) => true,
            Err(error) => return Err(error),
        };
        let opened = || {
            let connection = connect(&path, Durability::Process)?;
            connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
            Ok::<_, rusqlite::Error>((connect(&path, Durability::Process)?, connection))
        };
        let (keeper, connection) = opened().map_err(|error| StoreError::of(&path, error))?;
        lock.say_open().map_err(at)?;
        let store = Store { path, durability: Durability::Process, keeper: Some(Mutex::new(keeper)), lock };
        Ok((Self { connection, _store: store }, is_begun))
    }

    pub(in crate::store) fn db(&self) -> Db<'_> {
        Db::Sqlite(&self.connection)
    }

    /// What SQLite's own check finds.
    pub(in crate::store) fn damage(&self) -> sql::Result<Vec<String>> {
        Ok(inspect::damage(&self.connection)?)
    }

    /// Says that it is half a copy, in the open transaction.
    pub(in crate::store) fn say_half(&self) -> sql::Result<()> {
        Ok(self.connection.pragma_update(None, "user_version", HALF_COPIED)?)
    }

    /// Says that it is whole, in the open transaction.
    pub(in crate::store) fn say_whole(&self) -> sql::Result<()> {
        Ok(self.connection.pragma_update(None, "user_version", VERSION)?)
    }

    /// Writes open holds of requests; the next start charges them.
    pub(in crate::store) fn write_holds(&self, holds: &[Hold]) -> sql::Result<()> {
        let row = |hold: &Hold| {
            let line = format!("{}\n", json_text(&HoldRow::of(hold))?);
            Ok(vec![Kept::Int(int(hold.id)), Kept::Text(line)])
        };
        let rows = holds.iter().map(row).collect::<sql::Result<Vec<_>>>()?;
        self.db().insert_rows("hold_batch", &["first_id", "holds"].map(str::to_owned), &rows)
    }
}
