//! Prepaid credit: grants by operators, and what is noted of the balance.

use serde_json::json;

use crate::domain::Money;
use crate::domain::limit::Mode;
use crate::guard::Guard;
use crate::guard::trail::{Actor, Change};
use crate::ledger::Ledger;
use crate::ledger::account::{Balance, Grant, GrantReading, Terms};
use crate::ledger::credit::Ungranted;
use crate::ledger::entry::Crossing;
use crate::store::{Slot, StoreError, credit};

/// A slip of the keyboard must not become a year's budget.
const GRANT_MAX: Money = Money::from_nano(1_000_000 * 1_000_000_000);
const NOTE_CHARS_MAX: usize = 1_000;

/// Why credit was not granted.
#[derive(Debug, thiserror::Error)]
pub enum CreditError {
    /// It is less than a grant has to be.
    #[error("a grant is at least {0} USD")]
    TooLittle(Money),
    /// It is more than anybody means.
    #[error("a grant is at most {} USD", GRANT_MAX)]
    TooMuch,
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
    let after =
        json!({ "amount_usd": grant.amount.to_string(), "note": grant.note, "expires_at": grant.expires_s });
    let resource = grant_id(grant.id);
    Change { event: "credit.granted", resource, project: None, before: None, after: Some(after) }
}

/// The id of a grant, as it is shown everywhere.
pub fn grant_id(id: u64) -> String {
    format!("grant_{id}")
}

impl Guard {
    /// Grants prepaid credit. It can be spent when this returns.
    pub async fn grant(
        &self,
        amount: Money,
        note: String,
        expires_s: Option<i64>,
        by: &Actor,
    ) -> Result<Grant, CreditError> {
        // One after the other: a grant that could not be written is taken back.
        let _one_at_a_time = self.grants.lock().await;
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
        self.write_grant(amount, note, expires_s, by).await
    }

    /// Gives more of a grant, or takes back of it. Where it is of an entry that
    /// is no grant, there is none.
    pub(super) async fn correct_grant(
        &self,
        id: u64,
        amount: Money,
        note: String,
        by: &Actor,
    ) -> Result<Option<Grant>, CreditError> {
        let _one_at_a_time = self.grants.lock().await;
        let found =
            self.credit().and_then(|credit| credit.grants.into_iter().find(|known| known.grant.id == id));
        let Some(GrantReading { grant, .. }) = found else { return Ok(None) };
        self.write_grant(amount, note, grant.expires_s, by).await.map(Some)
    }

    async fn write_grant(
        &self,
        amount: Money,
        note: String,
        expires_s: Option<i64>,
        by: &Actor,
    ) -> Result<Grant, CreditError> {
        // Taken before anything has changed, so that what follows can be written.
        let slot_after = self.writer.operators_slot().await?;
        let created_ms = self.clock.now_ms();
        let (id, latest_ms) = self.ledger().stage_grant(expires_s, created_ms)?;
        let grant = Grant { id, amount, note, created_ms, expires_s };
        let stored = grant.clone();
        let written = self.write(by, vec![change(&grant)], move |db| credit::insert(db, &stored, latest_ms));
        if let Err(error) = written.await {
            self.ledger().unstage_grant();
            return Err(error.into());
        }
        self.note_credit(slot_after, |ledger, now_ms| ledger.grant(grant.clone(), now_ms));
        self.room.notify_waiters();
        Ok(grant)
    }

    /// Sets what the configuration wants of prepaid credit.
    pub async fn set_credit_terms(&self, terms: Terms) -> Result<(), StoreError> {
        let slot = self.writer.operators_slot().await?;
        self.note_credit(slot, |ledger, now_ms| ledger.set_terms(terms, now_ms));
        self.room.notify_waiters();
        Ok(())
    }

    /// What is wanted of prepaid credit.
    pub fn credit_terms(&self) -> Terms {
        self.ledger().terms()
    }

    /// Prepaid credit, if any was ever granted.
    pub fn credit(&self) -> Option<Credit> {
        // A copy, to be worked on outside the lock.
        let (account, mode) = {
            let ledger = self.ledger();
            (ledger.account().cloned()?, ledger.terms().mode)
        };
        let now_ms = self.clock.now_ms();
        Some(Credit { balance: account.balance(now_ms), grants: account.readings(now_ms), mode })
    }

    /// The account in figures, if credit was ever granted.
    pub fn credit_balance(&self) -> Option<Balance> {
        let now_ms = self.clock.now_ms();
        self.ledger().account().map(|account| account.balance(now_ms))
    }

    /// Notes that the balance is low: it may be so by time alone.
    pub fn note_low_credit(&self) {
        self.note_if_free(Ledger::low_credit);
    }

    /// Notes that a request was refused for want of credit.
    pub(super) fn note_used_up(&self) {
        self.note_if_free(Ledger::used_up);
    }

    /// With no slot free, whoever sees it next notes it.
    fn note_if_free(&self, look: fn(&mut Ledger, i64) -> Vec<Crossing>) {
        if let Some(slot) = self.writer.free_operators_slot() {
            self.note_credit(slot, look);
        }
    }

    /// Does something to the account, and writes the marks that it has come to.
    fn note_credit(&self, slot: Slot, work: impl FnOnce(&mut Ledger, i64) -> Vec<Crossing>) {
        let mut ledger = self.ledger();
        let crossings = work(&mut ledger, self.clock.now_ms());
        if !crossings.is_empty() {
            self.writer.push_passed(crossings, slot);
        }
    }
}
