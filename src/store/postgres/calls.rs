//! What is asked of the lanes, and the queue that they take it from.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard, oneshot};

use crate::ledger::entry::{Crossing, Entry, Hold, Job, entry_id};
use crate::ledger::waiting::Turn;
use crate::ledger::{Admission, NotAdmitted, ReserveRequest};
use crate::store::Slot;
use crate::store::objects::ObjectChange;
use crate::store::records::AuditRow;
use crate::sync::unpoisoned;
use crate::throttle::shared::{GiveBack, Take};
use crate::throttle::{RateCheck, Throttled};

/// Calls in one group, which bounds how long its rows are locked.
const GROUP_MAX: usize = 256;
/// How long an ending waits for requests that share its transaction. After the death of
/// the guard within this time its hold is charged instead.
const LINGER: Duration = Duration::from_millis(20);

/// A request that asks for admission.
#[derive(Debug)]
pub(super) struct Reserve {
    /// The request.
    pub request: ReserveRequest,
    /// The rules that it was prepared with.
    pub rules_version: i64,
    /// When it asked, in Unix milliseconds.
    pub at_ms: i64,
    /// Whose turn it is, where others wait.
    pub turn: Turn,
    /// For its ending.
    pub slot: Slot,
    /// Where the outcome goes.
    pub answer: oneshot::Sender<Result<AdmittedHold, NotReserved>>,
}

/// What a request takes from the rates.
#[derive(Debug)]
pub(super) struct TakeRates {
    /// From which buckets.
    pub takes: Vec<Take>,
    /// The version of the rules that they are of.
    pub rules_version: i64,
    /// Where the outcome goes.
    pub answer: oneshot::Sender<Result<Taking, NotReserved>>,
}

/// What came of taking from the rates.
pub(super) type Taking = Result<RateCheck, Box<Throttled>>;

/// A correction, which gets its id when it is written.
pub(super) struct Correction {
    /// The entry, without its id.
    pub entry: Entry,
    /// Its row of the audit log.
    pub audited: Box<dyn Fn(&Entry) -> AuditRow + Send + Sync>,
    #[expect(dead_code, reason = "kept until it is written")]
    pub slot: Slot,
    /// Where the entry goes once it is written.
    pub answer: oneshot::Sender<Entry>,
}

/// What becomes part of a group.
pub(super) enum Call {
    /// A request asks for admission.
    Reserve(Box<Reserve>),
    /// A request takes from the rates.
    Take(Box<TakeRates>),
    /// What a request took from the rates and did not use.
    GiveBack(Vec<GiveBack>, #[expect(dead_code, reason = "kept until it is written")] Returning),
    /// A hold has ended; the slot is kept until that is written.
    End(Box<Entry>, #[expect(dead_code, reason = "kept until it is written")] Slot),
    /// The hold of a job has ended, unless another guard has ended it; the job may have another
    /// hold from then on.
    EndJob(
        Box<Entry>,
        Arc<Hold>,
        Option<Box<Renewed>>,
        #[expect(dead_code, reason = "kept until it is written")] Slot,
    ),
    /// A hold of a guard that is no more is charged in full, unless that was done.
    Charge(Arc<Hold>),
    /// An operator corrects an entry.
    Correct(Box<Correction>),
    /// Crossings that no entry has caused.
    Crossings(Vec<Crossing>, #[expect(dead_code, reason = "kept until it is written")] Slot),
    /// A hold is that of a job from now on.
    Job(Arc<Hold>, Job, oneshot::Sender<bool>),
    /// Something was learned of objects. It is written in the end, whatever is answered.
    Objects(Vec<ObjectChange>, Option<oneshot::Sender<bool>>),
    /// Answered by the number of the group once it is written.
    Flush(oneshot::Sender<u64>),
}

/// The hold that a job has next.
pub(super) struct Renewed {
    /// The hold, of this guard until then.
    pub hold: Arc<Hold>,
    /// The job.
    pub job: Job,
    /// Where it goes whether that is so.
    pub ack: oneshot::Sender<bool>,
}

/// Why a request got no hold.
#[derive(Debug)]
pub enum NotReserved {
    /// The ledger does not admit it.
    NotAdmitted(NotAdmitted),
    /// The rules have changed since it was prepared.
    Outdated,
    /// The database can't be written.
    Unavailable,
}

/// A hold that is in the database, on its way to its request. Dropped on the way, it is
/// released: nothing was sent.
#[derive(Debug)]
pub struct AdmittedHold {
    hold: Arc<Hold>,
    admission: Admission,
    slot: Option<Slot>,
    queue: Arc<Queue>,
    at_ms: i64,
}

impl AdmittedHold {
    pub(super) fn new(
        hold: Arc<Hold>,
        admission: Admission,
        slot: Slot,
        queue: Arc<Queue>,
        at_ms: i64,
    ) -> Self {
        Self { hold, admission, slot: Some(slot), queue, at_ms }
    }

    /// Hands the hold over, with the slot for its ending.
    pub fn accept(mut self) -> (Arc<Hold>, Admission, Slot) {
        let slot = self.slot.take().expect("a hold is handed over once");
        (Arc::clone(&self.hold), std::mem::take(&mut self.admission), slot)
    }
}

impl Drop for AdmittedHold {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let kind = crate::ledger::entry::Kind::Release;
            self.queue.push(Call::End(Box::new(Entry::ending(&self.hold, kind, self.at_ms)), slot));
        }
    }
}

impl Call {
    /// Whether a task waits for it.
    fn is_urgent(&self) -> bool {
        !matches!(self, Self::End(..) | Self::EndJob(_, _, None, _) | Self::Charge(_) | Self::GiveBack(..))
    }

