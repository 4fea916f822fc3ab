//! Keys, projects, limits and settings as rows.

use std::collections::BTreeMap;

use crate::store::records::{KeyRow, ProjectRow};
use crate::store::sql::columns::{json_from, json_text};
use crate::store::sql::{Db, Result, Row, params};

const KEYS: &str = "SELECT id, hash, name, project, redacted, models, pass_through, created_s, expires_s, revoked_s, \
                    old_hash, old_hash_until_s FROM api_key";

/// Hands out every key, one at a time: there may be a million.
pub(crate) fn each_key(db: Db<'_>, mut each: impl FnMut(KeyRow)) -> Result<()> {
    db.each(KEYS, &[], |row| {
        each(key_from(row)?);
        Ok(true)
    })
}

fn key_from(row: &Row<'_>) -> Result<KeyRow> {
    let id: String = row.get(0)?;
    let old_hash: Option<[u8; 32]> = row.get(10)?;
    let old_until: Option<i64> = row.get(11)?;
    Ok(KeyRow {
        models: json_from(row.text(5)?, "api_key.models", || id.clone())?,
        id,
        hash: row.get(1)?,
        name: row.get(2)?,
        project: row.get(3)?,
        redacted: row.get(4)?,
        pass_through: row.get(6)?,
        created_s: row.get(7)?,
        expires_s: row.get(8)?,
        revoked_s: row.get(9)?,
        old: old_hash.zip(old_until),
    })
}

/// Hands out every key that was changed in a later version of the rules than this; of a
/// database that several guards share.
pub(crate) fn each_key_since(db: Db<'_>, version: i64, mut each: impl FnMut(KeyRow)) -> Result<()> {
    let sql = format!("{KEYS} WHERE changed > ?1");
    db.each(&sql, params![version], |row| {
        each(key_from(row)?);
        Ok(true)
    })
}

/// Writes a key, new or changed.
pub(crate) fn put_key(db: Db<'_>, key: &KeyRow) -> Result<()> {
    let models = json_text(&key.models)?;
    let (old_hash, old_until) = key.old.unzip();
    db.execute(
        "INSERT INTO api_key (id, hash, name, project, redacted, models, pass_through, created_s, expires_s, revoked_s, \
         old_hash, old_hash_until_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (id) \
         DO UPDATE SET hash = excluded.hash, name = excluded.name, project = excluded.project, \
         redacted = excluded.redacted, models = excluded.models, expires_s = excluded.expires_s, \
         revoked_s = excluded.revoked_s, old_hash = excluded.old_hash, old_hash_until_s = excluded.old_hash_until_s",
        params![
            key.id,
            key.hash,
            key.name,
            key.project,
            key.redacted,
            models,
            key.pass_through,
            key.created_s,
            key.expires_s,
            key.revoked_s,
            old_hash,
            old_until,
        ],
    )?;
    Ok(())
}

/// Every project.
pub(crate) fn projects(db: Db<'_>) -> Result<Vec<ProjectRow>> {
    db.rows("SELECT id, name, created_s, archived_s FROM project ORDER BY created_s, id", &[], |row| {
        Ok(ProjectRow { id: row.get(0)?, name: row.get(1)?, created_s: row.get(2)?, archived_s: row.get(3)? })
    })
}

/// Writes a project, new or changed.
pub(crate) fn put_project(db: Db<'_>, project: &ProjectRow) -> Result<()> {
    db.execute(
        "INSERT INTO project (id, name, created_s, archived_s) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) \
         DO UPDATE SET name = excluded.name, archived_s = excluded.archived_s",
        params![project.id, project.name, project.created_s, project.archived_s],
    )?;
    Ok(())
}

/// Every limit made through the API: its name and its rule as JSON text.
pub(crate) fn limit_rules(db: Db<'_>) -> Result<Vec<(String, String)>> {
    db.rows("SELECT name, rule FROM limit_rule ORDER BY name", &[], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Writes a limit's rule, new or changed.
pub(crate) fn put_limit_rule(db: Db<'_>, name: &str, rule: &str) -> Result<()> {
    let sql = "INSERT INTO limit_rule (name, rule) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET rule = excluded.rule";
    db.execute(sql, params![name, rule]).map(drop)
}

/// Removes a limit's rule.
pub(crate) fn drop_limit_rule(db: Db<'_>, name: &str) -> Result<()> {
    db.execute("DELETE FROM limit_rule WHERE name = ?1", params![name]).map(drop)
}

/// Every setting of the organization, by name.
pub(crate) fn settings(db: Db<'_>) -> Result<BTreeMap<String, String>> {
    let settings = db.rows("SELECT name, value FROM setting", &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(settings.into_iter().collect())
}

/// Writes a setting of the organization, new or changed.
pub(crate) fn put_setting(db: Db<'_>, name: &str, value: &str) -> Result<()> {
    let sql = "INSERT INTO setting (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    db.execute(sql, params![name, value]).map(drop)
}
