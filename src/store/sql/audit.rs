//! The audit log: one row for each change that an operator made.
//!
//! Rows are written in the transaction of their change, so that there is neither
//! a change without its row nor a row without its change.

use crate::store::records::{AuditFilter, AuditRow};
use crate::store::sql::{Db, Result, Value, params};

/// Writes a row.
pub(crate) fn insert(db: Db<'_>, row: &AuditRow) -> Result<()> {
    db.execute(
        "INSERT INTO audit (at_ms, actor, actor_name, event, project, resource, before, after) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            row.at_ms,
            row.actor,
            row.actor_name,
            row.event,
            row.project,
            row.resource,
            row.before,
            row.after,
        ],
    )?;
    Ok(())
}

/// The rows that fit a filter, newest first.
pub(crate) fn rows(db: Db<'_>, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
    let (mut terms, mut values) = (vec!["TRUE".to_owned()], Vec::new());
    for (column, wanted) in [
        ("event", &filter.events),
        ("actor", &filter.actors),
        ("project", &filter.projects),
        ("resource", &filter.resources),
    ] {
        if !wanted.is_empty() {
            let places = wanted.iter().map(|value| {
                values.push(Value::Text(value));
                format!("?{}", values.len())
            });
            let places = places.collect::<Vec<_>>().join(", ");
            terms.push(format!("{column} IN ({places})"));
        }
    }
    let ms = |s: i64| s.saturating_mul(1_000);
    for (term, value) in [
        ("at_ms >=", filter.since_s.map(ms)),
        ("at_ms <", filter.until_s.map(ms)),
        ("id <", filter.below),
        ("id >", filter.above),
    ] {
        if let Some(value) = value {
            values.push(Value::Int(value));
            terms.push(format!("{term} ?{}", values.len()));
        }
    }
    let order = if filter.above.is_some() { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT id, at_ms, actor, actor_name, event, project, resource, before, after FROM audit \
         WHERE {} ORDER BY id {order} LIMIT {}",
        terms.join(" AND "),
        filter.count_max
    );
    let mut found = db.rows(&sql, &values, |row| {
        Ok(AuditRow {
            id: row.get(0)?,
            at_ms: row.get(1)?,
            actor: row.get(2)?,
            actor_name: row.get(3)?,
            event: row.get(4)?,
            project: row.get(5)?,
            resource: row.get(6)?,
            before: row.get(7)?,
            after: row.get(8)?,
        })
    })?;
    if filter.above.is_some() {
        found.reverse();
    }
    Ok(found)
}
