//! The port through which the guard admits and ends requests.

mod jobs;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::domain::object::KnownObject;
use crate::domain::{KeptContainers, Money, ObjectReference};
use crate::ledger::ReserveRequest;
use crate::ledger::entry::{Crossing, Entry};
use crate::ledger::waiting::Turn;
use crate::ledger::walk::LoadedMeters;
use crate::store::jobs::JobSum;
use crate::store::objects::{BegunTurn, ObjectChange};
use crate::store::postgres::calls::{AdmittedHold, Call, Correction, NotReserved, Reserve, TakeRates};
use crate::store::postgres::claims;
use crate::store::postgres::database::{Database, blocking};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::locks::rules_version;
use crate::store::postgres::looks::Looks;
use crate::store::postgres::nodes;
use crate::store::postgres::pool::Work;
use crate::store::postgres::reader::Reader;
use crate::store::postgres::shared::{RulesFollower, Shared};
use crate::store::postgres::whole::{self, SharedMeters, Whole};
use crate::store::records::{AuditRow, Names};
use crate::store::slots::Slots;
use crate::store::snapshot::Snapshot;
use crate::store::sql::{Db, Lent as _, Owned};
use crate::store::{Slot, StoreError};
use crate::sync::unpoisoned;
use crate::throttle::shared::{GiveBack, Take};
use crate::throttle::{RateCheck, Throttled};

/// The least time between two looks at the whole ledger. It bounds what those who are authorized
/// can ask of the database, to 20 looks a second; who asks for one page after another waits for
/// it, and sees what was committed before each.
const WHOLE_EACH: Duration = Duration::from_millis(50);
/// The age up to which what was seen of the whole ledger is good for who is not authorized: on an
/// address of this machine, `/metrics` is open to anybody.
const LATELY: Duration = Duration::from_secs(1);
/// How often a look reads again what was read under older rules than those in memory.
const READINGS_MAX: usize = 3;
/// The least time between two looks for new rules that unknown keys cause: a flood of wrong keys
/// costs four small queries a second. In return, during a flood, a wrong key is answered and a key
/// that another guard has just made is found up to this much later.
const RULES_EACH: Duration = Duration::from_millis(250);

/// Admits requests and writes endings, in groups of one transaction each.
pub struct Lanes {
    shared: Arc<Shared>,
    slots: Slots,
    reader: Reader,
    database: Arc<Database>,
    /// Looks at the whole ledger: whether it could be read.
    whole: Looks<bool>,
    /// Looks at it for who is not authorized.
    lately: Looks<()>,
    /// Looks for new rules: whether they could be read.
    rules: Looks<bool>,
    /// What other guards and jobs hold, in nano-dollars and in holds, as of the last look.
    held: Arc<(AtomicI64, AtomicUsize)>,
    /// The jobs of each kind that run, as of the last look.
    jobs: Arc<Mutex<BTreeMap<String, JobSum>>>,
    names: Arc<dyn Names>,
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Lanes {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests_max: usize,
        database: Arc<Database>,
        names: Arc<dyn Names>,
    ) -> Self {
        let reader = Reader::new(Arc::clone(&database));
        let timer = database.runtime().handle().clone();
        Self {
            shared,
            slots: Slots::new(requests_max),
            reader,
            database,
            whole: Looks::new(WHOLE_EACH, timer.clone()),
            lately: Looks::new(LATELY, timer.clone()),
            rules: Looks::new(RULES_EACH, timer),
            held: Arc::default(),
            jobs: Arc::default(),
            names,
        }
    }

