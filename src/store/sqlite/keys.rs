//! Keys, projects, limits and settings as rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};

use crate::store::records::{KeyRow, ProjectRow};
use crate::store::sqlite::values::{json_from, json_text};

/// Hands out every key, one at a time: there may be a million.
pub(super) fn each_key(db: &Connection, mut each: impl FnMut(KeyRow)) -> rusqlite::Result<()> {
    let mut statement = db.prepare(
        "SELECT id, hash, name, project, redacted, models, pass_through, created_s, expires_s, revoked_s, \
         old_hash, old_hash_until_s FROM api_key",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(key_from(row)?);
    }
    Ok(())
}

fn key_from(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    let id: String = row.get(0)?;
    let models = row.get_ref(5)?.as_str()?;
    let old_hash: Option<[u8; 32]> = row.get(10)?;
    let old_until: Option<i64> = row.get(11)?;
    Ok(KeyRow {
        models: json_from(models, "api_key.models", || id.clone())?,
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

/// Writes a key, new or changed.
pub(super) fn put_key(db: &Connection, key: &KeyRow) -> rusqlite::Result<()> {
    let models = json_text(&key.models)?;
    let (old_hash, old_until) = key.old.unzip();
    db.prepare_cached(
        "INSERT INTO api_key VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (id) DO UPDATE \
         SET hash = ?2, name = ?3, project = ?4, redacted = ?5, models = ?6, expires_s = ?9, revoked_s = ?10, \
         old_hash = ?11, old_hash_until_s = ?12",
    )?
    .execute(params![
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
    ])?;
    Ok(())
}

/// Every project.
pub(super) fn projects(db: &Connection) -> rusqlite::Result<Vec<ProjectRow>> {
    let mut statement =
        db.prepare("SELECT id, name, created_s, archived_s FROM project ORDER BY created_s, id")?;
    let rows = statement.query_map([], |row| {
        Ok(ProjectRow { id: row.get(0)?, name: row.get(1)?, created_s: row.get(2)?, archived_s: row.get(3)? })
    })?;
    rows.collect()
}

/// Writes a project, new or changed.
pub(super) fn put_project(db: &Connection, project: &ProjectRow) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO project VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET name = ?2, archived_s = ?4",
        params![project.id, project.name, project.created_s, project.archived_s],
    )?;
    Ok(())
}

/// Every limit made through the API: its name and its rule as JSON text.
pub(super) fn limit_rules(db: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = db.prepare("SELECT name, rule FROM limit_rule ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Writes a limit's rule, new or changed.
pub(super) fn put_limit_rule(db: &Connection, name: &str, rule: &str) -> rusqlite::Result<()> {
    db.execute("INSERT INTO limit_rule VALUES (?1, ?2) ON CONFLICT DO UPDATE SET rule = ?2", [name, rule])?;
    Ok(())
}

/// Removes a limit's rule.
pub(super) fn drop_limit_rule(db: &Connection, name: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM limit_rule WHERE name = ?1", [name])?;
    Ok(())
}

/// Every setting of the organization, by name.
pub(super) fn settings(db: &Connection) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut statement = db.prepare("SELECT name, value FROM setting")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Writes a setting of the organization, new or changed.
pub(super) fn put_setting(db: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    db.execute("INSERT INTO setting VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2", [name, value])?;
    Ok(())
}
