//! What each key has spent lately.

use crate::store::reports::{RecentSpend, SpendSince, Spent};
use crate::store::sql::{Db, Result, Row, params};

/// What each key has spent for requests that were admitted since, by the quarters of an hour in which
/// they were, as of one instant; and by the second, of those that were admitted last.
pub(crate) fn recent(db: Db<'_>, since: SpendSince) -> Result<RecentSpend> {
    let quarters = "SELECT start_s, project, api_key, CAST(SUM(cost_nano) AS BIGINT) FROM rollup WHERE start_s >= ?1 \
                    GROUP BY start_s, project, api_key ORDER BY start_s";
    let seconds = "SELECT admitted_ms / 1000, project, api_key, CAST(SUM(cost_nano) AS BIGINT) FROM entry \
                   WHERE admitted_ms >= ?1 AND kind IN ('settle', 'adjust') \
                   GROUP BY admitted_ms / 1000, project, api_key ORDER BY admitted_ms / 1000";
    db.snapshot(|| {
        let quarters = db.rows(quarters, params![since.quarters_s], spent_from)?;
        let seconds = match since.seconds_s {
            Some(since_s) => db.rows(seconds, params![since_s.saturating_mul(1_000)], spent_from)?,
            None => Vec::new(),
        };
        Ok(RecentSpend { quarters, seconds })
    })
}

fn spent_from(row: &Row<'_>) -> Result<Spent> {
    Ok(Spent { at_s: row.get(0)?, project: row.get(1)?, key: row.get(2)?, nano: row.get(3)? })
}
