//! Where facts are written: groups of them, each in one transaction.
//!
//! Holds are acknowledged when their group has committed. If it can't commit,
//! holds are refused at once, but endings are kept and tried again until they
//! are in: what has been spent is never forgotten.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::ledger::entry::{Crossing, Entry, Hold};
use crate::store::group::{OpenBatches, commit};

/// A place in the writer's bounded queue. Who is going to write owns one
/// beforehand, so that he can always write; it is free again afterwards.
pub type Slot = OwnedSemaphorePermit;

pub(super) type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Something to write.
pub enum Record {
    /// A hold; the answer says whether it is in the database. It is followed by
    /// the ending that owns the slot.
    Hold(Arc<Hold>, oneshot::Sender<bool>),
    /// An entry, with the thresholds it crossed; a crossing is written once,
    /// however often it is said.
    Entry(Box<Entry>, Vec<Crossing>, Slot),
    /// Work on the database in the order of the queue.
    Job(Job, Slot),
}

/// Hears what is written.
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

/// The one connection that writes, and what it has still to write.
pub(super) struct Desk {
    db: Connection,
    observer: Box<dyn Observer>,
    open: OpenBatches,
    /// Facts that could not be written yet.
    backlog: Vec<Record>,
    /// Holds that could not be written; their releases need not be either.
    refused: HashSet<u64>,
}

impl Desk {
    pub(super) fn new(db: Connection, observer: Box<dyn Observer>) -> Self {
        let open = OpenBatches::default();
        Self { db, observer, open, backlog: Vec::new(), refused: HashSet::new() }
    }

    /// Whether there is nothing that could not be written.
    pub(super) fn is_clear(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Writes what could not be written before and then `records`, in order.
    pub(super) fn write(&mut self, records: Vec<Record>) {
        let mut facts = std::mem::take(&mut self.backlog);
        for record in records {
            if let Record::Job(job, _slot) = record {
                self.commit(&mut facts);
                job(&mut self.db);
            } else {
                facts.push(record);
            }
        }
        self.commit(&mut facts);
        self.backlog = facts;
    }

    /// Writes a group. Afterwards `facts` holds what has to be tried again.
    fn commit(&mut self, facts: &mut Vec<Record>) {
        if !self.refused.is_empty() {
            let refused = &mut self.refused;
            facts.retain(|fact| !matches!(fact, Record::Entry(entry, ..) if refused.remove(&entry.id)));
        }
        if facts.is_empty() {
            return;
        }
        self.observer.committing();
        match commit(&mut self.db, facts, &mut self.open) {
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
                for hold in facts.extract_if(.., |fact| matches!(fact, Record::Hold(..))) {
                    if let Record::Hold(hold, admitted) = hold {
                        self.refused.insert(hold.id);
                        let _ = admitted.send(false);
                    }
                }
            }
        }
    }
}
