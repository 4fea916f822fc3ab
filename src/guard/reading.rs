//! Reading the database, and work on it that is not the ledger's.

use crate::guard::Guard;
use crate::store::{Reader, StoreError};

impl Guard {
    /// Runs a query on a thread of its own, after all that was queued for the
    /// database before: whoever has been answered finds what he did.
    pub async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_with(self.reader.clone(), work).await
    }

    /// The same for a query that may take long, which only others of its kind wait
    /// for.
    pub async fn read_long<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_with(self.long_reader.clone(), work).await
    }

    /// The same for what a key asks about itself.
    pub async fn read_for_key<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_with(self.key_reader.clone(), work).await
    }

    async fn read_with<T, F>(&self, reader: Reader, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        // A database that can't be written can still be read.
        let _ = self.writer.flush().await;
        self.writer.aside(move || reader.query(work)).await?
    }

    /// Does work on the database that is no business of the ledger's, after all that
    /// was queued for it before.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.run(work).await
    }

    /// Waits until all that was queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.writer.flush().await
    }
}
