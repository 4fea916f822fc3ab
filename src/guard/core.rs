//! The core: the ledger and its journal, changed together.
//!
//! All that admits, ends or corrects spending goes through here. On the embedded engine:
//! decide under the lock, apply, and queue the record for the database while still under
//! the lock, so that the database's order is the ledger's order. On the shared engine a
//! lane decides, inside the transaction that it writes.

mod jobs;
mod notes;
mod rates;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::domain::{Limit, Money};
use crate::guard::alert_facts::Recent;
use crate::guard::{Denied, News};
use crate::ledger::account::Account;
use crate::ledger::entry::{Crossing, Entry, Hold};
use crate::ledger::locked::{Locked, LockedLedger};
use crate::ledger::waiting::Turn;
use crate::ledger::walk::InForce;
use crate::ledger::{Admission, Circumstances, Ended, Ledger, NotAdmitted, ReserveRequest};
use crate::metrics::Metrics;
use crate::store::objects::ObjectChange;
use crate::store::records::AuditRow;
use crate::store::{
    EmbeddedAck, EmbeddedJournal, Journal, Queued, RulesFollower, Slot, Snapshot, SnapshotNeed, StoreError,
    WriteAck,
};
use crate::throttle::Throttle;

pub use rates::NotPaced;

/// One ledger with its journal, its rates and its clock.
#[derive(Debug)]
pub struct Core {
    ledger: Arc<LockedLedger>,
    journal: Journal,
    /// The limits on requests and tokens a minute.
    rates: ArcSwap<Throttle>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    recent: Recent,
    news: Arc<News>,
}

impl Core {
    /// A core on a ledger and its journal, without limits.
    pub fn new(
        ledger: Arc<LockedLedger>,
        journal: Journal,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        news: Arc<News>,
    ) -> Self {
        let (rates, recent) = (ArcSwap::from_pointee(Throttle::default()), Recent::default());
        Self { ledger, journal, rates, clock, metrics, recent, news }
    }

    /// Admits a request, or says why not. `reservation` owns the hold from the moment on
    /// that the ledger has it; when this returns it, the hold is in the database.
    pub(super) async fn admit<R>(
        &self,
        request: ReserveRequest,
        turn: Turn,
        slot: Slot,
        reservation: impl FnOnce(Arc<Hold>, Slot) -> R,
    ) -> Result<(R, Admission), Denied> {
        match &self.journal {
            Journal::Embedded(journal) => {
                let (hold, admission, ack) = self.decide(journal, request, turn)?;
                let reservation = reservation(hold, slot);
                // Dropped unsent, the reservation releases its hold.
                if journal.written(ack).await {
                    Ok((reservation, admission))
                } else {
                    Err(Denied::Unavailable)
                }
            }
            Journal::Shared(lanes) => {
                let admitted = lanes.reserve(request, self.clock.now_ms(), turn, slot).await;
                let (hold, admission, slot) = admitted.map_err(Denied::from)?.accept();
                Ok((reservation(hold, slot), admission))
            }
        }
    }

    /// Decides whether a request is admitted, applies its hold, and queues it for the
    /// database.
    fn decide(
        &self,
        journal: &EmbeddedJournal,
        request: ReserveRequest,
        turn: Turn,
    ) -> Result<(Arc<Hold>, Admission, EmbeddedAck), NotAdmitted> {
        let mut ledger = self.ledger();
        let unwritten_releases = journal.unwritten(ledger.released());
        let circumstances = Circumstances { at_ms: self.clock.now_ms(), unwritten_releases, turn };
        let (hold, admission) = ledger.admit(request, &circumstances)?;
        let ack = journal.push_hold(Arc::clone(&hold), admission.depends_on_unwritten);
        Ok((hold, admission, ack))
    }

    /// Ends a hold by its entry, and queues that for the database. Returns what the
    /// tightest dollar limit leaves then; `None` without one. Of a shared ledger that is
    /// what this guard knows. `of_job` is the hold, if it is that of a job or may have become
    /// that of one: another guard may have ended it.
    pub(super) fn end(
        &self,
        entry: Box<Entry>,
        of_job: Option<&Arc<Hold>>,
        slot: Option<Slot>,
    ) -> Option<Money> {
        let mut ledger = self.ledger();
        match &self.journal {
            Journal::Embedded(journal) => {
                let Ended { crossings, left } = ledger.end(&entry);
                if let Some(slot) = slot {
                    journal.push_entry(entry, crossings, ledger.released(), slot);
                }
                left
            }
            Journal::Shared(lanes) => {
                let held = ledger.headroom(&entry.attribution, None, entry.created_ms).cost;
                let left = held.map(|left| left + entry.held.cost - entry.cost);
                drop(ledger);
                match (slot, of_job) {
                    (Some(slot), Some(hold)) => lanes.push_ending_of_job(entry, Arc::clone(hold), slot),
                    (Some(slot), None) => lanes.push_ending(entry, slot),
                    (None, _) => {}
                }
                left.map(|left| left.max(Money::ZERO))
            }
        }
    }

