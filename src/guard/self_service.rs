//! Bounds the self-service questions of keys: questions about a key's own limits
//! and spending must not delay requests or operators.
//!
//! Questions beyond the bound wait for a short time. A client that is refused
//! immediately and retries immediately would cost more than the answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::guard::Guard;
use crate::sync::unpoisoned;

/// Questions of one key that are answered at once. A browser asks six.
const OPEN_PER_KEY_MAX: usize = 6;
/// Questions of one key that are answered or wait.
const QUESTIONS_PER_KEY_MAX: usize = 128;
/// Questions that are answered at once in all.
const OPEN_MAX: usize = 24;
/// The longest wait for a question's turn.
const WAIT: Duration = Duration::from_secs(2);

/// The questions that are answered or wait.
#[derive(Debug)]
pub(super) struct Open {
    all: Arc<Semaphore>,
    /// By key, for keys with open questions.
    keys: Mutex<HashMap<Arc<str>, OfKey>>,
}

/// The questions of one key.
#[derive(Debug)]
struct OfKey {
    places: Arc<Semaphore>,
    count: usize,
}

impl Default for Open {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(OPEN_MAX)), keys: Mutex::default() }
    }
}

/// A question that may be answered; dropped when it has been.
#[derive(Debug)]
pub struct Question {
    // Given back before the key is forgotten.
    _places: [OwnedSemaphorePermit; 2],
    _counted: CountedQuestion,
}

/// A question that is counted.
#[derive(Debug)]
struct CountedQuestion {
    guard: Arc<Guard>,
    key: Arc<str>,
}

impl Guard {
    /// Lets a key ask something of the guard itself, once there is a place for it;
    /// `None` if too many wait, or none comes free in time.
    pub async fn question(self: &Arc<Self>, key: &Arc<str>) -> Option<Question> {
        let (counted, places) = self.count_question(key)?;
        let both = async {
            let of_key = places.acquire_owned().await.ok()?;
            Some([of_key, Arc::clone(&self.self_service.all).acquire_owned().await.ok()?])
        };
        let places = tokio::time::timeout(WAIT, both).await.ok()??;
        Some(Question { _places: places, _counted: counted })
    }

    /// Counts a question of a key, unless it has asked as many as it may.
    fn count_question(self: &Arc<Self>, key: &Arc<str>) -> Option<(CountedQuestion, Arc<Semaphore>)> {
        let mut keys = unpoisoned(self.self_service.keys.lock());
        let new = || OfKey { places: Arc::new(Semaphore::new(OPEN_PER_KEY_MAX)), count: 0 };
        let of_key = keys.entry(Arc::clone(key)).or_insert_with(new);
        if of_key.count >= QUESTIONS_PER_KEY_MAX {
            return None;
        }
        of_key.count += 1;
        Some((CountedQuestion { guard: Arc::clone(self), key: Arc::clone(key) }, Arc::clone(&of_key.places)))
    }
}

impl Drop for CountedQuestion {
    fn drop(&mut self) {
        let mut keys = unpoisoned(self.guard.self_service.keys.lock());
        if let Some(of_key) = keys.get_mut(&self.key) {
            of_key.count -= 1;
            if of_key.count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}
