//! Rates as a request meets them: what it takes, and what is given back at its end.

use std::sync::Arc;

use crate::clock::Clock;
use crate::guard::Guard;
use crate::ledger::entry::Attribution;
use crate::throttle::{Largest, RateLeft, Receipt, Take, Throttled};

/// A request that the rates let pass, with what it took of tokens per minute.
///
/// It belongs to the request's reservation ([`crate::guard::Reservation::pace`]), which
/// replaces what was taken by what was used, however the request ends. Dropped without
/// one, it gives all back: nothing was sent.
#[derive(Debug)]
pub struct Paced {
    /// What is left of the tightest rates.
    pub left: Vec<RateLeft>,
    receipt: Receipt,
    clock: Arc<Clock>,
}

impl Guard {
    /// Takes a request's part from every rate that applies. Of tokens that is the most that
    /// it may use.
    pub fn pace(&self, of: &Attribution, take: Take) -> Result<Paced, Box<Throttled>> {
        let paced = self.throttle.load().take(of, take, self.clock.running())?;
        for limit in &paced.would_reject {
            self.metrics.would_have_rejected(&limit.name);
        }
        Ok(Paced { left: paced.left, receipt: paced.receipt, clock: Arc::clone(&self.clock) })
    }

    /// The most tokens that a request of this attribution could ever take from its rates.
    pub fn largest_take(&self, of: &Attribution) -> Largest {
        self.throttle.load().largest(of)
    }
}

impl Paced {
    /// Replaces what was taken by what was used.
    pub(super) fn end(mut self, used: Take) {
        self.receipt.end(used, self.clock.running());
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.receipt.end(Take::default(), self.clock.running());
    }
}
