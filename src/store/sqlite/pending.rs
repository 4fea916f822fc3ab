//! What is queued for the database: holds that requests wait for, and records in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::domain::limit::Unit;
use crate::ledger::entry::{Amounts, Crossing, Entry, Hold, Job};
use crate::store::Slot;
use crate::store::objects::ObjectChange;

pub(super) type Work = Box<dyn FnOnce(&Connection) + Send>;

/// A write that a request may wait for, and the channel that says whether it is in
/// the database.
pub(super) struct PendingWrite {
    pub(super) what: Pending,
    pub(super) ack: oneshot::Sender<bool>,
}

pub(super) enum Pending {
    /// A hold. It is followed by the ending that owns the slot.
    Hold {
        hold: Arc<Hold>,
        /// Whether it was queued among the records, not ahead of them.
        depends_on_unwritten: bool,
    },
    /// The job that an open request's hold is for from now on.
    Job(Arc<Hold>, Job),
    /// What an open request has learned of objects: a few records for each.
    Objects(Vec<ObjectChange>),
}

/// An entry, with the thresholds it crossed; a crossing is written once,
/// however often it is queued.
pub(super) struct EndingRecord {
    pub(super) entry: Box<Entry>,
    pub(super) crossings: Vec<Crossing>,
    /// All room that entries have released, this one included.
    pub(super) released: Amounts,
    /// The hold that the job of this one has from now on.
    pub(super) renewed: Option<(Arc<Hold>, Job)>,
    pub(super) _slot: Slot,
}

/// The room that has been released by entries in the database.
#[derive(Debug, Default)]
pub(super) struct WrittenReleases([AtomicI64; Unit::ALL.len()]);

impl WrittenReleases {
    pub(super) fn note(&self, released: Amounts) {
        for (written, released) in self.0.iter().zip(released) {
            written.store(released, Ordering::Release);
        }
    }

    /// The part of all released room that is not in the database.
    pub(super) fn unwritten(&self, released: Amounts) -> Amounts {
        Unit::ALL.map(|unit| {
            let at = unit.index();
            released[at].wrapping_sub(self.0[at].load(Ordering::Acquire))
        })
    }
}

/// Crossings that no entry has caused.
pub(super) struct CrossingRecord {
    pub(super) crossings: Vec<Crossing>,
    pub(super) _slot: Slot,
}

/// What is written in the order in which it was queued.
pub(super) enum Record {
    Ending(EndingRecord),
    Crossings(CrossingRecord),
    /// A hold that depends on the records before it, or the job of one.
    Write(PendingWrite),
    /// Work on the database.
    Work(Work, Slot),
}
