//! The memory that the bodies of all requests share, and what one key may have of it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::sync::unpoisoned;

/// What room is taken in.
pub(super) const STEP_BYTES: usize = 64 << 10;
/// All there is: 1 GiB for the process, whose memory it is about.
const STEPS: usize = (1 << 30) / STEP_BYTES;
/// What the bodies of one key take at most, so that it can't keep out those of others.
const STEPS_OF_KEY: usize = STEPS / 2;

static TAKEN: LazyLock<Mutex<Taken>> = LazyLock::new(Mutex::default);

/// Steps that are taken, in all and by key.
#[derive(Default)]
struct Taken {
    all: usize,
    by_key: HashMap<Arc<str>, usize>,
}

fn taken() -> MutexGuard<'static, Taken> {
    unpoisoned(TAKEN.lock())
}

/// The room of one body: whole steps; what is below one needs none. It is free again when
/// this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    /// The id of the key; one for all keys that upstream has yet to accept.
    key: Arc<str>,
    steps: usize,
}

impl Room {
    /// No room yet.
    pub(super) fn of(key: Arc<str>) -> Self {
        Self { key, steps: 0 }
    }

    /// Takes room for so many bytes in all, if there is enough.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let more = (bytes / STEP_BYTES).saturating_sub(self.steps);
        if more == 0 {
            return true;
        }
        let mut taken = taken();
        let of_key = taken.by_key.get(&self.key).copied().unwrap_or(0);
        if taken.all + more > STEPS || of_key + more > STEPS_OF_KEY {
            return false;
        }
        taken.all += more;
        taken.by_key.insert(Arc::clone(&self.key), of_key + more);
        self.steps += more;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.steps == 0 {
            return;
        }
        let mut taken = taken();
        taken.all -= self.steps;
        let left = taken.by_key.get(&self.key).map_or(0, |of_key| of_key - self.steps);
        if left == 0 {
            taken.by_key.remove(&self.key);
        } else {
            taken.by_key.insert(Arc::clone(&self.key), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_its_part_and_leaves_the_rest_to_others() {
        let of = |key: &str| Room::of(key.into());
        let (mut first, mut second, mut other, mut third) = (of("a"), of("a"), of("b"), of("c"));
        assert!(first.grow(STEP_BYTES - 1), "less than a step needs no room");
        assert!(first.grow((STEPS_OF_KEY - 1) * STEP_BYTES));
        assert!(second.grow(STEP_BYTES));
        assert!(!second.grow(2 * STEP_BYTES), "the key has its part");
        assert!(other.grow(STEPS_OF_KEY * STEP_BYTES));
        assert!(!third.grow(STEP_BYTES), "all is taken");
        drop(first);
        assert!(second.grow(2 * STEP_BYTES) && third.grow(STEP_BYTES));
        drop((second, other, third));
        assert!(of("a").grow(STEPS_OF_KEY * STEP_BYTES), "all of it is free again");
        assert!(taken().by_key.is_empty());
    }
}
