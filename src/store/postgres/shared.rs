//! What the lanes of a guard share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::oneshot;

use crate::ledger::locked::{Locked, LockedLedger};
use crate::store::postgres::calls::{Call, Queue};
use crate::store::postgres::group::refused;
use crate::store::{Observer, StoreError};
use crate::sync::unpoisoned;

/// The version of rules that are to be read again.
const UNKNOWN: i64 = -1;

/// Keeps the rules in memory as new as those in the database.
pub trait RulesFollower: Send + Sync {
    /// Reads the rules again and puts them in force; of keys all, or those that were changed
    /// since the last time. Returns their version. It blocks: not for a thread that
    /// connections run on.
    fn refresh(&self, all_keys: bool) -> Result<i64, StoreError>;
}

/// What the lanes of a guard share.
pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    pub(super) observer: Box<dyn Observer>,
    ledger: Arc<LockedLedger>,
    pub(super) follower: OnceLock<Arc<dyn RulesFollower>>,
    /// The version of the rules in memory.
    rules_version: AtomicI64,
    /// Allows one refresh at a time.
    refreshing: Mutex<()>,
    is_healthy: AtomicBool,
    /// Whether it must not go on, since the database has gone back.
    is_stopped: AtomicBool,
    /// Which start of a guard this is; a new one once it was given up.
    epoch: AtomicI64,
    /// Allows one attempt to rejoin at a time.
    pub(super) rejoining: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(super) fn new(
        ledger: Arc<LockedLedger>,
        observer: Box<dyn Observer>,
        rules_version: i64,
        epoch: i64,
    ) -> Self {
        Self {
            queue: Arc::default(),
            observer,
            ledger,
            follower: OnceLock::new(),
            rules_version: AtomicI64::new(rules_version),
            refreshing: Mutex::default(),
            is_healthy: AtomicBool::new(true),
            is_stopped: AtomicBool::new(false),
            epoch: AtomicI64::new(epoch),
            rejoining: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn ledger(&self) -> Locked<'_> {
        self.ledger.lock()
    }

    /// The version of the rules in memory.
    pub(super) fn rules_version(&self) -> i64 {
        self.rules_version.load(Ordering::Acquire)
    }

    /// Brings the rules in memory to a version at least; `false` if they can't be read. It
    /// blocks.
    pub(super) fn refresh(&self, version: i64) -> bool {
        let _one_at_a_time = unpoisoned(self.refreshing.lock());
        if self.rules_version() >= version {
            return true;
        }
        let Some(follower) = self.follower.get() else { return false };
        match follower.refresh(self.rules_version() == UNKNOWN) {
            Ok(version) => {
                self.rules_version.store(version, Ordering::Release);
                true
            }
            Err(error) => {
                tracing::error!(event = "rules_refresh_failed", %error, "the rules can't be read again");
                false
            }
        }
    }

    /// Refuses the requests that wait, since no lane can admit them now.
    pub(super) fn refuse_requests(&self) {
        for call in self.queue.take_requests() {
            drop(refused(call));
        }
    }

    /// Wakes the first of those who wait at each place: other guards' holds may have ended.
    pub(super) fn call_waiting(&self) {
        self.ledger().queues().call_all();
    }

    /// What is in memory may not be what is stored: it is read again before anything is
    /// admitted.
    pub(super) fn distrust_rules(&self) {
        self.rules_version.store(UNKNOWN, Ordering::Release);
    }

    /// Whether the last group was written, and this guard may write more.
    pub(super) fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Acquire) && !self.is_stopped.load(Ordering::Acquire)
    }

    /// The epoch of this guard.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// This guard has joined again in an epoch, after it was given up, with these holds of the
    /// last one: what others have charged meanwhile is corrected once its real end is known.
    pub(super) fn note_rejoined(&self, epoch: i64, kept: &HashSet<u64>) {
        let charged = self.ledger().give_up_holds(kept);
        self.epoch.store(epoch, Ordering::Release);
        tracing::warn!(
            event = "node_rejoined",
            epoch,
            kept = kept.len(),
            charged,
            "this guard was given up, since it was silent for cluster.node_timeout; it has joined again, and corrects \
             what was charged for its open requests once they end"
        );
    }

    /// Waits until all that this guard queued before is in the database.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let (ack, written) = oneshot::channel();
        self.queue.push(Call::Flush(ack));
        let group = written.await.map_err(|_| StoreError::Unavailable)?;
        let is_written = self.queue.written_before(group, || self.is_healthy()).await;
        if is_written { Ok(()) } else { Err(StoreError::Unavailable) }
    }

    /// The database knows less than it did: a backup was restored, or a standby that lacked
    /// commits has taken over.
    pub(super) fn note_gone_back(&self) {
        if !self.is_stopped.swap(true, Ordering::AcqRel) {
            tracing::error!(
                event = "database_went_back",
                "the database knows less than this guard has seen of it: a backup was restored, or a standby without the \
                 last commits has taken over. This guard admits nothing more; check the ledger, then start it again"
            );
        }
    }

    /// A group was written.
    pub(super) fn note_success(&self) {
        if !self.is_healthy.swap(true, Ordering::AcqRel) {
            self.observer.recovered();
        }
    }

    /// A group could not be written, or the connection was lost.
    pub(super) fn note_failure(&self, error: &(dyn std::error::Error + 'static)) {
        if self.is_healthy.swap(false, Ordering::AcqRel) {
            self.observer.failed(error);
            self.queue.note_failure();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("is_healthy", &self.is_healthy).finish_non_exhaustive()
    }
}
