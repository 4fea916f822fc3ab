//! Deletions at upstream: whether the guard can have seen one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::{Mark, now};

/// How long it takes at the most until what a guard has read is written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// A deletion at upstream.
#[derive(Clone, Debug)]
pub(crate) struct Deletion {
    at: Instant,
    delivered: Arc<AtomicU64>,
}

impl Deletion {
    /// One that is done now.
    pub(crate) fn done() -> Self {
        Self { at: now(), delivered: Arc::default() }
    }

    /// What marks that its answer has come.
    pub(crate) fn mark(&self) -> Mark {
        Mark::of(&self.delivered, 1)
    }

    /// Whether its answer has come to a guard that lived long enough to write that.
    pub(crate) fn is_seen(&self, deaths: &[Instant]) -> bool {
        let dies = |at: &Instant| (self.at..self.at + WRITTEN_WITHIN).contains(at);
        self.delivered.load(Ordering::Relaxed) > 0 && !deaths.iter().any(dies)
    }
}
