//! Prepaid credit as rows, and the account that follows from them.

use std::sync::Arc;

use crate::domain::{Money, Span};
use crate::ledger::account::{Account, Grant};
use crate::store::reports::ROLLUP_S;
use crate::store::sql::codec::{insert_entry, int, uint};
use crate::store::sql::days::{self, Reading};
use crate::store::sql::pruned;
use crate::store::sql::{Db, Result, params};

const ROLLUP_MS: i64 = 1_000 * ROLLUP_S;

/// Writes a grant with its line of the ledger. No request had been admitted
/// after `latest_ms` then.
pub(crate) fn insert(db: Db<'_>, grant: &Grant, latest_ms: i64) -> Result<()> {
    insert_entry(db, &grant.entry(), "")?;
    db.execute(
        "INSERT INTO credit_grant (id, amount_nano, note, created_ms, expires_s, latest_ms, corrects) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            int(grant.id),
            grant.amount.nano(),
            grant.note,
            grant.created_ms,
            grant.expires_s,
            latest_ms,
            grant.corrects.map(int),
        ],
    )
    .map(drop)
}

/// The latest instant that a request was admitted at, in Unix milliseconds.
pub(crate) fn latest_ms(db: Db<'_>) -> Result<i64> {
    let latest_ms: i64 = db.row("SELECT COALESCE(MAX(admitted_ms), 0) FROM entry", &[], |row| row.get(0))?;
    Ok(pruned::pruned(db)?.map_or(latest_ms, |pruned| latest_ms.max(pruned.latest_ms)))
}

/// The grants in the order of their making, each with the latest instant that a
/// request had been admitted at.
pub(crate) fn grants(db: Db<'_>) -> Result<Vec<(Grant, i64)>> {
    let sql = "SELECT id, amount_nano, note, created_ms, expires_s, latest_ms, corrects FROM credit_grant ORDER BY id";
    db.rows(sql, &[], |row| {
        let grant = Grant {
            id: uint(row.get(0)?),
            amount: Money::from_nano(row.get(1)?),
            note: row.get(2)?,
            created_ms: row.get(3)?,
            expires_s: row.get(4)?,
            corrects: row.get::<Option<i64>>(6)?.map(uint),
        };
        Ok((grant, row.get(5)?))
    })
}

/// The account with all that is settled on it, if credit was ever granted.
pub(crate) fn account(db: Db<'_>) -> Result<Option<Account>> {
    let grants = grants(db)?;
    let Some((first, latest_ms)) = grants.first() else { return Ok(None) };
    let mut account = Account::new(first.id);
    let since = Since { id: int(first.id), mixed_until_ms: next_quarter(*latest_ms) };
    for (grant, _) in grants {
        account.cut(grant.expires_s);
        account.add(Arc::new(grant));
    }
    let mut start_ms = i64::MIN;
    for end_ms in account.segments().iter().map(|segment| segment.end_ms).collect::<Vec<_>>() {
        account.settle(end_ms - 1, since.settled(db, start_ms, end_ms)?);
        start_ms = end_ms;
    }
    Ok(Some(account))
}

/// Since when spending counts.
struct Since {
    /// The first grant's.
    id: i64,
    /// From here on all that was admitted is of later requests.
    mixed_until_ms: i64,
}

impl Since {
    /// What was spent by requests admitted from one instant to another: by
    /// rollups where they are whole, else by entries.
    fn settled(&self, db: Db<'_>, from_ms: i64, until_ms: i64) -> Result<i64> {
        let first_ms = if from_ms == i64::MIN { from_ms } else { next_quarter(from_ms - 1) };
        let first_ms = first_ms.max(self.mixed_until_ms);
        let last_ms = until_ms.div_euclid(ROLLUP_MS) * ROLLUP_MS;
        if first_ms >= last_ms {
            return self.of_entries(db, from_ms, until_ms);
        }
        let mut whole = 0_i64;
        let span = Span { start_s: first_ms / 1_000, end_s: last_ms / 1_000 };
        let sums = Reading { columns: "cost_nano", by_user: false, span };
        days::each_row(
            db,
            sums,
            |_| false,
            |row| {
                whole = whole.saturating_add(row.get(0)?);
                Ok(true)
            },
        )?;
        let ragged =
            self.of_entries(db, from_ms, first_ms)?.saturating_add(self.of_entries(db, last_ms, until_ms)?);
        Ok(whole.saturating_add(ragged))
    }

    fn of_entries(&self, db: Db<'_>, from_ms: i64, until_ms: i64) -> Result<i64> {
        // The index has times and ids, so that entries from before cost no more than that.
        let sql = format!(
            "SELECT CAST(COALESCE(SUM(cost_nano), 0) AS BIGINT) FROM entry{} WHERE admitted_ms >= ?1 \
             AND admitted_ms < ?2 AND id > ?3 AND COALESCE(corrects, id) > ?3 AND kind IN ('settle', 'adjust')",
            db.by_time()
        );
        db.row(&sql, params![from_ms, until_ms, self.id], |row| row.get(0))
    }
}

/// The entries that the account is added up of, where its time is cut within
/// quarters of an hour: they are not pruned.
pub(crate) struct EntriesInUse {
    since: Option<Since>,
    /// Where quarters start that an expiry cuts, in Unix milliseconds.
    cut_ms: Vec<i64>,
}

impl EntriesInUse {
    pub(crate) fn of(db: Db<'_>) -> Result<Self> {
        let grants = grants(db)?;
        let since = grants
            .first()
            .map(|(first, latest_ms)| Since { id: int(first.id), mixed_until_ms: next_quarter(*latest_ms) });
        let expiries = grants.iter().filter_map(|(grant, _)| grant.expires_s);
        let cut = expiries.map(|at_s| at_s.saturating_mul(1_000)).filter(|at_ms| at_ms % ROLLUP_MS != 0);
        Ok(Self { since, cut_ms: cut.map(|at_ms| next_quarter(at_ms) - ROLLUP_MS).collect() })
    }

    /// Whether an entry is one, or a correction of the entry of that id.
    pub(crate) fn has(&self, id: u64, admitted_ms: i64) -> bool {
        let Some(since) = &self.since else { return false };
        let is_cut = || self.cut_ms.contains(&(next_quarter(admitted_ms) - ROLLUP_MS));
        int(id) > since.id && (admitted_ms < since.mixed_until_ms || is_cut())
    }

    /// How many there are that were admitted before a time.
    pub(crate) fn count_before(&self, db: Db<'_>, before_s: i64) -> Result<u64> {
        let Some(since) = &self.since else { return Ok(0) };
        let sql = "SELECT COUNT(*) FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 \
                   AND COALESCE(corrects, id) > ?3 AND kind IN ('settle', 'release', 'adjust')";
        let before_ms = before_s.saturating_mul(1_000);
        let count = |from_ms: i64, until_ms: i64| {
            db.row(sql, params![from_ms, until_ms.min(before_ms), since.id], |row| row.get(0)).map(uint)
        };
        let mut cut: Vec<i64> =
            self.cut_ms.iter().copied().filter(|at| *at >= since.mixed_until_ms).collect();
        cut.sort_unstable();
        cut.dedup();
        let mut all = count(i64::MIN, since.mixed_until_ms)?;
        for start_ms in cut {
            all += count(start_ms, start_ms.saturating_add(ROLLUP_MS))?;
        }
        Ok(all)
    }
}

/// The end of the quarter of an hour that holds an instant.
fn next_quarter(at_ms: i64) -> i64 {
    (at_ms.div_euclid(ROLLUP_MS) + 1).saturating_mul(ROLLUP_MS)
}
