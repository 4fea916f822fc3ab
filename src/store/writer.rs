//! Who writes, and when.
//!
//! Whatever waits in the queue becomes one transaction. A commit that only has
//! to survive the process is a few writes into the page cache, cheaper than
//! waking another thread: so whoever waits for a hold first lets his neighbours
//! queue theirs, and then writes the whole group where he is. Endings wait a
//! little for such a group, or for the writer's thread. That thread also does
//! what may take long: work for operators, commits that wait for the disk, and
//! trying again while the database can't be written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use crate::store::desk::{Desk, Job, Observer, Record, Slot};
use crate::store::queue::{Call, Queue};
use crate::store::{Durability, Store, StoreError, checkpoint};

/// How long endings may wait for company.
const LINGER: Duration = Duration::from_millis(10);
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long a full queue is waited for.
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// The handle to the writer; dropped, it lets the writer's thread end once
/// everything is written.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    slots_max: usize,
}

/// What the writer's thread and those who write themselves have in common.
pub(super) struct Shared {
    queue: Queue,
    desk: Mutex<Desk>,
    healthy: AtomicBool,
    durability: Durability,
}

impl Writer {
    /// Starts the threads. `slots_max` bounds what is going to be written.
    pub fn start<O: Observer>(
        store: &Store,
        slots_max: usize,
        observer: O,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let slots_max = slots_max.min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            desk: Mutex::new(Desk::new(store.connect()?, Box::new(observer))),
            healthy: AtomicBool::new(true),
            durability: store.durability,
        });
        let (writing, db, checkpointing) = (Arc::clone(&shared), store.connect()?, Arc::downgrade(&shared));
        let thread = spawn("ledger-writer", move || writing.run())?;
        spawn("ledger-checkpoint", move || checkpoint::run(&db, &checkpointing))?;
        Ok((Self { shared, slots: Arc::new(Semaphore::new(slots_max)), slots_max }, thread))
    }

    /// A slot in the queue; waits a while if all are taken.
    pub async fn slot(&self) -> Result<Slot, StoreError> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let freed = tokio::time::timeout(SLOT_WAIT, Arc::clone(&self.slots).acquire_owned()).await;
        freed.map_err(|_| StoreError::Full)?.map_err(|_| StoreError::Unavailable)
    }

    /// Queues a fact. What is queued under the ledger's lock is written in the
    /// ledger's order.
    pub fn push(&self, record: Record) {
        let call = match (&record, self.shared.durability) {
            (Record::Job(..), _) | (_, Durability::Power) => Call::Now,
            // Who waits for it writes it himself.
            (Record::Hold(..), Durability::Process) => Call::None,
            (Record::Entry(..), Durability::Process) => Call::Soon,
        };
        self.shared.queue.push(record, call);
    }

    /// Waits until a hold that was queued is in the database; `false` if it
    /// can't be written.
    pub async fn written(&self, answer: oneshot::Receiver<bool>) -> bool {
        if self.shared.durability == Durability::Process {
            // What else is ready on this thread gets to queue its own.
            tokio::task::yield_now().await;
            self.shared.write_urgent();
        }
        answer.await.unwrap_or(false)
    }

    /// Whether the last group was written.
    pub fn is_healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Relaxed)
    }

    /// Slots taken: by records that wait and by open reservations.
    pub fn taken(&self) -> usize {
        self.slots_max - self.slots.available_permits()
    }

    /// Queues work on the database, to be done after all that was queued before.
    pub fn queue_job<T, F>(&self, slot: Slot, work: F) -> oneshot::Receiver<rusqlite::Result<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (tell, answer) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            // Nobody may be waiting any more; the work is done all the same.
            let _ = tell.send(work(db));
        });
        self.push(Record::Job(job, slot));
        answer
    }

    /// Does work on the database after all that was queued before it.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let slot = self.slot().await?;
        Ok(self.queue_job(slot, work).await.map_err(|_| StoreError::Unavailable)??)
    }

    /// Waits until all that was queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.run(|_| Ok(())).await
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|_| StoreError::Unavailable)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Shared {
    /// The writer's thread.
    fn run(&self) {
        loop {
            let closed = self.queue.wait(LINGER);
            loop {
                let (wrote, clear) = {
                    // Taken under the lock, so that groups stay in order.
                    let mut desk = self.desk();
                    let records = self.queue.take();
                    let wrote = !records.is_empty() || !desk.is_clear();
                    desk.write(records);
                    (wrote, desk.is_clear())
                };
                self.healthy.store(clear, Ordering::Relaxed);
                if !clear {
                    std::thread::sleep(RETRY_AFTER);
                } else if !wrote && !self.queue.is_urgent() {
                    break;
                }
            }
            if closed {
                return;
            }
        }
    }

    /// Writes the facts that somebody waits for, unless somebody else is at it
    /// or the database can't be written: then he, or the thread, will do it.
    fn write_urgent(&self) {
        loop {
            {
                let Ok(mut desk) = self.desk.try_lock() else { return };
                if desk.is_clear() {
                    desk.write(self.queue.take_urgent());
                }
                if !desk.is_clear() {
                    self.healthy.store(false, Ordering::Relaxed);
                    return self.queue.call(Call::Now);
                }
            }
            // Whoever queued while the desk was taken relies on its last owner.
            if !self.queue.is_urgent() {
                return;
            }
        }
    }

    /// Does work while nothing is being written.
    pub(super) fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        let _desk = self.desk();
        let done = work();
        // Whoever queued while the desk was taken is served by the thread.
        self.queue.call(Call::Now);
        done
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("durability", &self.durability).finish_non_exhaustive()
    }
}
