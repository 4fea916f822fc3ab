//! Connections for what no request waits for: upkeep of tables, and operators' changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::Limit;
use crate::store::StoreError;
use crate::store::postgres::activation;
use crate::store::postgres::change::Change;
use crate::store::postgres::database::{Database, blocking};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::locks::{Locks, lock};
use crate::store::postgres::looks::Looks;
use crate::store::postgres::past::Pasts;
use crate::store::postgres::pool::Work;
use crate::store::postgres::reader::Reader;
use crate::store::postgres::shared::Shared;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db, Lent as _, params};

/// How often the past of a limit is caught up with while others go on. Each time takes a part of the
/// one before it, unless more is written than can be read.
const ROUNDS_MAX: usize = 8;
/// The least time between two looks at the size of the tables, which reads that of each file.
const SIZES_EACH: Duration = Duration::from_secs(5);
const SIZE: &str = "SELECT CAST(COALESCE(SUM(pg_total_relation_size(pg_class.oid)), 0) AS BIGINT) FROM pg_class \
                    JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE CAST(nspname AS TEXT) = ?1 \
                    AND relkind = 'r'";

/// Writes on a connection that questions share; changes of the rules have one that is apart.
#[derive(Debug)]
pub(in crate::store) struct Writer {
    database: Arc<Database>,
    shared: Arc<Shared>,
    /// Looks at what the tables take.
    sizes: Looks<()>,
    /// What they took when it could be read last, in bytes.
    bytes: Arc<AtomicU64>,
    /// The connection of changes of the rules.
    changes: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

impl Writer {
    pub(super) fn new(database: Arc<Database>, shared: Arc<Shared>) -> Self {
        let sizes = Looks::new(SIZES_EACH, database.runtime().handle().clone());
        Self { database, shared, sizes, bytes: Arc::default(), changes: Arc::default() }
    }

    /// What the tables and their indexes take in the server's files, in bytes, as of a few seconds
    /// ago at most. What can't be read stays as it was.
    pub(in crate::store) async fn bytes(&self) -> u64 {
        self.sizes.recent(|| self.look_at_sizes()).await;
        self.bytes.load(Ordering::Relaxed)
    }

    async fn look_at_sizes(&self) {
        let (database, bytes) = (Arc::clone(&self.database), Arc::clone(&self.bytes));
        let look = move || {
            let lease = Lease::take(&database, Work::Short)?;
            let size: i64 =
                Db::Postgres(lease.connection())
                    .row(SIZE, params![database.config.schema], |row| row.get(0))?;
            bytes.store(u64::try_from(size).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        if let Err(error) = blocking(look).await {
            tracing::warn!(event = "storage_size_not_read", %error, "the size of the tables can't be read");
        }
    }

    /// Asks a question, without locks.
    pub(in crate::store) async fn ask<T, F>(&self, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        let reader = Reader::new(Arc::clone(&self.database));
        blocking(move || reader.query(question)).await
    }

    /// Does work in one transaction, after all that this guard has queued before.
    pub(in crate::store) async fn run<T, F>(&self, locks: Locks, work: F) -> Result<T, StoreError>
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
                lock(db, locks)?;
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

    /// Adds up what limits have settled, while requests and changes of the rules go on, until only
    /// little was written since.
    pub(in crate::store) async fn learn(&self, limits: Vec<Arc<Limit>>) -> Result<Pasts, StoreError> {
        let mark = self.mark().await?;
        let mut pasts = self.in_snapshot(move |db| activation::learn(db, limits, mark)).await?;
        for _ in 0..ROUNDS_MAX {
            let (before, added) = (pasts.mark(), pasts.added());
            let is_far_behind = move |db: Db<'_>| activation::is_far_behind(db, before, added);
            if pasts.is_empty() || !self.ask(is_far_behind).await? {
                break;
            }
            let mark = self.mark().await?;
            pasts = self.in_snapshot(move |db| activation::go_on(db, pasts, mark)).await?;
        }
        Ok(pasts)
    }

    /// An id that every entry to come is above, unless its hold is open: lanes forget the ids that
    /// they have left once the rules have changed.
    async fn mark(&self) -> Result<u64, StoreError> {
        let (change, mark) = self.begin().await?.new_id().await?;
        change.finish().await?;
        Ok(mark)
    }

    /// Reads at one instant.
    async fn in_snapshot<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        let database = Arc::clone(&self.database);
        blocking(move || Ok(read(Db::Postgres(Lease::snapshot(&database)?.connection()))?)).await
    }

    /// Waits until all that this guard queued before is in the database.
    pub(in crate::store) async fn flush(&self) -> Result<(), StoreError> {
        self.shared.flush().await
    }
}
