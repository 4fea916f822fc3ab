//! Pruning old entries, and what the database takes of its disk.
//!
//! What goes is looked for on a connection that only reads; the writer deletes a
//! few rows at a time, behind all that was queued before, and has four fifths of
//! the time for others. A death between two steps leaves a sound ledger.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use crate::guard::Guard;
use crate::guard::trail::{Actor, Change};
use crate::ledger::calendar::utc;
use crate::store::pruned::{self, Pruned};
use crate::store::retention::{self, PruneError, quarter_start_s};
use crate::store::{StoreError, trail};

/// How often it is looked for entries that are old enough.
const EVERY: Duration = Duration::from_secs(60);
/// Between two steps, at the least.
const PAUSE: Duration = Duration::from_millis(20);
/// A step is followed by a pause of so many times its own length.
const PAUSE_FACTOR: u32 = 4;
/// Entries younger than this stay, whoever asks: a clock that is set back by less finds all that limits need.
const AGE_MIN_S: i64 = 86_400;

/// How much of what was asked for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Entries admitted before are pruned, in Unix seconds.
    pub before_s: i64,
    /// How many were.
    pub entries: u64,
    /// Whether there are more.
    pub has_more: bool,
}

/// What the database is and takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// The database's file, in bytes.
    pub database_bytes: u64,
    /// What its write-ahead log takes beside it, in bytes.
    pub log_bytes: u64,
    /// What of the database is free for what is written next, in bytes.
    pub reusable_bytes: u64,
    /// What its disk has left, in bytes; unless the system can't say it.
    pub free_bytes: Option<u64>,
    /// Entries.
    pub entries: u64,
    /// Sums of quarters of an hour.
    pub rollups: u64,
    /// When the oldest entry was admitted, in Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// What was pruned.
    pub pruned: Option<Pruned>,
}

/// The sizes that can be had without reading the database, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The database's file.
    pub database: u64,
    /// Its write-ahead log, and the index of that.
    pub log: u64,
    /// What its disk has left for this user, if the system says so.
    pub free: Option<u64>,
}

impl Sizes {
    fn of(path: &Path) -> Self {
        let bytes = |ending: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            std::fs::metadata(name).map_or(0, |file| file.len())
        };
        let free = rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Self { database: bytes(""), log: bytes("-wal").saturating_add(bytes("-shm")), free }
    }
}

impl Guard {
    /// Prunes what is older than `keep` says, now and then, until it is stopped.
    pub async fn prune_old(
        &self,
        keep: impl Fn() -> Option<Duration> + Send,
        mut stop: watch::Receiver<bool>,
    ) {
        while !*stop.borrow() {
            if let Some(keep) = keep() {
                let keep_s = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
                let before_s = self.prunable_before_s(self.clock.now_s().saturating_sub(keep_s));
                let mut entries = 0;
                if let Err(error) = self.prune_until(before_s, &stop, &mut entries).await {
                    tracing::error!(%error, "old entries can't be pruned; the database grows meanwhile");
                }
                if entries > 0 {
                    tracing::info!(entries, before = %utc(before_s), "old entries were pruned");
                }
            }
            let _ = tokio::time::timeout(EVERY, stop.changed()).await;
        }
    }

    /// The latest time up to a wanted one before which entries may be pruned, in Unix seconds: the end of a
    /// quarter of an hour, and a day ago.
    pub fn prunable_before_s(&self, wanted_s: i64) -> i64 {
        quarter_start_s(wanted_s.min(self.clock.now_s().saturating_sub(AGE_MIN_S)))
    }

    /// Prunes for a bounded time what was admitted before a time, as an operator's change.
    pub async fn prune(&self, wanted_s: i64, within: Duration, by: &Actor) -> Result<Progress, PruneError> {
        let before_s = self.prunable_before_s(wanted_s);
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
        // What has gone before a failure has gone all the same.
        if entries > 0 {
            let change = Change::of_pruning(before_s, entries);
            let row = change.row(by, self.clock.now_ms());
            self.writer.run(move |db| trail::insert(db, &row)).await?;
        }
        done?;
        let has_more = *is_over.borrow() && self.prunable(before_s).await? > 0;
        Ok(Progress { before_s, entries, has_more })
    }

    /// How many entries could be pruned that were admitted before a time.
    pub async fn prunable(&self, wanted_s: i64) -> Result<u64, StoreError> {
        let before_s = self.prunable_before_s(wanted_s);
        self.read_long(move |db| retention::prunable(db, before_s)).await
    }

    /// What was pruned, if anything was.
    pub async fn pruned(&self) -> Result<Option<Pruned>, StoreError> {
        self.read(pruned::pruned).await
    }

    /// Prunes until there is no more to prune, or until it is stopped between two steps. Adds how many
    /// entries went to `entries`.
    async fn prune_until(
        &self,
        before_s: i64,
        stop: &watch::Receiver<bool>,
        entries: &mut u64,
    ) -> Result<(), PruneError> {
        // One at a time: what two count at once would be counted twice.
        let mut stopped = stop.clone();
        let _alone = tokio::select! {
            alone = self.pruning.lock() => alone,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let mut from_ms = i64::MIN;
        while !*stop.borrow() {
            let found = self.read_long(move |db| retention::next_entries(db, from_ms, before_s)).await??;
            let step = match found {
                Some(step) => step,
                None => match self.read_long(move |db| retention::next_crossings(db, before_s)).await? {
                    Some(step) => step,
                    None => break,
                },
            };
            from_ms = from_ms.max(step.next_from_ms());
            let began = self.clock.running();
            let gone = self.writer.run(move |db| retention::delete(db, &step)).await?;
            self.metrics.pruned(gone);
            *entries += gone;
            let took = self.clock.running().saturating_sub(began);
            tokio::time::sleep(PAUSE.max(took * PAUSE_FACTOR)).await;
        }
        Ok(())
    }

    /// What the database and its log take, and what is left of their disk.
    pub fn storage_sizes(&self) -> Sizes {
        Sizes::of(self.writer.path())
    }

    /// What the database is and takes.
    pub async fn storage(&self) -> Result<Storage, StoreError> {
        let Sizes { database, log, free } = self.storage_sizes();
        self.read_long(move |db| {
            let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
            let count = |sql: &str| number(sql).map(|count| u64::try_from(count).unwrap_or(0));
            Ok(Storage {
                database_bytes: database,
                log_bytes: log,
                reusable_bytes: count("PRAGMA freelist_count")?.saturating_mul(count("PRAGMA page_size")?),
                free_bytes: free,
                entries: count("SELECT COUNT(*) FROM entry INDEXED BY entry_admitted")?,
                rollups: count("SELECT COUNT(*) FROM rollup")?,
                oldest_ms: db.query_row("SELECT MIN(admitted_ms) FROM entry", [], |row| row.get(0))?,
                pruned: pruned::pruned(db)?,
            })
        })
        .await
    }
}
