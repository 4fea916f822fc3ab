//! The limits in force, and how a change of them takes effect.
//!
//! A new limit must count what was spent in its window before. Under the ledger's
//! lock it starts to count new requests, and a job that opens a snapshot is queued
//! for the writer: at that place in the queue, the database has all earlier entries
//! and no later ones. The snapshot is read while requests go on, and its sums are
//! added to the counts since then.

use std::sync::Arc;

use crate::domain::Limit;
use crate::domain::limit::Source;
use crate::guard::audit::{Actor, Change, ChangeTurn};
use crate::keys::Ring;
use crate::ledger::{Backfill, History};
use crate::rulebook::Rulebook;
use crate::rulebook::names::{self, NameError, NamedObject, Names};
use crate::rulebook::rule::{LimitRule, RuleError};
use crate::store::records::{ActiveLimit, AlertRow, RecordChange};
use crate::store::{EmbeddedJournal, Journal, Slot, Snapshot, SnapshotNeed, StoreError};
use crate::throttle::Throttle;

/// The rules as they were written, by their source.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) file: Vec<Arc<Limit>>,
    pub(super) api: Vec<Arc<Limit>>,
    /// Spend alerts, each with a limit of the API, in the order of their creation.
    pub(super) alerts: Vec<AlertRow>,
    pub(super) zone: Arc<str>,
    /// The ids behind the names in limits.
    pub(super) names: Names,
}

