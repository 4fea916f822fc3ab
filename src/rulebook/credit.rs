//! Prepaid credit: grants by operators, and alerts about the balance.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use crate::domain::Money;
use crate::domain::limit::Mode;
use crate::guard::audit::{Actor, Change, ChangeTurn};
use crate::ledger::Ledger;
use crate::ledger::account::{Balance, Grant, GrantReading, Terms};
use crate::ledger::credit::Ungranted;
use crate::ledger::entry::grant_id;
use crate::rulebook::Rulebook;
use crate::store::StoreError;
use crate::store::records::RecordChange;

/// The largest grant, so that a typing error can't become a year's budget.
const GRANT_MAX: Money = Money::from_nano(1_000_000 * 1_000_000_000);
const NOTE_CHARS_MAX: usize = 1_000;
/// How often the balance is checked, since grants expire without a request.
const LOW_LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why credit was not granted.
#[derive(Debug, thiserror::Error)]
pub enum CreditError {
    /// It is less than a grant has to be.
    #[error("a grant is at least {0} USD")]
    TooLittle(Money),
    /// It is above the largest grant.
    #[error("a grant is at most {} USD", GRANT_MAX)]
    TooMuch,
    /// A correction would leave less than nothing of its grant, or too much.
    #[error("{granted} USD are granted; a correction must leave 0 to {} USD of that", GRANT_MAX)]
    BeyondGrant {
        /// The amount with earlier corrections.
        granted: Money,
    },
    /// Its note is too long.
    #[error("a note has at most {} characters", NOTE_CHARS_MAX)]
    LongNote,
    /// The account does not take it.
    #[error(transparent)]
    Ungranted(#[from] Ungranted),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Prepaid credit as operators see it.
#[derive(Clone, Debug)]
pub struct Credit {
    /// The account in figures.
    pub balance: Balance,
    /// Its grants, oldest first.
    pub grants: Vec<GrantReading>,
    /// Whether requests are refused without it.
    pub mode: Mode,
}

fn change(grant: &Grant) -> Change {
    let after = json!({
        "amount_usd": grant.amount.to_string(), "note": grant.note, "expires_at": grant.expires_s,
        "corrects": grant.corrects.map(grant_id),
    });
    let event = if grant.corrects.is_some() { "credit.adjusted" } else { "credit.granted" };
    let resource = grant_id(grant.corrects.unwrap_or(grant.id));
    Change { event, resource, project: None, before: None, after: Some(after) }
}

impl Rulebook {
    /// Grants prepaid credit. It can be spent when this returns.
    pub async fn grant(
        &self,
        amount: Money,
        note: String,
        expires_s: Option<i64>,
        by: &Actor,
    ) -> Result<Arc<Grant>, CreditError> {
        let turn = self.records.turn(by).await?;
        let minimum = self.credit_terms().minimum;
        if amount < minimum.max(Money::from_nano(1)) {
            return Err(CreditError::TooLittle(minimum));
        }
        if amount > GRANT_MAX {
            return Err(CreditError::TooMuch);
        }
        if note.chars().count() > NOTE_CHARS_MAX {
            return Err(CreditError::LongNote);
        }
        let created_ms = self.core.clock().now_ms();
        self.write_grant(turn, Grant { id: 0, amount, note, created_ms, expires_s, corrects: None }, by).await
    }

    /// Corrects a grant: adds to it, or takes credit back. Returns `None` if the
    /// entry is not a grant.
    pub async fn correct_grant(
        &self,
        id: u64,
        amount: Money,
        note: String,
        by: &Actor,
    ) -> Result<Option<Arc<Grant>>, CreditError> {
        let turn = self.records.turn(by).await?;
        let grants = self.credit().map(|credit| credit.grants).unwrap_or_default();
        let of = |id| grants.iter().map(|reading| &reading.grant).find(|grant| grant.id == id);
        let Some(original) = of(id).and_then(|grant| of(grant.corrects.unwrap_or(id))) else {
            return Ok(None);
        };
        let is_part = |grant: &Grant| grant.id == original.id || grant.corrects == Some(original.id);
        let parts = grants.iter().map(|reading| &*reading.grant).filter(|grant| is_part(grant));
        let granted: Money = parts.map(|grant| grant.amount).sum();
        if granted + amount < Money::ZERO || granted + amount > GRANT_MAX {
            return Err(CreditError::BeyondGrant { granted });
        }
        let (created_ms, expires_s) = (self.core.clock().now_ms(), original.expires_s);
        let corrects = Some(original.id);
        let grant = Grant { id: 0, amount, note, created_ms, expires_s, corrects };
        self.write_grant(turn, grant, by).await.map(Some)
    }

    async fn write_grant(
        &self,
        mut turn: ChangeTurn,
        grant: Grant,
        by: &Actor,
    ) -> Result<Arc<Grant>, CreditError> {
        // Taken before anything has changed, so that the following records can be written.
        let slot_after = self.core.operators_slot().await?;
        let id = self.records.new_id(&mut turn).await?.unwrap_or(0);
        let (grant, latest_ms) = self.core.ledger().stage_grant(Grant { id, ..grant })?;
        let stored = RecordChange::InsertGrant(Arc::clone(&grant), latest_ms);
        let written = async {
            self.records.write(&mut turn, by, vec![change(&grant)], vec![stored]).await?;
            self.records.finish(turn).await
        };
        if let Err(error) = written.await {
            self.core.ledger().unstage_grant(&grant);
            return Err(error.into());
        }
        self.core.transition(slot_after, |ledger, now_ms| ledger.grant(&grant, now_ms));
        self.core.ledger().queues().call_all();
        Ok(grant)
    }

    /// Sets the configured terms of prepaid credit.
    pub async fn set_credit_terms(&self, terms: Terms) -> Result<(), StoreError> {
        let slot = self.core.operators_slot().await?;
        self.core.transition(slot, |ledger, now_ms| ledger.set_terms(terms, now_ms));
        self.core.ledger().queues().call_all();
        Ok(())
    }

    /// The terms of prepaid credit.
    pub fn credit_terms(&self) -> Terms {
        self.core.ledger().terms()
    }

    /// Prepaid credit, if any was ever granted.
    pub fn credit(&self) -> Option<Credit> {
        // A copy, to be worked on outside the lock.
        let (account, mode) = {
            let ledger = self.core.ledger();
            (ledger.account().cloned()?, ledger.terms().mode)
        };
        let now_ms = self.core.clock().now_ms();
        Some(Credit { balance: account.balance(now_ms), grants: account.readings(now_ms), mode })
    }

    /// The account in figures, if credit was ever granted.
    pub fn credit_balance(&self) -> Option<Balance> {
        let now_ms = self.core.clock().now_ms();
        self.core.ledger().account().map(|account| account.balance(now_ms))
    }

    /// Checks from time to time whether credit is low, until it is stopped: grants
    /// expire without a request.
    pub async fn watch_credit(&self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            self.core.note_credit(Ledger::low_credit);
            let _ = tokio::time::timeout(LOW_LOOK_EVERY, stop.changed()).await;
        }
    }
}
