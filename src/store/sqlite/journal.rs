//! The journal: holds and endings on their way into the database.
//!
//! All that waits becomes one transaction. A commit that only has to survive the process
//! is a few writes into the page cache, cheaper than waking another thread: so a task
//! that waits for a hold first lets other tasks of its thread queue theirs, and then
//! commits the whole group itself. No request waits for endings, so the background writer
//! gathers them for a moment. It also does what may take long: work for operators, commits
//! that wait for the disk, and retries while the database can't be written.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::ledger::entry::{Amounts, Crossing, Entry, Hold, Job};
use crate::store::StoreError;
use crate::store::objects::ObjectChange;
use crate::store::records::AuditRow;
use crate::store::slots::{Slot, Slots};
use crate::store::snapshot::{Snapshot, SnapshotNeed};
use crate::store::sql::{self, Db, Owned, audit};
use crate::store::sqlite::handle::{Handle, Shared};
use crate::store::sqlite::leader::GroupCommit;
use crate::store::sqlite::pending::{CrossingRecord, EndingRecord, Pending, PendingWrite, Record};
use crate::store::sqlite::queue::Wake;
use crate::store::sqlite::{checkpoint, inspect, read_only};

/// Writes what admission decides, in the ledger's order.
#[derive(Debug)]
pub struct Journal {
    handle: Arc<Handle>,
}

/// The acknowledgement of a hold, a job or objects that are being written.
#[derive(Debug)]
pub struct WriteAck {
    answer: oneshot::Receiver<bool>,
    /// Whether the task that waits for it writes it.
    is_own: bool,
}

/// What is queued for the database without a request that waits for it: written by
/// threads of its own, or step by step.
#[must_use = "without it, endings are never written"]
pub struct BackgroundWriter {
    shared: Arc<Shared>,
    checkpoints: Connection,
}

/// A result that the background writer sends when it comes to a place in the queue.
#[derive(Debug)]
pub struct Queued<T>(oneshot::Receiver<sql::Result<T>>);

impl<T> Queued<T> {
    /// Waits for it.
    pub async fn done(self) -> Result<T, StoreError> {
        Ok(self.0.await.map_err(|_| StoreError::Unavailable)??)
    }
}

impl BackgroundWriter {
    pub(super) fn new(shared: Arc<Shared>, checkpoints: Connection) -> Self {
        Self { shared, checkpoints }
    }

    /// Starts the threads; the returned one ends once all ports are dropped and
    /// everything is written.
    pub fn start(self) -> Result<JoinHandle<()>, StoreError> {
        let Self { shared, checkpoints } = self;
        shared.set_threads();
        let checkpointing = Arc::downgrade(&shared);
        let thread = spawn("ledger-writer", move || shared.leader.run())?;
        spawn("ledger-checkpoint", move || checkpoint::run(&checkpoints, &checkpointing))?;
        Ok(thread)
    }

    /// Writes what is queued by now, where there are no threads.
    pub fn step(&self) {
        let _ = self.shared.leader.write_all();
    }

    /// Moves the write-ahead log into the database, as far as it can be.
    pub fn checkpoint(&self) {
        checkpoint::once(&self.checkpoints, &self.shared.leader);
    }

    /// Lends the connection that writes, while nothing is being written, so that a test
    /// can make it fail.
    pub fn disturb(&self, work: impl FnOnce(&mut Connection)) {
        self.shared.leader.undisturbed(|connection| connection.disturb(work));
    }
}

impl Journal {
    /// A journal on a handle.
    pub(in crate::store) fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    fn leader(&self) -> &GroupCommit {
        &self.handle.shared().leader
    }

    /// The slots of requests and of operators.
    pub(in crate::store) fn slots(&self) -> &Slots {
        self.handle.slots()
    }

    /// Queues a hold. The acknowledgement says whether it is in the database.
    ///
    /// One that `depends_on_unwritten` releases, which records before it have made, is
    /// written with them or after them: a crash that loses them would lose it too.
    pub fn push_hold(&self, hold: Arc<Hold>, depends_on_unwritten: bool) -> WriteAck {
        let what = Pending::Hold { hold, depends_on_unwritten };
        if depends_on_unwritten { self.push_in_order(what) } else { self.push_ahead(what, Wake::None) }
    }

    /// Queues the job that a hold is for from now on. If the acknowledgement says that it
    /// can't be written, it stays the hold of its request.
    ///
    /// It keeps its place among records: the object may be that of a job whose ending is
    /// queued before it.
    pub fn push_job(&self, hold: Arc<Hold>, job: Job) -> WriteAck {
        self.push_in_order(Pending::Job(hold, job))
    }

