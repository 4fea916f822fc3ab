//! Asks upstream for the outcome of jobs that no client reads.
//!
//! Once a second the first jobs that are due are asked for, each after a pause that doubles up to
//! a minute. So the number of jobs that run decides how late an outcome is noticed, and neither
//! how much is asked nor what is in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::domain::object::KnownObject;
use crate::domain::{ObjectKind, ObjectReference};
use crate::guard::Guard;
use crate::guard::objects::{Reach, put};
use crate::ledger::entry::OpenJob;
use crate::proxy::Rules;
use crate::proxy::accrual::{self, Accrual, CONTAINER, Seen, VECTOR_STORE};
use crate::proxy::asking::{Asked, PAUSE_MAX, pause_after};
use crate::proxy::background::{RESPONSE, Settler};
use crate::proxy::batches::{BATCH, BatchSettler};
use crate::proxy::record::made_of;
use crate::store::jobs::DueJob;
use crate::sync::unpoisoned;
use crate::upstream::Upstream;

/// How often it looks for jobs that are due.
const EVERY: Duration = Duration::from_secs(1);
/// Jobs that are asked for at a look, and at once: 20 a second.
const POLLS_MAX: u32 = 20;
/// Batches that are asked for and read at once. An output may take an hour to be read, so other jobs
/// don't wait for them.
const BATCHES_MAX: usize = 20;
/// The pause after an output could not be read so often: each time it is read from its beginning.
const UNREAD_PAUSE: Duration = Duration::from_secs(600);
const UNREAD_POLLS: u32 = 10;
/// How long a job is asked for after its deadline before its hold is charged, by the running time:
/// a wall clock that jumps ends no jobs at once.
pub const OVERDUE_MAX: Duration = Duration::from_secs(600);
/// Jobs that are remembered as late, and as gone. Further ones wait until some of these have ended.
const SIGHTINGS_MAX: usize = 10_000;
/// How long a sighting is remembered that was not followed by another one.
const SIGHTING_LASTS: Duration = Duration::from_secs(7_200);
/// How long a job's object must have been gone.
const GONE_FOR: Duration = Duration::from_secs(50);

/// The part of a job's terms that all kinds have.
#[derive(Deserialize)]
struct Owner {
    /// Whether upstream was called with the guard's own key.
    is_own: bool,
}

/// The object of a job, and what its hold and terms say of it; `None` for a further job of an object.
fn object_of(open: &OpenJob) -> Option<(ObjectReference, KnownObject)> {
    let kind = match open.job.kind.as_str() {
        RESPONSE => ObjectKind::Response,
        BATCH => ObjectKind::Batch,
        CONTAINER => ObjectKind::Container,
        VECTOR_STORE => ObjectKind::VectorStore,
        _ => return None,
    };
    let of = &open.hold.attribution;
    let known = made_of(&of.project, &of.key, open.hold.admitted_ms.div_euclid(1_000));
    let known = if kind == ObjectKind::Container { accrual::known_by_terms(open, known) } else { known };
    let id = open.job.object.clone();
    // Further models of a batch, and files beside a store, have a suffix that no id has.
    let is_id = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    is_id.then_some((ObjectReference { kind, id }, known))
}

/// How the guard itself can ask for a job.
fn asker<'a>(rules: &'a Rules, open: &OpenJob) -> Option<(&'a Upstream, &'a HeaderValue)> {
    let is_own = serde_json::from_str(&open.job.terms).is_ok_and(|Owner { is_own }| is_own);
    rules.own_asker().filter(|_| is_own)
}

/// Asks for the outcome of jobs.
#[derive(Debug)]
pub struct Poller {
    guard: Arc<Guard>,
    rules: Arc<ArcSwap<Rules>>,
    overdue_max: Duration,
    /// The jobs that were seen past their deadline.
    overdue: Sightings,
    /// The jobs whose object upstream did not know.
    gone: Sightings,
}

/// The running time at which something of a job was first seen, by its hold.
#[derive(Debug, Default)]
struct Sightings(Mutex<HashMap<u64, Duration>>);