    /// Writes a correction with its row of the audit log. `entry` has no id yet. It counts
    /// even if it is written later.
    pub async fn correct(
        &self,
        entry: Entry,
        audited: impl Fn(&Entry) -> AuditRow + Send + Sync + 'static,
    ) -> Result<Entry, StoreError> {
        let slots = [self.operators_slot().await?, self.operators_slot().await?];
        match &self.journal {
            Journal::Embedded(journal) => {
                let (entry, audited) = self.correct_in_memory(journal, slots, entry, audited);
                // It counts already; an error here would invite the operator to repeat it.
                if let Err(error) = self.flush().await {
                    tracing::warn!(
                        event = "correction_not_written", %error,
                        "a correction counts, and is written as soon as the ledger can be written"
                    );
                }
                if audited.done().await.is_err() {
                    tracing::warn!(
                        event = "correction_not_audited",
                        id = entry.id,
                        "a correction counts, but is missing from the audit log"
                    );
                }
                Ok(entry)
            }
            Journal::Shared(lanes) => {
                let [slot, _] = slots;
                lanes.correct(entry, audited, slot).await
            }
        }
    }

    /// Applies a correction, and queues it with its row of the audit log right behind.
    fn correct_in_memory(
        &self,
        journal: &EmbeddedJournal,
        [slot, slot_after]: [Slot; 2],
        entry: Entry,
        audited: impl Fn(&Entry) -> AuditRow,
    ) -> (Entry, Queued<()>) {
        let mut ledger = self.ledger();
        let entry = Entry { id: ledger.take_id(), ..entry };
        let crossings = ledger.apply(&entry);
        journal.push_entry(Box::new(entry.clone()), crossings, ledger.released(), slot);
        let audited = journal.push_audit(audited(&entry), slot_after);
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

    /// Reads or changes the ledger of the embedded engine, at a time in Unix milliseconds,
    /// and takes a snapshot of the database at that place if `work` asks for one: it has
    /// exactly the records that the ledger has then.
    pub fn with_snapshot<T>(
        &self,
        journal: &EmbeddedJournal,
        slot: Slot,
        work: impl FnOnce(&mut Ledger, i64) -> (T, SnapshotNeed),
    ) -> (T, Queued<Option<Snapshot>>) {
        let mut ledger = self.ledger();
        let (done, need) = work(&mut ledger, self.clock.now_ms());
        (done, journal.snapshot(slot, need))
    }

    /// Puts the rules of one version in force: limits whose meters are shared, and prepaid
    /// credit. Of the meters nothing is read: a group loads those that it needs.
    pub fn put_in_force(&self, limits: &[Arc<Limit>], account: Option<Account>, rules_version: i64) {
        let now_ms = self.clock.now_ms();
        let retired = self.ledger().put_in_force(limits, account, rules_version, now_ms);
        // Where no request waits.
        drop(retired);
    }

    /// Whether a limit is in force that counts what this one would, whatever their caps.
    pub fn counts_as_before(&self, limit: &Limit) -> bool {
        let counts_like = |known: &Arc<Limit>| known.name == limit.name && known.counts_like(limit);
        self.in_force().iter().any(|of| counts_like(&of.limit)) || self.rates.load().limits().any(counts_like)
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Brings what is in memory of a shared ledger and of its rules up to date, to be shown and
    /// to be followed. Those who ask at the same time share a look at the database; so this is for
    /// callers that are authorized. `false` if it can't be read, and stays as it was.
    pub async fn see_whole(&self) -> bool {
        match &self.journal {
            Journal::Embedded(_) => true,
            Journal::Shared(lanes) => lanes.see_whole().await,
        }
    }

    /// The same for who is not authorized, as of a second ago at most.
    pub async fn see_whole_lately(&self) {
        if let Journal::Shared(lanes) = &self.journal {
            lanes.see_whole_lately().await;
        }
    }

    /// Money held for open requests, and how many there are; those of other guards as of the
    /// last look at the whole.
    pub(super) fn in_doubt(&self) -> (Money, usize) {
        let (held, open) = {
            let ledger = self.ledger();
            (ledger.in_doubt(), ledger.open())
        };
        match &self.journal {
            Journal::Embedded(_) => (held, open),
            Journal::Shared(lanes) => {
                let (others_held, others_open) = lanes.held_by_others();
                (held + others_held, open + others_open)
            }
        }
    }

    /// Keeps the rules in memory as new as those of a shared database.
    pub fn follow(&self, follower: Arc<dyn RulesFollower>) {
        if let Journal::Shared(lanes) = &self.journal {
            lanes.follow(follower);
        }
    }

    /// Puts in force what other guards have changed by now, if the ledger is shared; `false` if that
    /// can't be read. Anybody may cause it, since it costs the database a few queries a second at
    /// most.
    pub async fn look_for_rules(&self) -> bool {
        match &self.journal {
            Journal::Embedded(_) => true,
            Journal::Shared(lanes) => lanes.look_for_rules().await,
        }
    }

    /// Whether other guards share the ledger.
    pub fn is_shared(&self) -> bool {
        matches!(self.journal, Journal::Shared(_))
    }

    /// The version of the rules in memory; always 0 where no other guard can change them.
    pub fn rules_version(&self) -> i64 {
        match &self.journal {
            Journal::Embedded(_) => 0,
            Journal::Shared(lanes) => lanes.rules_version(),
        }
    }

    /// Queues crossings that no entry has caused.
    pub fn push_crossings(&self, crossings: Vec<Crossing>, slot: Slot) {
        self.journal.push_crossings(crossings, slot);
    }

    /// The ledger, locked: for a few map operations, never across an await.
    pub(crate) fn ledger(&self) -> Locked<'_> {
        self.ledger.lock()
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

    /// Wakes those who wait for what is written.
    pub fn news(&self) -> &News {
        &self.news
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
