//! The rates of requests and of tokens: in memory, or rows that guards share.

use crate::guard::Core;
use crate::ledger::entry::Attribution;
use crate::store::{Journal, Lanes, NotReserved};
use crate::throttle::shared::Take;
use crate::throttle::{RateCheck, RateCost, Receipt, Throttle, Throttled};

/// Why a request does not pass the rates.
#[derive(Debug)]
pub enum NotPaced {
    /// It comes too fast.
    Throttled(Box<Throttled>),
    /// The database that has the rates of several guards can't be written.
    Unavailable,
}

impl Core {
    /// Takes one request from every rate of requests that applies.
    pub(in crate::guard) async fn take_request(&self, of: &Attribution) -> Result<RateCheck, NotPaced> {
        if self.rates().load().is_empty() {
            return Ok(RateCheck::default());
        }
        match self.journal() {
            Journal::Embedded(_) => {
                let taken = self.rates().load().take_request(of, self.clock().running());
                taken.map_err(NotPaced::Throttled)
            }
            // Boxed, so that requests of the embedded engine don't have its size.
            Journal::Shared(lanes) => Box::pin(self.take(lanes, |rates| rates.request_takes(of))).await,
        }
    }

    /// Takes a request's part from every rate of tokens that applies. `take` is only asked where there
    /// are rates.
    pub(in crate::guard) async fn take_tokens(
        &self,
        of: &Attribution,
        take: impl FnOnce() -> RateCost,
    ) -> Result<RateCheck, NotPaced> {
        if self.rates().load().is_empty() {
            return Ok(RateCheck::default());
        }
        let take = take();
        match self.journal() {
            Journal::Embedded(_) => {
                let taken = self.rates().load().take_tokens(of, take, self.clock().running());
                taken.map_err(NotPaced::Throttled)
            }
            Journal::Shared(lanes) => Box::pin(self.take(lanes, |rates| rates.token_takes(of, take))).await,
        }
    }

    /// Replaces what was taken by what was used.
    pub(in crate::guard) fn give_back(&self, receipt: &mut Receipt, used: RateCost) {
        if receipt.is_empty() {
            return;
        }
        let shared = receipt.end(used, self.clock().running());
        if let (Journal::Shared(lanes), false) = (self.journal(), shared.is_empty()) {
            lanes.push_rates(shared);
        }
    }

    /// Takes by the rates in force, again whenever they have changed meanwhile.
    async fn take(
        &self,
        lanes: &Lanes,
        takes: impl Fn(&Throttle) -> Vec<Take>,
    ) -> Result<RateCheck, NotPaced> {
        loop {
            // Read first: rates that are newer than the version are taken for older ones, which
            // costs a second attempt.
            let rules_version = lanes.rules_version();
            let takes = takes(&self.rates().load());
            if takes.is_empty() {
                return Ok(RateCheck::default());
            }
            match lanes.take_rates(takes, rules_version).await {
                Ok(taken) => return taken.map_err(NotPaced::Throttled),
                Err(NotReserved::Outdated) => {}
                Err(NotReserved::Unavailable | NotReserved::NotAdmitted(_)) => {
                    return Err(NotPaced::Unavailable);
                }
            }
        }
    }
}