    /// When the request was admitted that it ends or corrects, in Unix milliseconds.
    pub(super) fn admitted_ms(&self) -> Option<i64> {
        match self {
            Self::End(entry, _) | Self::EndJob(entry, ..) => Some(entry.admitted_ms),
            Self::Charge(hold) => Some(hold.admitted_ms),
            Self::Correct(correction) => Some(correction.entry.admitted_ms),
            Self::Reserve(_)
            | Self::Take(_)
            | Self::GiveBack(..)
            | Self::Crossings(..)
            | Self::Job(..)
            | Self::Objects(..)
            | Self::Flush(_) => None,
        }
    }

    /// The hold that is to be that of a job.
    pub(super) fn hold_of_job(&self) -> Option<&Arc<Hold>> {
        match self {
            Self::Job(hold, ..) => Some(hold),
            Self::EndJob(_, _, renewed, _) => renewed.as_ref().map(|renewed| &renewed.hold),
            Self::Reserve(_)
            | Self::Take(_)
            | Self::GiveBack(..)
            | Self::End(..)
            | Self::Charge(_)
            | Self::Correct(_)
            | Self::Crossings(..)
            | Self::Objects(..)
            | Self::Flush(_) => None,
        }
    }

    /// What it writes, for messages; `None` if that is nothing.
    pub(super) fn record(&self) -> Option<String> {
        Some(match self {
            Self::End(entry, _) | Self::EndJob(entry, ..) => entry_id(entry.id),
            Self::Charge(hold) => entry_id(hold.id),
            Self::Crossings(crossings, _) => format!("{} alert facts", crossings.len()),
            Self::Objects(changes, _) => format!("{} objects", changes.len()),
            Self::Correct(_) => "a correction".to_owned(),
            Self::Job(hold, ..) => format!("the job of {}", entry_id(hold.id)),
            Self::Reserve(_) => "the hold of a request".to_owned(),
            Self::Take(_) | Self::GiveBack(..) => "what a request takes of a rate".to_owned(),
            Self::Flush(_) => return None,
        })
    }
}

/// What goes back to a rate, on its way.
#[derive(Debug)]
pub(super) struct Returning(Arc<AtomicUsize>);

impl Drop for Returning {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The calls that wait for a lane. They are bounded by the requests and questions that are open: each
/// has few calls, and endings keep the slots of their requests.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// How much goes back to rates and is not written yet.
    returning: Arc<AtomicUsize>,
    /// Whose turn it is to take calls.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Notified of every call.
    any: Notify,
    /// Notified of every call that a task waits for.
    urgent: Notify,
    /// Notified whenever a group is written, or the lanes fail.
    progress: Notify,
}

/// The calls of one group, and its number in the order of taking.
pub(super) type Taken = (u64, Vec<Call>);

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    /// How many of them a task waits for.
    urgent: usize,
    closed: bool,
    /// The numbers of the groups that were taken and are not written.
    taken: BTreeSet<u64>,
    last_taken: u64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    /// Queues a call.
    pub(super) fn push(&self, call: Call) {
        let is_urgent = call.is_urgent();
        let mut state = unpoisoned(self.state.lock());
        state.urgent += usize::from(is_urgent);
        state.calls.push_back(call);
        drop(state);
        if is_urgent {
            self.urgent.notify_one();
        }
        self.any.notify_one();
    }

