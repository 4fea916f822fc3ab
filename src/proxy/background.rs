//! Responses that are made in the background: the hold of one is that of a job, which ends with
//! the response and not with the request.
//!
//! The first that sees the end of a response settles its job here: the client by reading it, by
//! cancelling it or by the stream that began it, or the guard by asking for it. What is settled
//! is so before a client has the end of the answer that says so.

mod stream;
mod terms;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio_util::task::TaskTracker;

use crate::domain::{KeptContainers, Money, ObjectKind, ObjectReference};
use crate::guard::objects::Reach;
use crate::guard::{Ending, Guard, Reservation};
use crate::ledger::entry::{Job, OpenJob};
use crate::pricing::sheet::{Sheet, UnknownModel};
use crate::protocol::openai::ResponseState;
use crate::protocol::openai::sse::{self, Hide};
use crate::protocol::openai::usage::{Answer, Outcome};

use crate::proxy::Rules;
use crate::proxy::asking::{self, Asked};
use crate::proxy::bill::{Bill, Exchange};
use crate::proxy::body::EVENT_BYTES_MAX;
use crate::proxy::job;
use crate::proxy::query::encoded;
use crate::proxy::record::{self, Recorded, Recording};
use crate::upstream::Upstream;

pub use self::stream::BackgroundStream;
pub(super) use self::stream::Unnamed;
pub use self::terms::{Terms, TermsError};

/// The kind of the jobs of responses.
pub const RESPONSE: &str = "response";
/// How long after its admission a response must have ended, in seconds. OpenAI documents no
/// bound on how long one runs, only that one is kept for some ten minutes after its end; a day is ours.
const DEADLINE_S: i64 = 86_400;
/// The longest id of a response that is followed. OpenAI's have some 60 characters.
const ID_BYTES_MAX: usize = 256;

/// A request that becomes a job once upstream has named its response.
#[derive(Debug)]
pub struct Beginning {
    /// What the job will be billed by.
    pub terms: Box<Terms>,
    /// Settles it.
    pub settler: Settler,
}

/// Settles the jobs of responses, by the prices in force.
#[derive(Clone, Debug)]
pub struct Settler {
    guard: Arc<Guard>,
    sheet: Arc<Sheet>,
    unknown: UnknownModel,
}

impl Settler {
    /// One with the rules in force.
    pub fn new(guard: &Arc<Guard>, rules: &Rules) -> Self {
        let (guard, sheet) = (Arc::clone(guard), Arc::clone(&rules.sheet));
        Self { guard, sheet, unknown: rules.unknown_model }
    }

    /// Leaves a hold to the job of a response that upstream has begun. Where that can't be
    /// written, the hold is charged.
    async fn begin(&self, reservation: Reservation, terms: &Terms, id: String) {
        let admitted_s = reservation.hold().admitted_ms.div_euclid(1_000);
        let refused = match terms.text() {
            Ok(terms) if id.len() <= ID_BYTES_MAX => {
                let deadline_s = admitted_s.saturating_add(DEADLINE_S);
                let job = Job { kind: RESPONSE.to_owned(), object: id, deadline_s, terms };
                self.guard.detach(reservation, job).await
            }
            Ok(_) | Err(_) => Err(reservation),
        };
        if let Err(reservation) = refused {
            tracing::error!(
                event = "job_not_written",
                entry = reservation.hold().id,
                "a background response can't be followed, so its hold is charged"
            );
            let note = Some("a background response that could not be followed");
            let tier = reservation.hold().tier;
            reservation.assume(Ending { tier, note, ..Exchange::default().ending() });
        }
    }

    /// The same, with the objects that are recorded meanwhile.
    async fn begin_recorded(
        self,
        reservation: Reservation,
        terms: Box<Terms>,
        id: String,
        recorded: Option<Recorded>,
    ) {
        let recorded = async {
            if let Some(recorded) = recorded {
                recorded.await;
            }
        };
        tokio::join!(self.begin(reservation, &terms, id), recorded);
    }

    /// The job of a response, if one runs. If that can't be read, none is found: what its client
    /// reads then settles nothing, and the guard asks later.
    pub(super) async fn find(&self, id: &str) -> Option<Arc<OpenJob>> {
        job::find(&self.guard, RESPONSE, id).await.unwrap_or_default()
    }

    /// Settles a job by the whole object of its response, if that has ended.
    pub async fn saw(&self, open: &OpenJob, body: &Bytes) -> ResponseState {
        let state = ResponseState::of(body);
        if state != ResponseState::Ended {
            return state;
        }
        let id = &open.job.object;
        let Ok((bill, ..)) = self.bill(open) else {
            // Whatever it has made, its hold is charged.
            self.end(id, Answer::default(), 0).await;
            return state;
        };
        let operation = bill.operation;
        let answer = self.guard.parsed(body, move |body| operation.answer(body)).await;
        // A gateway may answer with something else.
        if answer.object_id.as_ref() != Some(id) {
            return ResponseState::Unknown;
        }
        let is_counted = answer.usage.is_none() && answer.outcome == Outcome::Completed;
        let counted = if is_counted { self.count(bill, body.clone()).await } else { 0 };
        self.end(id, answer, counted).await;
        state
    }

    /// Settles a job by the events of its response, if they report all that was used. Without
    /// that, only the whole object shows what was made: a stream may have begun in the middle.
    /// Returns the cost, unless the job was settled before.
    async fn saw_events(&self, id: &str, answer: Answer) -> Option<Money> {
        answer.usage?;
        self.end(id, answer, 0).await
    }

