//! Settles the jobs of batches: by the lines of the output, else by the batch's own sums.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::domain::demand::Tier;
use crate::domain::{ObjectKind, ObjectReference};
use crate::guard::objects::put;
use crate::guard::{Ending, Guard, Reservation, Settled};
use crate::ledger::entry::{Basis, OpenJob, PARTLY_ASSUMED};
use crate::pricing::sheet::{Sheet, UnknownModel};
use crate::protocol::openai::batch::{Batch, BatchState};
use crate::proxy::Rules;
use crate::proxy::asking::{self, Asked};
use crate::proxy::batches::holds::BATCH;
use crate::proxy::batches::tally::{OutputLines, Sum};
use crate::proxy::batches::terms::{BatchTerms, batch_of, object};
use crate::proxy::bill::Exchange;
use crate::proxy::job;
use crate::proxy::query::encoded;
use crate::proxy::record::made_of;
use crate::proxy::room::{Pool, Room};
use crate::store::objects::ObjectChange;
use crate::upstream::Upstream;

/// The longest silence of upstream while an output is read.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The longest time that an output is read for. It is tried again later, until the batch is given up.
const READ_MAX: Duration = Duration::from_secs(3_600);
/// Objects that are recorded together while an output is read: each time is a commit.
const LEARNED_AT_ONCE: usize = 500;

/// Settles the jobs of batches, by the prices in force.
#[derive(Clone, Debug)]
pub struct BatchSettler {
    guard: Arc<Guard>,
    sheet: Arc<Sheet>,
    unknown: UnknownModel,
}

/// What the lines of a model came to.
enum Outcome {
    /// As the output says.
    Sum(Box<Sum>),
    /// Nothing was done.
    Nothing,
    /// It can't be known: what was held is charged.
    Unknown,
}

impl BatchSettler {
    /// One with the rules in force.
    pub fn new(guard: &Arc<Guard>, rules: &Rules) -> Self {
        let (guard, sheet) = (Arc::clone(guard), Arc::clone(&rules.sheet));
        Self { guard, sheet, unknown: rules.unknown_model }
    }

    /// A job of a batch, if one runs. If that can't be read, none is found, and the guard asks
    /// later.
    pub(in crate::proxy) async fn find(&self, id: &str) -> Option<Arc<OpenJob>> {
        job::find(&self.guard, BATCH, id).await.unwrap_or_default()
    }

    /// Asks upstream for the batch of a job, and settles all its jobs if it has ended.
    pub async fn ask(&self, upstream: &Upstream, authorization: &HeaderValue, open: &OpenJob) -> Asked {
        match shown(upstream, authorization, open).await {
            Ok(body) => self.saw(upstream, authorization, open, &body).await,
            Err(asked) => asked,
        }
    }

