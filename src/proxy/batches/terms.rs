//! What decides the cost of a batch's outcome, as the rows of its jobs keep it.

use serde::{Deserialize, Serialize};

use crate::proxy::batches::file::Group;

/// The terms of the lines of one model. A batch has a job for each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BatchTerms {
    /// Whether it was made with the guard's own key: only then can the guard ask for it.
    pub(super) is_own: bool,
    /// Upstream's id of the request that made it.
    pub(super) request_id: Option<String>,
    /// The number of the job among those of the batch, from 0 on.
    pub(super) place: usize,
    /// The models of all of them.
    pub(super) models: Vec<String>,
    /// The lines.
    pub(super) group: Group,
}

impl BatchTerms {
    /// Reads them from the row of a job.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Their text for the row of a job.
    pub(super) fn text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// Stands between the id of a batch and the number of a job after its first.
const SEPARATOR: char = '#';

/// The object of one of a batch's jobs.
pub(super) fn object(id: &str, place: usize) -> String {
    if place == 0 { id.to_owned() } else { format!("{id}{SEPARATOR}{place}") }
}

/// The id of the batch that a job's object is of.
pub(super) fn batch_of(object: &str) -> &str {
    object.split_once(SEPARATOR).map_or(object, |(id, _)| id)
}
