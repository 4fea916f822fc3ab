//! The shapes of the ledger's storage.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::books::retention::Progress;
use crate::domain::Money;
use crate::store::reports::Pruned;
use crate::store::reports::Storage;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Storage)]
pub(crate) struct StorageView {
    object: &'static str,
    /// The database's file, in bytes.
    database_bytes: u64,
    /// Its write-ahead log, in bytes.
    log_bytes: u64,
    /// The part of the file that can be reused, in bytes; the file does not shrink.
    reusable_bytes: u64,
    /// The free space of the disk, in bytes; null if the system does not report it.
    free_bytes: Option<u64>,
    /// The number of entries.
    entries: u64,
    /// The number of sums by quarter of an hour.
    rollups: u64,
    /// When the oldest entry was admitted.
    oldest_entry_at: Option<i64>,
    /// How long entries are kept (`storage.keep`); null: forever.
    keep_seconds: Option<u64>,
    /// What was pruned; null if nothing was.
    pruned: Option<PrunedView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pruned)]
pub(crate) struct PrunedView {
    /// Entries admitted before this time were pruned.
    before: i64,
    /// The number of pruned entries.
    entries: u64,
    /// The number of settled requests among them.
    requests: u64,
    /// Their cost, which is still part of the sums.
    cost_usd: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PruningResult)]
pub(crate) struct PruningView {
    object: &'static str,
    dry_run: bool,
    /// Entries admitted before this time are pruned: the end of a quarter of an hour, at least a
    /// day ago.
    before: i64,
    /// The number of entries that were pruned, or would be.
    entries: u64,
    /// Whether there are more to prune; then repeat the request.
    has_more: bool,
}

impl StorageView {
    pub(crate) fn of(storage: &Storage, keep: Option<Duration>) -> Self {
        Self {
            object: "guard.storage",
            database_bytes: storage.database_bytes,
            log_bytes: storage.log_bytes,
            reusable_bytes: storage.reusable_bytes,
            free_bytes: storage.free_bytes,
            entries: storage.entries,
            rollups: storage.rollups,
            oldest_entry_at: storage.oldest_ms.map(|at_ms| at_ms.div_euclid(1_000)),
            keep_seconds: keep.map(|keep| keep.as_secs()),
            pruned: storage.pruned.as_ref().map(PrunedView::of),
        }
    }
}

impl PrunedView {
    pub(crate) fn of(pruned: &Pruned) -> Self {
        Self {
            before: pruned.before_s,
            entries: pruned.entries,
            requests: u64::try_from(pruned.total.requests).unwrap_or(0),
            cost_usd: Money::from_nano(pruned.total.cost_nano).to_string(),
        }
    }
}

impl PruningView {
    pub(crate) fn of(progress: Progress, dry_run: bool) -> Self {
        let Progress { before_s, entries, has_more } = progress;
        Self { object: "guard.pruning", dry_run, before: before_s, entries, has_more }
    }
}
