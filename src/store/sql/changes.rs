//! What operators change, as rows.

use crate::store::records::RecordChange;
use crate::store::sql::{Db, Result, credit, crossings, keys, organization, stops};

/// Writes one change.
pub(crate) fn apply(db: Db<'_>, change: &RecordChange) -> Result<()> {
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
        RecordChange::PutStop(stop) => stops::put(db, stop),
        RecordChange::RemoveStop(id) => stops::remove(db, *id),
        RecordChange::InsertCrossing(crossing) => {
            crossings::insert(db, std::slice::from_ref(crossing)).map(drop)
        }
        RecordChange::InsertGrant(grant, latest_ms) => credit::insert(db, grant, *latest_ms),
    }
}
