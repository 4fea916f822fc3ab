//! Where facts are written: groups of them, each in one transaction.
//!
//! Holds are acknowledged when their group has committed. If it can't commit,
//! holds are refused at once, but endings are kept and tried again until they
//! are in: what has been spent is never forgotten.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::limit::Unit;
use crate::ledger::entry::{Amounts, Crossing, Entry, Hold};
use crate::store::days;
use crate::store::group::{Group, OpenBatches, commit};
use crate::store::objects::ObjectChange;
use crate::store::rollup::RollupKey;
use crate::store::schema::VERSION;

/// A place in the writer's bounded queue. Who is going to write owns one
/// beforehand, so that he can always write; it is free again afterwards.
pub type Slot = OwnedSemaphorePermit;

/// How long another program's lock on the database is waited for. Requests wait
/// meanwhile, so it is short; what could not be written is tried again.
const BUSY_MAX: Duration = Duration::from_millis(50);

pub(super) type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// What a request may wait for, and where to say whether it is in the database.
pub(super) struct Waiting {
    pub(super) what: Pending,
    pub(super) written: oneshot::Sender<bool>,
}

pub(super) enum Pending {
    /// A hold. It is followed by the ending that owns the slot.
    Hold {
        hold: Arc<Hold>,
        /// Whether it was queued among the facts, not ahead of them.
        leans: bool,
    },
    /// What an open request has learned of objects: a few records for each.
    Objects(Vec<ObjectChange>),
}

/// An entry, with the thresholds it crossed; a crossing is written once,
/// however often it is said.
pub(super) struct Fact {
    pub(super) entry: Box<Entry>,
    pub(super) crossings: Vec<Crossing>,
    /// All room that facts have freed, this one included.
    pub(super) freed: Amounts,
    pub(super) _slot: Slot,
}

/// The room that has been freed by facts in the database.
#[derive(Debug, Default)]
pub(super) struct WrittenFreed([AtomicI64; Unit::ALL.len()]);

impl WrittenFreed {
    fn note(&self, freed: Amounts) {
        for (written, freed) in self.0.iter().zip(freed) {
            written.store(freed, Ordering::Release);
        }
    }

    /// What of all that was ever freed is not in the database.
    pub(super) fn unwritten(&self, freed: Amounts) -> Amounts {
        Unit::ALL.map(|unit| {
            let at = unit.index();
            freed[at].wrapping_sub(self.0[at].load(Ordering::Acquire))
        })
    }
}

/// Marks that no entry has brought about.
pub(super) struct Passed {
    pub(super) crossings: Vec<Crossing>,
    pub(super) _slot: Slot,
}

/// What is written in the order in which it was queued.
pub(super) enum Record {
    Fact(Fact),
    Passed(Passed),
    /// A hold that leans on the facts before it.
    Hold(Waiting),
    /// Work on the database.
    Job(Job, Slot),
}

/// Hears what is written.
pub trait Observer: Send + 'static {
    /// A group is about to be written.
    fn committing(&self);
    /// It is in the database.
    fn committed(&self);
    /// It is not; holds in it were refused, the rest is kept. Said once, until
    /// the database can be written again.
    fn failed(&self, error: &rusqlite::Error);
    /// The database can be written again.
    fn recovered(&self);
    /// A meter has come to a mark where it had not been before.
    fn crossed(&self, crossing: &Crossing);
}

/// The one connection that writes, and what it has still to write.
pub(super) struct Desk {
    db: Connection,
    observer: Box<dyn Observer>,
    open: OpenBatches,
    /// Where the sums of days end; only work on the database moves it.
    summed: RollupKey,
    freed: Arc<WrittenFreed>,
    /// Facts that could not be written yet.
    backlog: Vec<Fact>,
    /// The same of thresholds; when they are written among facts changes nothing.
    passed: Vec<Passed>,
    /// The same of objects, in their order.
    objects: Vec<ObjectChange>,
    /// Holds that could not be written; their releases need not be either.
    refused: HashSet<u64>,
    healthy: bool,
}

