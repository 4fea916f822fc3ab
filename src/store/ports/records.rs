//! What operators change, written behind the journal's queue.

use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::domain::Limit;
use crate::store::outbox::{Due, NEWS_MS, Outcome};
use crate::store::ports::Access;
use crate::store::postgres::Locks;
use crate::store::records::ActiveLimit;
use crate::store::records::{AuditRow, RecordChange};
use crate::store::reports::PruneStep;
use crate::store::sql::{Db, audit, changes, days, objects, outbox, retention};
use crate::store::{Pasts, StoreError, postgres};

/// Writes changes of what is stored, each after all that was queued before it.
#[derive(Clone, Debug)]
pub struct Records {
    access: Access,
}

impl Records {
    pub(in crate::store) fn new(access: Access) -> Self {
        Self { access }
    }

    /// Begins a change of the rules.
    pub async fn begin(&self) -> Result<RulesChange, StoreError> {
        match &self.access {
            Access::Sqlite(_) => Ok(RulesChange::Embedded),
            Access::Postgres(writer) => Ok(RulesChange::Shared(Some(writer.begin().await?))),
        }
    }

    /// Adds up what limits have settled on a shared engine, while requests and changes go on. The
    /// embedded one does that as it puts them in force.
    pub async fn learn(&self, limits: Vec<Arc<Limit>>) -> Result<Pasts, StoreError> {
        match &self.access {
            Access::Sqlite(_) => Ok(Pasts::default()),
            Access::Postgres(writer) => writer.learn(limits).await,
        }
    }

    /// Writes changes with their rows of the audit log: all, or nothing.
    pub async fn write(&self, changes: Vec<RecordChange>, audited: Vec<AuditRow>) -> Result<(), StoreError> {
        self.access
            .run(move |db| {
                db.transaction(|| {
                    changes.iter().try_for_each(|change| changes::apply(db, change))?;
                    audited.iter().try_for_each(|row| audit::insert(db, row))
                })
            })
            .await
    }

    /// Sums up some rows of quarters of an hour that ended before a time, in Unix seconds,
    /// into days of all these time zones, or removes a day that was summed up for other
    /// zones; `false` if there is nothing to do.
    pub async fn sum_up_days(&self, before_s: i64, zones: Vec<TimeZone>) -> Result<bool, StoreError> {
        let known = zones.clone();
        let rest = move |db: Db<'_>| Ok((!days::is_to_sum_up(db, before_s, &known)?).then_some(false));
        let sum_up = move |db: Db<'_>| match days::first_cut(db, &zones)? {
            Some(cut_s) => days::take_away(db, cut_s),
            None => days::sum_up(db, before_s, &zones),
        };
        self.access.run_unless(rest, Locks::RulesAndLanes, sum_up).await
    }

    /// Removes some rows of objects that upstream has forgotten by now, in Unix seconds;
    /// whether there may be more.
    pub async fn forget_objects(&self, now_s: i64) -> Result<bool, StoreError> {
        let rest = move |db: Db<'_>| Ok((!objects::is_to_forget(db, now_s)?).then_some(false));
        self.access.run_unless(rest, Locks::Rules, move |db| objects::forget(db, now_s)).await
    }

    /// Deletes what a step of pruning says, with what refers to it. Returns how many
    /// entries are gone.
    pub async fn prune(&self, step: PruneStep) -> Result<u64, StoreError> {
        self.access.run(move |db| retention::delete(db, &step)).await
    }

    /// Makes deliveries to channels of all crossings that have none yet. Returns when the
    /// hour ends of crossings that wait to share a message, in Unix milliseconds.
    pub async fn route_alerts(&self, channels: Vec<String>, now_ms: i64) -> Result<Option<i64>, StoreError> {
        let others_for_ms = self.access.is_shared().then_some(NEWS_MS);
        let known = channels.clone();
        let rest = move |db: Db<'_>| outbox::rest(db, &known, now_ms, others_for_ms);
        // Still: a crossing that was committed meanwhile would be marked without a delivery.
        let route = move |db: Db<'_>| outbox::route(db, &channels, now_ms, others_for_ms);
        self.access.run_unless(rest, Locks::RulesAndLanes, route).await
    }

    /// Notes the outcome of an attempt to deliver an alert, unless another guard has claimed it since.
    pub async fn note_delivery(
        &self,
        due: Arc<Due>,
        now_ms: i64,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        self.access.run(move |db| outbox::note(db, &due, now_ms, &outcome)).await
    }
}

/// A change of keys, projects, limits or switches, while no other guard makes one.
#[derive(Debug)]
pub enum RulesChange {
    /// On the embedded engine each write is a transaction of its own.
    Embedded,
    /// On a shared one, all of the change is one transaction. `None` once it has failed.
    Shared(Option<postgres::Change>),
}

impl RulesChange {
    /// Puts what was written in force in memory, where it is committed by now. On a shared engine
    /// it is not: memory follows the database, once the change is committed.
    pub fn put_in_memory(&self, put: impl FnOnce()) {
        match self {
            Self::Embedded => put(),
            Self::Shared(_) => {}
        }
    }

    /// Writes changes with their rows of the audit log: all, or nothing.
    pub async fn write(
        &mut self,
        records: &Records,
        changes: Vec<RecordChange>,
        audited: Vec<AuditRow>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Embedded => records.write(changes, audited).await,
            Self::Shared(change) => {
                let open = change.take().ok_or(StoreError::Unavailable)?;
                *change = Some(open.write(changes, audited).await?);
                Ok(())
            }
        }
    }

    /// Those of the limits whose past has to be added up before this change can put them in force,
    /// by [`Records::learn`]. `pasts` is what was added up so far. To be asked before anything is
    /// written.
    pub async fn lacking(
        &mut self,
        limits: impl FnOnce() -> Vec<ActiveLimit>,
        pasts: Pasts,
    ) -> Result<Vec<Arc<Limit>>, StoreError> {
        let Self::Shared(change) = self else { return Ok(Vec::new()) };
        let open = change.take().ok_or(StoreError::Unavailable)?;
        let (open, lacking) = open.lacking(limits(), pasts).await?;
        *change = Some(open);
        Ok(lacking)
    }

    /// Puts limits in force on the meters of a shared engine; `of_file` are those of the
    /// configuration file, as they are written there, each with its rule as JSON.
    pub async fn activate(
        &mut self,
        of_file: Vec<(String, String)>,
        limits: Vec<ActiveLimit>,
    ) -> Result<(), StoreError> {
        let Self::Shared(change) = self else { return Ok(()) };
        let open = change.take().ok_or(StoreError::Unavailable)?;
        *change = Some(open.activate(of_file, limits).await?);
        Ok(())
    }

    /// The id of a record that is made in this change; `None` where the ledger gives it.
    pub async fn new_id(&mut self) -> Result<Option<u64>, StoreError> {
        let Self::Shared(change) = self else { return Ok(None) };
        let open = change.take().ok_or(StoreError::Unavailable)?;
        let (open, id) = open.new_id().await?;
        *change = Some(open);
        Ok(Some(id))
    }

    /// Ends it: what was written is in the database, binds every guard, and is in force on
    /// this one.
    pub async fn finish(self) -> Result<(), StoreError> {
        match self {
            Self::Embedded => Ok(()),
            Self::Shared(change) => change.ok_or(StoreError::Unavailable)?.finish().await,
        }
    }
}