/// Why a limit was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The rule is not valid.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// It names a key or a project that is not there, or more than one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The configuration file owns a limit of that name.
    #[error("limit {0:?} is managed by the configuration file; change it there")]
    ManagedByFile(String),
    /// A spend alert has a limit of that name.
    #[error("limit {0:?} is a spend alert; change it at /v1/organization/spend_alerts or its project's")]
    ManagedAsAlert(String),
    /// There is no such spend alert.
    #[error("there is no spend alert {0:?}")]
    NoSuchAlert(String),
    /// The maximum number of spend alerts is reached.
    #[error("there may be no more than {0} spend alerts of an organization or a project")]
    TooManyAlerts(usize),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// There is no limit of that name.
    #[error("there is no limit {0:?}")]
    NoSuchLimit(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Book {
    /// Whether the API may make, change or remove a limit of that name.
    pub(super) fn free(&self, name: &str) -> Result<(), LimitError> {
        if self.file.iter().any(|limit| *limit.name == *name) {
            return Err(LimitError::ManagedByFile(name.to_owned()));
        }
        if self.alerts.iter().any(|alert| alert.id == name) {
            return Err(LimitError::ManagedAsAlert(name.to_owned()));
        }
        Ok(())
    }

    /// Whether each name in the file's limits belongs to at most one key.
    fn check_names(&self, limits: &[Arc<Limit>], ring: &Ring) -> Result<(), LimitError> {
        let found = names::look_up(limits, &self.names, ring, None);
        found.ambiguous(&self.names).map_or(Ok(()), |problem| Err(problem.clone().into()))
    }

    /// A limit of the API, with ids instead of names.
    fn checked(&self, name: &str, rule: &LimitRule, ring: &Ring) -> Result<Arc<Limit>, LimitError> {
        self.free(name)?;
        let limit = Arc::new(rule.limit(name, &self.zone)?);
        let mut found = names::look_up(&[limit], &Names::default(), ring, None);
        match (found.problems.pop(), found.limits.pop()) {
            (None, Some(limit)) => Ok(limit),
            (Some(problem), _) => Err(problem.into()),
            (None, None) => Err(LimitError::NoSuchLimit(name.to_owned())),
        }
    }

    /// A limit that was made through the API.
    pub(super) fn made(&self, name: &str) -> Option<&Arc<Limit>> {
        self.api.iter().find(|limit| *limit.name == *name)
    }

    fn change(&self, name: &str, after: Option<&Arc<Limit>>) -> Change {
        let said = |limit: &Arc<Limit>| serde_json::to_value(LimitRule::of(limit)).ok();
        let (before, after) = (self.made(name).and_then(said), after.and_then(said));
        let event = match (&before, &after) {
            (None, _) => "limit.created",
            (Some(_), Some(_)) => "limit.updated",
            (Some(_), None) => "limit.deleted",
        };
        Change { event, resource: name.to_owned(), project: None, before, after }
    }
}

impl Rulebook {
    /// Whether the configuration file's limits can be put in force: no name in them
    /// belongs to two keys.
    pub async fn check_file_limits(&self, limits: &[Arc<Limit>]) -> Result<(), LimitError> {
        self.book.lock().await.check_names(limits, &self.ring)
    }

    /// Puts the configuration file's limits in force beside those of the API, all at once.
    /// `zone` is the one of limits that name none. A name without a key takes effect once
    /// such a key is created; a name that two keys have is an error, and nothing changes.
    pub async fn install_file_limits(
        &self,
        limits: Vec<Arc<Limit>>,
        zone: Arc<str>,
    ) -> Result<(), LimitError> {
        let mut turn = self.records.turn(&Actor::guard()).await?;
        let mut book = self.open_book().await;
        book.check_names(&limits, &self.ring)?;
        let clash = book.api.iter().find(|api| limits.iter().any(|file| file.name == api.name));
        if let Some(limit) = clash {
            tracing::warn!(
                event = "limit_name_conflict", limit = %limit.name,
                "the file and the API both have a limit of this name; the file's is in force"
            );
        }
        book.file = limits;
        book.zone = Arc::clone(&zone);
        self.install(&mut turn, &mut book).await?;
        drop(book);
        self.records.finish(turn).await?;
        // Each guard has its own: no database keeps it.
        self.book.lock().await.zone = zone;
        Ok(())
    }

    /// Makes or changes a limit through the API. It is in force when this
    /// returns.
    pub async fn put_limit(
        &self,
        name: &str,
        rule: &LimitRule,
        by: &Actor,
    ) -> Result<Arc<Limit>, LimitError> {
        let mut turn = self.records.turn(by).await?;
        let mut book = self.open_book().await;
        let limit = book.checked(name, rule, &self.ring)?;
        let change = book.change(name, Some(&limit));
        let limits = [Arc::clone(&limit)];
        self.write_rules(&mut turn, &mut book, &limits, vec![change], by, None).await?;
        self.install(&mut turn, &mut book).await?;
        self.records.finish(turn).await?;
        Ok(limit)
    }

    /// Removes a limit that was made through the API.
    pub async fn remove_limit(&self, name: &str, by: &Actor) -> Result<(), LimitError> {
        let mut turn = self.records.turn(by).await?;
        let mut book = self.open_book().await;
        book.free(name)?;
        let change = book.change(name, None);
        self.unwrite_rule(&mut turn, &mut book, name, vec![change], by, None).await?;
        self.install(&mut turn, &mut book).await?;
        Ok(self.records.finish(turn).await?)
    }

    /// Creates or changes several limits together: all of them, or none.
    pub async fn put_limits(
        &self,
        rules: &[(String, LimitRule)],
        change: Change,
        by: &Actor,
    ) -> Result<(), LimitError> {
        let mut turn = self.records.turn(by).await?;
        let mut book = self.open_book().await;
        let limits = rules
            .iter()
            .map(|(name, rule)| book.checked(name, rule, &self.ring))
            .collect::<Result<Vec<_>, _>>()?;
        self.write_rules(&mut turn, &mut book, &limits, vec![change], by, None).await?;
        self.install(&mut turn, &mut book).await?;
        Ok(self.records.finish(turn).await?)
    }

    /// Writes limits with the records that belong to them. They are in the book
    /// then, and in force with the next [`Rulebook::install`].
    pub(super) async fn write_rules(
        &self,
        turn: &mut ChangeTurn,
        book: &mut Book,
        limits: &[Arc<Limit>],
        changes: Vec<Change>,
        by: &Actor,
        also: Option<RecordChange>,
    ) -> Result<(), LimitError> {
        let put =
            |limit: &Arc<Limit>| RecordChange::PutLimit(limit.name.to_string(), LimitRule::of(limit).json());
        self.records.write(turn, by, changes, limits.iter().map(put).chain(also).collect()).await?;
        book.api.retain(|known| !limits.iter().any(|limit| limit.name == known.name));
        book.api.extend(limits.iter().cloned());
        Ok(())
    }

    /// Removes a limit with the records that belong to it.
    pub(super) async fn unwrite_rule(
        &self,
        turn: &mut ChangeTurn,
        book: &mut Book,
        name: &str,
        changes: Vec<Change>,
        by: &Actor,
        also: Option<RecordChange>,
    ) -> Result<(), LimitError> {
        if !book.api.iter().any(|limit| *limit.name == *name) {
            return Err(LimitError::NoSuchLimit(name.to_owned()));
        }
        let removed = RecordChange::RemoveLimit(name.to_owned());
        self.records.write(turn, by, changes, std::iter::once(removed).chain(also).collect()).await?;
        book.api.retain(|limit| *limit.name != *name);
        Ok(())
    }

    /// Puts the limits of a book in force with its turn. Requests go on meanwhile: the past of
    /// new limits is read from a snapshot, on another thread.
    pub(super) async fn install(&self, turn: &mut ChangeTurn, book: &mut Book) -> Result<(), StoreError> {
        self.install_with(turn, book, None).await
    }

    /// The same in a turn that changes a key or project.
    pub(super) async fn install_with(
        &self,
        turn: &mut ChangeTurn,
        book: &mut Book,
        changed: Option<&NamedObject>,
    ) -> Result<(), StoreError> {
        let limits = in_force(book);
        let found = names::look_up(&limits, &book.names, &self.ring, changed);
        for problem in &found.problems {
            tracing::warn!(
                event = "limit_name_unresolved", %problem,
                "a name in a limit has no id, or more than one, so that part of the limit does not apply"
            );
        }
        if found.names != book.names {
            self.remember_names(turn, &found.names).await?;
            book.names = found.names;
        }
        turn.put_in_memory(|| self.note_written_names(&limits));
        match self.core.journal() {
            Journal::Embedded(journal) => self.install_in_memory(journal, found.limits).await,
            // Each guard reads them from the database, this one too.
            Journal::Shared(_) => {
                let rule = |limit: &Arc<Limit>| LimitRule::of(limit).json();
                let of_file = book.file.iter().map(|limit| (limit.name.to_string(), rule(limit))).collect();
                let active = |limit: Arc<Limit>| ActiveLimit {
                    rule: rule(&limit),
                    counts_as_before: self.core.counts_as_before(&limit),
                    limit,
                };
                let limits = found.limits.into_iter().map(active).collect();
                self.records.activate(turn, of_file, limits).await
            }
        }
    }

    /// Puts limits in force on the meters that are in memory.
    async fn install_in_memory(
        &self,
        journal: &EmbeddedJournal,
        limits: Vec<Arc<Limit>>,
    ) -> Result<(), StoreError> {
        let (rates, metered): (Vec<_>, Vec<_>) = limits.into_iter().partition(|limit| limit.is_rate());
        // A limit that changes between a meter and a rate is in force as both during the change.
        self.core.rates().rcu(|before| Throttle::new(&before.with(&rates), before));
        let slot = self.core.operators_slot().await?;
        // Taken before anything has changed, so that the following records can be written.
        let slot_after = self.core.operators_slot().await?;
        let (backfills, snapshot) = self.core.with_snapshot(journal, slot, |ledger, now_ms| {
            let backfills = ledger.stage(&metered, now_ms);
            let need = if backfills.is_empty() { SnapshotNeed::None } else { SnapshotNeed::Taken };
            (backfills, need)
        });
        let histories = match snapshot.done().await? {
            Some(snapshot) => self.history(snapshot, backfills).await?,
            None => Vec::new(),
        };
        let retired = self.core.ledger().install(&metered, histories);
        self.core.rates().rcu(|before| Throttle::new(&rates, before));
        self.core.blocking(move || drop(retired)).await?;
        self.note_behind(slot_after).await;
        Ok(())
    }

    /// The settled sums of staged limits up to a snapshot.
    async fn history(
        &self,
        snapshot: Snapshot,
        backfills: Vec<Backfill>,
    ) -> Result<Vec<History>, StoreError> {
        let ring = Arc::clone(&self.ring);
        let read = move || {
            let of = |backfill: &Backfill| (Arc::clone(&backfill.limit), backfill.since_s);
            let of: Vec<_> = backfills.iter().map(of).collect();
            let pasts = snapshot.history(&of, &*ring)?;
            Ok(backfills.iter().zip(pasts).map(|(backfill, past)| backfill.history(past)).collect())
        };
        self.core.blocking(read).await?
    }

    /// Records soft thresholds that are already passed, a few at a time. The limits
    /// are in force by now; a crossing that can't be written now is written later.
    async fn note_behind(&self, slot: Slot) {
        let mut first = Some(slot);
        for of in self.core.in_force().into_iter().filter(|of| !of.limit.soft.is_empty()) {
            let mut walk = of.walk();
            loop {
                let now_ms = self.core.clock().now_ms();
                let (crossings, has_more) = self.core.ledger().behind(&mut walk, now_ms);
                if !crossings.is_empty() {
                    let slot = match first.take() {
                        Some(slot) => Ok(slot),
                        None => self.core.operators_slot().await,
                    };
                    let pushed = slot.map(|slot| self.core.push_crossings(crossings, slot));
                    let written = if pushed.is_ok() { self.core.flush().await } else { pushed };
                    if let Err(error) = written {
                        tracing::warn!(
                            event = "crossings_not_written", %error,
                            "crossings of thresholds that are already passed can't be written yet; they are written later"
                        );
                    }
                }
                if !has_more {
                    break;
                }
            }
        }
    }
}

/// The limits of a book; of two with the same name, the file's.
pub(super) fn in_force(book: &Book) -> Vec<Arc<Limit>> {
    let api = book.api.iter().filter(|api| !book.file.iter().any(|file| file.name == api.name));
    book.file.iter().chain(api).cloned().collect()
}

/// The limits that the database keeps, as they were made through the API.
///
/// A rule that an older release wrote and this one can't read stops the start: a
/// limit must not disappear silently.
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

/// The file's limits that a guard has put in force, as they were written.
pub(super) fn stored_of_file(rules: Vec<(String, String)>, zone: &str) -> Result<Vec<Arc<Limit>>, String> {
    let of_file = |limit: Arc<Limit>| Arc::new(Limit { source: Source::File, ..Limit::clone(&limit) });
    Ok(stored(rules, zone)?.into_iter().map(of_file).collect())
}

/// The limits that are in force on a shared database: name, and rule as JSON. `of_file` are
/// those of the configuration file.
pub fn active(
    rules: Vec<(String, String)>,
    of_file: &[(String, String)],
    zone: &str,
) -> Result<Vec<Arc<Limit>>, String> {
    let (of_file, of_api): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|(name, _)| of_file.iter().any(|(of_file, _)| of_file == name));
    let mut limits = stored_of_file(of_file, zone)?;
    limits.extend(stored(of_api, zone)?);
    Ok(limits)
}
