//! The memory that the bodies of all requests share, and that all large answers share,
//! with a share per key.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::sync::unpoisoned;

/// The unit of allocation.
pub(super) const STEP_BYTES: usize = 64 << 10;
/// The total of each: 1 GiB for the process.
const STEPS: usize = (1 << 30) / STEP_BYTES;
/// The most that the bodies of one key may take, so that they can't displace those of others.
const STEPS_OF_KEY: usize = STEPS / 2;

static BY_REQUESTS: LazyLock<Mutex<Taken>> = LazyLock::new(Mutex::default);
static BY_ANSWERS: LazyLock<Mutex<Taken>> = LazyLock::new(Mutex::default);

/// The pools of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Bodies of requests.
    Requests,
    /// Answers.
    Answers,
}

/// Steps that are taken, in all and by key.
#[derive(Default)]
struct Taken {
    all: usize,
    by_key: HashMap<Arc<str>, usize>,
}

fn taken(pool: Pool) -> MutexGuard<'static, Taken> {
    unpoisoned(match pool {
        Pool::Requests => BY_REQUESTS.lock(),
        Pool::Answers => BY_ANSWERS.lock(),
    })
}

/// The room of one body: whole steps; what is below one needs none. It is free again when
/// this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    pool: Pool,
    /// The id of the key; one for all keys that upstream has yet to accept.
    key: Arc<str>,
    steps: usize,
}

impl Room {
    /// No room yet.
    pub(super) fn of(pool: Pool, key: Arc<str>) -> Self {
        Self { pool, key, steps: 0 }
    }

    /// Takes room for so many bytes in all, if there is enough.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let more = (bytes / STEP_BYTES).saturating_sub(self.steps);
        if more == 0 {
            return true;
        }
        let mut taken = taken(self.pool);
        let of_key = taken.by_key.get(&self.key).copied().unwrap_or(0);
        if taken.all + more > STEPS || of_key + more > STEPS_OF_KEY {
            return false;
        }
        taken.all += more;
        taken.by_key.insert(Arc::clone(&self.key), of_key + more);
        self.steps += more;
        true
    }

    /// Whether any of it is taken.
    pub(super) fn is_taken(&self) -> bool {
        self.steps > 0
    }

    /// Gives back what so many bytes don't need.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let less = self.steps.saturating_sub(bytes / STEP_BYTES);
        if less == 0 {
            return;
        }
        self.steps -= less;
        let mut taken = taken(self.pool);
        taken.all -= less;
        let left = taken.by_key.get(&self.key).map_or(0, |of_key| of_key - less);
        if left == 0 {
            taken.by_key.remove(&self.key);
        } else {
            taken.by_key.insert(Arc::clone(&self.key), left);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_its_part_and_leaves_the_rest_to_others() {
        let of = |key: &str| Room::of(Pool::Requests, key.into());
        let (mut first, mut second, mut other, mut third) = (of("a"), of("a"), of("b"), of("c"));
        assert!(first.grow(STEP_BYTES - 1), "less than a step needs no room");
        assert!(first.grow((STEPS_OF_KEY - 1) * STEP_BYTES));
        assert!(second.grow(STEP_BYTES));
        assert!(!second.grow(2 * STEP_BYTES), "the key has its part");
        assert!(other.grow(STEPS_OF_KEY * STEP_BYTES));
        assert!(!third.grow(STEP_BYTES), "all is taken");
        assert!(Room::of(Pool::Answers, "a".into()).grow(STEP_BYTES), "answers have their own");
        drop(first);
        assert!(second.grow(2 * STEP_BYTES) && third.grow(STEP_BYTES));
        other.shrink(STEP_BYTES);
        assert!(third.grow((STEPS_OF_KEY - 2) * STEP_BYTES), "what was given back is free");
        drop((second, other, third));
        assert!(of("a").grow(STEPS_OF_KEY * STEP_BYTES), "all of it is free again");
        assert!(taken(Pool::Requests).by_key.is_empty());
    }
}
