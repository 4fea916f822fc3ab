//! Holds that outlive their requests: detached for a job at upstream, and ended by the
//! first caller that learns its outcome.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::guard::job_claims::{Exclusive, UnderWay, key};
use crate::guard::{Guard, Reservation};
use crate::ledger::entry::{Job, OpenJob};
use crate::store::jobs::{DueJob, JobSum, PutOff};
use crate::store::{Journal, StoreError};
use crate::sync::unpoisoned;

/// Jobs that may run at once on the embedded engine, which has them in memory: some 2 KiB each.
const JOBS_MAX: usize = 100_000;
/// The same for one key, so that it leaves room for the others.
pub const JOBS_OF_KEY_MAX: usize = 10_000;

/// After how long a job is polled that was hastened.
const SOON: Duration = Duration::from_secs(1);

/// Why no other job may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooManyJobs {
    /// The key has as many as it may.
    OfKey,
    /// All keys together have.
    InAll,
}

/// Jobs that were polled and go on, to be written with the next look for those that are due.
pub(super) type Polled = Mutex<Vec<PutOff>>;

impl Guard {
    /// Whether another job may begin for a key. Where guards share a database, which has the jobs
    /// as rows, nothing bounds them.
    pub fn may_begin_job(&self, key: &str) -> Result<(), TooManyJobs> {
        match self.jobs.count(key) {
            (_, of_key) if of_key >= JOBS_OF_KEY_MAX => Err(TooManyJobs::OfKey),
            (in_all, _) if in_all >= JOBS_MAX => Err(TooManyJobs::InAll),
            _ => Ok(()),
        }
    }

    /// Detaches a hold from its request: from now on it is that of a job at upstream. When
    /// this returns `Ok`, that is in the database; the reservation has no ending of its own.
    ///
    /// The reservation is returned, still its request's, where the job can't be written, one
    /// of that kind and object runs already, or the hold is that of a job already. Where this
    /// is cancelled, the reservation is dropped: the whole hold is charged, and no job runs.
    pub async fn detach(&self, mut reservation: Reservation, job: Job) -> Result<(), Reservation> {
        if reservation.is_of_job() {
            return Err(reservation);
        }
        let Some(claim) = self.jobs.claim(key(&job.kind, &job.object)) else { return Err(reservation) };
        // In the reservation, so that wherever it is dropped its ending is queued first.
        reservation.claim(claim);
        let hold = Arc::clone(reservation.hold());
        let ack = self.core.push_job(Arc::clone(&hold), job.clone());
        if !self.core.written(ack).await {
            reservation.release_claim();
            return Err(reservation);
        }
        let claim = reservation.leave_to_job();
        if let (Some(claim), Journal::Embedded(_)) = (claim, self.core.journal()) {
            claim.leave(OpenJob { hold, job }, self.clock().running());
        }
        Ok(())
    }

    /// The job of an object, if one runs and no caller has resumed it.
    pub async fn find_job(&self, kind: &str, object: &str) -> Result<Option<Arc<OpenJob>>, StoreError> {
        match self.core.journal() {
            Journal::Embedded(_) => Ok(self.jobs.find(&key(kind, object))),
            Journal::Shared(lanes) => {
                Ok(lanes.find_job(kind.to_owned(), object.to_owned()).await?.map(Arc::new))
            }
        }
    }

    /// Whether a caller on this guard has resumed a job, or begins it: it may have ended or not.
    pub fn is_job_claimed(&self, kind: &str, object: &str) -> bool {
        self.jobs.is_claimed(&key(kind, object))
    }

    /// Resumes the hold of a job whose outcome is known, to be ended: settled, released, or
    /// assumed if it is dropped. `None` if no such job runs, its row is still being written,
    /// or another caller has resumed it, so that each has one ending. Where guards share the
    /// database, two of them may resume it at once; the ending that comes first is written.
    pub async fn resume_job(
        self: &Arc<Self>,
        kind: &str,
        object: &str,
    ) -> Result<Option<(Reservation, Arc<OpenJob>)>, StoreError> {
        // Acquired before, so that the ending can be queued.
        let slot = self.core.slot().await?;
        let key = key(kind, object);
        let taken = match self.core.journal() {
            Journal::Embedded(_) => self.jobs.take(&key),
            Journal::Shared(lanes) => {
                let Some(claim) = self.jobs.claim(key) else { return Ok(None) };
                let found = lanes.find_job(kind.to_owned(), object.to_owned()).await?;
                found.map(|open| (Arc::new(open), claim))
            }
        };
        Ok(taken.map(|(open, claim)| {
            let hold = Arc::clone(&open.hold);
            (Reservation::resumed(Arc::clone(self), hold, slot, claim), open)
        }))
    }

    /// Takes some work on an object for the caller, until the result is dropped; `None` if another
    /// caller on this guard has it. It is for work that takes long, such as reading a large file.
    pub fn exclusive(&self, work: &str, object: &str) -> Option<Exclusive> {
        self.jobs.exclusive(key(work, object))
    }

    /// Notes work on an object that several callers may do at a time, until the result is dropped.
    pub fn begin_work(&self, work: &str, object: &str) -> UnderWay {
        self.jobs.begin(key(work, object))
    }

    /// Whether a caller on this guard does some work on an object.
    pub fn is_under_way(&self, work: &str, object: &str) -> bool {
        self.jobs.is_under_way(&key(work, object))
    }

    /// The first jobs that are due to be polled. Each is due again only after
    /// [`Guard::put_job_off`]; where guards share the database also after some minutes, for the
    /// case that this one dies.
    pub async fn due_jobs(&self, count_max: u32) -> Result<Vec<DueJob>, StoreError> {
        match self.core.journal() {
            Journal::Embedded(_) => {
                let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
                let due = self.jobs.due(self.clock().running(), count_max);
                let due = due.into_iter().map(|(open, polls)| DueJob { open: OpenJob::clone(&open), polls });
                Ok(due.collect())
            }
            Journal::Shared(lanes) => {
                let polled = std::mem::take(&mut *unpoisoned(self.polled.lock()));
                lanes.due_jobs(polled, count_max).await
            }
        }
    }

    /// Has a job that was polled and goes on polled again after some time, unless it was hastened
    /// meanwhile.
    pub fn put_job_off(&self, due: &DueJob, lasts: Duration) {
        self.reschedule(&due.open, Some(due.polls), lasts);
    }

    /// Has a job polled within a second, since its object may have changed; what a poll says that is
    /// under way does not count.
    pub fn hasten_job(&self, open: &OpenJob) {
        self.reschedule(open, None, SOON);
    }

    fn reschedule(&self, of: &OpenJob, polls: Option<u32>, lasts: Duration) {
        match self.core.journal() {
            Journal::Embedded(_) => {
                let until = self.clock().running().saturating_add(lasts);
                self.jobs.put_off(&key(&of.job.kind, &of.job.object), of.hold.id, polls, until);
            }
            Journal::Shared(_) => {
                unpoisoned(self.polled.lock()).push(PutOff { hold: of.hold.id, polls, lasts });
            }
        }
    }

    /// The jobs of each kind that run; those of other guards as of the last look at the whole.
    pub fn open_jobs(&self) -> BTreeMap<String, JobSum> {
        match self.core.journal() {
            Journal::Embedded(_) => self.jobs.sums(),
            Journal::Shared(lanes) => lanes.open_jobs(),
        }
    }
}