    /// Puts in force what all guards have changed, and reads what they have settled and hold, to
    /// be shown: by what was committed, or answered by this guard, before this was called. `false`
    /// if that can't be read; what is in memory stays as it was then.
    pub async fn see_whole(&self) -> bool {
        let look = async || match self.look_at_whole().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    event = "whole_not_read", %error,
                    "what other guards have changed, settled and hold can't be read; older figures are shown"
                );
                false
            }
        };
        self.whole.look(look).await
    }

    /// The same for who is not authorized, as of a second ago at most.
    pub async fn see_whole_lately(&self) {
        let look = async || {
            self.see_whole().await;
        };
        self.lately.recent(look).await;
    }

    async fn look_at_whole(&self) -> Result<(), StoreError> {
        // Where a lane is stuck, the rest is shown.
        let _ = self.flush().await;
        let (shared, reader, held) = (Arc::clone(&self.shared), self.reader.clone(), Arc::clone(&self.held));
        let jobs = Arc::clone(&self.jobs);
        blocking(move || {
            for _ in 0..READINGS_MAX {
                let mut seen = reader.query(|db| db.snapshot(|| whole::read(db, shared.epoch())))?;
                held.0.store(seen.held_nano, Ordering::Relaxed);
                held.1.store(seen.holds, Ordering::Relaxed);
                *unpoisoned(jobs.lock()) = std::mem::take(&mut seen.jobs);
                if !shared.refresh(seen.rules_version) {
                    return Err(StoreError::Unavailable);
                }
                if show(&shared, seen) {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    /// The database at one instant, with what its rows say of meters and credit then.
    pub async fn snapshot(&self) -> Result<(Snapshot, SharedMeters), StoreError> {
        let database = Arc::clone(&self.database);
        blocking(move || {
            let pinned = Lease::snapshot(&database)?;
            let meters = SharedMeters::read(Db::Postgres(pinned.connection()))?;
            // A server looks after its own files.
            Ok((Snapshot::of(Owned::Postgres(Box::new(pinned)), |_| Ok(Vec::new())), meters))
        })
        .await
    }

    /// Puts in force what other guards have changed by now; `false` if that can't be read.
    pub async fn look_for_rules(&self) -> bool {
        self.rules.look(|| self.look_at_rules()).await
    }

    async fn look_at_rules(&self) -> bool {
        let (shared, reader) = (Arc::clone(&self.shared), self.reader.clone());
        let look = move || match reader.query(rules_version) {
            Ok(version) => shared.refresh(version),
            Err(error) => {
                tracing::error!(
                    event = "rules_refresh_failed", %error,
                    "the version of the rules can't be read"
                );
                false
            }
        };
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }

    /// Money that is held for open requests of other guards and for jobs, and how many there
    /// are, as of the last look at the whole.
    pub fn held_by_others(&self) -> (Money, usize) {
        let (nano, holds) = &*self.held;
        (Money::from_nano(nano.load(Ordering::Relaxed)), holds.load(Ordering::Relaxed))
    }

    /// Keeps the rules in memory new.
    pub fn follow(&self, follower: Arc<dyn RulesFollower>) {
        let _ = self.shared.follower.set(follower);
    }

    /// The version of the rules in memory.
    pub fn rules_version(&self) -> i64 {
        self.shared.rules_version()
    }

    /// The slots of requests and of operators.
    pub(in crate::store) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Reserves a request's bound on all meters that it counts on. When this returns a
    /// hold, it is in the database.
    pub async fn reserve(
        &self,
        request: ReserveRequest,
        at_ms: i64,
        turn: Turn,
        slot: Slot,
    ) -> Result<AdmittedHold, NotReserved> {
        if !self.is_healthy() {
            return Err(NotReserved::Unavailable);
        }
        let (answer, outcome) = oneshot::channel();
        let rules_version = request.rules_version;
        let reserve = Reserve { request, rules_version, at_ms, turn, slot, answer };
        self.shared.queue.push(Call::Reserve(Box::new(reserve)));
        self.in_time(outcome).await.unwrap_or(Err(NotReserved::Unavailable))
    }

    /// Takes from all buckets of rates, or from none. When this returns what was taken, that is
    /// in the database.
    pub async fn take_rates(
        &self,
        takes: Vec<Take>,
        rules_version: i64,
    ) -> Result<Result<RateCheck, Box<Throttled>>, NotReserved> {
        // What another lane gives back at this time may be what it lacks.
        let may_be_late = self.shared.queue.is_giving_back();
        let taken = self.try_to_take(takes.clone(), rules_version).await?;
        if taken.is_ok() || !may_be_late {
            return Ok(taken);
        }
        if self.flush().await.is_err() {
            return Ok(taken);
        }
        self.try_to_take(takes, rules_version).await
    }

    async fn try_to_take(
        &self,
        takes: Vec<Take>,
        rules_version: i64,
    ) -> Result<Result<RateCheck, Box<Throttled>>, NotReserved> {
        if !self.is_healthy() {
            return Err(NotReserved::Unavailable);
        }
        let (answer, outcome) = oneshot::channel();
        self.shared.queue.push(Call::Take(Box::new(TakeRates { takes, rules_version, answer })));
        self.in_time(outcome).await.unwrap_or(Err(NotReserved::Unavailable))
    }

    /// Waits for an answer of a lane as long as the database may take; `None` if there is none. What
    /// is admitted later, once the outcome of a commit is known, is released: its request is gone.
    async fn in_time<T>(&self, answer: oneshot::Receiver<T>) -> Option<T> {
        tokio::time::timeout(self.database.answer_timeout(), answer).await.ok()?.ok()
    }

    /// Queues what a request took from the rates and did not use.
    pub fn push_rates(&self, unused: Vec<GiveBack>) {
        self.shared.queue.give_back(unused);
    }

    /// Queues the ending of a hold.
    pub fn push_ending(&self, entry: Box<Entry>, slot: Slot) {
        self.shared.queue.push(Call::End(entry, slot));
    }

    /// Queues crossings that no entry has caused.
    pub fn push_crossings(&self, crossings: Vec<Crossing>, slot: Slot) {
        self.shared.queue.push(Call::Crossings(crossings, slot));
    }

    /// Corrects an entry; the correction gets its id here.
    pub async fn correct(
        &self,
        entry: Entry,
        audited: impl Fn(&Entry) -> AuditRow + Send + Sync + 'static,
        slot: Slot,
    ) -> Result<Entry, StoreError> {
        let (answer, written) = oneshot::channel();
        let correction = Correction { entry, audited: Box::new(audited), slot, answer };
        self.shared.queue.push(Call::Correct(Box::new(correction)));
        written.await.map_err(|_| StoreError::Unavailable)
    }

    /// Queues what was learned of objects. It is written in the end even if the answer is
    /// that it can't be now.
    pub fn push_objects(&self, changes: Vec<ObjectChange>) -> oneshot::Receiver<bool> {
        let (ack, written) = oneshot::channel();
        self.shared.queue.push(Call::Objects(changes, Some(ack)));
        written
    }

    /// Changes an object by what is stored of it, while no other guard does; one that is not stored
    /// is as `new`. When this returns, it is in the database.
    pub async fn change_object<T: Send + 'static>(
        &self,
        of: ObjectReference,
        new: KnownObject,
        change: impl FnOnce(KnownObject) -> (T, ObjectChange) + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        blocking(move || {
            let lease = Lease::take(&database, Work::Short)?;
            Ok(claims::change(Db::Postgres(lease.connection()), &of, &new, change)?)
        })
        .await
    }

    /// Begins a turn on a conversation, if `covers` says that enough is held for it, by what is
    /// stored of the conversation and by whether no other turn is open on any guard; one that is not
    /// stored is as `new`. The turn may run in containers that it adds. When this returns, the
    /// database says that the conversation is changing.
    pub async fn begin_turn(
        &self,
        of: ObjectReference,
        new: KnownObject,
        added: KeptContainers,
        covers: impl FnOnce(&KnownObject, bool) -> bool + Send + 'static,
    ) -> Result<Option<BegunTurn>, StoreError> {
        // Drawn here, so that it can be ended whether it is known to have begun or not.
        let number = nodes::random()?;
        let (database, shared) = (Arc::clone(&self.database), Arc::clone(&self.shared));
        let opening = blocking(move || {
            let lease = Lease::take(&database, Work::Short)?;
            let mut opening = Opening { of, turn: Some(BegunTurn { number, alone: None }), shared };
            let (db, turn) = (Db::Postgres(lease.connection()), (&opening.of, number));
            opening.turn = claims::begin_turn(db, turn, &new, added, covers)?;
            Ok(opening)
        });
        Ok(opening.await?.accept())
    }

    /// Waits until all that this guard queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.flush().await
    }

    /// Whether the last group was written.
    pub fn is_healthy(&self) -> bool {
        self.shared.is_healthy()
    }
}

/// A turn that may be open in the database, on its way to its request. Dropped on the way, it is
/// ended: nothing was sent.
struct Opening {
    of: ObjectReference,
    turn: Option<BegunTurn>,
    shared: Arc<Shared>,
}

impl Opening {
    fn accept(mut self) -> Option<BegunTurn> {
        self.turn.take()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(BegunTurn { number: turn, alone }) = self.turn.take() {
            let ended = ObjectChange::EndTurn { of: self.of.clone(), turn, alone };
            self.shared.queue.push(Call::Objects(vec![ended], None));
        }
    }
}

/// Puts what was seen of the whole into memory; `false` if the rules there are of another version.
fn show(shared: &Shared, seen: Whole) -> bool {
    // What takes long is made, and what it replaces is dropped, where no request waits.
    let in_force = shared.ledger().in_force();
    let mut meters = LoadedMeters::of(in_force, seen.meters);
    let mut ledger = shared.ledger();
    if ledger.rules_version() != seen.rules_version {
        return false;
    }
    ledger.swap_meters(&mut meters);
    if let Some(segments) = &seen.credit {
        ledger.load_credit(segments);
    }
    drop(ledger);
    true
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}