    /// An observer of the events of a job's response.
    pub(super) fn tap(open: &OpenJob) -> Option<sse::Tap> {
        let operation = Terms::read(&open.job.terms).and_then(|terms| terms.operation()).ok()?;
        Some(operation.tap(Hide::Nothing, EVENT_BYTES_MAX))
    }

    /// Charges the hold of a job, whose outcome will not be known.
    pub async fn assume(&self, id: &str, note: &'static str) {
        let Some((reservation, _)) = job::resume(&self.guard, RESPONSE, id).await else { return };
        let tier = reservation.hold().tier;
        let object_id = Some(id.to_owned());
        let ending = Ending { note: Some(note), tier, object_id, ..Exchange::default().ending() };
        job::log_ended(RESPONSE, id, &reservation.assume(ending));
    }

    /// Asks upstream for the response of a job, and settles it if it has ended.
    pub async fn ask(&self, upstream: &Upstream, authorization: &HeaderValue, open: &OpenJob) -> Asked {
        let path = format!("/responses/{}", encoded(&open.job.object));
        let key = &open.hold.attribution.key;
        match asking::whole(upstream, authorization, &path, key).await {
            Ok(body) if self.saw(open, &body).await == ResponseState::Ended => Asked::Ended,
            Ok(_) => Asked::Running,
            Err(asked) => asked,
        }
    }

    /// Ends a job by its answer and, where that reports no usage, by the output tokens that were
    /// counted. Between taking its hold and ending it nothing is waited for, so that no client
    /// that leaves comes between. Returns the cost, unless the job was ended before.
    async fn end(&self, id: &str, answer: Answer, counted: u64) -> Option<Money> {
        self.find_containers(&answer).await;
        let (reservation, open) = job::resume(&self.guard, RESPONSE, id).await?;
        let (mut bill, containers, request_id) = match self.bill(&open) {
            Ok(bill) => bill,
            Err(error) => {
                job::log_unusable(&open, &error);
                let note = Some("its terms or its price are not known any more");
                let ending = Ending { note, tier: open.hold.tier, ..Exchange::default().ending() };
                let settled = reservation.assume(ending);
                job::log_ended(RESPONSE, id, &settled);
                return Some(settled.cost);
            }
        };
        let made = record::made_in_background(&self.guard, &open.hold, (&bill.tools, containers), &answer);
        bill.reused = Some(made.reused);
        bill.lasted(self.guard.clock().now_s());
        let exchange = Exchange { status: StatusCode::OK.as_u16(), request_id, ..Exchange::default() };
        let settled = if answer.usage.is_none() && answer.outcome != Outcome::Completed {
            bill.assume(reservation, &answer, exchange)
        } else {
            bill.end(reservation, &answer, exchange, || counted)
        };
        job::log_ended(RESPONSE, id, &settled);
        if !made.changes.is_empty() {
            self.guard.record_objects(made.changes).await;
        }
        Some(settled.cost)
    }

    /// The bill of a job, the containers of its context, and upstream's id of the request.
    fn bill(&self, open: &OpenJob) -> Result<(Bill, KeptContainers, Option<String>), TermsError> {
        let terms = Terms::read(&open.job.terms)?;
        let bill = terms.bill(&self.sheet, self.unknown)?;
        Ok((bill, terms.kept_containers()?, terms.request_id))
    }

    /// The output tokens of a body that reports no usage.
    async fn count(&self, bill: Bill, body: Bytes) -> u64 {
        let bytes = body.len();
        self.guard.offload(bytes, move || bill.count_output(&String::from_utf8_lossy(&body))).await
    }

    /// Reads what is known of the containers that an answer names into memory.
    async fn find_containers(&self, answer: &Answer) {
        let of = |id: &String| ObjectReference { kind: ObjectKind::Container, id: id.clone() };
        let named: Vec<ObjectReference> = answer.made.containers.iter().map(of).collect();
        if let Err(error) = self.guard.check_objects(&named, &Reach::All).await {
            tracing::warn!(
                event = "object_index_unreadable", %error,
                "the index of objects can't be read"
            );
        }
    }
}

impl Beginning {
    /// Follows a response that upstream has begun, in its first answer.
    pub(super) async fn follow(
        mut self,
        reservation: Reservation,
        recording: Option<Box<Recording>>,
        answer: &Answer,
        exchange: Exchange,
    ) {
        let Some(id) = answer.object_id.clone() else {
            if answer.failed_at_once() {
                let note = Some("it failed before any output");
                reservation.release(Ending { note, ..exchange.ending() });
                return;
            }
            let note = Some("a background response without an id");
            let tier = reservation.hold().tier;
            reservation.assume(Ending { tier, note, ..exchange.ending() });
            return;
        };
        self.terms.request_id = exchange.request_id;
        let recorded = recording.and_then(|mut recording| recording.heard(false, || answer.clone()));
        self.settler.begin_recorded(reservation, self.terms, id, recorded).await;
    }
}

/// Does what a client waits for in a task of its own: one that leaves meanwhile stops none of it.
pub(super) fn in_a_task<T: Default + Send + 'static>(
    tracker: &TaskTracker,
    work: impl Future<Output = T> + Send + 'static,
) -> Pin<Box<dyn Future<Output = T> + Send>> {
    let task = tracker.spawn(work);
    // It panics only with the process.
    Box::pin(async move { task.await.unwrap_or_default() })
}
