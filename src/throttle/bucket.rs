//! A token bucket that takes back what was not used.
//!
//! It is a GCRA bucket kept as two counters that only grow: all tokens ever taken, and
//! all tokens ever restored, by refilling or by giving back. Their difference is the
//! present level. Each taking remembers its end in the first counter; tokens restored up
//! to there can't be given back a second time. So whenever tokens are given back, the
//! bucket never allows more than if each taking had been only of the tokens used in the
//! end.

use std::time::Duration;

/// Parts of a token: with as many, a bucket refills `size` parts each nanosecond.
const PARTS: u128 = 60_000_000_000;

/// What a bucket has handed out, in parts of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// All that was ever taken.
    pub taken: u128,
    /// All that ever came back.
    pub gone: u128,
    /// The instant of these.
    pub at: Duration,
}

/// What a request has taken from a bucket.
#[derive(Debug)]
pub struct Taking {
    amount: u64,
    end: u128,
}

impl Taking {
    /// Whether it may be of this bucket, and not of one that was there before it.
    pub(super) fn is_of(&self, bucket: &Bucket) -> bool {
        self.end <= bucket.taken
    }
}

impl Bucket {
    /// Takes some tokens at an instant, or says how long to wait for them. It is never
    /// asked for more than its size.
    pub(super) fn take(&mut self, size: u64, amount: u64, now: Duration) -> Result<Taking, Duration> {
        self.refill(size, now);
        let parts_needed = parts(amount);
        let over = (self.level() + parts_needed).saturating_sub(parts(size));
        if over > 0 {
            let wait_ns = over.div_ceil(u128::from(size.max(1)));
            return Err(Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX)));
        }
        self.taken += parts_needed;
        Ok(Taking { amount, end: self.taken })
    }

    /// Replaces a taking by what was used in the end.
    pub(super) fn end(&mut self, size: u64, taking: &Taking, used: u64, now: Duration) {
        self.refill(size, now);
        let unused = parts(taking.amount.saturating_sub(used));
        self.gone += unused.min(taking.end.saturating_sub(self.gone));
        self.taken += parts(used.saturating_sub(taking.amount));
    }

    /// What may be taken at once, in tokens.
    pub(super) fn left(&mut self, size: u64, now: Duration) -> u64 {
        self.refill(size, now);
        let left = parts(size).saturating_sub(self.level()) / PARTS;
        u64::try_from(left).unwrap_or(size)
    }

    fn refill(&mut self, size: u64, now: Duration) {
        let refilled = now.saturating_sub(self.at).as_nanos().saturating_mul(u128::from(size));
        self.gone = self.gone.saturating_add(refilled).min(self.taken);
        self.at = self.at.max(now);
    }

    fn level(&self) -> u128 {
        self.taken - self.gone
    }
}

fn parts(tokens: u64) -> u128 {
    u128::from(tokens) * PARTS
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_not_used_may_be_taken_again_at_once() {
        let mut bucket = Bucket::default();
        let taking = bucket.take(1_000, 900, s(0)).unwrap();
        assert!(bucket.take(1_000, 900, s(0)).is_err());
        bucket.end(1_000, &taking, 50, s(0));
        assert_eq!(bucket.left(1_000, s(0)), 950);
        assert!(bucket.take(1_000, 900, s(0)).is_ok());
    }

    #[test]
    fn a_taking_that_is_refused_says_when_it_would_pass() {
        let mut bucket = Bucket::default();
        bucket.take(60, 60, s(0)).unwrap();
        assert_eq!(bucket.take(60, 15, s(10)).unwrap_err(), s(5));
        assert!(bucket.take(60, 15, s(15)).is_ok());
    }

    #[test]
    fn what_has_been_refilled_is_not_given_back_a_second_time() {
        let mut bucket = Bucket::default();
        let early = bucket.take(60, 30, s(0)).unwrap();
        bucket.take(60, 60, s(30)).unwrap();
        bucket.end(60, &early, 0, s(31));
        assert_eq!(bucket.left(60, s(31)), 1, "all of the first had been refilled before");
    }

    #[test]
    fn more_than_was_taken_is_owed() {
        let mut bucket = Bucket::default();
        let taking = bucket.take(60, 10, s(0)).unwrap();
        bucket.end(60, &taking, 100, s(0));
        assert_eq!(bucket.left(60, s(0)), 0);
        assert_eq!(bucket.take(60, 1, s(0)).unwrap_err(), s(41));
    }

    /// A request: when it comes, how long it lasts, what it takes and what it uses.
    type Request = (u64, u64, u64, u64);

    fn requests() -> impl Strategy<Value = Vec<Request>> {
        vec((0_u64..240, 0_u64..150, 0_u64..=100, 0_u64..=100), 1..40)
    }

    proptest! {
        /// The reference: a bucket that knew from the start what each request would use.
        #[test]
        fn no_more_passes_than_if_all_had_taken_what_they_used(requests in requests()) {
            let size = 100;
            let (mut bucket, mut ideal) = (Bucket::default(), Bucket::default());
            let mut open: Vec<(u64, Taking, u64)> = Vec::new();
            let mut requests = requests;
            requests.sort_unstable();
            for at in 0..400 {
                let now = s(at);
                for (_, taking, used) in open.extract_if(.., |(until, ..)| *until <= at) {
                    bucket.end(size, &taking, used, now);
                }
                for (_, lasts, amount, used) in requests.extract_if(.., |(come, ..)| *come <= at) {
                    let used = used.min(amount);
                    if let Ok(taking) = bucket.take(size, amount, now) {
                        open.push((at + lasts, taking, used));
                        // The ideal bucket has room for all that the guard admits.
                        prop_assert!(ideal.take(size, used, now).is_ok());
                    }
                }
            }
            prop_assert_eq!(bucket.left(size, s(10_000)), size);
        }
    }
}