impl Sightings {
    /// Notes it, and returns for how long it has been so, if that is long enough.
    fn have_lasted(&self, hold: u64, now: Duration, least: Duration) -> Option<Duration> {
        let mut seen = unpoisoned(self.0.lock());
        // One that is so old was not followed by another one in time.
        if seen.get(&hold).is_some_and(|since| now.saturating_sub(*since) >= SIGHTING_LASTS) {
            seen.remove(&hold);
        }
        if let Some(since) = seen.get(&hold) {
            let lasted = Some(now.saturating_sub(*since)).filter(|lasted| *lasted >= least);
            if lasted.is_some() {
                seen.remove(&hold);
            }
            return lasted;
        }
        if seen.len() >= SIGHTINGS_MAX {
            seen.retain(|_, since| now.saturating_sub(*since) < SIGHTING_LASTS);
        }
        if seen.len() < SIGHTINGS_MAX {
            seen.insert(hold, now);
        }
        Some(least).filter(Duration::is_zero)
    }

    /// Forgets it, since it is not so any more.
    fn end(&self, hold: u64) {
        unpoisoned(self.0.lock()).remove(&hold);
    }
}

impl Poller {
    /// One by the rules in force, that gives jobs up so long after their deadline.
    pub fn new(guard: Arc<Guard>, rules: Arc<ArcSwap<Rules>>, overdue_max: Duration) -> Self {
        Self { guard, rules, overdue_max, overdue: Sightings::default(), gone: Sightings::default() }
    }

