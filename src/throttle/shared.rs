//! Rates whose buckets are rows of a database that several guards share.
//!
//! A request takes from all of its buckets inside one transaction, so the rates are exact
//! over all guards. What it did not use goes back as it does in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::Limit;
use crate::domain::limit::{Mode, Unit};
use crate::ledger::entry::Attribution;
use crate::ledger::meter::{Subject, subjects};
use crate::throttle::bucket::{Bucket, Taking};
use crate::throttle::{Place, RateCheck, RateCost, Taken, Throttle, Throttled, amount, left};

/// The place of a bucket. Rows are locked in the order of these, by every guard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    /// The limit's name.
    pub limit: Arc<str>,
    /// Whose bucket of it.
    pub subject: Subject,
}

/// What a request takes from one bucket.
#[derive(Clone, Debug)]
pub struct Take {
    /// The place of the bucket.
    pub key: BucketKey,
    limit: Arc<Limit>,
    size: u64,
    amount: u64,
}

/// What goes back to one bucket, once it is known what was used.
#[derive(Debug)]
pub struct GiveBack {
    /// The place of the bucket.
    pub key: BucketKey,
    pub(super) size: u64,
    pub(super) taking: Taking,
    pub(super) used: u64,
}

/// The buckets that some requests take from.
pub type Buckets = BTreeMap<BucketKey, Bucket>;

impl Throttle {
    /// What one request takes from the rates of requests that apply.
    pub fn request_takes(&self, of: &Attribution) -> Vec<Take> {
        self.takes(|unit| unit == Unit::Requests, of, RateCost::default())
    }

    /// What a request takes from the rates of tokens that apply.
    pub fn token_takes(&self, of: &Attribution, take: RateCost) -> Vec<Take> {
        self.takes(|unit| unit != Unit::Requests, of, take)
    }

    fn takes(&self, is_asked: fn(Unit) -> bool, of: &Attribution, take: RateCost) -> Vec<Take> {
        let asked = self.rates.iter().filter(|rate| is_asked(rate.limit.unit));
        let of_rate = |limit: &Arc<Limit>, size| {
            let (limit, amount) = (Arc::clone(limit), amount(limit.unit, take));
            subjects(&limit, of).map(move |subject| {
                let key = BucketKey { limit: Arc::clone(&limit.name), subject };
                Take { key, limit: Arc::clone(&limit), size, amount }
            })
        };
        asked.flat_map(|rate| of_rate(&rate.limit, rate.size)).collect()
    }
}

/// Takes from all buckets at an instant, or says which one has too little; then it has taken
/// nothing.
pub fn take(takes: &[Take], buckets: &mut Buckets, now: Duration) -> Result<RateCheck, Box<Throttled>> {
    let mut rate_check = RateCheck::default();
    for take in takes {
        let bucket = buckets.entry(take.key.clone()).or_default();
        match take.from(bucket, now) {
            Ok(taken) => {
                rate_check.note(left(&take.limit, take.size, bucket.left(take.size, now)));
                rate_check.receipt.taken.extend(taken);
            }
            Err(throttled) if take.limit.mode == Mode::Enforce => {
                let taken_before = rate_check.receipt.end(RateCost::default(), now);
                for back in taken_before {
                    back.to(buckets, now);
                }
                return Err(throttled);
            }
            Err(throttled) => rate_check.would_reject.push(Arc::clone(&throttled.limit)),
        }
    }
    Ok(rate_check)
}

impl Take {
    fn from(&self, bucket: &mut Bucket, now: Duration) -> Result<Option<Taken>, Box<Throttled>> {
        let Self { key, limit, size, amount } = self;
        let throttled = |remaining, retry_after| {
            let left = left(limit, *size, remaining);
            Box::new(Throttled { limit: Arc::clone(limit), requested: *amount, left, retry_after })
        };
        if amount > size {
            return Err(throttled(bucket.left(*size, now), None));
        }
        let remaining = bucket.left(*size, now);
        let taking = bucket.take(*size, *amount, now).map_err(|wait| throttled(remaining, Some(wait)))?;
        // A request is not given back.
        let is_kept = limit.unit != Unit::Requests && *amount > 0;
        let place = Place::Row(key.clone());
        Ok(is_kept.then(|| Taken { unit: limit.unit, size: *size, place, taking }))
    }
}

impl GiveBack {
    /// Replaces in its bucket what was taken by what was used. A bucket that was made since then
    /// lacks nothing of it.
    pub fn to(&self, buckets: &mut Buckets, now: Duration) {
        let bucket = buckets.get_mut(&self.key).filter(|bucket| self.taking.is_of(bucket));
        if let Some(bucket) = bucket {
            bucket.end(self.size, &self.taking, self.used, now);
        }
    }
}

#[cfg(test)]
mod tests;
