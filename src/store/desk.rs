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

/// A hold, and who is to be told whether it is in the database. It is followed
/// by the ending that owns the slot.
pub(super) struct Waiting {
    pub(super) hold: Arc<Hold>,
    pub(super) written: oneshot::Sender<bool>,
}

/// An entry, with the thresholds it crossed; a crossing is written once,
/// however often it is said.
pub(super) struct Fact {
    pub(super) entry: Box<Entry>,
    pub(super) crossings: Vec<Crossing>,
    pub(super) _slot: Slot,
}

/// What is written in the order in which it was queued.
pub(super) enum Record {
    Fact(Fact),
    /// Work on the database.
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
    backlog: Vec<Fact>,
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

    /// Writes holds, what could not be written before, and `records` in order.
    /// Returns whether it could.
    pub(super) fn write(&mut self, mut holds: Vec<Waiting>, records: Vec<Record>) -> bool {
        let mut facts = std::mem::take(&mut self.backlog);
        let mut wrote = true;
        for record in records {
            match record {
                Record::Fact(fact) => facts.push(fact),
                Record::Job(job, _slot) => {
                    wrote &= self.commit(&mut holds, &mut facts);
                    job(&mut self.db);
                }
            }
        }
        wrote &= self.commit(&mut holds, &mut facts);
        self.backlog = facts;
        wrote
    }

    /// Writes a group. Afterwards `facts` holds what has to be tried again.
    fn commit(&mut self, holds: &mut Vec<Waiting>, facts: &mut Vec<Fact>) -> bool {
        if !self.refused.is_empty() {
            facts.retain(|fact| !self.refused.remove(&fact.entry.id));
        }
        if holds.is_empty() && facts.is_empty() {
            return true;
        }
        self.observer.committing();
        let written = commit(&mut self.db, holds, facts, &mut self.open);
        match &written {
            Ok(crossed) => {
                self.observer.committed();
                for crossing in crossed {
                    self.observer.crossed(crossing);
                }
                facts.clear();
            }
            Err(error) => {
                self.observer.failed(error);
                self.refused.extend(holds.iter().map(|waiting| waiting.hold.id));
            }
        }
        for waiting in holds.drain(..) {
            let _ = waiting.written.send(written.is_ok());
        }
        written.is_ok()
    }
}
