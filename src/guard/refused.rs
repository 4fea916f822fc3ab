//! The latest refusals, for operators who look: the ledger has no line of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::guard::Guard;
use crate::sync::unpoisoned;

/// How many are remembered.
const REMEMBERED_MAX: usize = 50;

/// A request that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Ascending in the order of refusals.
    pub number: u64,
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Id of its key, if that was known.
    pub key: Option<Arc<str>>,
    /// The endpoint's label.
    pub endpoint: &'static str,
    /// The label of the reason.
    pub reason: &'static str,
    /// Name of the limit that stood in the way.
    pub limit: Option<Arc<str>>,
}

/// The latest refusals, newest first.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<VecDeque<Refusal>>);

impl Guard {
    /// Counts a refused request, and remembers it for a while.
    pub fn note_refusal(
        &self,
        key: Option<&Arc<str>>,
        endpoint: &'static str,
        reason: &'static str,
        limit: Option<&Arc<str>>,
    ) {
        self.metrics.rejected(limit.map_or("", |limit| limit), reason);
        let at_ms = self.clock.now_ms();
        let mut all = unpoisoned(self.refused.0.lock());
        let number = all.front().map_or(1, |last| last.number + 1);
        all.truncate(REMEMBERED_MAX - 1);
        all.push_front(Refusal { number, at_ms, key: key.cloned(), endpoint, reason, limit: limit.cloned() });
    }

    /// The latest refusals since the start, newest first.
    pub fn refusals(&self) -> Vec<Refusal> {
        unpoisoned(self.refused.0.lock()).iter().cloned().collect()
    }
}
