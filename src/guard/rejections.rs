//! The latest rejected requests, for the dashboard: the ledger has no entries of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::guard::Guard;
use crate::sync::unpoisoned;

/// How many are remembered.
const REMEMBERED_MAX: usize = 50;

/// A request that was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Ascending in the order of rejections.
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

/// The latest rejections, newest first.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Rejection>>);

impl Guard {
    /// Counts a rejected request, and remembers it for a while.
    pub fn note_rejection(
        &self,
        key: Option<&Arc<str>>,
        endpoint: &'static str,
        reason: &'static str,
        limit: Option<&Arc<str>>,
    ) {
        self.metrics().rejected(limit.map_or("", |limit| limit), reason);
        let at_ms = self.clock().now_ms();
        let mut all = unpoisoned(self.rejections.0.lock());
        let number = all.front().map_or(1, |last| last.number + 1);
        all.truncate(REMEMBERED_MAX - 1);
        all.push_front(Rejection {
            number,
            at_ms,
            key: key.cloned(),
            endpoint,
            reason,
            limit: limit.cloned(),
        });
    }

    /// The latest rejections since the start, newest first.
    pub fn rejections(&self) -> Vec<Rejection> {
        unpoisoned(self.rejections.0.lock()).iter().cloned().collect()
    }
}
