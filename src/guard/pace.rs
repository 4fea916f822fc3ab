//! Rate limits of a request: what it takes, and what is given back when it ends.

use std::sync::Arc;

use crate::domain::Money;
use crate::guard::{Core, Guard, NotPaced};
use crate::ledger::Headroom;
use crate::ledger::entry::Attribution;
use crate::throttle::{self, Largest, RateCost, RateLeft};

/// A request that the rates let pass, as far as they were asked, with what it took of
/// tokens per minute.
///
/// It belongs to the request's reservation ([`crate::guard::Reservation::pace`]), which
/// replaces what was taken by what was used, however the request ends. Dropped without
/// a reservation, it gives back everything, since nothing was sent.
#[derive(Debug)]
pub struct RateCheck {
    rates: throttle::RateCheck,
    core: Arc<Core>,
}

/// The state of the caps and rates that apply to a request.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The headroom under the caps; `by_model` includes rates.
    pub left: Headroom,
    /// The most tokens that it could ever take from its rates.
    pub largest: Largest,
}

impl Standing {
    /// Whether a cap or a rate bounds its dollars or tokens.
    pub fn is_capped(&self) -> bool {
        self.left.is_capped() || self.largest != Largest::default()
    }
}

impl Guard {
    /// The standing of a request of this attribution.
    pub fn standing(&self, of: &Attribution, client_cap: Option<Money>) -> Standing {
        let mut left = self.headroom(of, client_cap);
        let rates = self.rates();
        left.by_model |= rates.counts_by_model(of);
        Standing { left, largest: rates.largest(of) }
    }

    /// Takes a request from every rate of requests that applies, before anything is looked
    /// up for it. It is not given back.
    pub async fn pace_request(&self, of: &Attribution) -> Result<RateCheck, NotPaced> {
        let rates = self.core.take_request(of).await?;
        self.core.note_shadow(&rates.would_reject);
        Ok(RateCheck { rates, core: Arc::clone(&self.core) })
    }

    /// Takes a paced request's part from every rate of tokens that applies: the most that
    /// it may use.
    pub async fn pace_tokens(
        &self,
        mut rate_check: RateCheck,
        of: &Attribution,
        take: impl FnOnce() -> RateCost,
    ) -> Result<RateCheck, NotPaced> {
        let rates = self.core.take_tokens(of, take).await?;
        self.core.note_shadow(&rates.would_reject);
        rate_check.rates.merge(rates);
        Ok(rate_check)
    }

    /// Takes a request that uses no tokens from every rate that applies.
    pub async fn pace(&self, of: &Attribution) -> Result<RateCheck, NotPaced> {
        self.pace_tokens(self.pace_request(of).await?, of, RateCost::default).await
    }
}

impl RateCheck {
    /// What is left of the tightest rates.
    pub fn left(&self) -> &[RateLeft] {
        &self.rates.left
    }

    /// Replaces what was taken by what was used.
    pub(super) fn end(mut self, used: RateCost) {
        self.core.give_back(&mut self.rates.receipt, used);
    }
}

impl Drop for RateCheck {
    fn drop(&mut self) {
        self.core.give_back(&mut self.rates.receipt, RateCost::default());
    }
}
