//! Wrong keys at the proxy, paced.
//!
//! A valid key never waits, however many wrong ones are tried at the same time.
//! Only the answers to wrong keys are paced, all together, so that no memory is
//! needed per client address.

use std::sync::Mutex;
use std::time::Duration;

use crate::guard::Guard;
use crate::sync::unpoisoned;

/// How many wrong keys are answered immediately after a quiet time.
const AT_ONCE_MAX: u32 = 100;
/// After those, one more for each of these.
const EACH: Duration = Duration::from_millis(50);
/// How long the others wait for their answer.
const DELAY: Duration = Duration::from_secs(1);

/// The number of recent wrong keys.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Wrong keys that have not been paid off by time yet.
    count: u32,
    /// The time up to which they were paid off, in the guard's running time.
    until: Duration,
}

impl Guard {
    /// Records a wrong key, and returns how long its answer has to wait.
    pub fn note_wrong_key(&self) -> Duration {
        self.wrong_keys.note(self.clock().running())
    }
}

impl Pace {
    fn note(&self, now: Duration) -> Duration {
        let mut state = unpoisoned(self.0.lock());
        let passed = now.saturating_sub(state.until).as_millis() / EACH.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed >= state.count {
            *state = State { count: 0, until: now };
        } else {
            state.count -= passed;
            state.until += EACH * passed;
        }
        if state.count >= AT_ONCE_MAX {
            return DELAY;
        }
        state.count += 1;
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_answered_at_once_and_then_twenty_a_second() {
        let pace = Pace::default();
        let at_once = |from_ms: u64, to_ms: u64| {
            let at = (from_ms..to_ms).map(Duration::from_millis);
            at.filter(|at| pace.note(*at) == Duration::ZERO).count()
        };
        assert_eq!(at_once(0, 100), 100);
        assert_eq!(at_once(100, 10_100), 201, "that one, and one each 50 ms");
        assert!(
            (95..=100).contains(&at_once(3_600_000, 3_600_100)),
            "after a quiet hour no more than at first"
        );
    }
}
