//! The only reader of the time.
//!
//! Wall time never runs backward here: if the system's clock is set back, this
//! one stands still until it has caught up, so that no window opens twice.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Says that no other clock is followed.
const NOT_FOLLOWED: i64 = i64::MIN;

/// A source of wall and running time. The running time is the runtime's, so that it
/// agrees with the timers.
pub struct Clock {
    started: Instant,
    latest_ms: AtomicI64,
    /// Of a followed clock: its time less the running time, in milliseconds.
    followed_ms: AtomicI64,
    wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Default for Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the one home of the time")]
    fn default() -> Self {
        Self::with_wall(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("latest_ms", &self.latest_ms).finish_non_exhaustive()
    }
}

impl Clock {
    /// A clock with `wall` as the source of wall time, which may jump.
    #[expect(clippy::disallowed_methods, reason = "this is the one home of the time")]
    pub fn with_wall(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self {
            started: Instant::now(),
            latest_ms: AtomicI64::new(0),
            followed_ms: AtomicI64::new(NOT_FOLLOWED),
            wall: Box::new(wall),
        }
    }

    /// Unix time in milliseconds; never less than it has returned before.
    pub fn now_ms(&self) -> i64 {
        let now_ms = match self.followed_ms.load(Ordering::Relaxed) {
            NOT_FOLLOWED => {
                let since = (self.wall)().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            followed_ms => followed_ms.saturating_add(self.running_ms()),
        };
        // Read first: most calls of a millisecond find it there, and a write would take the cache line from
        // the other threads.
        let latest_ms = self.latest_ms.load(Ordering::Relaxed);
        if now_ms <= latest_ms {
            return latest_ms;
        }
        self.latest_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }

    /// Follows another clock, which says this Unix time in milliseconds now: from here on wall
    /// time is its time, and the system's makes no difference.
    pub fn follow(&self, now_ms: i64) {
        let followed_ms = now_ms.saturating_sub(self.running_ms());
        if self.followed_ms.swap(followed_ms, Ordering::Relaxed) == NOT_FOLLOWED {
            // The system's clock may have been hours ahead.
            self.latest_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    fn running_ms(&self) -> i64 {
        i64::try_from(self.running().as_millis()).unwrap_or(i64::MAX)
    }

    /// Unix time as exactly as the system has it, for the ends of spans. It may run backward.
    pub fn exact(&self) -> Duration {
        (self.wall)().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// Unix time in seconds.
    pub fn now_s(&self) -> i64 {
        self.now_ms().div_euclid(1_000)
    }

    /// Time since this clock was made, for durations.
    #[expect(clippy::disallowed_methods, reason = "this is the one home of the time")]
    pub fn running(&self) -> Duration {
        Instant::now().duration_since(self.started)
    }
}
