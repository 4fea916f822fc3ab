//! Admin keys, service accounts, spend alerts and projects' model rules as rows.

use crate::store::records::{AccountRow, AdminKeyRow, AlertRow, ModelRuleRow};
use crate::store::sql::columns::{json, json_text};
use crate::store::sql::{Db, Result, params};

/// Every admin key, in the order of their making.
pub(crate) fn admin_keys(db: Db<'_>) -> Result<Vec<AdminKeyRow>> {
    let sql = format!(
        "SELECT id, hash, name, redacted, role, created_s, expires_s, used_s FROM admin_key ORDER BY {}",
        db.insertion_order()
    );
    db.rows(&sql, &[], |row| {
        Ok(AdminKeyRow {
            id: row.get(0)?,
            hash: row.get(1)?,
            name: row.get(2)?,
            redacted: row.get(3)?,
            role: row.get(4)?,
            created_s: row.get(5)?,
            expires_s: row.get(6)?,
            used_s: row.get(7)?,
        })
    })
}

/// Writes a new admin key.
pub(crate) fn insert_admin_key(db: Db<'_>, key: &AdminKeyRow) -> Result<()> {
    db.execute(
        "INSERT INTO admin_key (id, hash, name, redacted, role, created_s, expires_s, used_s) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![key.id, key.hash, key.name, key.redacted, key.role, key.created_s, key.expires_s, key.used_s],
    )
    .map(drop)
}

/// Notes when an admin key was used.
pub(crate) fn note_use(db: Db<'_>, id: &str, used_s: i64) -> Result<()> {
    db.execute("UPDATE admin_key SET used_s = ?2 WHERE id = ?1", params![id, used_s]).map(drop)
}

/// Removes an admin key.
pub(crate) fn drop_admin_key(db: Db<'_>, id: &str) -> Result<()> {
    db.execute("DELETE FROM admin_key WHERE id = ?1", params![id]).map(drop)
}

/// Every service account, in the order of their making.
pub(crate) fn accounts(db: Db<'_>) -> Result<Vec<AccountRow>> {
    let sql = format!(
        "SELECT id, project, name, api_keys, created_s FROM service_account ORDER BY {}",
        db.insertion_order()
    );
    db.rows(&sql, &[], |row| {
        Ok(AccountRow {
            id: row.get(0)?,
            project: row.get(1)?,
            name: row.get(2)?,
            keys: json(row, 3, "service_account.api_keys")?,
            created_s: row.get(4)?,
        })
    })
}

/// Writes a service account, new or changed.
pub(crate) fn put_account(db: Db<'_>, account: &AccountRow) -> Result<()> {
    let keys = json_text(&account.keys)?;
    db.execute(
        "INSERT INTO service_account (id, project, name, api_keys, created_s) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, api_keys = excluded.api_keys",
        params![account.id, account.project, account.name, keys, account.created_s],
    )
    .map(drop)
}

/// Removes a service account.
pub(crate) fn drop_account(db: Db<'_>, id: &str) -> Result<()> {
    db.execute("DELETE FROM service_account WHERE id = ?1", params![id]).map(drop)
}

/// Every spend alert, in the order of their making.
pub(crate) fn alerts(db: Db<'_>) -> Result<Vec<AlertRow>> {
    let sql = format!("SELECT id, project, channel FROM spend_alert ORDER BY {}", db.insertion_order());
    db.rows(&sql, &[], |row| {
        Ok(AlertRow { id: row.get(0)?, project: row.get(1)?, channel: json(row, 2, "spend_alert.channel")? })
    })
}

/// Writes a spend alert, new or changed.
pub(crate) fn put_alert(db: Db<'_>, alert: &AlertRow) -> Result<()> {
    let channel = json_text(&alert.channel)?;
    db.execute(
        "INSERT INTO spend_alert (id, project, channel) VALUES (?1, ?2, ?3) ON CONFLICT (id) \
         DO UPDATE SET channel = excluded.channel",
        params![alert.id, alert.project, channel],
    )
    .map(drop)
}

/// Removes a spend alert.
pub(crate) fn drop_alert(db: Db<'_>, id: &str) -> Result<()> {
    db.execute("DELETE FROM spend_alert WHERE id = ?1", params![id]).map(drop)
}

/// Every project's rule on models.
pub(crate) fn model_rules(db: Db<'_>) -> Result<Vec<ModelRuleRow>> {
    db.rows("SELECT project, mode, models FROM model_rule", &[], |row| {
        Ok(ModelRuleRow {
            project: row.get(0)?,
            mode: row.get(1)?,
            models: json(row, 2, "model_rule.models")?,
        })
    })
}

/// Writes a project's rule on models, new or changed.
pub(crate) fn put_model_rule(db: Db<'_>, rule: &ModelRuleRow) -> Result<()> {
    let models = json_text(&rule.models)?;
    db.execute(
        "INSERT INTO model_rule (project, mode, models) VALUES (?1, ?2, ?3) ON CONFLICT (project) \
         DO UPDATE SET mode = excluded.mode, models = excluded.models",
        params![rule.project, rule.mode, models],
    )
    .map(drop)
}

/// Removes a project's rule on models.
pub(crate) fn drop_model_rule(db: Db<'_>, project: &str) -> Result<()> {
    db.execute("DELETE FROM model_rule WHERE project = ?1", params![project]).map(drop)
}
