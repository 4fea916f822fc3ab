//! What one key has used and spent, found without reading what others have.
//!
//! Sums are kept in the order of time, project and key. So for each time and
//! each project that has spent then, the key's own rows are looked up: a bounded
//! number of steps, however many keys and end users there are. Times in which none
//! has spent are skipped.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::domain::{Money, Span};
use crate::store::reports::UsageSum;
use crate::store::sql::codec::uint;
use crate::store::sql::days::{Part, parts};
use crate::store::sql::quantities::{quantities_from, quantity_columns};
use crate::store::sql::{Db, Result, params};

/// Sums by model.
type Sums = BTreeMap<String, UsageSum>;

/// What a key has used in each of some times, by model, the dearest first; each time is
/// widened to whole quarters.
pub(crate) fn by_model(db: Db<'_>, key: &str, spans: &[Span]) -> Result<Vec<Vec<(String, UsageSum)>>> {
    // All must be of one instant.
    db.snapshot(|| spans.iter().map(|span| of_span(db, key, *span)).collect())
}

fn of_span(db: Db<'_>, key: &str, span: Span) -> Result<Vec<(String, UsageSum)>> {
    let mut sums = Sums::new();
    for part in parts(db, span)? {
        add(db, key, part, &mut sums)?;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, sum)| Reverse(sum.cost));
    Ok(sums)
}

/// Adds what a key has used in a part of the time.
fn add(db: Db<'_>, key: &str, Part { table, starts, from }: Part, sums: &mut Sums) -> Result<()> {
    let table = table.name();
    let next =
        format!("SELECT project FROM {table} WHERE start_s = ?1 AND project > ?2 ORDER BY project LIMIT 1");
    let first =
        format!("SELECT start_s, project FROM {table} WHERE start_s >= ?1 ORDER BY start_s, project LIMIT 1");
    let own = format!(
        "SELECT CASE served_model WHEN '' THEN model ELSE served_model END, cost_nano, requests, {} FROM {table} \
         WHERE start_s = ?1 AND project = ?2 AND api_key = ?3 AND (start_s > ?4 OR \
         (project, api_key, end_user, tags, endpoint, model, priced_as, served_model) >= \
         (?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12))",
        quantity_columns!()
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
                let more = UsageSum {
                    requests: uint(row.get(2)?),
                    cost: Money::from_nano(row.get(1)?),
                    quantities: quantities_from(row, 3)?,
                };
                sums.entry(row.get(0)?).or_default().add(&more);
                Ok(true)
            })?;
            project = db.optional(&next, params![start_s, of], |row| row.get(0))?;
        }
    }
    Ok(())
}
