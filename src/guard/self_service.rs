//! What keys ask of the guard itself, bounded: a key's questions about its own
//! limits and spending must not take time from requests or operators.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::guard::Guard;
use crate::sync::unpoisoned;

/// Questions of one key that are answered at once. A browser asks six.
const OPEN_PER_KEY_MAX: usize = 6;
/// Questions that are answered at once in all.
const OPEN_MAX: usize = 24;

/// The questions that are being answered, counted by key.
#[derive(Debug, Default)]
pub(super) struct Open(Mutex<HashMap<Arc<str>, usize>>);

/// A question that may be answered; dropped when it has been.
#[derive(Debug)]
pub struct Question {
    guard: Arc<Guard>,
    key: Arc<str>,
}

impl Guard {
    /// Lets a key ask something of the guard itself, unless it has as many
    /// questions open as it may, or all keys have.
    pub fn question(self: &Arc<Self>, key: &Arc<str>) -> Option<Question> {
        let mut open = unpoisoned(self.self_service.0.lock());
        let of_key = open.get(key).copied().unwrap_or(0);
        if of_key >= OPEN_PER_KEY_MAX || open.values().sum::<usize>() >= OPEN_MAX {
            return None;
        }
        open.insert(Arc::clone(key), of_key + 1);
        Some(Question { guard: Arc::clone(self), key: Arc::clone(key) })
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut open = unpoisoned(self.guard.self_service.0.lock());
        let left = open.get(&self.key).map_or(0, |of_key| of_key.saturating_sub(1));
        if left == 0 {
            open.remove(&self.key);
        } else {
            open.insert(Arc::clone(&self.key), left);
        }
    }
}
