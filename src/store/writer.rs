//! Who writes, and when.
//!
//! Whatever waits becomes one transaction. A commit that only has to survive
//! the process is a few writes into the page cache, cheaper than waking another
//! thread: so whoever waits for a hold first lets his neighbours queue theirs,
//! and then writes the whole group where he is. Nobody waits for endings, so the
//! writer's thread gathers them for a moment. That thread also does what may
//! take long: work for operators, commits that wait for the disk, and trying
//! again while the database can't be written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use crate::ledger::entry::{Amounts, Crossing, Entry, Hold};
use crate::store::desk::{Desk, Observer};
use crate::store::facts::{Fact, Job, Passed, Pending, Record, Slot, Waiting, WrittenFreed};
use crate::store::handover::Handover;
use crate::store::objects::ObjectChange;
use crate::store::queue::Call;
use crate::store::{Durability, Store, StoreError, checkpoint};

/// Slots of operators, who must get through whatever requests do.
const OPERATORS_MAX: usize = 64;
/// How long somebody waits for a slot.
const SLOT_WAIT: Duration = Duration::from_secs(2);

/// The handle to the writer; dropped, it lets the writer's thread end once
/// everything is written.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    requests: Arc<Semaphore>,
    requests_max: usize,
    operators: Arc<Semaphore>,
}

/// What the writer's thread and those who write themselves have in common.
pub(super) struct Shared {
    pub(super) handover: Handover,
    freed: Arc<WrittenFreed>,
    /// Whether the clerk has threads; without, everything goes step by step.
    has_threads: AtomicBool,
    /// Its lock is kept until the last fact is written.
    store: Store,
}

/// A hold or an object on its way into the database.
#[derive(Debug)]
pub struct Written {
    answer: oneshot::Receiver<bool>,
    /// Whether who waits for it writes it.
    is_own: bool,
}

impl AsRef<Handover> for Shared {
    fn as_ref(&self) -> &Handover {
        &self.handover
    }
}

/// Who writes what nobody waits for: by threads of its own, or step by step.
#[must_use = "without it, endings are never written"]
pub struct Clerk {
    shared: Arc<Shared>,
    checkpoints: Connection,
}

impl Clerk {
    /// Starts the threads; the returned one ends once the writer is dropped and
    /// everything is written.
    pub fn start(self) -> Result<JoinHandle<()>, StoreError> {
        let Self { shared, checkpoints } = self;
        shared.has_threads.store(true, Ordering::Relaxed);
        let checkpointing = Arc::downgrade(&shared);
        let thread = spawn("ledger-writer", move || shared.handover.run())?;
        spawn("ledger-checkpoint", move || checkpoint::run(&checkpoints, &checkpointing))?;
        Ok(thread)
    }

    /// Writes what is queued by now, for those who have no threads.
    pub fn step(&self) {
        let _ = self.shared.handover.write_all();
    }

    /// Moves the write-ahead log into the database, as far as it can be.
    pub fn checkpoint(&self) {
        checkpoint::once(&self.checkpoints, &self.shared.handover);
    }

    /// Hands out the connection that writes, while nothing is being written:
    /// whoever wants to see the ledger fail makes it fail there.
    pub fn disturb(&self, work: impl FnOnce(&mut Connection)) {
        self.shared.handover.undisturbed(|desk| desk.disturb(work));
    }
}

impl Writer {
    /// A writer on a store, and its clerk. At most `requests_max` requests are
    /// open at once.
    pub fn new<O: Observer>(
        store: Store,
        requests_max: usize,
        observer: O,
    ) -> Result<(Self, Clerk), StoreError> {
        let requests_max = requests_max.min(Semaphore::MAX_PERMITS);
        let checkpoints = store.connect()?;
        let freed = Arc::new(WrittenFreed::default());
        let desk = Desk::new(store.connect()?, Box::new(observer), Arc::clone(&freed))?;
        let shared = Arc::new(Shared {
            handover: Handover::new(desk),
            freed,
            has_threads: AtomicBool::new(false),
            store,
        });
        let clerk = Clerk { shared: Arc::clone(&shared), checkpoints };
        let requests = Arc::new(Semaphore::new(requests_max));
        let operators = Arc::new(Semaphore::new(OPERATORS_MAX));
        Ok((Self { shared, requests, requests_max, operators }, clerk))
    }

    /// The slot of a request, for its ending; waits a while if all are taken.
    pub async fn slot(&self) -> Result<Slot, StoreError> {
        slot(&self.requests).await
    }

    /// The slot of an operator's work.
    pub async fn operators_slot(&self) -> Result<Slot, StoreError> {
        slot(&self.operators).await
    }

