//! Holds that outlive their requests: each is for a job at upstream, and is ended by the
//! first who learns how the job went.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::guard::recovery::OpenJobs;
use crate::guard::{Guard, Reservation};
use crate::ledger::entry::{Hold, Job};
use crate::store::StoreError;
use crate::sync::unpoisoned;

/// The holds of jobs that run, by the kind and the object of each. Each is a row of the
/// database, too.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<HashMap<(String, String), Arc<Hold>>>);

impl Jobs {
    pub(super) fn of(jobs: OpenJobs) -> Self {
        let by_object = jobs.into_iter().map(|(hold, job)| ((job.kind, job.object), hold));
        Self(Mutex::new(by_object.collect()))
    }
}

impl Guard {
    /// Detaches a reservation from its request: from now on its hold lives as long as the
    /// job, through restarts, until [`Guard::resume_job`] takes it up to end it.
    ///
    /// Where the job can't be written, or one of that kind and object runs already, the
    /// reservation is given back: it is still its request's.
    pub async fn detach(&self, reservation: Reservation, job: Job) -> Result<(), Reservation> {
        let key = (job.kind.clone(), job.object.clone());
        let hold = Arc::clone(reservation.hold());
        {
            let mut jobs = unpoisoned(self.jobs.0.lock());
            if jobs.contains_key(&key) {
                return Err(reservation);
            }
            jobs.insert(key.clone(), Arc::clone(&hold));
        }
        let ack = self.core.push_job(hold, job);
        if !self.core.written(ack).await {
            unpoisoned(self.jobs.0.lock()).remove(&key);
            return Err(reservation);
        }
        reservation.leave_to_job();
        Ok(())
    }

    /// Takes up the hold of a job, to be ended: settled, released, or assumed if it is
    /// dropped. `None` if no such job runs, or another caller has taken it up, so that each
    /// has one ending.
    pub async fn resume_job(
        self: &Arc<Self>,
        kind: &str,
        object: &str,
    ) -> Result<Option<Reservation>, StoreError> {
        // Acquired before, so that the ending can be queued.
        let slot = self.core.slot().await?;
        let hold = unpoisoned(self.jobs.0.lock()).remove(&(kind.to_owned(), object.to_owned()));
        Ok(hold.map(|hold| Reservation::resumed(Arc::clone(self), hold, slot)))
    }
}
