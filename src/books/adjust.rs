//! Corrections of entries: entries of their own, in the windows of the entries that they correct.

use crate::books::Books;
use crate::domain::demand::Bound;
use crate::domain::{Money, Quantities};
use crate::guard::audit::{Actor, Change};
use crate::ledger::entry::{Entry, Kind};
use crate::rulebook::credit::CreditError;
use crate::store::StoreError;

/// Why an entry was not corrected.
#[derive(Debug, thiserror::Error)]
pub enum AdjustError {
    /// There is no settled entry of that id, and no grant.
    #[error("no settled entry has that id, and no grant")]
    NoSuchEntry,
    /// The entry was pruned.
    #[error(
        "that entry was pruned: entries before {} are gone, and only their sums are left. Correct a later entry of the \
         same key instead; its note can say which one is meant", crate::ledger::calendar::utc(*before_s)
    )]
    Pruned {
        /// The time since which entries are kept, in Unix seconds.
        before_s: i64,
    },
    /// With the correction, the entry would have cost less than nothing.
    #[error(
        "with its corrections this entry is {cost} USD; at most that can be taken off, and {amount} would be"
    )]
    BelowZero {
        /// What the entry costs now, earlier corrections included.
        cost: Money,
        /// What the correction would take off.
        amount: Money,
    },
    /// The grant can't be corrected.
    #[error(transparent)]
    Credit(#[from] CreditError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Books {
    /// Adds a correction to a settled entry, in that entry's windows, or to a grant of
    /// prepaid credit. An entry and all its corrections together are never below zero, so
    /// that no correction makes more room under a limit than was used.
    pub async fn adjust(
        &self,
        id: u64,
        amount: Money,
        note: String,
        by: &Actor,
    ) -> Result<Entry, AdjustError> {
        let _one_at_a_time = self.corrections.lock().await;
        // An earlier correction that could not be written yet would be missing from the sum.
        self.core.flush().await?;
        let found = self.reports.entry(id).await?;
        if found.as_ref().is_some_and(|(entry, _)| entry.kind == Kind::Grant) {
            let grant = self.rulebook.correct_grant(id, amount, note, by).await?;
            return grant.map(|grant| grant.entry()).ok_or(AdjustError::NoSuchEntry);
        }
        // Another guard may correct the same entry.
        let _alone = self.records.begin().await?;
        let found = if self.core.is_shared() { self.reports.entry(id).await? } else { found };
        if found.is_none() {
            let pruned = self.reports.pruned().await?.filter(|pruned| id <= pruned.last_id);
            if let Some(pruned) = pruned {
                return Err(AdjustError::Pruned { before_s: pruned.before_s });
            }
        }
        let original = found.filter(|(entry, _)| entry.kind == Kind::Settle);
        let (original, corrected) = original.ok_or(AdjustError::NoSuchEntry)?;
        let cost = original.cost + corrected;
        if amount < Money::ZERO && cost + amount < Money::ZERO {
            return Err(AdjustError::BelowZero { cost, amount: -amount });
        }
        self.correct(original, amount, note, by).await
    }

    async fn correct(
        &self,
        original: Entry,
        amount: Money,
        note: String,
        by: &Actor,
    ) -> Result<Entry, AdjustError> {
        let entry = Entry {
            id: 0,
            kind: Kind::Adjust,
            created_ms: self.core.clock().now_ms(),
            cost: amount,
            tool_fees: Money::ZERO,
            quantities: Quantities::default(),
            held: Bound::default(),
            basis: None,
            corrects: Some(original.id),
            note: Some(note),
            ..original
        };
        // The row of the audit log directly follows the correction, whose entry it repeats.
        let by = by.clone();
        let audited = move |entry: &Entry| Change::of_correction(entry).row(&by, entry.created_ms);
        Ok(self.core.correct(entry, audited).await?)
    }
}
