//! Connections for what no request waits for: upkeep of tables, and operators' changes.

use std::sync::{Arc, Mutex};

use crate::store::StoreError;
use crate::store::postgres::change::Change;
use crate::store::postgres::database::{Database, blocking};
use crate::store::postgres::locks::{Alone, lock, working};
use crate::store::postgres::shared::Shared;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db};
use crate::sync::unpoisoned;

/// Writes on a connection of its own.
#[derive(Debug)]
pub(in crate::store) struct Writer {
    database: Arc<Database>,
    shared: Arc<Shared>,
    connection: Arc<Mutex<Option<Connection>>>,
    /// The connection of changes of the rules.
    changes: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

impl Writer {
    pub(super) fn new(database: Arc<Database>, shared: Arc<Shared>) -> Self {
        Self { database, shared, connection: Arc::default(), changes: Arc::default() }
    }

    /// Does work in one transaction, after all that this guard has queued before.
    pub(in crate::store) async fn run<T, F>(&self, alone: Alone, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        self.flush().await?;
        let (database, connection) = (Arc::clone(&self.database), Arc::clone(&self.connection));
        blocking(move || {
            let mut connection = unpoisoned(connection.lock());
            let db = Db::Postgres(working(&database, &mut connection)?);
            Ok(db.transaction(|| {
                lock(db, alone)?;
                work(db)
            })?)
        })
        .await
    }

    /// Begins a change of the rules, with those in memory as new as those in the database.
    pub(in crate::store) async fn begin(&self) -> Result<Change, StoreError> {
        let connection = Arc::clone(&self.changes).lock_owned().await;
        Change::begin(Arc::clone(&self.database), Arc::clone(&self.shared), connection).await
    }

    /// Waits until all that this guard queued before is in the database.
    pub(in crate::store) async fn flush(&self) -> Result<(), StoreError> {
        self.shared.flush().await
    }
}