    /// Asks until it is stopped. What is being asked then is asked again after the next start.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let poller = Arc::new(self);
        let (mut polls, mut batches) = (JoinSet::new(), JoinSet::new());
        let mut is_failing = false;
        loop {
            tokio::select! {
                // The sender lives as long as the app.
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            while polls.try_join_next().is_some() {}
            while batches.try_join_next().is_some() {}
            let running = u32::try_from(polls.len()).unwrap_or(u32::MAX);
            let free = POLLS_MAX.saturating_sub(running);
            if free == 0 {
                continue;
            }
            let due = match poller.guard.due_jobs(free).await {
                Ok(due) => due,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(
                            event = "jobs_not_read", %error,
                            "the jobs that are due can't be read; they stay held"
                        );
                    }
                    continue;
                }
            };
            is_failing = false;
            for job in due {
                let is_of_batch = job.open.job.kind == BATCH;
                let is_put_off = is_of_batch && batches.len() >= BATCHES_MAX;
                let set = if is_of_batch && !is_put_off { &mut batches } else { &mut polls };
                let poller = Arc::clone(&poller);
                set.spawn(async move {
                    if job.polls == 0 {
                        poller.know_object(&job.open).await;
                    }
                    if is_put_off {
                        poller.guard.put_job_off(&job, PAUSE_MAX);
                    } else {
                        poller.poll(job).await;
                    }
                });
            }
        }
    }

    /// Asks for one job. If it goes on, it is due again later.
    async fn poll(&self, due: DueJob) {
        let rules = self.rules.load_full();
        match due.open.job.kind.as_str() {
            RESPONSE | BATCH => self.poll_outcome(&rules, &due).await,
            CONTAINER | VECTOR_STORE => self.poll_accrual(&rules, &due).await,
            _ => self.guard.put_job_off(&due, PAUSE_MAX),
        }
    }

    /// Records the object of a job if the index does not know it: the guard that began the job may
    /// have died before it could.
    async fn know_object(&self, open: &OpenJob) {
        let Some((of, known)) = object_of(open) else { return };
        let is_read = self.guard.check_objects(std::slice::from_ref(&of), &Reach::All).await.is_ok();
        let is_unknown = is_read && self.guard.objects().lookup(of.kind, &of.id).is_none();
        // It may have been deleted since the job was found.
        if is_unknown && matches!(self.guard.find_job(&open.job.kind, &of.id).await, Ok(Some(_))) {
            self.guard.record_objects(vec![put(of, known)]).await;
        }
    }

    /// Looks at an object that is billed by time.
    async fn poll_accrual(&self, rules: &Rules, due: &DueJob) {
        let DueJob { open, polls } = due;
        let accrual = Accrual::new(&self.guard, rules);
        match accrual.look(rules, open, *polls).await {
            Seen::Done => {}
            Seen::Gone => match self.gone_for(open) {
                Some(gone) => {
                    // It was not there any more when that was first said.
                    let gone_s = i64::try_from(gone.as_secs()).unwrap_or(0);
                    let end_s = self.guard.clock().now_s().saturating_sub(gone_s);
                    accrual
                        .end(&open.job.kind, &open.job.object, end_s, "upstream does not know it any more")
                        .await;
                }
                None => self.guard.put_job_off(due, PAUSE_MAX),
            },
            Seen::There(lasts) => {
                self.gone.end(open.hold.id);
                self.guard.put_job_off(due, lasts);
            }
            Seen::Later(lasts) => self.guard.put_job_off(due, lasts),
        }
    }

    /// Asks for the outcome of a response or a batch.
    async fn poll_outcome(&self, rules: &Rules, due: &DueJob) {
        let DueJob { open, polls } = due;
        let asked = match self.asked(rules, open).await {
            Some(asked) => asked,
            None if self.is_late(open) => Asked::Failed,
            // Only its client can ask for it.
            None => return self.guard.put_job_off(due, self.until_deadline(open)),
        };
        if asked == Asked::Running {
            self.gone.end(open.hold.id);
        }
        match asked {
            // If its ending could not be queued, it is due again in some minutes.
            Asked::Ended => {}
            Asked::Gone if self.gone_for(open).is_some() => {
                tracing::warn!(
                    event = "job_gone",
                    kind = open.job.kind,
                    object = open.job.object,
                    "upstream does not know the object of a job, or the output of a batch, any more"
                );
                self.assume(rules, open, "upstream does not know it any more").await;
            }
            Asked::Running | Asked::Failed if self.is_given_up(open) => {
                tracing::warn!(
                    event = "job_overdue",
                    kind = open.job.kind,
                    object = open.job.object,
                    "the end of a job was not seen by its deadline"
                );
                self.assume(rules, open, "its end was not seen by its deadline").await;
            }
            Asked::Gone => self.guard.put_job_off(due, PAUSE_MAX),
            Asked::Failed if open.job.kind == BATCH && *polls >= UNREAD_POLLS => {
                self.guard.put_job_off(due, UNREAD_PAUSE);
            }
            Asked::Running | Asked::Failed => self.guard.put_job_off(due, pause_after(*polls)),
        }
    }

    /// What upstream says of a job; `None` if the guard has no key for it.
    async fn asked(&self, rules: &Rules, open: &OpenJob) -> Option<Asked> {
        let (upstream, key) = asker(rules, open)?;
        Some(match open.job.kind.as_str() {
            BATCH => BatchSettler::new(&self.guard, rules).ask(upstream, key, open).await,
            _ => Settler::new(&self.guard, rules).ask(upstream, key, open).await,
        })
    }

    /// Ends a job whose outcome will not be known: its hold is charged, unless a batch itself says what
    /// its lines have used.
    async fn assume(&self, rules: &Rules, open: &OpenJob, note: &'static str) {
        match open.job.kind.as_str() {
            BATCH => BatchSettler::new(&self.guard, rules).give_up(asker(rules, open), open, note).await,
            _ => Settler::new(&self.guard, rules).assume(&open.job.object, note).await,
        }
    }

    /// How long it is since upstream first said that it does not know a job's object, if it has said
    /// so twice, a minute apart: the object may have been just made, or the answer another server's.
    fn gone_for(&self, open: &OpenJob) -> Option<Duration> {
        self.gone.have_lasted(open.hold.id, self.guard.clock().running(), GONE_FOR)
    }

    /// How long it is until a job's deadline; a pause at the least.
    fn until_deadline(&self, open: &OpenJob) -> Duration {
        let left_s = open.job.deadline_s.saturating_sub(self.guard.clock().now_s());
        Duration::from_secs(u64::try_from(left_s).unwrap_or(0)).max(PAUSE_MAX)
    }

    /// Whether a job is past its deadline, by the wall clock.
    fn is_late(&self, open: &OpenJob) -> bool {
        open.job.deadline_s <= self.guard.clock().now_s()
    }

    /// Whether a job has been past its deadline for so long that it is given up.
    fn is_given_up(&self, open: &OpenJob) -> bool {
        self.is_late(open)
            && self
                .overdue
                .have_lasted(open.hold.id, self.guard.clock().running(), self.overdue_max)
                .is_some()
    }
}
