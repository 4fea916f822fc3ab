//! Objects at upstream that are billed by time: containers, and the storage of vector stores.
//!
//! Each is a job whose hold is for a period that has begun and not ended. Before it ends, the next
//! period is held, and the first becomes an entry, in one step: at every instant what upstream has
//! billed is settled or held. The job ends with the object. Where nothing more can be held, the
//! guard deletes a container; a vector store stays, and its storage is booked as it accrues.

mod growth;
mod known;
mod periods;
mod terms;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use crate::domain::demand::Bound;
use crate::domain::{Money, ObjectKind, ObjectReference};
use crate::guard::{Denied, Ending, Guard, Reservation, ReserveRequest};
use crate::ledger::denial::Denial;
use crate::ledger::entry::{Attribution, Basis, Job, OpenJob};
use crate::ledger::waiting::Turn;
use crate::pricing::rates::Rates;
use crate::pricing::sheet::Sheet;
use crate::protocol::openai::hosted::Container;
use crate::proxy::Rules;
use crate::proxy::asking::{self, Asked};
use crate::proxy::job;
use crate::proxy::query::encoded;
use crate::upstream::Upstream;

pub(crate) use self::known::known_by_terms;
pub use self::periods::Seen;
pub(super) use self::terms::Terms;
use self::terms::TermsError;

/// The kind of the jobs of containers.
pub const CONTAINER: &str = "container";
/// The kind of the jobs of vector stores.
pub const VECTOR_STORE: &str = "vector_store";
/// The longest id of an object that is followed. OpenAI's have some 60 characters.
const ID_BYTES_MAX: usize = 256;
/// How often it is tried to end the job of a deleted object that is renewed at the same time, and
/// the pause between.
const END_ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);

/// Begins, renews and ends the jobs of objects that are billed by time, by the prices in force.
#[derive(Clone, Debug)]
pub struct Accrual {
    guard: Arc<Guard>,
    sheet: Arc<Sheet>,
}

/// Where the guard asks, and with whose key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    /// The pool of connections.
    pub(super) upstream: &'a Upstream,
    /// The authorization.
    pub(super) authorization: &'a HeaderValue,
}

impl Asker<'_> {
    /// Asks for an object of a collection, as a job of a key needs it.
    pub(super) async fn show(self, collection: &str, id: &str, of: &Attribution) -> Result<Bytes, Asked> {
        asking::whole(self.upstream, self.authorization, &path(collection, id), &of.key).await
    }

    /// Deletes an object of a collection.
    async fn delete(self, collection: &str, id: &str, of: &Attribution) -> Result<(), Asked> {
        asking::deleted(self.upstream, self.authorization, &path(collection, id), &of.key).await
    }
}

/// What became of the next period of a job.
#[derive(Debug)]
pub(super) enum Renewal {
    /// It is held, and the last one is settled.
    Done,
    /// A limit leaves no room for it.
    Refused(Denial),
    /// The job has changed or ended meanwhile, or nothing can be written now.
    Later,
}

/// The kind of the job of an object, if it is billed by time.
pub(super) const fn kind_of(kind: ObjectKind) -> Option<&'static str> {
    match kind {
        ObjectKind::Container => Some(CONTAINER),
        ObjectKind::VectorStore => Some(VECTOR_STORE),
        ObjectKind::Response
        | ObjectKind::Conversation
        | ObjectKind::ChatCompletion
        | ObjectKind::File
        | ObjectKind::Batch
        | ObjectKind::Skill
        | ObjectKind::Upload
        | ObjectKind::Eval
        | ObjectKind::FineTuningJob
        | ObjectKind::Video
        | ObjectKind::Item => None,
    }
}

impl Accrual {
    /// By the rules in force.
    pub fn new(guard: &Arc<Guard>, rules: &Rules) -> Self {
        Self { guard: Arc::clone(guard), sheet: Arc::clone(&rules.sheet) }
    }

    fn fees(&self) -> &Rates {
        self.sheet.fees()
    }

