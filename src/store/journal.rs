//! The journal of either engine: what admission decides, on its way into the database.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::ledger::entry::{Crossing, Hold, Job};
use crate::store::objects::ObjectChange;
use crate::store::slots::Slots;
use crate::store::{Slot, StoreError, postgres, sqlite};

/// Writes holds and endings.
#[derive(Debug)]
pub enum Journal {
    /// Records of a ledger in memory, in its order.
    Embedded(sqlite::Journal),
    /// Groups of requests and endings, each decided inside its transaction.
    Shared(Box<postgres::Lanes>),
}

/// The acknowledgement of a job or of objects that are being written.
#[derive(Debug)]
pub enum WriteAck {
    /// The embedded engine's.
    Embedded(sqlite::WriteAck),
    /// The shared engine's.
    Shared(oneshot::Receiver<bool>),
}

impl Journal {
    fn slots(&self) -> &Slots {
        match self {
            Self::Embedded(journal) => journal.slots(),
            Self::Shared(lanes) => lanes.slots(),
        }
    }

    /// The slot of a request, for its ending; waits a while if all are taken.
    pub async fn slot(&self) -> Result<Slot, StoreError> {
        self.slots().request().await
    }

    /// The slot of an operator's work.
    pub async fn operators_slot(&self) -> Result<Slot, StoreError> {
        self.slots().operator().await
    }

    /// The slot of an operator's work, if one is free now.
    pub fn free_operators_slot(&self) -> Option<Slot> {
        self.slots().free_operator()
    }

    /// Queues crossings that no entry has caused: thresholds that were passed already
    /// when their limit came into force, hard caps that reject requests.
    pub fn push_crossings(&self, crossings: Vec<Crossing>, slot: Slot) {
        match self {
            Self::Embedded(journal) => journal.push_crossings(crossings, slot),
            Self::Shared(lanes) => lanes.push_crossings(crossings, slot),
        }
    }

    /// Queues the job that a hold is for from now on. If the acknowledgement says that it
    /// can't be written, it stays the hold of its request.
    pub fn push_job(&self, hold: Arc<Hold>, job: Job) -> WriteAck {
        match self {
            Self::Embedded(journal) => WriteAck::Embedded(journal.push_job(hold, job)),
            Self::Shared(lanes) => WriteAck::Shared(lanes.push_job(hold, job)),
        }
    }

    /// Queues what was learned of objects. It is written in the end even if the
    /// acknowledgement says that it can't be now.
    pub fn push_objects(&self, changes: Vec<ObjectChange>) -> WriteAck {
        match self {
            Self::Embedded(journal) => WriteAck::Embedded(journal.push_objects(changes)),
            Self::Shared(lanes) => WriteAck::Shared(lanes.push_objects(changes)),
        }
    }

    /// Waits until what was queued is in the database; `false` if it can't be written.
    pub async fn written(&self, write: WriteAck) -> bool {
        match (self, write) {
            (Self::Embedded(journal), WriteAck::Embedded(write)) => journal.written(write).await,
            (_, WriteAck::Shared(write)) => write.await.unwrap_or(false),
            (Self::Shared(_), WriteAck::Embedded(_)) => false,
        }
    }

    /// Waits until all that was queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(journal) => journal.flush().await,
            Self::Shared(lanes) => lanes.flush().await,
        }
    }

    /// Runs what may take long on a thread that no request runs on; where everything
    /// runs step by step, at once.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::Embedded(journal) => journal.blocking(work).await,
            Self::Shared(_) => tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Unavailable),
        }
    }

    /// Slots taken by requests that are open, or whose ending is being written.
    pub fn taken(&self) -> usize {
        self.slots().taken()
    }

    /// Whether the ledger can be written, as of the last attempt.
    pub fn is_healthy(&self) -> bool {
        match self {
            Self::Embedded(journal) => journal.is_healthy(),
            Self::Shared(lanes) => lanes.is_healthy(),
        }
    }
}
