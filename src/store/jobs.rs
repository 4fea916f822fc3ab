//! Jobs at upstream, as guards that share a database ask for them.

use std::time::Duration;

use crate::domain::Money;
use crate::ledger::entry::OpenJob;

/// The jobs of a kind that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobSum {
    /// How many there are.
    pub count: u64,
    /// What is held for them.
    pub held: Money,
}

/// A job whose outcome is to be asked for. No other guard asks before it is
/// [put off](PutOff), or this one has had a few minutes for it.
#[derive(Clone, Debug)]
pub struct DueJob {
    /// The job.
    pub open: OpenJob,
    /// How often its outcome was asked for before.
    pub polls: u32,
}

/// A job that goes on, and when it is asked for again.
#[derive(Clone, Copy, Debug)]
pub struct PutOff {
    /// The id of its hold.
    pub hold: u64,
    /// How often it was asked for before the answer that this follows from. It counts for nothing
    /// once the job was hastened since. `None` if this is to hasten the job.
    pub polls: Option<u32>,
    /// How long it is not asked for.
    pub lasts: Duration,
}
