//! Prepaid credit beside the limits: grants, admission, and alerts.

use std::sync::Arc;

use crate::domain::Money;
use crate::domain::limit::Mode;
use crate::ledger::Ledger;
use crate::ledger::account::{Account, Grant, Terms};
use crate::ledger::admission::Circumstances;
use crate::ledger::denial::Denial;
use crate::ledger::entry::Crossing;
use crate::ledger::waiting::Place;

/// The longest that credit may last: a hundred years.
const LIFE_MAX_S: i64 = 100 * 366 * 86_400;
/// How far the clocks of guards may be apart that share a ledger, whose time they all follow.
const CLOCKS_APART_MS: i64 = 60_000;

/// Why credit can't be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ungranted {
    /// It would expire before it could be spent.
    #[error("credit has to expire after {}, the time of the latest admitted request", instant(*.0))]
    Expired(i64),
    /// It would expire too far in the future.
    #[error("credit has to expire within a hundred years; without a date it never does")]
    TooLate,
    /// There are as many grants as there may be.
    #[error("there are as many grants, or dates on which they expire, as there may be")]
    TooMany,
}

/// An instant in Unix milliseconds as text.
fn instant(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |at| at.to_string())
}

impl Ledger {
    /// Loads the stored prepaid credit, before anything is admitted. `latest_ms` is
    /// the latest instant that a request was admitted at.
    pub fn restore(&mut self, account: Option<Account>, latest_ms: i64) {
        (self.account, self.latest_ms) = (account, latest_ms);
    }

    /// Sets the terms of prepaid credit. Returns the crossing if the balance is low under them.
    pub fn set_terms(&mut self, terms: Terms, at_ms: i64) -> Vec<Crossing> {
        if terms != self.terms {
            self.terms = terms;
            self.account.iter_mut().for_each(Account::forget_marks);
        }
        self.low_credit(at_ms)
    }

    /// Prepares a grant, which counts with [`Ledger::grant`]; it gets its id here unless it has one.
    /// Also returns the latest instant that a request was admitted at.
    ///
    /// The first counts at once: what is admitted from here on is spent of it, and
    /// must not be more. A correction may be of a grant that has expired. On a shared ledger a
    /// grant counts with the rules that are read of the database, and nothing is prepared.
    pub fn stage_grant(&mut self, grant: Grant) -> Result<(Arc<Grant>, i64), Ungranted> {
        let now_ms = grant.created_ms;
        let admitted_ms = now_ms.max(self.latest_ms);
        if let Some(expires_s) = grant.expires_s.filter(|_| grant.corrects.is_none()) {
            if expires_s.saturating_mul(1_000) <= admitted_ms {
                return Err(Ungranted::Expired(admitted_ms));
            }
            if expires_s > now_ms.div_euclid(1_000).saturating_add(LIFE_MAX_S) {
                return Err(Ungranted::TooLate);
            }
        }
        if self.account.as_ref().is_some_and(|account| !account.has_room(grant.expires_s)) {
            return Err(Ungranted::TooMany);
        }
        let id = if grant.id == 0 { self.take_id() } else { grant.id };
        let grant = Arc::new(Grant { id, ..grant });
        if self.is_shared() {
            // Other guards have admitted requests, by clocks that are no further ahead than this.
            return Ok((grant, admitted_ms.saturating_add(CLOCKS_APART_MS)));
        }
        let account = self.account.get_or_insert_with(|| Account::new(grant.id));
        account.cut(grant.expires_s);
        if account.grants().is_empty() {
            account.add(Arc::clone(&grant));
        }
        Ok((grant, self.latest_ms))
    }

    /// Applies a prepared grant, now that it is written.
    pub fn grant(&mut self, grant: &Arc<Grant>, at_ms: i64) -> Vec<Crossing> {
        let is_shared = self.is_shared();
        let is_new = |account: &&mut Account| account.grants().iter().all(|known| known.id != grant.id);
        if let Some(account) = self.account.as_mut().filter(is_new).filter(|_| !is_shared) {
            account.add(Arc::clone(grant));
        }
        self.low_credit(at_ms)
    }

    /// Takes back a prepared grant that could not be written.
    pub fn unstage_grant(&mut self, grant: &Grant) {
        if !self.is_shared() {
            self.account.take_if(|account| account.opened_by() == grant.id);
        }
    }

    /// Prepaid credit, if any was ever granted.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// The terms of prepaid credit.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// The rest of prepaid credit, if requests depend on it.
    pub(super) fn enforced_credit(&self, at_ms: i64) -> Option<Money> {
        let account = self.account().filter(|_| self.terms.mode == Mode::Enforce)?;
        Some(account.available(at_ms).max(Money::ZERO))
    }

    /// What prepaid credit would have left, or why it would refuse; `None` if there was
    /// never a grant.
    pub(super) fn credit_verdict(
        &self,
        needed: Money,
        circumstances: &Circumstances,
    ) -> Option<(Mode, Result<i64, Denial>)> {
        let account = self.account()?;
        let left = account.verdict(needed, self.terms, circumstances.at_ms);
        let takes = self.terms.mode == Mode::Enforce && needed > Money::ZERO;
        let is_behind = takes && self.queues.is_behind(circumstances.turn, &Place::Credit);
        let queued = || Denial::CreditHeld(Box::new(account.short(needed, self.terms, circumstances.at_ms)));
        let verdict = left.and_then(|left| if is_behind { Err(queued()) } else { Ok(left) });
        Some((self.terms.mode, verdict))
    }

    /// The crossing that the balance is low, if it was not raised yet.
    pub fn low_credit(&mut self, at_ms: i64) -> Vec<Crossing> {
        let low = self.account.as_mut().and_then(|account| account.low(self.terms, at_ms));
        self.numbered(low.into_iter().collect())
    }

    /// The crossing that a request was refused because of credit, if it was not raised yet.
    pub fn used_up(&mut self, at_ms: i64) -> Vec<Crossing> {
        let used_up = self.account.as_mut().and_then(|account| account.used_up(self.terms, at_ms));
        self.numbered(used_up.into_iter().collect())
    }
}