    fn now_s(&self) -> i64 {
        self.guard.clock().now_s()
    }

    /// The request for the hold of a period.
    pub(super) fn request(&self, attribution: &Arc<Attribution>, cost: Money) -> ReserveRequest {
        let bound = Bound { cost, ..Bound::default() };
        ReserveRequest {
            price_version: Arc::clone(self.sheet.version()),
            rules_version: self.guard.core().rules_version(),
            ..ReserveRequest::new(Arc::clone(attribution), bound)
        }
    }

    /// Leaves a hold to the job of an object that upstream has made; returns whether it is one now.
    /// Where that can't be written, the hold is charged.
    pub(super) async fn begin(&self, reservation: Reservation, kind: &str, id: &str, terms: &Terms) -> bool {
        let Err(reservation) = self.detach(reservation, kind, id, terms).await else { return true };
        charge_unfollowed(reservation, id);
        false
    }

    /// Leaves a hold to the job of an object; it comes back if it can't be the job's.
    async fn detach(
        &self,
        reservation: Reservation,
        kind: &str,
        id: &str,
        terms: &Terms,
    ) -> Result<(), Reservation> {
        match job_of(kind, id, &terms.clone().made(self.now_s())) {
            Ok(job) if id.len() <= ID_BYTES_MAX => self.guard.detach(reservation, job).await,
            Ok(_) | Err(_) => Err(reservation),
        }
    }

    /// The job of an object, if one runs; an error is logged.
    pub(super) async fn find(&self, kind: &str, id: &str) -> Result<Option<Arc<OpenJob>>, Denied> {
        job::find(&self.guard, kind, id).await.map_err(|_| Denied::Unavailable)
    }

    /// Ends the job of an object that is there no more, if one runs, and charges what has passed until
    /// a time, in Unix seconds: of a container no more than its life, as far as its uses are known.
    /// Returns whether one has ended.
    pub async fn end(&self, kind: &str, id: &str, end_s: i64, note: &'static str) -> bool {
        let used_s = if kind == CONTAINER { self.used_s(id).await } else { None };
        self.end_job((kind, id), end_s, used_s, note).await
    }

    /// Ends the job of an object that was there until a time, in Unix seconds.
    async fn end_at(&self, kind: &str, id: &str, end_s: i64, note: &'static str) -> bool {
        self.end_job((kind, id), end_s, None, note).await
    }

    async fn end_job(
        &self,
        (kind, id): (&str, &str),
        end_s: i64,
        used_s: Option<i64>,
        note: &'static str,
    ) -> bool {
        let Some((reservation, open)) = job::resume(&self.guard, kind, id).await else { return false };
        let settled = match Terms::read(&open.job.terms) {
            Ok(terms) => {
                let lived_s = used_s.and_then(|used_s| terms.lives_until(used_s)).unwrap_or(end_s);
                reservation.settle(Basis::Counted, ending(&open, &terms, end_s.min(lived_s), Some(note)))
            }
            Err(error) => {
                job::log_unusable(&open, &error);
                reservation.assume(Ending { status: 200, note: Some(note), ..Ending::default() })
            }
        };
        job::log_ended(kind, id, &settled);
        true
    }

    /// Ends the job of a container that lives no more, as far as one runs: it lived until it had
    /// been idle for as long as it may.
    pub(super) async fn saw_over(&self, container: &Container) {
        let now_s = self.now_s();
        let lived_s = container
            .active_s
            .zip(container.idle_s)
            .map(|(active_s, idle_s)| active_s.saturating_add(idle_s));
        let note = "it has expired";
        match lived_s {
            Some(lived_s) => self.end_at(CONTAINER, &container.id, lived_s.min(now_s), note).await,
            None => self.end(CONTAINER, &container.id, now_s, note).await,
        };
    }

