//! Admin keys, service accounts, spend alerts and projects' model rules as rows.

use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;

use crate::store::records::{AccountRow, AdminKeyRow, AlertRow, ModelRuleRow};
use crate::store::sqlite::values::{json_from, json_text};

fn all<T>(
    db: &Connection,
    sql: &str,
    of: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([], of)?;
    rows.collect()
}

/// The value of a JSON column; the first column says which row it is.
pub(super) fn json<T: DeserializeOwned>(
    row: &Row<'_>,
    at: usize,
    column: &'static str,
) -> rusqlite::Result<T> {
    json_from(row.get_ref(at)?.as_str()?, column, || {
        row.get::<_, String>(0).unwrap_or_else(|_| "a row without an id".to_owned())
    })
}

/// Every admin key, in the order of their making.
pub(super) fn admin_keys(db: &Connection) -> rusqlite::Result<Vec<AdminKeyRow>> {
    let sql =
        "SELECT id, hash, name, redacted, role, created_s, expires_s, used_s FROM admin_key ORDER BY rowid";
    all(db, sql, |row| {
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
pub(super) fn insert_admin_key(db: &Connection, key: &AdminKeyRow) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO admin_key VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![key.id, key.hash, key.name, key.redacted, key.role, key.created_s, key.expires_s, key.used_s],
    )?;
    Ok(())
}

/// Notes when an admin key was used.
pub(super) fn note_use(db: &Connection, id: &str, used_s: i64) -> rusqlite::Result<()> {
    db.execute("UPDATE admin_key SET used_s = ?2 WHERE id = ?1", params![id, used_s])?;
    Ok(())
}

/// Removes an admin key.
pub(super) fn drop_admin_key(db: &Connection, id: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM admin_key WHERE id = ?1", [id])?;
    Ok(())
}

/// Every service account, in the order of their making.
pub(super) fn accounts(db: &Connection) -> rusqlite::Result<Vec<AccountRow>> {
    let sql = "SELECT id, project, name, api_keys, created_s FROM service_account ORDER BY rowid";
    all(db, sql, |row| {
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
pub(super) fn put_account(db: &Connection, account: &AccountRow) -> rusqlite::Result<()> {
    let keys = json_text(&account.keys)?;
    db.execute(
        "INSERT INTO service_account VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE \
         SET name = ?3, api_keys = ?4",
        params![account.id, account.project, account.name, keys, account.created_s],
    )?;
    Ok(())
}

/// Removes a service account.
pub(super) fn drop_account(db: &Connection, id: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM service_account WHERE id = ?1", [id])?;
    Ok(())
}

/// Every spend alert, in the order of their making.
pub(super) fn alerts(db: &Connection) -> rusqlite::Result<Vec<AlertRow>> {
    all(db, "SELECT id, project, channel FROM spend_alert ORDER BY rowid", |row| {
        Ok(AlertRow { id: row.get(0)?, project: row.get(1)?, channel: json(row, 2, "spend_alert.channel")? })
    })
}

/// Writes a spend alert, new or changed.
pub(super) fn put_alert(db: &Connection, alert: &AlertRow) -> rusqlite::Result<()> {
    let channel = json_text(&alert.channel)?;
    db.execute(
        "INSERT INTO spend_alert VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET channel = ?3",
        params![alert.id, alert.project, channel],
    )?;
    Ok(())
}

/// Removes a spend alert.
pub(super) fn drop_alert(db: &Connection, id: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM spend_alert WHERE id = ?1", [id])?;
    Ok(())
}

/// Every project's rule on models.
pub(super) fn model_rules(db: &Connection) -> rusqlite::Result<Vec<ModelRuleRow>> {
    all(db, "SELECT project, mode, models FROM model_rule", |row| {
        Ok(ModelRuleRow {
            project: row.get(0)?,
            mode: row.get(1)?,
            models: json(row, 2, "model_rule.models")?,
        })
    })
}

/// Writes a project's rule on models, new or changed.
pub(super) fn put_model_rule(db: &Connection, rule: &ModelRuleRow) -> rusqlite::Result<()> {
    let models = json_text(&rule.models)?;
    db.execute(
        "INSERT INTO model_rule VALUES (?1, ?2, ?3) ON CONFLICT (project) DO UPDATE SET mode = ?2, models = ?3",
        params![rule.project, rule.mode, models],
    )?;
    Ok(())
}

/// Removes a project's rule on models.
pub(super) fn drop_model_rule(db: &Connection, project: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM model_rule WHERE project = ?1", [project])?;
    Ok(())
}
