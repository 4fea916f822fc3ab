//! Wrong tokens at the admin API, paced.
//!
//! A good token never waits, however many wrong ones are tried at the same time: only
//! the answers to wrong ones are paced, all together.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::sync::unpoisoned;

/// How many wrong tokens are answered immediately in a minute, from all clients together.
const FAILURES_MAX: usize = 10;
const FAILURES_WITHIN_MS: i64 = 60_000;

/// When tokens were wrong, in Unix milliseconds, oldest first.
#[derive(Debug, Default)]
pub struct Attempts {
    /// A lock of the standard library: held for a few steps, never across an await.
    failures: Mutex<VecDeque<i64>>,
}

impl Attempts {
    /// Records a wrong token. If there were too many, returns the seconds until the
    /// next one may be tried.
    pub(super) fn failed(&self, now_ms: i64) -> Option<i64> {
        let mut failures = unpoisoned(self.failures.lock());
        let since_ms = now_ms.saturating_sub(FAILURES_WITHIN_MS);
        while failures.front().is_some_and(|at_ms| *at_ms <= since_ms) {
            failures.pop_front();
        }
        if failures.len() < FAILURES_MAX {
            failures.push_back(now_ms);
            return None;
        }
        let oldest_ms = failures.front().copied().unwrap_or(now_ms);
        let wait_ms = oldest_ms.saturating_sub(since_ms).clamp(1, FAILURES_WITHIN_MS);
        Some(wait_ms.saturating_add(999).div_euclid(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_wrong_tokens_a_minute_are_answered_and_no_more_are_remembered() {
        let attempts = Attempts::default();
        for at_ms in 0..10 {
            assert_eq!(attempts.failed(at_ms), None);
        }
        for _ in 0..1_000 {
            assert_eq!(attempts.failed(10), Some(60));
        }
        assert_eq!(attempts.failures.lock().unwrap().len(), FAILURES_MAX);
        assert_eq!(attempts.failed(59_999), Some(1));
        assert_eq!(attempts.failed(60_000), None, "the first is a minute old");
        assert_eq!(attempts.failed(60_000), Some(1), "the second is not");
    }

    #[test]
    fn a_clock_that_is_set_ahead_or_back_bars_no_client_for_long() {
        let attempts = Attempts::default();
        for _ in 0..10 {
            assert_eq!(attempts.failed(1_000_000_000), None);
        }
        assert_eq!(attempts.failed(1_000_000_000 + 86_400_000), None, "a day ahead");
        let attempts = Attempts::default();
        for _ in 0..11 {
            attempts.failed(1_000_000_000);
        }
        assert!(attempts.failed(0).is_some_and(|seconds| seconds <= 60), "and back");
    }
}