    /// Ends the job of an object that was deleted. Its next period may be about to be held.
    pub(super) async fn deleted(&self, of: &ObjectReference) {
        let Some(kind) = kind_of(of.kind) else { return };
        let attempts = if self.is_followed(of) { END_ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            let has_ended = self.end(kind, &of.id, self.now_s(), "it was deleted").await;
            if has_ended && !self.goes_on(kind, &of.id).await {
                return;
            }
            if attempt < attempts {
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.look_soon(&of.id).await;
    }

    /// Whether a job that was ended runs still: another guard may have renewed it first, and then it
    /// was the last hold that was ended here. Otherwise the end is in the database: after a death the
    /// object could not be asked for, and its next period would be charged.
    async fn goes_on(&self, kind: &str, id: &str) -> bool {
        let is_written = self.guard.core().flush().await.is_ok();
        self.guard.core().is_shared() && (!is_written || !matches!(self.find(kind, id).await, Ok(None)))
    }

    /// Whether an object has or had a job, as far as the index of objects says.
    fn is_followed(&self, of: &ObjectReference) -> bool {
        of.kind == ObjectKind::VectorStore
            || self.guard.objects().lookup(of.kind, &of.id).is_some_and(|known| known.has_job)
    }

    /// Has the job of a store looked at soon, since the store has changed.
    pub(super) async fn look_soon(&self, store: &str) {
        if let Ok(Some(open)) = self.find(VECTOR_STORE, store).await {
            self.guard.hasten_job(&open);
        }
    }

    /// Settles the period of a job up to a time, and has the next one held.
    async fn renew(&self, open: &OpenJob, end_s: i64, next: &Terms) -> Renewal {
        let request = self.request(&open.hold.attribution, next.bound());
        // Not behind those that wait: it pays for what is there.
        let hold = match self.guard.reserve_in_turn(request, Turn::Last).await {
            Ok(hold) => hold,
            Err(Denied::ByLimit(denial)) => return Renewal::Refused(denial),
            Err(Denied::Unpriced(_) | Denied::Unavailable | Denied::Full | Denied::Outdated) => {
                return Renewal::Later;
            }
        };
        let OpenJob { job: Job { kind, object, .. }, .. } = open;
        let Ok(Some((last, now))) = self.guard.resume_job(kind, object).await else { return Renewal::Later };
        let (terms, job) = match (Terms::read(&now.job.terms), job_of(kind, object, next)) {
            (Ok(terms), Ok(job)) if now.hold.id == open.hold.id => (terms, job),
            _ => {
                last.leave_again(now.job.clone());
                return Renewal::Later;
            }
        };
        match last.renew(Basis::Counted, ending(&now, &terms, end_s, None), hold, job).await {
            Ok(_) => Renewal::Done,
            Err(_) => Renewal::Later,
        }
    }
}

fn path(collection: &str, id: &str) -> String {
    format!("{collection}/{}", encoded(id))
}

/// Charges the hold of an object whose job can't be written.
fn charge_unfollowed(reservation: Reservation, id: &str) {
    tracing::error!(
        event = "job_not_written",
        entry = reservation.hold().id,
        "an object that is billed by time can't be followed, so its hold is charged"
    );
    let note = Some("an object that could not be followed");
    reservation.assume(Ending { status: 200, object_id: Some(id.to_owned()), note, ..Ending::default() });
}

/// The job of an object, for one period.
fn job_of(kind: &str, id: &str, terms: &Terms) -> Result<Job, TermsError> {
    let (kind, object) = (kind.to_owned(), id.to_owned());
    Ok(Job { kind, object, deadline_s: terms.until_s, terms: terms.text()? })
}

/// The ending of a period that a time ends, in Unix seconds.
fn ending(open: &OpenJob, terms: &Terms, end_s: i64, note: Option<&'static str>) -> Ending {
    let (cost, quantities) = terms.charge(end_s);
    let object_id = Some(terms.store_beside().unwrap_or(&open.job.object).to_owned());
    let tier = open.hold.tier;
    Ending { cost, tool_fees: cost, quantities, tier, status: 200, object_id, note, ..Ending::default() }
}
