//! Jobs, which any guard may end.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::ledger::entry::{Entry, Hold, Job, OpenJob};
use crate::store::jobs::{DueJob, JobSum, PutOff};
use crate::store::postgres::calls::{Call, Renewed};
use crate::store::postgres::database::blocking;
use crate::store::postgres::jobs;
use crate::store::postgres::lanes::Lanes;
use crate::store::postgres::lease::Lease;
use crate::store::postgres::pool::Work;
use crate::store::sql::{Db, Lent as _, jobs as rows};
use crate::store::{Slot, StoreError};
use crate::sync::unpoisoned;

impl Lanes {
    /// Queues the job that a hold is for from now on.
    pub fn push_job(&self, hold: Arc<Hold>, job: Job) -> oneshot::Receiver<bool> {
        self.database.note_jobs();
        let (ack, written) = oneshot::channel();
        self.shared.queue.push(Call::Job(hold, job, ack));
        written
    }

    /// The job of an object, if one runs, whichever guard has begun it.
    pub async fn find_job(&self, kind: String, object: String) -> Result<Option<OpenJob>, StoreError> {
        let (database, names) = (Arc::clone(&self.database), Arc::clone(&self.names));
        let found = blocking(move || {
            let lease = Lease::take(&database, Work::Short)?;
            let found = rows::find(Db::Postgres(lease.connection()), &*names, &kind, &object)?;
            if found.is_some() {
                database.note_jobs();
            }
            Ok(found)
        });
        found.await
    }

    /// Puts jobs off that were polled, and claims the first of those that are due.
    pub async fn due_jobs(&self, put_off: Vec<PutOff>, count_max: u32) -> Result<Vec<DueJob>, StoreError> {
        let (database, names) = (Arc::clone(&self.database), Arc::clone(&self.names));
        blocking(move || {
            let lease = Lease::take(&database, Work::Short)?;
            Ok(jobs::due(Db::Postgres(lease.connection()), &*names, &put_off, count_max)?)
        })
        .await
    }

    /// Queues the ending of the hold of a job. Of several, on whatever guards, the first is
    /// written.
    pub fn push_ending_of_job(&self, entry: Box<Entry>, hold: Arc<Hold>, slot: Slot) {
        self.shared.queue.push(Call::EndJob(entry, hold, None, slot));
    }

    /// Queues the ending of the hold of a job, which has another hold from then on. The answer is
    /// whether that is so: if another guard has ended it first, the new hold stays its request's.
    pub fn push_renewal(
        &self,
        entry: Box<Entry>,
        hold: Arc<Hold>,
        renewed: (Arc<Hold>, Job),
        slot: Slot,
    ) -> oneshot::Receiver<bool> {
        let (ack, written) = oneshot::channel();
        let (next, job) = renewed;
        let renewed = Some(Box::new(Renewed { hold: next, job, ack }));
        self.shared.queue.push(Call::EndJob(entry, hold, renewed, slot));
        written
    }

    /// The jobs of each kind that run on all guards, as of the last look at the whole.
    pub fn open_jobs(&self) -> BTreeMap<String, JobSum> {
        unpoisoned(self.jobs.lock()).clone()
    }
}
