//! What operators change, written behind the journal's queue.

use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::store::StoreError;
use crate::store::outbox::Outcome;
use crate::store::records::{AuditRow, RecordChange};
use crate::store::reports::PruneStep;
use crate::store::sql::{Db, Result, audit, credit, days, keys, objects, organization, outbox, retention};
use crate::store::sqlite::handle::Handle;

/// Writes changes of what is stored, each after all that was queued before it.
#[derive(Clone, Debug)]
pub struct Records {
    handle: Arc<Handle>,
}

impl Records {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// Writes changes with their rows of the audit log: all, or nothing.
    pub async fn write(&self, changes: Vec<RecordChange>, audited: Vec<AuditRow>) -> Result<(), StoreError> {
        self.handle
            .run(move |db| {
                db.transaction(|| {
                    changes.iter().try_for_each(|change| apply(db, change))?;
                    audited.iter().try_for_each(|row| audit::insert(db, row))
                })
            })
            .await
    }

    /// Sums up some rows of quarters of an hour that ended before a time, in Unix seconds,
    /// into days of all these time zones, or removes a day that was summed up for other
    /// zones; `false` if there is nothing to do.
    pub async fn sum_up_days(&self, before_s: i64, zones: Vec<TimeZone>) -> Result<bool, StoreError> {
        self.handle
            .run(move |db| match days::first_cut(db, &zones)? {
                Some(cut_s) => days::take_away(db, cut_s),
                None => days::sum_up(db, before_s, &zones),
            })
            .await
    }

    /// Removes some rows of objects that upstream has forgotten by now, in Unix seconds;
    /// whether there may be more.
    pub async fn forget_objects(&self, now_s: i64) -> Result<bool, StoreError> {
        self.handle.run(move |db| objects::forget(db, now_s)).await
    }

    /// Deletes what a step of pruning says, with what refers to it. Returns how many
    /// entries are gone.
    pub async fn prune(&self, step: PruneStep) -> Result<u64, StoreError> {
        self.handle.run(move |db| retention::delete(db, &step)).await
    }

    /// Makes deliveries to channels of all crossings that have none yet. Returns when the
    /// hour ends of crossings that wait to share a message, in Unix milliseconds.
    pub async fn route_alerts(&self, channels: Vec<String>, now_ms: i64) -> Result<Option<i64>, StoreError> {
        self.handle.run(move |db| outbox::route(db, &channels, now_ms)).await
    }

    /// Notes the outcome of an attempt to deliver an alert.
    pub async fn note_delivery(
        &self,
        alert: u64,
        channel: String,
        now_ms: i64,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        self.handle.run(move |db| outbox::note(db, alert, &channel, now_ms, &outcome)).await
    }
}

fn apply(db: Db<'_>, change: &RecordChange) -> Result<()> {
    match change {
        RecordChange::PutKey(key) => keys::put_key(db, key),
        RecordChange::PutProject(project) => keys::put_project(db, project),
        RecordChange::InsertAdminKey(key) => organization::insert_admin_key(db, key),
        RecordChange::RemoveAdminKey(id) => organization::drop_admin_key(db, id),
        RecordChange::UseAdminKey(id, used_s) => organization::note_use(db, id, *used_s),
        RecordChange::PutAccount(account) => organization::put_account(db, account),
        RecordChange::RemoveAccount(id) => organization::drop_account(db, id),
        RecordChange::PutModelRule(rule) => organization::put_model_rule(db, rule),
        RecordChange::RemoveModelRule(project) => organization::drop_model_rule(db, project),
        RecordChange::PutLimit(name, rule) => keys::put_limit_rule(db, name, rule),
        RecordChange::RemoveLimit(name) => keys::drop_limit_rule(db, name),
        RecordChange::PutAlert(alert) => organization::put_alert(db, alert),
        RecordChange::RemoveAlert(id) => organization::drop_alert(db, id),
        RecordChange::PutSetting(name, value) => keys::put_setting(db, name, value),
        RecordChange::InsertGrant(grant, latest_ms) => credit::insert(db, grant, *latest_ms),
    }
}
