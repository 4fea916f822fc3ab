//! Rates: requests or tokens per minute, by buckets that refill (GCRA).
//!
//! A rate is not a budget: it refills, and states when. Money is never kept here. Requests
//! are counted when they come (in memory by `governor`). Tokens are taken by what a request may use at
//! most, and what it did not use is given back when it ends.

mod bucket;
mod in_memory;
pub mod shared;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::domain::limit::{Mode, Per, Unit};
use crate::domain::{Limit, Quantities};
use crate::ledger::entry::Attribution;
use crate::ledger::meter::{Subject, subjects};
pub use crate::throttle::bucket::{Bucket, Taking};
use crate::throttle::in_memory::{Buckets, locked};
use crate::throttle::shared::{BucketKey, GiveBack};

/// All rate limits in force.
#[derive(Debug, Default)]
pub struct Throttle {
    rates: Vec<Rate>,
}

#[derive(Debug)]
struct Rate {
    limit: Arc<Limit>,
    /// The rate per minute, and the burst.
    size: u64,
    buckets: Buckets,
}

/// Tokens that a request takes from the rates, or has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateCost {
    /// Input and output together.
    pub tokens: u64,
    /// The input part.
    pub input_tokens: u64,
    /// The output part.
    pub output_tokens: u64,
}

impl RateCost {
    /// The tokens of some quantities.
    pub fn of(quantities: &Quantities) -> Self {
        Self {
            tokens: quantities.tokens_total(),
            input_tokens: quantities.input_tokens_total(),
            output_tokens: quantities.output_tokens_total(),
        }
    }
}

/// The most tokens that any request may take from the rates that apply; `None` is
/// unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    /// Input and output together.
    pub tokens: Option<u64>,
    /// The input part.
    pub input_tokens: Option<u64>,
    /// The output part.
    pub output_tokens: Option<u64>,
}

/// What is left of a rate, for the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLeft {
    /// Whether it counts requests, not tokens.
    pub of_requests: bool,
    /// The rate per minute.
    pub limit: u64,
    /// The burst.
    pub remaining: u64,
    /// Time until the bucket is full.
    pub reset: Duration,
}

/// A request that comes too fast.
#[derive(Clone, Debug)]
pub struct Throttled {
    /// The limit.
    pub limit: Arc<Limit>,
    /// What the request would take.
    pub requested: u64,
    /// What is left now.
    pub left: RateLeft,
    /// When to retry; `None` if the request takes more than a minute's worth.
    pub retry_after: Option<Duration>,
}

/// The result of checking a request against the rates.
#[derive(Debug, Default)]
pub struct RateCheck {
    /// What is left of the tightest rate of requests, and of the tightest of tokens.
    pub left: Vec<RateLeft>,
    /// Limits in shadow mode that would have refused it.
    pub would_reject: Vec<Arc<Limit>>,
    /// What it took; to be ended once the real use is known.
    pub receipt: Receipt,
}

/// What a request took of tokens per minute.
#[derive(Debug, Default)]
#[must_use = "what a request did not use of its rates is given back by ending its receipt"]
pub struct Receipt {
    taken: Vec<Taken>,
}

#[derive(Debug)]
struct Taken {
    unit: Unit,
    size: u64,
    place: Place,
    taking: Taking,
}

/// Where a bucket is.
#[derive(Debug)]
enum Place {
    Memory(Arc<Mutex<Bucket>>),
    Row(BucketKey),
}

impl Throttle {
    /// The rates among some limits. A rate that was in force before keeps its buckets if
    /// what it counts is the same; one of requests starts afresh if its cap is another.
    pub fn new(limits: &[Arc<Limit>], before: &Self) -> Self {
        let rate = |limit: &Arc<Limit>| {
            let size = u64::try_from(limit.hard?).ok().filter(|size| *size > 0)?;
            let same = |known: &&Rate| {
                let is_kept = limit.unit != Unit::Requests || known.size == size;
                known.limit.counts_like(limit) && is_kept
            };
            let known = before.rates.iter().find(same).map(|known| known.buckets.clone());
            let buckets = known.unwrap_or_else(|| Buckets::of(limit.unit, size));
            Some(Rate { limit: Arc::clone(limit), size, buckets })
        };
        Self { rates: limits.iter().filter(|limit| limit.is_rate()).filter_map(rate).collect() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }

    /// Some rates, and those in force that none of them has the name of.
    pub fn with(&self, limits: &[Arc<Limit>]) -> Vec<Arc<Limit>> {
        let is_new = |known: &&Arc<Limit>| limits.iter().any(|limit| limit.name == known.name);
        let kept = self.rates.iter().map(|rate| &rate.limit).filter(|known| !is_new(known));
        limits.iter().chain(kept).cloned().collect()
    }

    /// Takes one request from every rate of requests that applies, or says which one
    /// has none left. `now` is a running time.
    pub fn take_request(&self, of: &Attribution, now: Duration) -> Result<RateCheck, Box<Throttled>> {
        self.take_of(|unit| unit == Unit::Requests, of, RateCost::default(), now)
    }

    /// Takes a request's part from every rate of tokens that applies, or says which one
    /// has too little; then it has taken nothing.
    pub fn take_tokens(
        &self,
        of: &Attribution,
        take: RateCost,
        now: Duration,
    ) -> Result<RateCheck, Box<Throttled>> {
        self.take_of(|unit| unit != Unit::Requests, of, take, now)
    }

    fn take_of(
        &self,
        is_asked: fn(Unit) -> bool,
        of: &Attribution,
        take: RateCost,
        now: Duration,
    ) -> Result<RateCheck, Box<Throttled>> {
        let mut rate_check = RateCheck::default();
        for rate in self.rates.iter().filter(|rate| is_asked(rate.limit.unit)) {
            for subject in subjects(&rate.limit, of) {
                match rate.take(&subject, take, now) {
                    Ok((left, taken)) => {
                        rate_check.note(left);
                        rate_check.receipt.taken.extend(taken);
                    }
                    Err(throttled) if rate.limit.mode == Mode::Enforce => {
                        // Buckets in memory take it back at once.
                        let _ = rate_check.receipt.end(RateCost::default(), now);
                        return Err(throttled);
                    }
                    Err(throttled) => rate_check.would_reject.push(Arc::clone(&throttled.limit)),
                }
            }
        }
        Ok(rate_check)
    }

    /// The most that a request of this attribution could ever take: a larger one is refused
    /// however long it waits.
    pub fn largest(&self, of: &Attribution) -> Largest {
        let mut largest = Largest::default();
        let enforced = self.rates.iter().filter(|rate| rate.limit.mode == Mode::Enforce);
        for rate in enforced.filter(|rate| rate.counts(of)) {
            let most = match rate.limit.unit {
                Unit::Tokens => &mut largest.tokens,
                Unit::InputTokens => &mut largest.input_tokens,
                Unit::OutputTokens => &mut largest.output_tokens,
                Unit::Requests | Unit::Usd => continue,
            };
            *most = Some(most.map_or(rate.size, |known| known.min(rate.size)));
        }
        largest
    }

    /// Whether a rate counts each model by itself, and may refuse a request.
    pub fn counts_by_model(&self, of: &Attribution) -> bool {
        let counts =
            |rate: &Rate| rate.limit.per == Per::Model && rate.limit.mode == Mode::Enforce && rate.counts(of);
        self.rates.iter().any(counts)
    }

    /// The limits that are kept here.
    pub fn limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.rates.iter().map(|rate| &rate.limit)
    }
}

