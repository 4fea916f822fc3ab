//! What the lanes of a guard share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::ledger::locked::{Locked, LockedLedger};
use crate::store::postgres::calls::{Call, Queue};
use crate::store::postgres::group::refused;
use crate::store::postgres::nodes::{LANES, new_epoch};
use crate::store::postgres::session::Failure;
use crate::store::{Observer, StoreError};
use crate::sync::unpoisoned;

/// How long what was queued may take to be written, for one who waits for it.
const FLUSH_MAX: Duration = Duration::from_secs(10);

/// Keeps the rules in memory as new as those in the database.
pub trait RulesFollower: Send + Sync {
    /// Reads the rules again, of keys those that were changed since the last time, and puts them in
    /// force in place of those in memory, which never are ahead of the database. Returns their
    /// version. It blocks: not for a thread that connections run on.
    fn refresh(&self) -> Result<i64, StoreError>;
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
    health: Mutex<Health>,
    /// Which start of a guard this is; a new one once it was given up.
    epoch: AtomicI64,
    /// Holds of dead guards whose charges the database refuses.
    refused: Mutex<HashSet<u64>>,
    /// The holds that were its own when it joined again; changed under the ledger's lock.
    kept: Mutex<Arc<HashSet<u64>>>,
    /// Allows one attempt to rejoin at a time.
    pub(super) rejoining: tokio::sync::Mutex<NextEpoch>,
}

/// What keeps a guard from admitting requests.
#[derive(Debug, Default)]
struct Health {
    /// The database did not answer, or refused, when it was last written to.
    is_down: bool,
    /// Lanes whose group could not be written so far.
    stuck: usize,
    /// The database has gone back.
    is_stopped: bool,
}

impl Health {
    /// While one lane is free, requests are admitted on it.
    fn is_good(&self) -> bool {
        !self.is_down && !self.is_stopped && self.stuck < LANES.len()
    }
}

/// The epoch that a guard joins again as. It stays the same until it is known that this was
/// done.
#[derive(Debug, Default)]
pub(super) struct NextEpoch(Option<i64>);

impl NextEpoch {
    /// The epoch to join as.
    pub(super) fn epoch(&mut self) -> Result<i64, StoreError> {
        match self.0 {
            Some(epoch) => Ok(epoch),
            None => Ok(*self.0.insert(new_epoch()?)),
        }
    }
}