    /// Queues what was learned of objects. It shares the next commit of holds; a task
    /// that waits for it with [`Journal::written`] makes that commit, as for a hold. It is
    /// written in the end even if the acknowledgement says that it can't be now.
    pub fn push_objects(&self, changes: Vec<ObjectChange>) -> WriteAck {
        self.push_ahead(Pending::Objects(changes), Wake::Soon)
    }

    /// Queues a write among the records, in their order.
    fn push_in_order(&self, what: Pending) -> WriteAck {
        let (ack, answer) = oneshot::channel();
        self.leader().queue.push(Record::Write(PendingWrite { what, ack }), Wake::Now);
        WriteAck { answer, is_own: false }
    }

    /// Queues a write ahead of the records. Where a commit is cheap, the task that waits for
    /// it makes it, and the background writer is woken as `own` says.
    fn push_ahead(&self, what: Pending, own: Wake) -> WriteAck {
        let (ack, answer) = oneshot::channel();
        let is_own = !self.handle.shared().waits_for_disk();
        self.leader().queue.push_hold(PendingWrite { what, ack }, if is_own { own } else { Wake::Now });
        WriteAck { answer, is_own }
    }

    /// The part of all room ever released that a crash could still take back.
    pub fn unwritten(&self, released: Amounts) -> Amounts {
        self.handle.shared().unwritten(released)
    }

    /// Queues an entry with the thresholds it crossed and all the room that was
    /// released by then. What is queued under the ledger's lock is written in the
    /// ledger's order.
    pub fn push_entry(&self, entry: Box<Entry>, crossings: Vec<Crossing>, released: Amounts, slot: Slot) {
        self.push_ending(EndingRecord { entry, crossings, released, renewed: None, _slot: slot });
    }

    /// The same for the hold of a job, which has another hold from then on, by the same
    /// transaction.
    pub fn push_renewal(
        &self,
        entry: Box<Entry>,
        crossings: Vec<Crossing>,
        released: Amounts,
        renewed: (Arc<Hold>, Job),
        slot: Slot,
    ) {
        self.push_ending(EndingRecord { entry, crossings, released, renewed: Some(renewed), _slot: slot });
    }

    fn push_ending(&self, ending: EndingRecord) {
        // Endings that wait keep their slots from new requests.
        let scarce = self.slots().are_scarce();
        let wake = if scarce { Wake::Now } else { Wake::Soon };
        self.leader().queue.push(Record::Ending(ending), wake);
    }

    /// Queues crossings that no entry has caused: thresholds that were passed already
    /// when their limit came into force, hard caps that reject requests.
    pub fn push_crossings(&self, crossings: Vec<Crossing>, slot: Slot) {
        let record = CrossingRecord { crossings, _slot: slot };
        self.leader().queue.push(Record::Crossings(record), Wake::Now);
    }

    /// Queues a row of the audit log, behind what was queued before.
    pub fn push_audit(&self, row: AuditRow, slot: Slot) -> Queued<()> {
        Queued(self.handle.queue_work(slot, move |db| audit::insert(Db::Sqlite(db), &row)))
    }

    /// Queues the taking of a snapshot, if one is needed: it has exactly the records that
    /// were queued before.
    pub fn snapshot(&self, slot: Slot, need: SnapshotNeed) -> Queued<Option<Snapshot>> {
        let take = move |db: &Connection| match need {
            SnapshotNeed::Taken => Ok(Some(Snapshot::of(Owned::Sqlite(pinned(db)?), inspect::damage_of))),
            SnapshotNeed::None => Ok(None),
        };
        Queued(self.handle.queue_work(slot, take))
    }

    /// Waits until a hold or an object that was queued is in the database; `false`
    /// if it can't be written.
    pub async fn written(&self, write: WriteAck) -> bool {
        if write.is_own {
            // Other tasks of this thread that are ready get to queue theirs.
            tokio::task::yield_now().await;
            self.leader().write_holds();
        }
        write.answer.await.unwrap_or(false)
    }

    /// Whether the last group was written.
    pub fn is_healthy(&self) -> bool {
        self.leader().is_healthy()
    }

    /// Runs what may take long on a thread that no request runs on; where everything
    /// runs step by step, at once.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.handle.blocking(work).await
    }

    /// Waits until all that was queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.handle.flush().await
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|_| StoreError::Unavailable)
}

/// A connection of its own that begins to read what a connection has written by now.
fn pinned(db: &Connection) -> rusqlite::Result<Connection> {
    let pinned = read_only(Path::new(db.path().unwrap_or_default()))?;
    pinned.execute_batch("BEGIN; SELECT 1 FROM entry LIMIT 1")?;
    Ok(pinned)
}
