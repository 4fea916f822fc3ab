//! The jobs that run, and which reservation has the hold of one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use crate::guard::recovery::OpenJobs;
use crate::ledger::entry::Hold;
use crate::sync::unpoisoned;

/// A job's identity: its kind, and its object at upstream.
pub(super) type JobKey = (String, String);

/// The jobs that run, each with its hold, which is a row of the database, too. `None` where
/// a reservation has the hold: while the row is being written, and from the time that the
/// hold is resumed until its ending is queued.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<HashMap<JobKey, Option<Arc<Hold>>>>);

impl Jobs {
    pub(super) fn of(jobs: OpenJobs) -> Self {
        let by_key = jobs.into_iter().map(|(hold, job)| ((job.kind, job.object), Some(hold)));
        Self(Mutex::new(by_key.collect()))
    }

    /// Claims a job for a reservation, unless one of that kind and object runs already.
    pub(super) fn claim(self: &Arc<Self>, key: JobKey) -> Option<JobClaim> {
        match unpoisoned(self.0.lock()).entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(None);
                Some(JobClaim { jobs: Arc::clone(self), key: Some(key) })
            }
        }
    }

    /// Hands over the hold of a job, with the claim to the job.
    pub(super) fn take(self: &Arc<Self>, key: JobKey) -> Option<(Arc<Hold>, JobClaim)> {
        let hold = unpoisoned(self.0.lock()).get_mut(&key)?.take()?;
        Some((hold, JobClaim { jobs: Arc::clone(self), key: Some(key) }))
    }

    /// Leaves a hold to the job that its reservation has claimed.
    fn leave(&self, key: JobKey, hold: Arc<Hold>) {
        let claimed = unpoisoned(self.0.lock()).insert(key, Some(hold));
        debug_assert_eq!(claimed, Some(None), "only a claimed job gets a hold");
    }

    /// Releases a claim: the ending of its hold is queued.
    fn release(&self, key: &JobKey) {
        let claimed = unpoisoned(self.0.lock()).remove(key);
        debug_assert_eq!(claimed, Some(None), "only a claimed job is released");
    }
}

/// A reservation's claim to a job. It is released when it is dropped, which must be after the
/// ending of the hold is queued: a row for the same object is then written behind it.
#[derive(Debug)]
pub(super) struct JobClaim {
    jobs: Arc<Jobs>,
    /// `None` once the hold is left to the job.
    key: Option<JobKey>,
}

impl JobClaim {
    /// Leaves the hold to the job, whose row is written.
    pub(super) fn leave(mut self, hold: Arc<Hold>) {
        if let Some(key) = self.key.take() {
            self.jobs.leave(key, hold);
        }
    }
}

impl Drop for JobClaim {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.jobs.release(key);
        }
    }
}