/// A lane that can't write its group, until this is dropped.
#[derive(Debug)]
pub(super) struct Stuck(Arc<Shared>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.change_health(|health| health.stuck -= 1);
    }
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
            health: Mutex::default(),
            epoch: AtomicI64::new(epoch),
            refused: Mutex::default(),
            kept: Mutex::default(),
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
        let known = self.rules_version();
        if known >= version {
            return true;
        }
        let Some(follower) = self.follower.get() else { return false };
        match follower.refresh() {
            // One is read after the other, so each has all that the one before it had.
            Ok(version) if version < known => {
                self.note_gone_back();
                false
            }
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

    /// Refuses what waits in the queue, if no lane can write it now.
    pub(super) fn refuse_waiting(&self) {
        if !self.is_healthy() {
            self.queue.retain(refused);
        }
    }

    /// Wakes the first of those who wait at each place: other guards' holds may have ended.
    pub(super) fn call_waiting(&self) {
        self.ledger().queues().call_all();
    }

    /// Whether requests can be admitted.
    pub(super) fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Acquire)
    }

    /// Changes what is known of the health. Returns whether requests could be admitted before.
    fn change_health(&self, change: impl FnOnce(&mut Health)) -> bool {
        let mut health = unpoisoned(self.health.lock());
        let was_healthy = health.is_good();
        change(&mut health);
        let is_healthy = health.is_good();
        self.is_healthy.store(is_healthy, Ordering::Release);
        drop(health);
        if !is_healthy {
            self.queue.note_failure();
        } else if !was_healthy {
            self.observer.recovered();
        }
        was_healthy
    }

    /// The epoch of this guard.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// This guard has joined again in an epoch, after it was given up, with these holds of the
    /// last one: what others have charged meanwhile is corrected once its real end is known.
    pub(super) fn note_rejoined(&self, next: &mut NextEpoch, kept: HashSet<u64>) {
        let Some(epoch) = next.0.take() else { return };
        let (kept, mut ledger) = (Arc::new(kept), self.ledger());
        let charged = ledger.give_up_holds(&kept);
        *unpoisoned(self.kept.lock()) = Arc::clone(&kept);
        self.epoch.store(epoch, Ordering::Release);
        drop(ledger);
        tracing::warn!(
            event = "node_rejoined",
            epoch,
            kept = kept.len(),
            charged,
            "this guard was given up, since it was silent for cluster.node_timeout; it has joined again, and corrects \
             what was charged for its open requests once they end"
        );
    }

    /// Holds of dead guards could not be charged, and would not be the next time.
    pub(super) fn note_refused(&self, holds: &[u64]) {
        unpoisoned(self.refused.lock()).extend(holds);
    }

    /// Those holds.
    pub(super) fn refused(&self) -> HashSet<u64> {
        unpoisoned(self.refused.lock()).clone()
    }

    /// The holds that were still its own when this guard last joined again; `None` if it has
    /// not since an epoch. To be used under the ledger's lock.
    pub(super) fn kept_since(&self, epoch: i64) -> Option<Arc<HashSet<u64>>> {
        (self.epoch() != epoch).then(|| unpoisoned(self.kept.lock()).clone())
    }

    /// Waits until all that this guard queued before is in the database.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        if !self.is_healthy() {
            return Err(StoreError::Unavailable);
        }
        let (ack, written) = oneshot::channel();
        self.queue.push(Call::Flush(ack));
        let written = async {
            let Ok(group) = written.await else { return false };
            self.queue.written_before(group, || self.is_healthy()).await
        };
        // One lane may be stuck while the other is not.
        let is_written = tokio::time::timeout(FLUSH_MAX, written).await.unwrap_or(false);
        if is_written { Ok(()) } else { Err(StoreError::Unavailable) }
    }

    /// The database knows less than it did: a backup was restored, or a standby that lacked
    /// commits has taken over.
    pub(super) fn note_gone_back(&self) {
        let mut is_news = false;
        self.change_health(|health| is_news = !std::mem::replace(&mut health.is_stopped, true));
        if is_news {
            tracing::error!(
                event = "database_went_back",
                "the database knows less than this guard has seen of it: a backup was restored, or a standby without the \
                 last commits has taken over. This guard admits nothing more; check the ledger, then start it again"
            );
        }
    }

    /// The database was written to.
    pub(super) fn note_success(&self) {
        if !self.is_healthy() {
            self.change_health(|health| health.is_down = false);
        }
    }

    /// The database could not be written to, or the connection was lost.
    pub(super) fn note_failure(&self, error: &(dyn std::error::Error + 'static)) {
        if self.change_health(|health| health.is_down = true) {
            self.observer.failed(error);
        }
    }

    /// A lane could not connect, or join again.
    pub(super) fn note(&self, failure: &Failure) {
        match failure {
            Failure::GoneBack => self.note_gone_back(),
            Failure::GivenUp => {}
            Failure::Conflict(error)
            | Failure::RolledBack(error)
            | Failure::Refused(error)
            | Failure::Disconnected(error)
            | Failure::Unknown(error) => self.note_failure(&**error),
        }
    }

    /// A lane can't write its group, until what this returns is dropped.
    pub(super) fn stuck(self: &Arc<Self>) -> Stuck {
        self.change_health(|health| health.stuck += 1);
        Stuck(Arc::clone(self))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("is_healthy", &self.is_healthy).finish_non_exhaustive()
    }
}
