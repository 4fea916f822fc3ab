//! The buckets of one guard, in its memory.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::quality::RandomState;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::domain::limit::Unit;
use crate::ledger::meter::Subject;
use crate::sync::unpoisoned;
use crate::throttle::bucket::Bucket;

type Requests = RateLimiter<Subject, DashMapStateStore<Subject>, DefaultClock, StateInformationMiddleware>;

/// The number of subjects of one rate from which full buckets are swept out. A bucket is full
/// again within a minute of its last request, so what is left is what came in a minute.
pub(super) const BUCKETS_SWEPT_AT: usize = 100_000;

#[derive(Clone, Debug)]
pub(super) enum Buckets {
    Requests(Arc<RequestBuckets>),
    Tokens(Arc<TokenBuckets>),
}

#[derive(Debug)]
pub(super) struct RequestBuckets {
    by_subject: Requests,
    swept_at: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct TokenBuckets {
    pub(super) by_subject: DashMap<Subject, Arc<Mutex<Bucket>>, RandomState>,
    swept_at: AtomicUsize,
}

impl Buckets {
    pub(super) fn of(unit: Unit, size: u64) -> Self {
        let swept_at = AtomicUsize::new(BUCKETS_SWEPT_AT);
        if unit != Unit::Requests {
            return Self::Tokens(Arc::new(TokenBuckets { by_subject: DashMap::default(), swept_at }));
        }
        let size = u32::try_from(size).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let by_subject = RateLimiter::dashmap(Quota::per_minute(size)).with_middleware();
        Self::Requests(Arc::new(RequestBuckets { by_subject, swept_at }))
    }
}

impl RequestBuckets {
    /// Takes one request: what is left, or how long to wait.
    pub(super) fn take(&self, subject: &Subject) -> Result<u64, Duration> {
        if self.by_subject.len() >= self.swept_at.load(Ordering::Relaxed) {
            self.by_subject.retain_recent();
            self.swept_at.store(next_sweep(self.by_subject.len()), Ordering::Relaxed);
        }
        match self.by_subject.check_key(subject) {
            Ok(state) => Ok(state.remaining_burst_capacity().into()),
            Err(until) => Err(until.wait_time_from(DefaultClock::default().now())),
        }
    }
}

impl TokenBuckets {
    /// A subject's bucket, which is full if there is none. It is made for what `takes`.
    pub(super) fn bucket(
        &self,
        subject: &Subject,
        size: u64,
        takes: u64,
        now: Duration,
    ) -> Arc<Mutex<Bucket>> {
        if let Some(bucket) = self.by_subject.get(subject) {
            return Arc::clone(&bucket);
        }
        if takes == 0 {
            return Arc::default();
        }
        if self.by_subject.len() >= self.swept_at.load(Ordering::Relaxed) {
            // One that a receipt will give back to stays, whatever is in it.
            let is_used = |bucket: &Arc<Mutex<Bucket>>| {
                Arc::strong_count(bucket) > 1 || locked(bucket).left(size, now) < size
            };
            self.by_subject.retain(|_, bucket| is_used(bucket));
            self.swept_at.store(next_sweep(self.by_subject.len()), Ordering::Relaxed);
        }
        match self.by_subject.entry(subject.clone()) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(place) => Arc::clone(&place.insert(Arc::default())),
        }
    }
}

/// Sweeping goes through all buckets, so it waits until they are twice as many.
fn next_sweep(left: usize) -> usize {
    left.saturating_mul(2).max(BUCKETS_SWEPT_AT)
}

pub(super) fn locked(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    // Two counters, each written in one step: a panic elsewhere leaves them whole.
    unpoisoned(bucket.lock())
}
