//! Holds that outlive their requests: each is for a job at upstream, and is ended by the
//! first who learns how the job went.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use crate::guard::recovery::OpenJobs;
use crate::guard::{Guard, Reservation};
use crate::ledger::entry::{Hold, Job};
use crate::store::StoreError;
use crate::sync::unpoisoned;

/// What tells a job from others: its kind and its object.
type JobKey = (String, String);

/// The holds of jobs that run, each a row of the database, too; `None` while that row is
/// being written, when the hold is still its request's.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<HashMap<JobKey, Option<Arc<Hold>>>>);

/// The place of a job whose row is being written; given up when dropped.
struct Place<'a> {
    jobs: &'a Jobs,
    key: JobKey,
}

impl Jobs {
    pub(super) fn of(jobs: OpenJobs) -> Self {
        let by_key = jobs.into_iter().map(|(hold, job)| ((job.kind, job.object), Some(hold)));
        Self(Mutex::new(by_key.collect()))
    }

    /// Claims the place of a job, unless one of that kind and object runs already.
    fn claim(&self, key: JobKey) -> Option<Place<'_>> {
        match unpoisoned(self.0.lock()).entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(None);
                Some(Place { jobs: self, key })
            }
        }
    }

    /// Takes the hold of a job whose row is written.
    fn take(&self, key: JobKey) -> Option<Arc<Hold>> {
        match unpoisoned(self.0.lock()).entry(key) {
            Entry::Occupied(written) if written.get().is_some() => written.remove(),
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }
}

impl Place<'_> {
    /// Puts the hold of a job in its place: its row is written.
    fn fill(self, hold: Arc<Hold>) {
        if let Some(place) = unpoisoned(self.jobs.0.lock()).get_mut(&self.key) {
            *place = Some(hold);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut jobs = unpoisoned(self.jobs.0.lock());
        if jobs.get(&self.key).is_some_and(Option::is_none) {
            jobs.remove(&self.key);
        }
    }
}

impl Guard {
    /// Detaches a reservation from its request: from now on its hold lives as long as the
    /// job, through restarts, until [`Guard::resume_job`] takes it up to end it.
    ///
    /// Where the job can't be written, or one of that kind and object runs already, the
    /// reservation is given back: it is still its request's.
    pub async fn detach(&self, reservation: Reservation, job: Job) -> Result<(), Reservation> {
        let Some(place) = self.jobs.claim((job.kind.clone(), job.object.clone())) else {
            return Err(reservation);
        };
        // Where this is cancelled, the reservation is dropped before the place, so that its
        // ending is queued before another job of that object.
        let reservation = reservation;
        let hold = Arc::clone(reservation.hold());
        let ack = self.core.push_job(Arc::clone(&hold), job);
        if !self.core.written(ack).await {
            return Err(reservation);
        }
        reservation.leave_to_job();
        place.fill(hold);
        Ok(())
    }

    /// Takes up the hold of a job, to be ended: settled, released, or assumed if it is
    /// dropped. `None` if no such job runs, its row is still being written, or another caller
    /// has taken it up, so that each has one ending.
    pub async fn resume_job(
        self: &Arc<Self>,
        kind: &str,
        object: &str,
    ) -> Result<Option<Reservation>, StoreError> {
        // Acquired before, so that the ending can be queued.
        let slot = self.core.slot().await?;
        let hold = self.jobs.take((kind.to_owned(), object.to_owned()));
        Ok(hold.map(|hold| Reservation::resumed(Arc::clone(self), hold, slot)))
    }
}
