//! Holds that outlive their requests: detached for a job at upstream, and ended by the
//! first caller that learns its outcome.

use std::sync::Arc;

use crate::guard::{Guard, Reservation};
use crate::ledger::entry::Job;
use crate::store::StoreError;

impl Guard {
    /// Detaches a hold from its request: from now on it is that of a job at upstream. When
    /// this returns `Ok`, that is in the database; the reservation has no ending of its own.
    ///
    /// The reservation is returned, still its request's, where the job can't be written, one
    /// of that kind and object runs already, or the hold is that of a job already. Where this
    /// is cancelled, the reservation is dropped: the whole hold is charged, and no job runs.
    pub async fn detach(&self, mut reservation: Reservation, job: Job) -> Result<(), Reservation> {
        let key = (job.kind.clone(), job.object.clone());
        if reservation.is_of_job() {
            return Err(reservation);
        }
        let Some(claim) = self.jobs.claim(key) else { return Err(reservation) };
        // In the reservation, so that wherever it is dropped its ending is queued first.
        reservation.claim(claim);
        let ack = self.core.push_job(Arc::clone(reservation.hold()), job);
        if !self.core.written(ack).await {
            reservation.release_claim();
            return Err(reservation);
        }
        reservation.leave_to_job();
        Ok(())
    }

    /// Resumes the hold of a job whose outcome is known, to be ended: settled, released, or
    /// assumed if it is dropped. `None` if no such job runs, its row is still being written,
    /// or another caller has resumed it, so that each has one ending.
    pub async fn resume_job(
        self: &Arc<Self>,
        kind: &str,
        object: &str,
    ) -> Result<Option<Reservation>, StoreError> {
        // Acquired before, so that the ending can be queued.
        let slot = self.core.slot().await?;
        let taken = self.jobs.take((kind.to_owned(), object.to_owned()));
        Ok(taken.map(|(hold, claim)| Reservation::resumed(Arc::clone(self), hold, slot, claim)))
    }
}
