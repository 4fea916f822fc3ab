//! What a database says of what was pruned of it.

use rusqlite::{Connection, OptionalExtension as _};

use crate::domain::Quantities;
use crate::store::quantities::{others, others_from};
use crate::store::rollup::RollupSums;
use crate::store::rows::uint;

/// What was pruned, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Entries admitted before were pruned, in Unix seconds; the end of a quarter of an hour.
    pub before_s: i64,
    /// How many are gone.
    pub entries: u64,
    /// The greatest id among them.
    pub last_id: u64,
    /// The latest instant that one of them was admitted at, in Unix milliseconds.
    pub latest_ms: i64,
    /// What they came to.
    pub total: Total,
}

/// What entries of all keys come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Settled requests.
    pub requests: u64,
    /// What they cost, corrections included, in nano-dollars.
    pub cost_nano: i64,
    /// Tokens of all classes.
    pub tokens: u64,
    /// Quantities of the other classes.
    pub others: Quantities,
}

impl Total {
    pub(crate) fn add(&mut self, sums: &RollupSums) {
        self.requests = self.requests.saturating_add(sums.requests);
        self.cost_nano = self.cost_nano.saturating_add(sums.cost_nano);
        self.tokens = self.tokens.saturating_add(sums.quantities.tokens_total());
        self.others += others(&sums.quantities);
    }
}

/// What was pruned of a database, if anything was.
pub fn pruned(db: &Connection) -> rusqlite::Result<Option<Pruned>> {
    let sql = "SELECT before_s, entries, last_id, latest_ms, requests, cost_nano, tokens, other_quantities FROM pruned";
    db.prepare_cached(sql)?
        .query_row([], |row| {
            let total = Total {
                requests: uint(row.get(4)?),
                cost_nano: row.get(5)?,
                tokens: uint(row.get(6)?),
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
        .optional()
}

/// Whether anything was, also of a database of an earlier version.
pub(crate) fn is_any(db: &Connection) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM pruned")?.exists([])
}

/// Since when all entries are there, in Unix seconds.
pub(crate) fn whole_since_s(db: &Connection) -> rusqlite::Result<i64> {
    Ok(pruned(db)?.map_or(i64::MIN, |pruned| pruned.before_s))
}
