//! Jobs: the hold that one is for, and the next one.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::guard::Core;
use crate::ledger::Ended;
use crate::ledger::entry::{Entry, Hold, Job};
use crate::store::{Journal, Slot, WriteAck};

impl Core {
    /// Queues the job that a hold is for from now on.
    pub(in crate::guard) fn push_job(&self, hold: Arc<Hold>, job: Job) -> WriteAck {
        self.journal().push_job(hold, job)
    }

    /// Ends the hold of a job by its entry, and makes the next one the job's from then on, in one
    /// step. `None` says that this is so; otherwise the answer says it once it is written, or that
    /// another guard has ended the hold.
    pub(in crate::guard) fn renew(
        &self,
        entry: Box<Entry>,
        hold: &Arc<Hold>,
        renewed: (Arc<Hold>, Job),
        slot: Slot,
    ) -> Option<oneshot::Receiver<bool>> {
        match self.journal() {
            Journal::Embedded(journal) => {
                let mut ledger = self.ledger();
                let Ended { crossings, .. } = ledger.end(&entry);
                journal.push_renewal(entry, crossings, ledger.released(), renewed, slot);
                None
            }
            Journal::Shared(lanes) => Some(lanes.push_renewal(entry, Arc::clone(hold), renewed, slot)),
        }
    }
}
