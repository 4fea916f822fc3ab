//! What the ports share: the queue to the commit connection, and threads for slow work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::ledger::entry::Amounts;
use crate::store::reports::Sizes;
use crate::store::slots::{Slot, Slots};
use crate::store::sql::{self, Db};
use crate::store::sqlite::Store;
use crate::store::sqlite::leader::GroupCommit;
use crate::store::sqlite::pending::{Record, Work, WrittenReleases};
use crate::store::sqlite::queue::Wake;
use crate::store::sqlite::reader::Reader;
use crate::store::{Durability, StoreError};

/// What the ports and the background writer have in common.
pub(super) struct Shared {
    pub(super) leader: GroupCommit,
    released: Arc<WrittenReleases>,
    /// Whether the background writer has threads; without, everything runs step by step.
    has_threads: AtomicBool,
    /// Its lock is kept until the last record is written.
    pub(super) store: Store,
}

/// The ports' end of the queue. When the last one is dropped, the queue is closed and
/// the background writer ends once everything is written.
#[derive(Debug)]
pub(in crate::store) struct Handle {
    shared: Arc<Shared>,
    slots: Slots,
}

impl AsRef<GroupCommit> for Shared {
    fn as_ref(&self) -> &GroupCommit {
        &self.leader
    }
}

impl Shared {
    pub(super) fn new(leader: GroupCommit, released: Arc<WrittenReleases>, store: Store) -> Self {
        Self { leader, released, has_threads: AtomicBool::new(false), store }
    }

    pub(super) fn set_threads(&self) {
        self.has_threads.store(true, Ordering::Relaxed);
    }

    pub(super) fn waits_for_disk(&self) -> bool {
        self.store.durability == Durability::Power
    }

    pub(super) fn unwritten(&self, released: Amounts) -> Amounts {
        self.released.unwritten(released)
    }
}

impl Handle {
    /// A handle with which at most `requests_max` requests are open at once.
    pub(super) fn new(shared: Arc<Shared>, requests_max: usize) -> Self {
        Self { shared, slots: Slots::new(requests_max) }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// A reader with a connection of its own.
    pub(in crate::store) fn reader(&self) -> Result<Reader, StoreError> {
        self.shared.store.reader()
    }

    /// The sizes that can be had without reading the database.
    pub(in crate::store) fn sizes(&self) -> Sizes {
        self.shared.store.sizes()
    }

    /// Queues work on the database, to be done after all that was queued before.
    pub(super) fn queue_work<T, F>(&self, slot: Slot, work: F) -> oneshot::Receiver<sql::Result<T>>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> sql::Result<T> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let work: Work = Box::new(move |db| {
            // The caller may have gone; the work is done all the same.
            let _ = sender.send(work(db));
        });
        self.shared.leader.queue.push(Record::Work(work, slot), Wake::Now);
        answer
    }

    /// Does work on the database after all that was queued before it.
    pub(in crate::store) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>) -> sql::Result<T> + Send + 'static,
    {
        let slot = self.slots.operator().await?;
        Ok(self
            .queue_work(slot, move |db| work(Db::Sqlite(db)))
            .await
            .map_err(|_| StoreError::Unavailable)??)
    }

    /// Runs what may take long on a thread that no request runs on; where everything
    /// runs step by step, at once.
    pub(in crate::store) async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if self.shared.has_threads.load(Ordering::Relaxed) {
            return tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Unavailable);
        }
        Ok(work())
    }

    /// Waits until all that was queued before is in the database.
    pub(in crate::store) async fn flush(&self) -> Result<(), StoreError> {
        self.run(|_| Ok(())).await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.leader.queue.close();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}
