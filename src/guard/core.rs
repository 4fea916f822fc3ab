//! The core: the ledger and its journal, changed together.
//!
//! All that admits, ends or corrects spending goes through here, and in one order: decide
//! under the lock, apply, and queue the record for the database while still under the
//! lock, so that the database's order is the ledger's order. Another engine would run the
//! same `Ledger::admit` and `Ledger::end` for a group inside a transaction of its own; it
//! would stand behind these same functions.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::domain::{Limit, Money, Span, Window};
use crate::guard::alert_facts::{FactKey, Recent};
use crate::guard::waiting::Locked;
use crate::ledger::denial::{Blocked, Denial};
use crate::ledger::entry::{AlertKind, Crossing, Entry, Hold, Job};
use crate::ledger::meter::Subject;
use crate::ledger::waiting::Turn;
use crate::ledger::walk::InForce;
use crate::ledger::{Admission, Circumstances, Ended, Ledger, NotAdmitted, ReserveRequest};
use crate::metrics::Metrics;
use crate::store::objects::ObjectChange;
use crate::store::records::AuditRow;
use crate::store::{Journal, Queued, Slot, Snapshot, SnapshotNeed, StoreError, WriteAck};
use crate::sync::unpoisoned;
use crate::throttle::Throttle;

/// One ledger with its journal, its rates and its clock.
#[derive(Debug)]
pub struct Core {
    /// A std lock: it is held for a few map operations and never across an
    /// await, so a thread never parks with it.
    ledger: Mutex<Ledger>,
    journal: Journal,
    /// The limits on requests and tokens a minute.
    rates: ArcSwap<Throttle>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    recent: Recent,
    /// Notified whenever a crossing is written.
    crossed: Arc<Notify>,
}

/// A request that was admitted, whose hold is on its way into the database.
pub(super) struct Admitted {
    pub(super) hold: Arc<Hold>,
    pub(super) admission: Admission,
    pub(super) ack: WriteAck,
}

impl Core {
    /// A core on a ledger and its journal, without limits.
    pub fn new(
        ledger: Ledger,
        journal: Journal,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        crossed: Arc<Notify>,
    ) -> Self {
        let (rates, recent) = (ArcSwap::from_pointee(Throttle::default()), Recent::default());
        Self { ledger: Mutex::new(ledger), journal, rates, clock, metrics, recent, crossed }
    }

    /// Decides whether a request is admitted, applies its hold, and queues it for the
    /// database.
    pub(super) fn decide(&self, request: ReserveRequest, turn: Turn) -> Result<Admitted, NotAdmitted> {
        let mut ledger = self.ledger();
        let unwritten_releases = self.journal.unwritten(ledger.released());
        let circumstances = Circumstances { at_ms: self.clock.now_ms(), unwritten_releases, turn };
        let (hold, admission) = ledger.admit(request, &circumstances)?;
        let ack = self.journal.push_hold(Arc::clone(&hold), admission.depends_on_unwritten);
        Ok(Admitted { hold, admission, ack })
    }

    /// Ends a hold by its entry, and queues that for the database. Returns what the
    /// tightest dollar limit leaves then; `None` without one.
    pub(super) fn end(&self, entry: Box<Entry>, slot: Option<Slot>) -> Option<Money> {
        let mut ledger = self.ledger();
        let Ended { crossings, left } = ledger.end(&entry);
        if let Some(slot) = slot {
            self.journal.push_entry(entry, crossings, ledger.released(), slot);
        }
        left
    }

    /// Applies a correction, and queues it with its row of the audit log right behind.
    pub fn correct(
        &self,
        [slot, slot_after]: [Slot; 2],
        entry: impl FnOnce(u64, i64) -> Entry,
        audited: impl FnOnce(&Entry) -> AuditRow,
    ) -> (Entry, Queued<()>) {
        let mut ledger = self.ledger();
        let entry = entry(ledger.take_id(), self.clock.now_ms());
        let crossings = ledger.apply(&entry);
        self.journal.push_entry(Box::new(entry.clone()), crossings, ledger.released(), slot);
        let audited = self.journal.push_audit(audited(&entry), slot_after);
        (entry, audited)
    }

    /// Changes the ledger, at a time in Unix milliseconds, and queues the crossings that
    /// this has caused.
    pub fn transition(&self, slot: Slot, change: impl FnOnce(&mut Ledger, i64) -> Vec<Crossing>) {
        let mut ledger = self.ledger();
        let crossings = change(&mut ledger, self.clock.now_ms());
        if !crossings.is_empty() {
            self.journal.push_crossings(crossings, slot);
        }
    }

    /// Reads or changes the ledger, at a time in Unix milliseconds, and takes a snapshot of
    /// the database at that place if `work` asks for one: it has exactly the records that
    /// the ledger has then.
    pub fn with_snapshot<T>(
        &self,
        slot: Slot,
        work: impl FnOnce(&mut Ledger, i64) -> (T, SnapshotNeed),
    ) -> (T, Queued<Option<Snapshot>>) {
        let mut ledger = self.ledger();
        let (done, need) = work(&mut ledger, self.clock.now_ms());
        (done, self.journal.snapshot(slot, need))
    }

