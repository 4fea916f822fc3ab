//! Connections for what no request waits for: upkeep of tables, and operators' changes.

use std::sync::Arc;

use crate::store::StoreError;
use crate::store::postgres::change::Change;
use crate::store::postgres::database::{Database, blocking};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::locks::{Alone, lock};
use crate::store::postgres::pool::Work;
use crate::store::postgres::shared::Shared;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db, Lent as _};

/// Writes on a connection that questions share; changes of the rules have one that is apart.
#[derive(Debug)]
pub(in crate::store) struct Writer {
    database: Arc<Database>,
    shared: Arc<Shared>,
    /// The connection of changes of the rules.
    changes: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

impl Writer {
    pub(super) fn new(database: Arc<Database>, shared: Arc<Shared>) -> Self {
        Self { database, shared, changes: Arc::default() }
    }

    /// Does work in one transaction, after all that this guard has queued before.
    pub(in crate::store) async fn run<T, F>(&self, alone: Alone, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        self.flush().await?;
        let database = Arc::clone(&self.database);
        blocking(move || {
            // It may wait for a change of the rules.
            let lease = Lease::take(&database, Work::Long)?;
            let db = Db::Postgres(lease.connection());
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