impl RateCheck {
    /// Adds the result of other rates.
    pub fn merge(&mut self, other: Self) {
        other.left.into_iter().for_each(|left| self.note(left));
        self.would_reject.extend(other.would_reject);
        self.receipt.taken.extend(other.receipt.taken);
    }

    /// Records what is left of a rate, if no other of its kind has less.
    fn note(&mut self, left: RateLeft) {
        match self.left.iter_mut().find(|known| known.of_requests == left.of_requests) {
            Some(known) if left.remaining < known.remaining => *known = left,
            Some(_) => {}
            None => self.left.push(left),
        }
    }
}

impl Receipt {
    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Gives back what was taken and not used; what was used beyond it is taken now. Returns
    /// what is to be given back to buckets that are shared.
    #[must_use = "what is shared is given back by the database"]
    pub fn end(&mut self, used: RateCost, now: Duration) -> Vec<GiveBack> {
        let mut shared = Vec::new();
        for taken in self.taken.drain(..) {
            let Taken { unit, size, place, taking } = taken;
            let used = amount(unit, used);
            match place {
                Place::Memory(bucket) => locked(&bucket).end(size, &taking, used, now),
                Place::Row(key) => shared.push(GiveBack { key, size, taking, used }),
            }
        }
        shared
    }
}

impl Rate {
    /// Whether it applies to a request.
    fn counts(&self, of: &Attribution) -> bool {
        subjects(&self.limit, of).next().is_some()
    }

    fn take(
        &self,
        subject: &Subject,
        take: RateCost,
        now: Duration,
    ) -> Result<(RateLeft, Option<Taken>), Box<Throttled>> {
        let requested = amount(self.limit.unit, take);
        let throttled = |remaining, retry_after| {
            let left = left(&self.limit, self.size, remaining);
            Box::new(Throttled { limit: Arc::clone(&self.limit), requested, left, retry_after })
        };
        let buckets = match &self.buckets {
            Buckets::Requests(buckets) => {
                let left = buckets.take(subject).map_err(|wait| throttled(0, Some(wait)))?;
                return Ok((self::left(&self.limit, self.size, left), None));
            }
            Buckets::Tokens(buckets) => buckets,
        };
        let bucket = buckets.bucket(subject, self.size, requested, now);
        let mut locked = locked(&bucket);
        if requested > self.size {
            return Err(throttled(locked.left(self.size, now), None));
        }
        let taking = locked.take(self.size, requested, now);
        let remaining = locked.left(self.size, now);
        drop(locked);
        let taking = taking.map_err(|wait| throttled(remaining, Some(wait)))?;
        let place = Place::Memory(bucket);
        let taken = (requested > 0).then(|| Taken { unit: self.limit.unit, size: self.size, place, taking });
        Ok((left(&self.limit, self.size, remaining), taken))
    }
}

/// What is left of a rate of some size.
fn left(limit: &Limit, size: u64, remaining: u64) -> RateLeft {
    let missing = u128::from(size.saturating_sub(remaining));
    let reset_ms = missing * 60_000 / u128::from(size.max(1));
    let reset = Duration::from_millis(u64::try_from(reset_ms).unwrap_or(u64::MAX));
    RateLeft { of_requests: limit.unit == Unit::Requests, limit: size, remaining, reset }
}

fn amount(unit: Unit, of: RateCost) -> u64 {
    match unit {
        Unit::Requests | Unit::Usd => 1,
        Unit::Tokens => of.tokens,
        Unit::InputTokens => of.input_tokens,
        Unit::OutputTokens => of.output_tokens,
    }
}

#[cfg(test)]
mod tests;
