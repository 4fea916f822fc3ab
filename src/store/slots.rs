//! Slots: places in the bounded queue of what has to be written.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::StoreError;

/// Slots for operators' work, apart from those of requests.
const OPERATORS_MAX: usize = 64;
/// How long a slot is waited for.
const SLOT_WAIT: Duration = Duration::from_secs(2);

/// A place in the bounded queue. A request acquires one before it is admitted, so that its
/// ending can always be queued; the place is free again once the ending is in the database.
pub type Slot = OwnedSemaphorePermit;

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    requests: Arc<Semaphore>,
    requests_max: usize,
    operators: Arc<Semaphore>,
}

impl Slots {
    /// Slots for at most `requests_max` open requests, and for operators.
    pub(super) fn new(requests_max: usize) -> Self {
        let requests_max = requests_max.min(Semaphore::MAX_PERMITS);
        let (requests, operators) = (Semaphore::new(requests_max), Semaphore::new(OPERATORS_MAX));
        Self { requests: Arc::new(requests), requests_max, operators: Arc::new(operators) }
    }

    /// The slot of a request; waits a while if all are taken.
    pub(super) async fn request(&self) -> Result<Slot, StoreError> {
        acquired(&self.requests).await
    }

    /// The slot of an operator's work; waits a while if all are taken.
    pub(super) async fn operator(&self) -> Result<Slot, StoreError> {
        acquired(&self.operators).await
    }

    /// The slot of an operator's work, if one is free now.
    pub(super) fn free_operator(&self) -> Option<Slot> {
        Arc::clone(&self.operators).try_acquire_owned().ok()
    }

    /// Whether fewer than half of the requests' slots are free.
    pub(super) fn are_scarce(&self) -> bool {
        self.requests.available_permits() < self.requests_max / 2
    }

    /// Requests that are open, and those whose ending is being written.
    pub(super) fn taken(&self) -> usize {
        self.requests_max - self.requests.available_permits()
    }
}

async fn acquired(of: &Arc<Semaphore>) -> Result<Slot, StoreError> {
    if let Ok(slot) = Arc::clone(of).try_acquire_owned() {
        return Ok(slot);
    }
    let freed = tokio::time::timeout(SLOT_WAIT, Arc::clone(of).acquire_owned()).await;
    freed.map_err(|_| StoreError::Full)?.map_err(|_| StoreError::Unavailable)
}