    /// Settles all jobs of a batch by its object, if it has ended.
    pub async fn saw(
        &self,
        upstream: &Upstream,
        authorization: &HeaderValue,
        open: &OpenJob,
        body: &Bytes,
    ) -> Asked {
        let id = batch_of(&open.job.object);
        let Some(batch) = Batch::read(body).filter(|batch| batch.id == id) else { return Asked::Running };
        if !matches!(batch.state, BatchState::Ended | BatchState::Refused) {
            return Asked::Running;
        }
        // One settles it: its output may have gigabytes.
        let Some(_settling) = self.guard.exclusive(BATCH, id) else { return Asked::Running };
        let Some(terms) = BatchTerms::read(&open.job.terms) else {
            let note = "its terms are not known any more";
            self.end_one(&open.job.object, Outcome::Unknown, note).await;
            return Asked::Ended;
        };
        let Some(jobs) = self.jobs(id, &terms.models).await else { return Asked::Failed };
        if jobs.iter().all(Option::is_none) {
            return Asked::Ended;
        }
        let all = |outcome: fn() -> Outcome| jobs.iter().map(|_| outcome()).collect();
        let by_usage = || self.by_usage(&jobs, body).map(|sum| vec![Outcome::Sum(Box::new(sum))]);
        let outcomes = match (batch.state, &batch.output_file_id) {
            (BatchState::Refused, _) => all(|| Outcome::Nothing),
            (_, None) if batch.completed == Some(0) => all(|| Outcome::Nothing),
            (_, None) => by_usage().unwrap_or_else(|| all(|| Outcome::Unknown)),
            (_, Some(file)) => {
                let reading = self.read_output(
                    upstream,
                    authorization,
                    (open, file, batch.completed),
                    (&terms.models, &jobs),
                );
                let read = timeout(READ_MAX, reading).await.unwrap_or(Err(Asked::Failed));
                match (read, by_usage()) {
                    (Ok(outcomes), _) | (Err(Asked::Gone), Some(outcomes)) => outcomes,
                    (Err(asked), _) => return asked,
                }
            }
        };
        let files = [&batch.output_file_id, &batch.error_file_id].into_iter().flatten();
        let file = |id: &String| ObjectReference { kind: ObjectKind::File, id: id.clone() };
        self.learn(open, files.map(file).collect()).await;
        self.end(id, outcomes, &jobs).await;
        Asked::Ended
    }

    /// Ends a job of a batch whose output will not be read: by the batch's own sums if upstream still
    /// shows them and they decide its cost, else its hold is charged.
    pub async fn give_up(
        &self,
        asker: Option<(&Upstream, &HeaderValue)>,
        open: &OpenJob,
        note: &'static str,
    ) {
        let outcome = match asker {
            Some((upstream, authorization)) => self.usage_shown(upstream, authorization, open).await,
            None => None,
        };
        let outcome = outcome.map_or(Outcome::Unknown, |sum| Outcome::Sum(Box::new(sum)));
        self.end_one(&open.job.object, outcome, note).await;
    }

    /// What a batch that has ended says of all its lines together, if that decides its cost.
    async fn usage_shown(
        &self,
        upstream: &Upstream,
        authorization: &HeaderValue,
        open: &OpenJob,
    ) -> Option<Sum> {
        let body = shown(upstream, authorization, open).await.ok()?;
        let id = batch_of(&open.job.object);
        Batch::read(&body).filter(|batch| batch.id == id && batch.state == BatchState::Ended)?;
        let jobs = self.jobs(id, &BatchTerms::read(&open.job.terms)?.models).await?;
        self.by_usage(&jobs, &body)
    }

    /// The terms of the jobs of a batch that still run; `None` if they can't be read now.
    async fn jobs(&self, id: &str, models: &[String]) -> Option<Vec<Option<BatchTerms>>> {
        let mut jobs = Vec::new();
        for place in 0..models.len() {
            jobs.push(match self.guard.find_job(BATCH, &object(id, place)).await.ok()? {
                Some(open) => Some(BatchTerms::read(&open.job.terms)?),
                None => None,
            });
        }
        Some(jobs)
    }

    /// Adds up the lines of an output.
    async fn read_output(
        &self,
        upstream: &Upstream,
        authorization: &HeaderValue,
        (open, file, completed): (&OpenJob, &str, Option<u64>),
        (models, jobs): (&[String], &[Option<BatchTerms>]),
    ) -> Result<Vec<Outcome>, Asked> {
        let mut lines = match OutputLines::new(models, jobs, &self.sheet, self.unknown) {
            Ok(lines) => lines,
            Err(error) => {
                job::log_unusable(open, &error);
                return Ok(jobs.iter().map(|_| Outcome::Unknown).collect());
            }
        };
        let key = &open.hold.attribution.key;
        let path = format!("/files/{}/content", encoded(file));
        let mut body = asking::found(upstream, authorization, &path, key).await?.into_body();
        let mut room = Room::of(Pool::Answers, Arc::clone(key));
        while let Some(frame) = timeout(IDLE_MAX, body.frame()).await.map_err(|_| Asked::Failed)? {
            let Ok(part) = frame.map_err(|_| Asked::Failed)?.into_data() else { continue };
            lines.take(&self.guard, &part).await;
            if !room.grow(lines.held_bytes()) {
                return Err(Asked::Failed);
            }
            room.shrink(lines.held_bytes());
            self.learn(open, lines.made(LEARNED_AT_ONCE)).await;
            tokio::task::yield_now().await;
        }
        let sums = lines.end(&self.guard, completed).await.ok_or(Asked::Failed)?;
        self.learn(open, lines.made(0)).await;
        Ok(sums.into_iter().map(|sum| Outcome::Sum(Box::new(sum))).collect())
    }

