//! Pruning of old entries, and the disk space of the database.
//!
//! Rows to prune are found on a read-only connection; the writer deletes a few rows
//! at a time, behind everything that was queued before, and has four fifths of the
//! time for other work. A crash between two steps leaves a sound ledger.

use std::time::Duration;

use tokio::sync::watch;

use crate::books::Books;
use crate::guard::audit::{Actor, Change};
use crate::ledger::calendar::utc;
use crate::store::StoreError;
use crate::store::reports::{PruneError, quarter_start_s};

/// How often it looks for entries that are old enough.
const EVERY: Duration = Duration::from_secs(60);
/// The shortest pause between two steps.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause after a step, as a multiple of the step's duration.
const PAUSE_FACTOR: u32 = 4;
/// Entries younger than this are never pruned: a clock that is set back by less still finds all that
/// limits need.
const AGE_MIN_S: i64 = 86_400;

/// The progress of a pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Entries admitted before this time are pruned, in Unix seconds.
    pub before_s: i64,
    /// The number of pruned entries.
    pub entries: u64,
    /// Whether there are more to prune.
    pub has_more: bool,
}

impl Books {
    /// Prunes entries older than `keep` from time to time, until it is stopped.
    pub async fn prune_old(
        &self,
        keep: impl Fn() -> Option<Duration> + Send,
        mut stop: watch::Receiver<bool>,
    ) {
        while !*stop.borrow() {
            if let Some(keep) = keep() {
                let keep_s = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
                let before_s = self.prunable_before_s(self.core.clock().now_s().saturating_sub(keep_s));
                let mut entries = 0;
                if let Err(error) = self.prune_until(before_s, &stop, &mut entries).await {
                    tracing::error!(
                        event = "prune_failed", %error,
                        "old entries can't be pruned; the database grows meanwhile"
                    );
                }
                if entries > 0 {
                    tracing::info!(
                        event = "entries_pruned", entries, before = %utc(before_s),
                        "old entries were pruned"
                    );
                }
            }
            let _ = tokio::time::timeout(EVERY, stop.changed()).await;
        }
    }

    /// The latest time, at most the requested one, before which entries may be pruned, in Unix seconds: the
    /// end of a quarter of an hour, at least a day ago.
    pub fn prunable_before_s(&self, requested_s: i64) -> i64 {
        quarter_start_s(requested_s.min(self.core.clock().now_s().saturating_sub(AGE_MIN_S)))
    }

    /// Prunes the entries admitted before a time, for a bounded duration, as an operator's change.
    pub async fn prune(
        &self,
        requested_s: i64,
        within: Duration,
        by: &Actor,
    ) -> Result<Progress, PruneError> {
        let before_s = self.prunable_before_s(requested_s);
        let (over, is_over) = watch::channel(false);
        let mut entries = 0;
        let pruning = self.prune_until(before_s, &is_over, &mut entries);
        let bounded = async {
            tokio::time::sleep(within).await;
            let _ = over.send(true);
            std::future::pending::<()>().await;
        };
        let done = tokio::select! {
            done = pruning => done,
            () = bounded => Ok(()),
        };
        // Entries that were pruned before a failure stay pruned.
        if entries > 0 {
            let change = Change::of_pruning(before_s, entries);
            let row = change.row(by, self.core.clock().now_ms());
            self.records.write(Vec::new(), vec![row]).await?;
        }
        done?;
        let has_more = *is_over.borrow() && self.prunable(before_s).await? > 0;
        Ok(Progress { before_s, entries, has_more })
    }

    /// The number of entries admitted before a time that could be pruned.
    pub async fn prunable(&self, requested_s: i64) -> Result<u64, StoreError> {
        let before_s = self.prunable_before_s(requested_s);
        self.reports.prunable(before_s).await
    }

    /// Prunes until there is no more to prune, or until it is stopped between two steps. Adds how many
    /// entries went to `entries`.
    async fn prune_until(
        &self,
        before_s: i64,
        stop: &watch::Receiver<bool>,
        entries: &mut u64,
    ) -> Result<(), PruneError> {
        // One at a time: two at once would count the same entries twice.
        let mut stopped = stop.clone();
        let _alone = tokio::select! {
            alone = self.pruning.lock() => alone,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let mut from_ms = i64::MIN;
        while !*stop.borrow() {
            let Some(step) = self.reports.next_prunable(from_ms, before_s).await? else { break };
            from_ms = from_ms.max(step.next_from_ms());
            let began = self.core.clock().running();
            let gone = self.records.prune(step).await?;
            self.core.metrics().pruned(gone);
            *entries += gone;
            let took = self.core.clock().running().saturating_sub(began);
            tokio::time::sleep(PAUSE.max(took * PAUSE_FACTOR)).await;
        }
        Ok(())
    }
}
