//! How a change of limits takes effect.
//!
//! A new limit must count what was spent in its window before, and requests go on while that is
//! added up.
//!
//! On the embedded engine it starts to count new requests under the ledger's lock, and a job that
//! opens a snapshot is queued for the writer: at that place in the queue, the database has all
//! earlier entries and no later ones. The snapshot is read while requests go on, and its sums are
//! added to the counts since then.
//!
//! On a shared engine the past is added up before the change is made, without a turn, so that
//! other changes go on, too; the change adds what was written since.

use std::sync::Arc;

use crate::domain::Limit;
use crate::guard::audit::{Actor, ChangeTurn};
use crate::ledger::{Backfill, History};
use crate::rulebook::Rulebook;
use crate::rulebook::limits::{Book, LimitError, Planned, in_force};
use crate::rulebook::names::{self, LookedUp, Unspent};
use crate::rulebook::rule::LimitRule;
use crate::store::records::ActiveLimit;
use crate::store::{EmbeddedJournal, Journal, Pasts, Slot, Snapshot, SnapshotNeed, StoreError};
use crate::throttle::Throttle;

impl Rulebook {
    /// Changes the limits: writes what is planned, and puts it in force, all or nothing. It is in
    /// force when this returns.
    ///
    /// `plan` changes the book that it is given. It is called again if a past had to be added up,
    /// since the book may have been changed meanwhile.
    pub(super) async fn change_limits<T>(
        &self,
        by: &Actor,
        plan: impl Fn(&mut Book) -> Result<Planned<T>, LimitError>,
    ) -> Result<T, LimitError> {
        let mut pasts = Pasts::default();
        loop {
            // No other change is made before the turn ends.
            let mut turn = self.records.turn(by).await?;
            let mut book = self.book.lock().await.clone();
            let Planned { made, changes, records } = plan(&mut book)?;
            let found = names::look_up(&in_force(&book), &book.names, &self.ring);
            let lacking = self.records.lacking(&mut turn, || self.active(&found.limits), pasts).await?;
            if lacking.is_empty() {
                if !records.is_empty() {
                    self.records.write(&mut turn, by, changes, records).await?;
                }
                self.put_book(&mut turn, &book).await;
                self.install(&mut turn, book, found).await?;
                self.records.finish(turn).await?;
                return Ok(made);
            }
            drop(turn);
            pasts = self.records.learn(lacking).await?;
        }
    }

    /// Puts limits in force for a key or a project that this turn makes, if they name it: on a shared
    /// engine, in the same transaction. Nothing was spent by its id, so their meters stay as they are.
    /// Whether nothing is left to do: else [`Rulebook::look_up_name`] is to be called once the turn is
    /// finished.
    pub async fn put_in_force_for(
        &self,
        turn: &mut ChangeTurn,
        made: Unspent<'_>,
    ) -> Result<bool, StoreError> {
        if !self.is_written(made.kind, made.name) {
            return Ok(true);
        }
        let Journal::Shared(_) = self.core.journal() else { return Ok(false) };
        // As it is in the database, since no other change is made before the turn ends.
        let book = self.book.lock().await.clone();
        let limits = in_force(&book);
        let without = names::look_up(&limits, &book.names, &self.ring);
        let found = names::look_up_with(&limits, &book.names, &self.ring, Some(made));
        let is_as_before = self.active(&without.limits).iter().all(|of| of.counts_as_before);
        if !is_as_before || !found.only_adds(made, &without) {
            return Ok(false);
        }
        if found.names != book.names {
            self.remember_names(turn, &found.names).await?;
            let kept = |of: ActiveLimit| ActiveLimit { counts_as_before: true, ..of };
            let active = self.active(&found.limits).into_iter().map(kept).collect();
            self.records.activate(turn, rules_of_file(&book), active).await?;
        }
        Ok(true)
    }

    /// Puts a book in memory with its turn.
    async fn put_book(&self, turn: &mut ChangeTurn, book: &Book) {
        let mut in_memory = self.book.lock().await;
        turn.put_in_memory(|| in_memory.clone_from(book));
    }

    /// The limits, as a shared engine puts them in force.
    fn active(&self, limits: &[Arc<Limit>]) -> Vec<ActiveLimit> {
        let active = |limit: &Arc<Limit>| ActiveLimit {
            rule: LimitRule::of(limit).json(),
            counts_as_before: self.core.counts_as_before(limit),
            limit: Arc::clone(limit),
        };
        limits.iter().map(active).collect()
    }

    /// Puts the limits of a book in force, whose names have been looked up.
    async fn install(
        &self,
        turn: &mut ChangeTurn,
        mut book: Book,
        found: LookedUp,
    ) -> Result<(), StoreError> {
        for problem in &found.problems {
            tracing::warn!(
                event = "limit_name_unresolved", %problem,
                "a name in a limit has no id, or more than one, so that part of the limit does not apply"
            );
        }
        if found.names != book.names {
            self.remember_names(turn, &found.names).await?;
            book.names = found.names;
            self.put_book(turn, &book).await;
        }
        turn.put_in_memory(|| self.note_written_names(&in_force(&book)));
        match self.core.journal() {
            Journal::Embedded(journal) => self.install_in_memory(journal, found.limits).await,
            // Each guard reads them from the database, this one too.
            Journal::Shared(_) => {
                self.records.activate(turn, rules_of_file(&book), self.active(&found.limits)).await
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

/// The limits of the configuration file, as they are written there: name, and rule as JSON.
fn rules_of_file(book: &Book) -> Vec<(String, String)> {
    book.file.iter().map(|limit| (limit.name.to_string(), LimitRule::of(limit).json())).collect()
}
