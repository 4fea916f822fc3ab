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
    /// What of the database is free for what is written next, in bytes: a file does not shrink.
    reusable_bytes: u64,
    /// What the disk has left, in bytes; null where the system does not say it.
    free_bytes: Option<u64>,
    /// How many entries there are.
    entries: u64,
    /// How many sums of quarters of an hour there are.
    rollups: u64,
    /// When the oldest entry was admitted.
    oldest_entry_at: Option<i64>,
    /// How long entries are kept (`storage.keep`); null for ever.
    keep_seconds: Option<u64>,
    /// What was pruned; null while nothing was.
    pruned: Option<PrunedView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pruned)]
pub(crate) struct PrunedView {
    /// Entries admitted before were pruned.
    before: i64,
    /// How many.
    entries: u64,
    /// The settled requests among them.
    requests: u64,
    /// What they cost: a part of the sums, which stay.
    cost_usd: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PruningResult)]
pub(crate) struct PruningView {
    object: &'static str,
    dry_run: bool,
    /// Entries admitted before go: the end of a quarter of an hour, and a day ago at the latest.
    before: i64,
    /// How many went, or would go.
    entries: u64,
    /// Whether there are more: then ask again.
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
            requests: pruned.total.requests,
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