    /// The slot of an operator's work, if one is free now.
    pub fn free_operators_slot(&self) -> Option<Slot> {
        Arc::clone(&self.operators).try_acquire_owned().ok()
    }

    /// Queues a hold. The answer says whether it is in the database.
    ///
    /// One that `leans` on room which facts before it have freed is written with
    /// them or after them: a crash that lost them would lose it too.
    pub fn push_hold(&self, hold: Arc<Hold>, leans: bool) -> Written {
        let (written, answer) = oneshot::channel();
        let waiting = Waiting { what: Pending::Hold { hold, leans }, written };
        let queue = &self.shared.handover.queue;
        // Where a commit is cheap, who waits for it makes it.
        let is_own = !leans && !self.shared.waits_for_disk();
        if leans {
            queue.push(Record::Hold(waiting), Call::Now);
        } else {
            queue.push_hold(waiting, if is_own { Call::None } else { Call::Now });
        }
        Written { answer, is_own }
    }

    /// Queues what was learned of objects. It shares the next commit of holds; who
    /// waits for it with [`Writer::written`] makes that commit, as for a hold. It is
    /// written in the end even if the answer says that it can't be now.
    pub fn push_objects(&self, changes: Vec<ObjectChange>) -> Written {
        let (written, answer) = oneshot::channel();
        let is_own = !self.shared.waits_for_disk();
        let call = if is_own { Call::Soon } else { Call::Now };
        let waiting = Waiting { what: Pending::Objects(changes), written };
        self.shared.handover.queue.push_hold(waiting, call);
        Written { answer, is_own }
    }

    /// What of all the room that was ever freed could still be lost.
    pub fn unwritten(&self, freed: Amounts) -> Amounts {
        self.shared.freed.unwritten(freed)
    }

    /// Queues an entry with the thresholds it crossed and all the room that was
    /// freed by then. What is queued under the
    /// ledger's lock is written in the ledger's order.
    pub fn push_entry(&self, entry: Box<Entry>, crossings: Vec<Crossing>, freed: Amounts, slot: Slot) {
        // Endings that wait keep their slots from new requests.
        let scarce = self.requests.available_permits() < self.requests_max / 2;
        let call = if scarce { Call::Now } else { Call::Soon };
        self.shared.handover.queue.push(Record::Fact(Fact { entry, crossings, freed, _slot: slot }), call);
    }

    /// Queues marks that no entry has brought about: thresholds that were behind
    /// when their limit came into force, hard caps that refuse.
    pub fn push_passed(&self, crossings: Vec<Crossing>, slot: Slot) {
        let passed = Passed { crossings, _slot: slot };
        self.shared.handover.queue.push(Record::Passed(passed), Call::Now);
    }

    /// Waits until a hold or an object that was queued is in the database; `false`
    /// if it can't be written.
    pub async fn written(&self, hold: Written) -> bool {
        if hold.is_own {
            // What else is ready on this thread gets to queue its own.
            tokio::task::yield_now().await;
            self.shared.handover.write_holds();
        }
        hold.answer.await.unwrap_or(false)
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.shared.store.path
    }

    /// Whether the last group was written.
    pub fn is_healthy(&self) -> bool {
        self.shared.handover.is_healthy()
    }

    /// Requests that are open, and those whose ending is being written.
    pub fn taken(&self) -> usize {
        self.requests_max - self.requests.available_permits()
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
        self.shared.handover.queue.push(Record::Job(job, slot), Call::Now);
        answer
    }

    /// Does work on the database after all that was queued before it.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let slot = self.operators_slot().await?;
        Ok(self.queue_job(slot, work).await.map_err(|_| StoreError::Unavailable)??)
    }

    /// Does what may take long on a thread that no request runs on; where everything
    /// goes step by step, at once.
    pub async fn aside<T, F>(&self, work: F) -> Result<T, StoreError>
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
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.run(|_| Ok(())).await
    }
}

async fn slot(of: &Arc<Semaphore>) -> Result<Slot, StoreError> {
    if let Ok(slot) = Arc::clone(of).try_acquire_owned() {
        return Ok(slot);
    }
    let freed = tokio::time::timeout(SLOT_WAIT, Arc::clone(of).acquire_owned()).await;
    freed.map_err(|_| StoreError::Full)?.map_err(|_| StoreError::Unavailable)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|_| StoreError::Unavailable)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.handover.queue.close();
    }
}

impl Shared {
    fn waits_for_disk(&self) -> bool {
        self.store.durability == Durability::Power
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}
