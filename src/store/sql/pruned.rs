//! What a database says of what was pruned of it.

use crate::store::reports::{Pruned, Total};
use crate::store::sql::codec::uint;
use crate::store::sql::quantities::{others, others_from};
use crate::store::sql::rollup::RollupSums;
use crate::store::sql::{Db, Result};

impl Total {
    pub(crate) fn add(&mut self, sums: &RollupSums) {
        self.requests = self.requests.saturating_add(sums.requests);
        self.cost_nano = self.cost_nano.saturating_add(sums.cost_nano);
        self.tokens = self.tokens.saturating_add(sums.quantities.tokens_total());
        self.others += others(&sums.quantities);
    }
}

/// What was pruned of a database, if anything was.
pub(crate) fn pruned(db: Db<'_>) -> Result<Option<Pruned>> {
    let sql = "SELECT before_s, entries, last_id, latest_ms, requests, cost_nano, tokens, other_quantities FROM pruned";
    db.optional(sql, &[], |row| {
        let total = Total {
            requests: row.get(4)?,
            cost_nano: row.get(5)?,
            tokens: row.get(6)?,
            others: others_from(row, 7)?,
        };
        Ok(Pruned {
            before_s: row.get(0)?,
            entries: uint(row.get(1)?),
            last_id: uint(row.get(2)?),
            latest_ms: row.get(3)?,
            total,
        })
    })
}

/// Whether anything was, also of a database of an earlier version.
pub(crate) fn is_any(db: Db<'_>) -> Result<bool> {
    db.exists("SELECT 1 FROM pruned", &[])
}

/// Since when all entries are there, in Unix seconds.
pub(crate) fn whole_since_s(db: Db<'_>) -> Result<i64> {
    Ok(pruned(db)?.map_or(i64::MIN, |pruned| pruned.before_s))
}
