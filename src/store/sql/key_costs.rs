//! What one key has spent, found without reading what others have.
//!
//! Sums are kept in the order of time, project and key. So for each time and
//! each project that has spent then, the key's own rows are looked up: a bounded
//! number of steps, however many keys and end users there are. Times in which none
//! has spent are skipped.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::domain::{Money, Span};
use crate::store::sql::days::{Part, parts};
use crate::store::sql::{Db, Result, params};

/// What a key has spent in a time, by model; widened to whole quarters.
pub(crate) fn cost_by_model(db: Db<'_>, key: &str, span: Span) -> Result<Vec<(String, Money)>> {
    // Days and quarters must be of one instant.
    let sums = db.snapshot(|| {
        let mut sums: BTreeMap<String, Money> = BTreeMap::new();
        for part in parts(db, span)? {
            add(db, key, part, &mut sums)?;
        }
        Ok(sums)
    })?;
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, cost)| Reverse(*cost));
    Ok(sums)
}

/// Adds what a key has spent in a part of the time.
fn add(
    db: Db<'_>,
    key: &str,
    Part { table, starts, from }: Part,
    sums: &mut BTreeMap<String, Money>,
) -> Result<()> {
    let table = table.name();
    let next =
        format!("SELECT project FROM {table} WHERE start_s = ?1 AND project > ?2 ORDER BY project LIMIT 1");
    let first =
        format!("SELECT start_s, project FROM {table} WHERE start_s >= ?1 ORDER BY start_s, project LIMIT 1");
    let own = format!(
        "SELECT CASE served_model WHEN '' THEN model ELSE served_model END, cost_nano FROM {table} \
         WHERE start_s = ?1 AND project = ?2 AND api_key = ?3 AND (start_s > ?4 OR \
         (project, api_key, end_user, tags, endpoint, model, priced_as, served_model) >= \
         (?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12))"
    );
    let n = &from.names;
    let mut starts = starts.into_iter().peekable();
    while let Some(start_s) = starts.next() {
        let found = db.optional(&first, params![start_s], |row| Ok((row.get::<i64>(0)?, row.get(1)?)))?;
        let Some((found_s, of)) = found else { break };
        if found_s > start_s {
            while starts.next_if(|start_s| *start_s < found_s).is_some() {}
            continue;
        }
        let mut project: Option<String> = Some(of);
        while let Some(of) = project {
            let after =
                params![start_s, of, key, from.start_s, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]];
            db.each(&own, after, |row| {
                let sum = sums.entry(row.get(0)?).or_default();
                *sum = *sum + Money::from_nano(row.get(1)?);
                Ok(true)
            })?;
            project = db.optional(&next, params![start_s, of], |row| row.get(0))?;
        }
    }
    Ok(())
}
