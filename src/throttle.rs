//! Rates: requests or tokens per minute, by token buckets (GCRA).
//!
//! A rate is no budget: it refills, and says when. Money is never kept here.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::domain::Limit;
use crate::domain::limit::{Mode, Unit};
use crate::ledger::entry::Attribution;
use crate::ledger::meter::{Subject, subject};

type Bucket = RateLimiter<Subject, DashMapStateStore<Subject>, DefaultClock, StateInformationMiddleware>;

/// The number of subjects of one rate at which idle buckets are swept out.
const BUCKETS_SWEPT_AT: usize = 100_000;

/// All rate limits in force.
#[derive(Debug, Default)]
pub struct Throttle {
    rates: Vec<Rate>,
}

#[derive(Debug)]
struct Rate {
    limit: Arc<Limit>,
    burst: u32,
    bucket: Arc<Bucket>,
}

/// What a request takes from the rates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Take {
    /// Tokens that it is reckoned to use, input and output together.
    pub tokens: u64,
    /// The input part.
    pub input_tokens: u64,
    /// The output part.
    pub output_tokens: u64,
}

/// What is left of a rate, for the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLeft {
    /// Whether it counts requests, not tokens.
    pub of_requests: bool,
    /// The rate per minute.
    pub limit: u32,
    /// What may be taken at once.
    pub remaining: u32,
    /// Until all may be taken again.
    pub reset: Duration,
}

/// A request that comes too fast.
#[derive(Clone, Debug)]
pub struct Throttled {
    /// The limit.
    pub limit: Arc<Limit>,
    /// What the request would take.
    pub requested: u32,
    /// What is left now.
    pub left: RateLeft,
    /// When to come again; `None` if it takes more than a minute's worth.
    pub retry_after: Option<Duration>,
}

/// What the rates say of a request.
#[derive(Debug, Default)]
pub struct Paced {
    /// What is left of each rate that applies.
    pub left: Vec<RateLeft>,
    /// Limits in shadow mode that would have refused it.
    pub would_reject: Vec<Arc<Limit>>,
}

impl Throttle {
    /// The rates among some limits. A rate that was in force before keeps its
    /// buckets if only its name, cap or mode is the same.
    pub fn new(limits: &[Arc<Limit>], before: &Self) -> Self {
        let rate = |limit: &Arc<Limit>| {
            let burst = NonZeroU32::new(u32::try_from(limit.hard?).unwrap_or(u32::MAX))?;
            let same = |known: &&Rate| known.limit.counts_like(limit) && known.limit.hard == limit.hard;
            let bucket = before.rates.iter().find(same).map_or_else(
                || Arc::new(RateLimiter::dashmap(Quota::per_minute(burst)).with_middleware()),
                |known| Arc::clone(&known.bucket),
            );
            Some(Rate { limit: Arc::clone(limit), burst: burst.get(), bucket })
        };
        Self { rates: limits.iter().filter(|limit| limit.is_rate()).filter_map(rate).collect() }
    }

    /// Takes a request's part from every rate that applies, or says which one
    /// has too little.
    pub fn take(&self, of: &Attribution, take: Take) -> Result<Paced, Box<Throttled>> {
        let mut paced = Paced::default();
        for rate in &self.rates {
            let Some(subject) = subject(&rate.limit, of) else { continue };
            match rate.take(&subject, take) {
                Ok(left) => paced.left.push(left),
                Err(throttled) if rate.limit.mode == Mode::Enforce => return Err(throttled),
                Err(throttled) => paced.would_reject.push(Arc::clone(&throttled.limit)),
            }
        }
        Ok(paced)
    }

    /// The limits that are kept here.
    pub fn limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.rates.iter().map(|rate| &rate.limit)
    }
}

impl Rate {
    fn take(&self, subject: &Subject, take: Take) -> Result<RateLeft, Box<Throttled>> {
        if self.bucket.len() > BUCKETS_SWEPT_AT {
            self.bucket.retain_recent();
        }
        let amount = match self.limit.unit {
            Unit::Requests | Unit::Usd => 1,
            Unit::Tokens => take.tokens,
            Unit::InputTokens => take.input_tokens,
            Unit::OutputTokens => take.output_tokens,
        };
        let requested = u32::try_from(amount).unwrap_or(u32::MAX);
        let Some(cells) = NonZeroU32::new(requested) else { return Ok(self.left(self.burst)) };
        let throttled = |retry_after| {
            let left = self.left(0);
            Box::new(Throttled { limit: Arc::clone(&self.limit), requested, left, retry_after })
        };
        match self.bucket.check_key_n(subject, cells) {
            Ok(Ok(state)) => Ok(self.left(state.remaining_burst_capacity())),
            Ok(Err(until)) => Err(throttled(Some(until.wait_time_from(DefaultClock::default().now())))),
            Err(_) => Err(throttled(None)),
        }
    }

    fn left(&self, remaining: u32) -> RateLeft {
        let missing = u64::from(self.burst.saturating_sub(remaining));
        let reset = Duration::from_millis(missing * 60_000 / u64::from(self.burst));
        let of_requests = self.limit.unit == Unit::Requests;
        RateLeft { of_requests, limit: self.burst, remaining, reset }
    }
}
