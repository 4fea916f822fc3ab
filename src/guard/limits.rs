//! The limits in force, and how a change of them comes into force.
//!
//! A limit that starts to count must know what its window already holds. Under
//! the ledger's lock it starts to count what comes, and a job takes its place in
//! the writer's queue that reads what was before: at that place, exactly all of
//! the past is in the database and nothing of the future.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Limit;
use crate::domain::limit::Source;
use crate::guard::Guard;
use crate::ledger::meter::Subject;
use crate::store::rule::{LimitRule, RuleError};
use crate::store::{StoreError, past, reader, settings};
use crate::throttle::Throttle;

/// The rules as they were written, by where.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) file: Vec<Arc<Limit>>,
    pub(super) api: Vec<Arc<Limit>>,
    pub(super) zone: Arc<str>,
}

/// Why a limit was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The rule is not one.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The configuration file owns a limit of that name.
    #[error("limit {0:?} is managed by the configuration file; change it there")]
    ManagedByFile(String),
    /// There is no limit of that name.
    #[error("there is no limit {0:?}")]
    NoSuchLimit(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Guard {
    /// Puts the configuration file's limits in force beside those of the API,
    /// all at once. `zone` is the one of limits that name none.
    pub async fn install_file_limits(
        &self,
        limits: Vec<Arc<Limit>>,
        zone: Arc<str>,
    ) -> Result<(), StoreError> {
        let mut book = self.book.lock().await;
        let clash = book.api.iter().find(|api| limits.iter().any(|file| file.name == api.name));
        if let Some(limit) = clash {
            tracing::warn!(limit = %limit.name, "the file and the API both have a limit of this name; the file's is in force");
        }
        book.file = limits;
        book.zone = zone;
        self.install(&book).await
    }

    /// Makes or changes a limit through the API. It is in force when this
    /// returns.
    pub async fn put_limit(&self, name: &str, rule: &LimitRule) -> Result<Arc<Limit>, LimitError> {
        let mut book = self.book.lock().await;
        if book.file.iter().any(|limit| *limit.name == *name) {
            return Err(LimitError::ManagedByFile(name.to_owned()));
        }
        let limit = Arc::new(rule.limit(name, &book.zone)?);
        let text = serde_json::to_string(&LimitRule::of(&limit)).unwrap_or_default();
        let key = name.to_owned();
        self.writer.run(move |db| settings::put_limit_rule(db, &key, &text)).await?;
        book.api.retain(|known| known.name != limit.name);
        book.api.push(Arc::clone(&limit));
        self.install(&book).await?;
        Ok(limit)
    }

    /// Removes a limit that was made through the API.
    pub async fn remove_limit(&self, name: &str) -> Result<(), LimitError> {
        let mut book = self.book.lock().await;
        if book.file.iter().any(|limit| *limit.name == *name) {
            return Err(LimitError::ManagedByFile(name.to_owned()));
        }
        if !book.api.iter().any(|limit| *limit.name == *name) {
            return Err(LimitError::NoSuchLimit(name.to_owned()));
        }
        let key = name.to_owned();
        self.writer.run(move |db| settings::drop_limit_rule(db, &key)).await?;
        book.api.retain(|limit| *limit.name != *name);
        Ok(self.install(&book).await?)
    }

    /// What each subject of a limit has settled in its window, added up anew
    /// from the entries; empty for rates and limits that don't exist.
    pub async fn sums_from_entries(&self, name: &str) -> Result<HashMap<Subject, i64>, StoreError> {
        let found = self.limits().into_iter().find(|(limit, _)| *limit.name == *name);
        let Some((limit, readings)) = found else { return Ok(HashMap::new()) };
        let Some(span) = readings.first().map(|reading| reading.span) else { return Ok(HashMap::new()) };
        let ring = Arc::clone(&self.ring);
        self.read(move |db| reader::settled_by_entries(db, &limit, span, &*ring)).await
    }

    pub(super) async fn install(&self, book: &Book) -> Result<(), StoreError> {
        let (rates, metered) = in_force(book);
        self.throttle.rcu(|before| Throttle::new(&rates, before));
        let slot = self.writer.operators_slot().await?;
        // Taken before anything has changed, so that what follows can be written.
        let slot_after = self.writer.operators_slot().await?;
        let answer = {
            let mut ledger = self.ledger();
            let seedings = ledger.stage(&metered, self.clock.now_ms());
            let ring = Arc::clone(&self.ring);
            self.writer.queue_job(slot, move |db| {
                let wanted: Vec<_> =
                    seedings.iter().map(|seeding| (&*seeding.limit, seeding.since_s)).collect();
                let pasts = past::settled(db, &wanted, &*ring)?;
                Ok(seedings.into_iter().zip(pasts).collect())
            })
        };
        let past = answer.await.map_err(|_| StoreError::Unavailable)??;
        let crossings = self.ledger().install(&metered, past, self.clock.now_ms());
        self.room.notify_waiters();
        if crossings.is_empty() {
            return Ok(());
        }
        self.writer.push_passed(crossings, slot_after);
        // The limits are in force by now; thresholds are noted when they can be.
        if let Err(error) = self.writer.flush().await {
            tracing::warn!(%error, "thresholds that are already behind are noted as soon as the ledger can be written");
        }
        Ok(())
    }
}

/// The rates and the metered limits of a book; of two with one name, the file's.
fn in_force(book: &Book) -> (Vec<Arc<Limit>>, Vec<Arc<Limit>>) {
    let api = book.api.iter().filter(|api| !book.file.iter().any(|file| file.name == api.name));
    let all = book.file.iter().chain(api).cloned();
    all.partition(|limit| limit.is_rate())
}

/// The limits that the database keeps, as they were made through the API.
///
/// A rule that an older release wrote and this one can't read stops the start:
/// a limit must not vanish in silence.
pub(super) fn stored(rules: Vec<(String, String)>, zone: &str) -> Result<Vec<Arc<Limit>>, String> {
    let limit = |(name, text): (String, String)| {
        let rule: LimitRule =
            serde_json::from_str(&text).map_err(|error| format!("limit {name:?}: {error}"))?;
        let limit = rule.limit(&name, zone).map_err(|error| format!("limit {name:?}: {error}"))?;
        debug_assert_eq!(limit.source, Source::Api);
        Ok(Arc::new(limit))
    };
    rules.into_iter().map(limit).collect()
}
