//! Connections that only read.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use crate::store::StoreError;
use crate::store::sql::{self, Db};
use crate::store::sqlite::storage;
use crate::sync::unpoisoned;

/// A read-only connection; clones share it.
#[derive(Clone, Debug)]
pub(in crate::store) struct Reader {
    db: Arc<Mutex<Connection>>,
}

impl Reader {
    pub(super) fn new(db: Connection) -> Self {
        Self { db: Arc::new(Mutex::new(db)) }
    }

    /// Runs a query on the shared connection. It blocks: not for the proxy.
    pub(in crate::store) fn query<T>(
        &self,
        work: impl FnOnce(Db<'_>) -> sql::Result<T>,
    ) -> Result<T, StoreError> {
        let db = unpoisoned(self.db.lock());
        Ok(work(Db::Sqlite(&db))?)
    }

    /// What of the database is free for what is written next, in bytes.
    pub(in crate::store) fn reusable_bytes(&self) -> Result<u64, StoreError> {
        let db = unpoisoned(self.db.lock());
        Ok(storage::reusable_bytes(&db)?)
    }
}
