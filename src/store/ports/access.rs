//! How the ports come to a connection: on one engine a file has one writer, on the other
//! there is a server.

use std::sync::Arc;

use crate::store::postgres::Locks;
use crate::store::reports::Sizes;
use crate::store::sql::{self, Db};
use crate::store::{StoreError, postgres, sqlite};

/// Writes that no request waits for, and threads for slow work.
#[derive(Clone, Debug)]
pub(in crate::store) enum Access {
    /// Behind the queue of the one connection that writes.
    Sqlite(Arc<sqlite::Handle>),
    /// To a server.
    Postgres(Arc<postgres::Writer>),
}

/// Asks the database; clones of one to a file share a connection.
#[derive(Clone, Debug)]
pub(in crate::store) enum Reader {
    /// To a file.
    Sqlite(sqlite::Reader),
    /// To a server.
    Postgres(postgres::Reader),
}

impl Access {
    /// Does work on the database after all that was queued before it, while no other guard
    /// does such work.
    pub(in crate::store) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        self.run_under(Locks::Rules, work).await
    }

    /// The same for work that is looked for from time to time, and that is done alone. Where guards
    /// share the database, `rest` says first, without any lock, what the work would return if there
    /// were nothing to do now; `None` if there is something, and then the work is done.
    pub(in crate::store) async fn run_unless<T, R, F>(
        &self,
        rest: R,
        locks: Locks,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        R: FnOnce(Db<'_>) -> sql::Result<Option<T>> + Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        let done = match self {
            // It would wait for its one connection twice.
            Self::Sqlite(_) => None,
            Self::Postgres(writer) => writer.ask(rest).await?,
        };
        match done {
            Some(done) => Ok(done),
            None => self.run_under(locks, work).await,
        }
    }

    async fn run_under<T, F>(&self, locks: Locks, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        match self {
            // Its one connection does one thing at a time.
            Self::Sqlite(handle) => handle.run(work).await,
            Self::Postgres(writer) => writer.run(locks, work).await,
        }
    }

    /// Runs what may take long on a thread that no request runs on; where everything
    /// runs step by step, at once.
    pub(in crate::store) async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::Sqlite(handle) => handle.blocking(work).await,
            Self::Postgres(_) => tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Unavailable),
        }
    }

    /// Whether other guards share the database.
    pub(in crate::store) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Waits until all that was queued before is in the database.
    pub(in crate::store) async fn flush(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(handle) => handle.flush().await,
            Self::Postgres(writer) => writer.flush().await,
        }
    }

    /// What the database takes; of a server's, not its log, and not what its disk has left.
    pub(in crate::store) async fn sizes(&self) -> Sizes {
        match self {
            Self::Sqlite(handle) => handle.sizes(),
            Self::Postgres(writer) => Sizes { database: writer.bytes().await, ..Sizes::default() },
        }
    }
}

impl Reader {
    /// Runs a query. It blocks: not for the proxy.
    pub(in crate::store) fn query<T>(
        &self,
        work: impl FnOnce(Db<'_>) -> sql::Result<T>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(reader) => reader.query(work),
            Self::Postgres(reader) => reader.query(work),
        }
    }

    /// What of the database is free for what is written next, in bytes; nothing of a server.
    pub(in crate::store) fn reusable_bytes(&self) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(reader) => reader.reusable_bytes(),
            Self::Postgres(_) => Ok(0),
        }
    }
}