    /// Queues what goes back to rates.
    pub(super) fn give_back(&self, unused: Vec<GiveBack>) {
        self.returning.fetch_add(1, Ordering::AcqRel);
        self.push(Call::GiveBack(unused, Returning(Arc::clone(&self.returning))));
    }

    /// Whether something goes back to rates that is not written yet.
    pub(super) fn is_giving_back(&self) -> bool {
        self.returning.load(Ordering::Acquire) > 0
    }

    /// Lets the lanes end once everything is written.
    pub(super) fn close(&self) {
        unpoisoned(self.state.lock()).closed = true;
        self.urgent.notify_one();
        self.any.notify_one();
    }

    /// Waits for the turn to take calls.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Waits for the calls of the next group; `None` once the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<Taken> {
        loop {
            match self.due() {
                Due::Now(taken) => return Some(taken),
                Due::Soon => {
                    let _ = tokio::time::timeout(LINGER, self.urgent.notified()).await;
                    let mut state = unpoisoned(self.state.lock());
                    // Another lane may have taken them.
                    if !state.calls.is_empty() {
                        return Some(state.take());
                    }
                }
                Due::Never => {
                    // For the next lane.
                    self.any.notify_one();
                    return None;
                }
                Due::Unknown => self.any.notified().await,
            }
        }
    }

    /// A group is written, or nothing of it is left.
    pub(super) fn done(&self, group: u64) {
        unpoisoned(self.state.lock()).taken.remove(&group);
        self.progress.notify_waiters();
    }

    /// Wakes those who wait for groups: the lanes have failed.
    pub(super) fn note_failure(&self) {
        self.progress.notify_waiters();
    }

    /// Waits until every group is written that was taken before one, while `is_healthy`.
    pub(super) async fn written_before(&self, group: u64, is_healthy: impl Fn() -> bool) -> bool {
        loop {
            let progress = self.progress.notified();
            let first = unpoisoned(self.state.lock()).taken.first().copied();
            if first.is_none_or(|first| first >= group) {
                return true;
            }
            if !is_healthy() {
                return false;
            }
            progress.await;
        }
    }

    fn due(&self) -> Due {
        let mut state = unpoisoned(self.state.lock());
        if state.calls.is_empty() {
            return if state.closed { Due::Never } else { Due::Unknown };
        }
        if state.urgent > 0 || state.closed || state.calls.len() >= GROUP_MAX {
            return Due::Now(state.take());
        }
        Due::Soon
    }

    /// Replaces each call that waits by what is left of it, while no lane can write it.
    pub(super) fn retain(&self, left_of: impl FnMut(Call) -> Option<Call>) {
        let mut state = unpoisoned(self.state.lock());
        state.calls = std::mem::take(&mut state.calls).into_iter().filter_map(left_of).collect();
        state.urgent = state.calls.iter().filter(|call| call.is_urgent()).count();
    }
}

/// When the next group is to be written.
enum Due {
    Now(Taken),
    Soon,
    Unknown,
    Never,
}

impl State {
    fn take(&mut self) -> Taken {
        let count = self.calls.len().min(GROUP_MAX);
        let calls: Vec<Call> = self.calls.drain(..count).collect();
        self.urgent -= calls.iter().filter(|call| call.is_urgent()).count();
        self.last_taken += 1;
        self.taken.insert(self.last_taken);
        (self.last_taken, calls)
    }
}