    /// What the object of a batch says of all its lines together; `None` unless they are of one model
    /// and that decides their cost.
    fn by_usage(&self, jobs: &[Option<BatchTerms>], body: &Bytes) -> Option<Sum> {
        let [Some(BatchTerms { group, .. })] = jobs else { return None };
        let bill = group.terms.bill(&self.sheet, self.unknown).ok().filter(|_| group.is_plain)?;
        let answer = bill.operation.answer(body);
        answer.usage.is_some().then(|| Sum::of(&bill, &answer))?
    }

    /// Ends the jobs of a batch that still run.
    async fn end(&self, id: &str, outcomes: Vec<Outcome>, jobs: &[Option<BatchTerms>]) {
        for (place, outcome) in outcomes.into_iter().enumerate().filter(|(place, _)| jobs[*place].is_some()) {
            self.end_one(&object(id, place), outcome, "neither its output nor its usage can be read").await;
        }
    }

    /// Ends one job. Between taking its hold and ending it nothing is waited for.
    async fn end_one(&self, object: &str, outcome: Outcome, unknown: &'static str) {
        let Some((reservation, open)) = job::resume(&self.guard, BATCH, object).await else { return };
        let request_id = BatchTerms::read(&open.job.terms).and_then(|terms| terms.request_id);
        let settled = end_hold(reservation, outcome, (batch_of(object), request_id), unknown);
        job::log_ended(BATCH, object, &settled);
    }

    /// Records objects that a batch has made, for the project that has made the batch.
    async fn learn(&self, open: &OpenJob, made: Vec<ObjectReference>) {
        let of = &open.hold.attribution;
        let now_s = self.guard.clock().now_s();
        let change = |object| put(object, made_of(&of.project, &of.key, now_s));
        let changes: Vec<ObjectChange> = made.into_iter().map(change).collect();
        if !changes.is_empty() {
            self.guard.record_objects(changes).await;
        }
    }
}

/// The object of a job's batch, as upstream shows it.
async fn shown(upstream: &Upstream, authorization: &HeaderValue, open: &OpenJob) -> Result<Bytes, Asked> {
    let path = format!("/batches/{}", encoded(batch_of(&open.job.object)));
    asking::whole(upstream, authorization, &path, &open.hold.attribution.key).await
}

fn end_hold(
    reservation: Reservation,
    outcome: Outcome,
    (id, request_id): (&str, Option<String>),
    unknown: &'static str,
) -> Settled {
    let exchange = Exchange { status: StatusCode::OK.as_u16(), request_id, ..Exchange::default() };
    let object_id = Some(id.to_owned());
    let ending = Ending { tier: Tier::Batch, object_id, ..exchange.ending() };
    match outcome {
        Outcome::Nothing => reservation.release(ending),
        Outcome::Unknown => reservation.assume(Ending { note: Some(unknown), ..ending }),
        Outcome::Sum(sum) => {
            let (cost, tool_fees, quantities) = (sum.cost(), sum.tool_fees(), sum.quantities);
            let served_model = sum.served_model();
            let note = (sum.basis == Basis::Assumed).then_some(PARTLY_ASSUMED);
            let ending = Ending { cost, tool_fees, quantities, served_model, note, ..ending };
            reservation.settle(sum.basis, ending)
        }
    }
}