    /// Queues crossings that no entry has caused.
    pub fn push_crossings(&self, crossings: Vec<Crossing>, slot: Slot) {
        self.journal.push_crossings(crossings, slot);
    }

    /// The ledger, locked: for a few map operations, never across an await.
    pub(crate) fn ledger(&self) -> Locked<'_> {
        Locked::new(unpoisoned(self.ledger.lock()))
    }

    /// The limits in force, rates aside.
    pub fn in_force(&self) -> Vec<InForce> {
        self.ledger().in_force()
    }

    /// The limit of that name, if one is in force and is no rate.
    pub fn in_force_as(&self, name: &str) -> Option<InForce> {
        self.in_force().into_iter().find(|of| *of.limit.name == *name)
    }

    /// Requests that a limit in shadow mode would have rejected are counted.
    pub(super) fn note_shadow<'a>(&self, limits: impl IntoIterator<Item = &'a Arc<Limit>>) {
        for limit in limits {
            self.metrics.would_have_rejected(&limit.name);
        }
    }

    /// The rates in force.
    pub fn rates(&self) -> &ArcSwap<Throttle> {
        &self.rates
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Notified whenever a crossing is written.
    pub fn crossed(&self) -> &Arc<Notify> {
        &self.crossed
    }

    /// The slot of a request, for its ending.
    pub(super) async fn slot(&self) -> Result<Slot, StoreError> {
        self.journal.slot().await
    }

    /// The slot of an operator's work.
    pub async fn operators_slot(&self) -> Result<Slot, StoreError> {
        self.journal.operators_slot().await
    }

    /// The slot of an operator's work, if one is free now.
    pub fn free_operators_slot(&self) -> Option<Slot> {
        self.journal.free_operators_slot()
    }

    /// Queues the job that a hold is for from now on.
    pub(super) fn push_job(&self, hold: Arc<Hold>, job: Job) -> WriteAck {
        self.journal.push_job(hold, job)
    }

    /// Queues what was learned of objects.
    pub(super) fn push_objects(&self, changes: Vec<ObjectChange>) -> WriteAck {
        self.journal.push_objects(changes)
    }

    /// Waits until a write is in the database; `false` if it can't be written.
    pub(super) async fn written(&self, ack: WriteAck) -> bool {
        self.journal.written(ack).await
    }

    /// Waits until all that was queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.journal.flush().await
    }

    /// Runs what may take long on a thread that no request runs on.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.journal.blocking(work).await
    }

    /// Slots taken by requests that are open, or whose ending is being written.
    pub fn open_slots(&self) -> usize {
        self.journal.taken()
    }

    /// Whether the ledger can be written, as of the last attempt.
    pub fn is_healthy(&self) -> bool {
        self.journal.is_healthy()
    }
}

impl Core {
    /// Notes that a request was refused, where a meter or the credit is nearly used up: not
    /// because one request asks for much, and not where others' holds are in the way.
    pub fn note_denial(&self, denial: &Denial) {
        match denial {
            Denial::Exhausted(blocked) => self.note_hit(blocked),
            Denial::NoCredit(_) => self.note_credit(Ledger::used_up),
            Denial::Held(_)
            | Denial::TooLarge(_)
            | Denial::OverClientCap { .. }
            | Denial::CreditHeld(_)
            | Denial::TooManyMeters(_) => {}
        }
    }

    fn note_hit(&self, blocked: &Blocked) {
        let Blocked { limit, subject, span, settled, .. } = blocked;
        if limit.window != Window::Request && blocked.is_nearly_used_up() {
            self.note(AlertKind::Hard, limit, subject, *span, *settled);
        }
    }

    /// Notes what a look at the account of prepaid credit finds. With no slot free, the
    /// next look notes it.
    pub fn note_credit(&self, look: fn(&mut Ledger, i64) -> Vec<Crossing>) {
        if let Some(slot) = self.free_operators_slot() {
            self.transition(slot, look);
        }
    }

    /// Notes that a cap is likely to be reached before its window ends.
    pub fn note_ahead(&self, limit: &Arc<Limit>, subject: &Subject, span: Span, settled: i64) {
        self.note(AlertKind::Forecast, limit, subject, span, settled);
    }

    fn note(&self, mark: AlertKind, limit: &Arc<Limit>, subject: &Subject, span: Span, settled: i64) {
        let Some(hard) = limit.hard else { return };
        let (name, start_s) = (limit.name.to_string(), span.start_s);
        let seen = FactKey { limit: name, subject: subject.clone(), mark, hard, start_s };
        // With no slot free, the next look notes it.
        let Some(slot) = self.recent.claim(seen, || self.free_operators_slot()) else { return };
        self.transition(slot, |ledger, at_ms| {
            vec![Crossing {
                id: ledger.take_id(),
                mark,
                limit: Arc::clone(limit),
                subject: subject.label().to_owned(),
                threshold: hard,
                window_start_s: span.start_s,
                settled,
                at_ms,
            }]
        });
    }
}
