//! Wrong keys at the proxy, paced.
//!
//! A good key is never asked to wait, whatever else is tried beside it. So what
//! is paced are the answers to wrong ones, all together, which takes no memory
//! for each address that they come from.

use std::sync::Mutex;
use std::time::Duration;

use crate::guard::Guard;
use crate::sync::unpoisoned;

/// Wrong keys that are answered at once, if there were none for a while.
const AT_ONCE_MAX: u32 = 100;
/// After those, one more for each of these.
const EACH: Duration = Duration::from_millis(50);
/// How long the others wait for their answer.
const DELAY: Duration = Duration::from_secs(1);

/// How many wrong keys there were of late.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those that are not made up for by time yet.
    count: u32,
    /// Up to when time was made use of, in the guard's running time.
    until: Duration,
}

impl Guard {
    /// Notes a wrong key, and says how long its answer is to wait.
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