impl Desk {
    pub(super) fn new(
        db: Connection,
        observer: Box<dyn Observer>,
        freed: Arc<WrittenFreed>,
    ) -> rusqlite::Result<Self> {
        db.busy_timeout(BUSY_MAX)?;
        let (open, summed) = (OpenBatches::default(), days::end(&db)?);
        let (backlog, passed, objects, refused) = (Vec::new(), Vec::new(), Vec::new(), HashSet::new());
        Ok(Self { db, observer, open, summed, freed, backlog, passed, objects, refused, healthy: true })
    }

    /// Hands out the connection.
    pub(super) fn disturb(&mut self, work: impl FnOnce(&mut Connection)) {
        work(&mut self.db);
    }

    /// Whether there is nothing that could not be written.
    pub(super) fn is_clear(&self) -> bool {
        self.backlog.is_empty() && self.passed.is_empty() && self.objects.is_empty()
    }

    /// Whether the last attempt to write succeeded.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Finds out whether the database can be written again.
    pub(super) fn probe(&mut self) {
        // Sets the version to what it is, which is a write like any other.
        let probed = self.db.pragma_update(None, "user_version", VERSION);
        self.note(probed.as_ref().err());
    }

    /// Writes holds, what could not be written before, and `records` in order.
    pub(super) fn write(&mut self, mut holds: Vec<Waiting>, records: Vec<Record>) {
        let mut facts = std::mem::take(&mut self.backlog);
        for record in records {
            match record {
                Record::Fact(fact) => facts.push(fact),
                Record::Passed(passed) => self.passed.push(passed),
                Record::Hold(waiting) => holds.push(waiting),
                Record::Job(job, _slot) => {
                    self.commit(&mut holds, &mut facts);
                    // It counts on what came before it. Dropped, it tells its
                    // asker that the ledger can't be written.
                    if facts.is_empty() && self.passed.is_empty() && self.objects.is_empty() {
                        job(&mut self.db);
                        // Of what can't be read, everything is taken to be behind it.
                        let all = |_| RollupKey { start_s: i64::MAX, ..RollupKey::default() };
                        self.summed = days::end(&self.db).unwrap_or_else(all);
                    }
                }
            }
        }
        self.commit(&mut holds, &mut facts);
        self.backlog = facts;
    }

    /// Writes a group. Afterwards `facts` holds what has to be tried again.
    fn commit(&mut self, holds: &mut Vec<Waiting>, facts: &mut Vec<Fact>) {
        let freed = facts.last().map(|fact| fact.freed);
        if !self.refused.is_empty() {
            facts.retain(|fact| !self.refused.remove(&fact.entry.id));
        }
        if holds.is_empty() && facts.is_empty() && self.passed.is_empty() && self.objects.is_empty() {
            return;
        }
        self.observer.committing();
        let group = Group { holds, facts, passed: &self.passed, objects: &self.objects };
        let written = commit(&self.db, &self.summed, &group, &mut self.open);
        self.note(written.as_ref().err());
        if let Ok(crossed) = &written {
            self.observer.committed();
            for crossing in crossed {
                self.observer.crossed(crossing);
            }
            facts.clear();
            self.passed.clear();
            self.objects.clear();
            if let Some(freed) = freed {
                self.freed.note(freed);
            }
        }
        for Waiting { what, written: tell } in holds.drain(..) {
            if written.is_err() {
                match what {
                    Pending::Hold { hold, .. } => drop(self.refused.insert(hold.id)),
                    // Upstream has made them, whether that can be written or not.
                    Pending::Objects(changes) => self.objects.extend(changes),
                }
            }
            let _ = tell.send(written.is_ok());
        }
    }

    fn note(&mut self, failure: Option<&rusqlite::Error>) {
        let was_healthy = std::mem::replace(&mut self.healthy, failure.is_none());
        match failure {
            Some(error) if was_healthy => self.observer.failed(error),
            None if !was_healthy => self.observer.recovered(),
            _ => {}
        }
    }
}
