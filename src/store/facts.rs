//! What is queued for the database: holds that requests wait for, and facts in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::limit::Unit;
use crate::ledger::entry::{Amounts, Crossing, Entry, Hold};
use crate::store::objects::ObjectChange;

/// A place in the writer's bounded queue. A writer owns one beforehand, so
/// that it can always write; it is free again afterwards.
pub type Slot = OwnedSemaphorePermit;

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
    pub(super) fn note(&self, freed: Amounts) {
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
