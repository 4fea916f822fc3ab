//! The one thread that writes, in groups.
//!
//! Whatever waits in the queue becomes one transaction. Holds are acknowledged
//! when it has committed. If it can't commit, holds are refused at once, but
//! endings are kept and tried again until they are in: what has been spent is
//! never forgotten. The queue is bounded, and each open reservation owns a slot
//! in it, so that its ending can always be written.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender};
use tokio::sync::oneshot;

use crate::ledger::entry::{Crossing, Entry, Hold};
use crate::store::group::{OpenBatches, commit};
use crate::store::{Store, StoreError};

/// The longest group, which bounds how long one transaction can take.
const GROUP_MAX: usize = 4_096;
const GATHERINGS_MAX: usize = 4;
const RETRY_AFTER: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Something to write.
pub enum Record {
    /// A hold; the answer says whether it is in the database.
    Hold(Arc<Hold>, oneshot::Sender<bool>),
    /// An entry, with the thresholds it crossed; a crossing is written once,
    /// however often it is said.
    Entry(Box<Entry>, Vec<Crossing>),
    /// Work on the database in the order of the queue.
    Job(Job),
}

/// Hears what the writer does.
pub trait Observer: Send + 'static {
    /// A group is about to be written.
    fn committing(&self);
    /// It is in the database.
    fn committed(&self);
    /// It is not; holds in it were refused, the rest is kept.
    fn failed(&self, error: &rusqlite::Error);
    /// A threshold was crossed that had not been before.
    fn crossed(&self, crossing: &Crossing);
}

/// The handle to the writer's queue.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Sender<Record>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread. It ends when every handle and permit is gone.
    pub fn start<O: Observer>(
        store: &Store,
        queue_max: usize,
        observer: O,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let db = store.connect()?;
        let (queue, records) = mpsc::channel(queue_max);
        let healthy = Arc::new(AtomicBool::new(true));
        let shared = Arc::clone(&healthy);
        let body = move || {
            let mut thread = Thread {
                db,
                observer,
                healthy: shared,
                open: OpenBatches::default(),
                backlog: Vec::new(),
                refused: HashSet::new(),
            };
            thread.run(records);
        };
        let thread = std::thread::Builder::new().name("ledger-writer".to_owned()).spawn(body);
        let thread = thread.map_err(|_| StoreError::Unavailable)?;
        Ok((Self { queue, healthy }, thread))
    }

    /// A slot in the queue; waits while it is full.
    pub async fn slot(&self) -> Result<OwnedPermit<Record>, StoreError> {
        self.queue.clone().reserve_owned().await.map_err(|_| StoreError::Unavailable)
    }

    /// A slot in the queue if one is free now.
    pub fn try_slot(&self) -> Option<OwnedPermit<Record>> {
        self.queue.clone().try_reserve_owned().ok()
    }

    /// Whether the last group was written.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Records that wait to be written, slots of open reservations included.
    pub fn taken(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Does work on the database after all that was queued before it.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let slot = self.slot().await?;
        let (record, answer) = job(work);
        slot.send(record);
        Ok(answer.await.map_err(|_| StoreError::Unavailable)??)
    }

    /// Waits until all that was queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.run(|_| Ok(())).await
    }
}

/// Lets others run for a moment and takes what they have queued: under load a
/// few more facts share the transaction; without, it costs a system call.
fn gather(records: &mut Receiver<Record>, group: &mut Vec<Record>) {
    for _ in 0..GATHERINGS_MAX {
        std::thread::yield_now();
        let before = group.len();
        while group.len() < GROUP_MAX {
            let Ok(record) = records.try_recv() else { break };
            group.push(record);
        }
        if group.len() == before {
            return;
        }
    }
}

/// A record that does work, and where its result will be.
pub fn job<T, F>(work: F) -> (Record, oneshot::Receiver<rusqlite::Result<T>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let (tell, answer) = oneshot::channel();
    let job: Job = Box::new(move |db| {
        // Nobody may be waiting any more; the work is done all the same.
        let _ = tell.send(work(db));
    });
    (Record::Job(job), answer)
}

struct Thread<O> {
    db: Connection,
    observer: O,
    healthy: Arc<AtomicBool>,
    open: OpenBatches,
    backlog: Vec<Record>,
    /// Holds that could not be written; their releases need not be either.
    refused: HashSet<u64>,
}

impl<O: Observer> Thread<O> {
    fn run(&mut self, mut records: Receiver<Record>) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        loop {
            if self.backlog.is_empty() {
                if records.blocking_recv_many(&mut group, GROUP_MAX) == 0 {
                    return;
                }
            } else {
                std::thread::sleep(RETRY_AFTER);
                while group.len() < GROUP_MAX {
                    let Ok(record) = records.try_recv() else { break };
                    group.push(record);
                }
            }
            gather(&mut records, &mut group);
            let mut facts = std::mem::take(&mut self.backlog);
            for record in group.drain(..) {
                if let Record::Job(job) = record {
                    self.write(&mut facts);
                    job(&mut self.db);
                } else {
                    facts.push(record);
                }
            }
            self.write(&mut facts);
            self.backlog.append(&mut facts);
        }
    }

    /// Writes a group. Afterwards `facts` holds what has to be tried again.
    fn write(&mut self, facts: &mut Vec<Record>) {
        let refused = &mut self.refused;
        facts.retain(|fact| !matches!(fact, Record::Entry(entry, _) if refused.remove(&entry.id)));
        if facts.is_empty() {
            return;
        }
        self.observer.committing();
        let written = commit(&mut self.db, facts, &mut self.open);
        self.healthy.store(written.is_ok(), Ordering::Relaxed);
        match written {
            Ok(crossed) => {
                self.observer.committed();
                for crossing in &crossed {
                    self.observer.crossed(crossing);
                }
                for fact in facts.drain(..) {
                    if let Record::Hold(_, admitted) = fact {
                        let _ = admitted.send(true);
                    }
                }
            }
            Err(error) => {
                self.observer.failed(&error);
                let refused = facts.extract_if(.., |fact| matches!(fact, Record::Hold(..)));
                for hold in refused {
                    if let Record::Hold(hold, admitted) = hold {
                        self.refused.insert(hold.id);
                        let _ = admitted.send(false);
                    }
                }
            }
        }
    }
}
