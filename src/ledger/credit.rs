//! Prepaid credit beside the limits: granted, asked, and noted.

use crate::domain::Money;
use crate::domain::limit::Mode;
use crate::ledger::account::{Account, Grant, Terms};
use crate::ledger::denial::Denial;
use crate::ledger::entry::Crossing;
use crate::ledger::{Ask, Ledger};

/// Why credit can't be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ungranted {
    /// It would expire before it could be spent.
    #[error("credit can't expire before it is granted, nor before requests that were admitted already")]
    Expired,
    /// There are as many grants as there may be.
    #[error("there are as many grants, or dates on which they expire, as there may be")]
    TooMany,
}

impl Ledger {
    /// What the database knows of prepaid credit, before anything is admitted.
    /// `latest_ms` is the latest instant that a request was admitted at.
    pub fn restore(&mut self, account: Option<Account>, latest_ms: i64) {
        (self.account, self.latest_ms) = (account, latest_ms);
    }

    /// Sets what is wanted of prepaid credit. Returns what is low by that.
    pub fn set_terms(&mut self, terms: Terms, at_ms: i64) -> Vec<Crossing> {
        if terms != self.terms {
            self.terms = terms;
            self.account.iter_mut().for_each(Account::forget_marks);
        }
        self.low_credit(at_ms)
    }

    /// Prepares a grant: spending is counted from here, though nothing depends on
    /// it before [`Ledger::grant`]. Returns the id of its line and the latest
    /// instant that a request was admitted at.
    pub fn stage_grant(&mut self, expires_s: Option<i64>, at_ms: i64) -> Result<(u64, i64), Ungranted> {
        let too_early = |expires_s: i64| expires_s.saturating_mul(1_000) <= at_ms.max(self.latest_ms);
        if expires_s.is_some_and(too_early) {
            return Err(Ungranted::Expired);
        }
        if self.account.as_ref().is_some_and(|account| !account.has_room()) {
            return Err(Ungranted::TooMany);
        }
        let id = self.take_id();
        self.account.get_or_insert_with(|| Account::new(id)).cut(expires_s);
        Ok((id, self.latest_ms))
    }

    /// Grants what was prepared, now that the database has it.
    pub fn grant(&mut self, grant: Grant, at_ms: i64) -> Vec<Crossing> {
        if let Some(account) = &mut self.account {
            account.add(grant);
        }
        self.low_credit(at_ms)
    }

    /// Takes back what was prepared, since the database hasn't got it.
    pub fn unstage_grant(&mut self) {
        self.account.take_if(|account| account.grants().is_empty());
    }

    /// Prepaid credit, if any was ever granted.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref().filter(|account| !account.grants().is_empty())
    }

    /// What is wanted of prepaid credit.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Whether requests are refused without credit.
    pub(super) fn is_prepaid(&self) -> bool {
        self.terms.mode == Mode::Enforce && self.account().is_some()
    }

    /// What prepaid credit leaves, if it is asked.
    pub(super) fn enforced_credit(&self, at_ms: i64) -> Option<Money> {
        let account = self.account().filter(|_| self.terms.mode == Mode::Enforce)?;
        Some(account.available(at_ms).max(Money::ZERO))
    }

    pub(super) fn credit_verdict(&self, ask: &Ask<'_>) -> Option<(Mode, Result<i64, Denial>)> {
        Some((self.terms.mode, self.account()?.verdict(ask, self.terms)))
    }

    /// That the balance is low, if that was not noted yet.
    pub fn low_credit(&mut self, at_ms: i64) -> Vec<Crossing> {
        let low = self.account.as_mut().and_then(|account| account.low(self.terms, at_ms));
        self.numbered(low.into_iter().collect())
    }

    /// That a request was refused for want of credit, if that was not noted yet.
    pub fn used_up(&mut self, at_ms: i64) -> Vec<Crossing> {
        let used_up = self.account.as_mut().and_then(|account| account.used_up(self.terms, at_ms));
        self.numbered(used_up.into_iter().collect())
    }
}
