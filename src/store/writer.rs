//! Who writes, and when.
//!
//! Whatever waits becomes one transaction. A commit that only has to survive
//! the process is a few writes into the page cache, cheaper than waking another
//! thread: so whoever waits for a hold first lets his neighbours queue theirs,
//! and then writes the whole group where he is. Nobody waits for endings, so the
//! writer's thread gathers them for a moment. That thread also does what may
//! take long: work for operators, commits that wait for the disk, and trying
//! again while the database can't be written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use crate::ledger::entry::{Crossing, Entry, Hold};
use crate::store::desk::{Desk, Fact, Job, Observer, Record, Slot, Waiting};
use crate::store::queue::{Call, Queue};
use crate::store::{Durability, Store, StoreError, checkpoint};

/// How long endings wait for company. Those that a crash catches waiting are
/// charged at their holds.
const LINGER: Duration = Duration::from_millis(20);
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

    /// Queues a hold. The answer says whether it is in the database.
    pub fn push_hold(&self, hold: Arc<Hold>) -> oneshot::Receiver<bool> {
        let (written, answer) = oneshot::channel();
        // Where a commit is cheap, who waits for it makes it.
        let call = if self.shared.waits_for_disk() { Call::Now } else { Call::None };
        self.shared.queue.push_hold(Waiting { hold, written }, call);
        answer
    }

    /// Queues an entry with the thresholds it crossed. What is queued under the
    /// ledger's lock is written in the ledger's order.
    pub fn push_entry(&self, entry: Box<Entry>, crossings: Vec<Crossing>, slot: Slot) {
        self.shared.queue.push(Record::Fact(Fact { entry, crossings, _slot: slot }), Call::Soon);
    }

    /// Waits until a hold that was queued is in the database; `false` if it
    /// can't be written.
    pub async fn written(&self, answer: oneshot::Receiver<bool>) -> bool {
        if !self.shared.waits_for_disk() {
            // What else is ready on this thread gets to queue its own.
            tokio::task::yield_now().await;
            self.shared.write_holds();
        }
        answer.await.unwrap_or(false)
    }

    /// Whether the last group was written.
    pub fn is_healthy(&self) -> bool {
        self.shared.is_healthy()
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
        self.shared.queue.push(Record::Job(job, slot), Call::Now);
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
            while !self.write_all() || self.queue.is_urgent() {}
            if closed {
                return;
            }
        }
    }

    /// Writes what is queued; returns whether that was all.
    fn write_all(&self) -> bool {
        let mut desk = self.desk();
        // Taken under the lock, so that groups stay in order.
        let (holds, records) = self.queue.take();
        let nothing = holds.is_empty() && records.is_empty() && desk.is_clear();
        let wrote = nothing || desk.write(holds, records);
        drop(desk);
        self.healthy.store(wrote, Ordering::Relaxed);
        if !wrote {
            std::thread::sleep(RETRY_AFTER);
        }
        nothing
    }

    /// Writes the holds that somebody waits for, unless somebody else is at it
    /// or the database can't be written: then he, or the thread, will do it.
    fn write_holds(&self) {
        while self.queue.is_urgent() {
            let Ok(mut desk) = self.desk.try_lock() else { return };
            if !self.is_healthy() || !desk.write(self.queue.take_holds(), Vec::new()) {
                self.healthy.store(false, Ordering::Relaxed);
                return self.queue.call(Call::Now);
            }
            // Who queued while the desk was taken relies on its last owner.
        }
    }

    fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    fn waits_for_disk(&self) -> bool {
        self.durability == Durability::Power
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
