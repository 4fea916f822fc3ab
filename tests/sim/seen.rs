//! What the guard can have seen of an object that is billed by time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::{Mark, now};

/// How long it takes at the most until what a guard has read is written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// An answer on its way.
type Delivered = Arc<AtomicU64>;

/// The last answer to the guard that there is no such object, though there is: never twice without another
/// answer between, since then it would be gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Denial {
    /// Whether the guard has had an answer since.
    answered: Option<Delivered>,
}

impl Denial {
    /// Whether it may be denied.
    pub(crate) fn is_possible(&self) -> bool {
        self.answered.as_ref().is_none_or(|answered| answered.load(Ordering::Relaxed) > 0)
    }

    /// Denies it.
    pub(crate) fn deny(&mut self) {
        self.answered = Some(Delivered::default());
    }

    /// What marks that the guard's own question is answered.
    pub(crate) fn mark(&self) -> Option<Mark> {
        Some(Mark::of(self.answered.as_ref()?, 1))
    }
}

/// A deletion at upstream.
#[derive(Clone, Debug)]
pub(crate) struct Deletion {
    at: Instant,
    delivered: Delivered,
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
