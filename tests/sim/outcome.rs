//! What came of a world.

use crate::clients::Statuses;

/// What came of a world.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) fault: Option<String>,
    pub(crate) lives: u64,
    pub(crate) events: u64,
    pub(crate) requests: u64,
    pub(crate) statuses: Statuses,
    /// Background responses, containers, batches and vector stores.
    pub(crate) jobs: u64,
    /// Costs that were more than their holds, and streams that were cut by the guard.
    pub(crate) overruns: u64,
    pub(crate) cuts: u64,
    pub(crate) digest: u64,
}
