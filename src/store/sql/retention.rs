//! What is pruned of the past.
//!
//! Entries that are old enough go, in steps of a few rows; the sums of their
//! quarters of an hour and days stay, and so does what they came to in all. A
//! quarter is compared with its entries before the first of them goes, since
//! nothing can prove its sums afterwards. These entries stay, however old:
//! grants of prepaid credit, thresholds whose window is not over, what an account
//! of credit is added up of, and endings whose batch still holds an open hold.
//!
//! Rows are deleted also where a shared database has a partition for each month: `storage.keep` is
//! kept to the quarter of an hour, so that of a month hardly anything is left when all of it is
//! past its time. What is left of its table is removed then (`store::postgres::months`).

use std::collections::{BTreeMap, HashSet};

use crate::domain::{Limit, Span};
use crate::ledger::entry::{Entry, Kind};
use crate::ledger::meter::{Subject, subjects};
use crate::store::records::Names;
use crate::store::reports::{PruneError, PruneStep, ROLLUP_S, Total, quarter_start_s};
use crate::store::sql::codec::{ENTRY_COLUMNS, HoldRow, entry_from, hold_batches, int, tags_text, uint};
use crate::store::sql::credit::EntriesInUse;
use crate::store::sql::history;
use crate::store::sql::pruned::{pruned, whole_since_s};
use crate::store::sql::quantities::others_text;
use crate::store::sql::rollup::{self, COLUMNS, Ids, RollupKey, RollupSums, later_of};
use crate::store::sql::{Db, Error, Result, params};

/// Rows that are deleted at once: a few milliseconds, in which nothing else is
/// written.
const ROWS_MAX: usize = 200;

/// Entries by themselves; thresholds go with their crossings.
const PRUNABLE: &str = "kind IN ('settle', 'release', 'adjust')";

/// A threshold whose window was over before the second ?1, the millisecond ?2, and whose
/// messages wait for no channel.
const PRUNABLE_CROSSING: &str = "window_end_s <= ?1 AND at_ms < ?2 AND is_routed = 1 AND NOT EXISTS \
    (SELECT 1 FROM delivery WHERE delivery.crossing = crossing.id AND state = 'waiting')";

/// The next entries that were admitted from one instant on and before another, at the end of a quarter.
/// Only reads, however much there is to compare.
pub(crate) fn next_entries(
    db: Db<'_>,
    from_ms: i64,
    before_s: i64,
) -> Result<Result<Option<PruneStep>, PruneError>> {
    db.snapshot(|| {
        let (step, quarter) = next_of_quarter(db, from_ms, before_s)?;
        match quarter {
            Some(start_s) if start_s >= whole_since_s(db)? && !is_proven(db, start_s)? => {
                Ok(Err(PruneError::Unlike { start_s }))
            }
            _ => Ok(Ok(step)),
        }
    })
}

/// The next entries that may go, and where the quarter of an hour starts that they are of.
fn next_of_quarter(db: Db<'_>, from_ms: i64, before_s: i64) -> Result<(Option<PruneStep>, Option<i64>)> {
    let in_use = EntriesInUse::of(db)?;
    let open = ended_beside_open(db)?;
    let stays = |entry: &Entry| {
        open.contains(&entry.id) || in_use.has(entry.corrects.unwrap_or(entry.id), entry.admitted_ms)
    };
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry{} WHERE admitted_ms >= ?1 AND admitted_ms < ?2 AND {PRUNABLE} \
         ORDER BY admitted_ms",
        db.by_time()
    );
    let (mut step, mut quarter) = (None::<PruneStep>, None::<i64>);
    db.each(&sql, params![from_ms, before_s.saturating_mul(1_000)], |row| {
        let entry = entry_from(row, &Ids)?;
        if stays(&entry) {
            return Ok(true);
        }
        let start_s = quarter_start_s(entry.admitted_ms.div_euclid(1_000));
        if *quarter.get_or_insert(start_s) != start_s {
            return Ok(false);
        }
        let step = step.get_or_insert_with(|| PruneStep {
            ids: Vec::new(),
            before_s: Some(start_s.saturating_add(ROLLUP_S)),
            latest_ms: entry.admitted_ms,
            total: Total::default(),
        });
        step.take(&entry);
        Ok(step.len() < ROWS_MAX)
    })?;
    Ok((step, quarter))
}

impl PruneStep {
    fn take(&mut self, entry: &Entry) {
        self.ids.push(int(entry.id));
        self.latest_ms = self.latest_ms.max(entry.admitted_ms);
        if entry.kind != Kind::Release {
            let mut sums = RollupSums::default();
            sums.add(entry);
            self.total.add(&sums);
        }
    }
}

/// Whether the sums of a quarter are those of its entries.
fn is_proven(db: Db<'_>, start_s: i64) -> Result<bool> {
    let span = Span { start_s, end_s: start_s.saturating_add(ROLLUP_S) };
    let mut entries: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
    each_entry(db, span, |entry| {
        let tags = tags_text(&entry.attribution.tags)?;
        entries.entry(RollupKey::of(&entry, tags)).or_default().add(&entry);
        Ok(())
    })?;
    let sql = format!("SELECT {COLUMNS} FROM rollup WHERE start_s = ?1");
    let mut are_alike = true;
    db.each(&sql, params![start_s], |row| {
        let (key, sums) = rollup::row_from(row)?;
        are_alike = entries.remove(&key) == Some(sums);
        Ok(are_alike)
    })?;
    Ok(are_alike && entries.is_empty())
}

/// Hands out what sums are made of.
fn each_entry(db: Db<'_>, span: Span, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 AND kind IN ('settle', 'adjust')"
    );
    let ms = |s: i64| s.saturating_mul(1_000);
    db.each(&sql, params![ms(span.start_s), ms(span.end_s)], |row| {
        each(entry_from(row, &Ids)?)?;
        Ok(true)
    })
}

/// The ids in batches of holds that are not all ended: an ending that went would be taken for an open hold.
fn ended_beside_open(db: Db<'_>) -> Result<HashSet<u64>> {
    let batches = hold_batches(db)?;
    let lines = batches.iter().flat_map(|(_, text)| text.lines());
    // A line that can't be read stops the next start and is named by `verify`; it has no entry that could go.
    Ok(lines.filter_map(|line| serde_json::from_str::<HoldRow>(line).ok()).map(|row| row.id).collect())
}

/// The next crossings whose window was over before a time, with their entries.
pub(crate) fn next_crossings(db: Db<'_>, before_s: i64) -> Result<Option<PruneStep>> {
    let sql = format!("SELECT id FROM crossing WHERE {PRUNABLE_CROSSING} ORDER BY id LIMIT {ROWS_MAX}");
    let ids = db.rows(&sql, params![before_s, before_s.saturating_mul(1_000)], |row| row.get(0))?;
    let step = PruneStep { ids, before_s: None, latest_ms: i64::MIN, total: Total::default() };
    Ok(Some(step).filter(|step| step.len() > 0))
}

/// Deletes what a step says, with what refers to it; all of it or nothing. Returns how many entries went.
pub(crate) fn delete(db: Db<'_>, step: &PruneStep) -> Result<u64> {
    // When entries were admitted that go, as far as it is known.
    let admitted_ms = step.before_s.map_or((i64::MIN, i64::MAX), |end_s| {
        (end_s.saturating_sub(ROLLUP_S).saturating_mul(1_000), end_s.saturating_mul(1_000))
    });
    db.transaction(|| {
        let mut gone = 0;
        for id in &step.ids {
            if step.before_s.is_none() {
                db.execute("DELETE FROM delivery WHERE crossing = ?1", params![id])?;
                db.execute("DELETE FROM crossing WHERE id = ?1", params![id])?;
            }
            let sql = "DELETE FROM entry WHERE id = ?1 AND admitted_ms >= ?2 AND admitted_ms < ?3";
            gone += db.execute(sql, params![id, admitted_ms.0, admitted_ms.1])?;
        }
        // What is gone already was counted by who made it go.
        let wanted = u64::try_from(step.ids.len()).unwrap_or(u64::MAX);
        if step.before_s.is_some() && gone != wanted {
            return Err(Error::Changed { changed: gone, wanted });
        }
        note_pruned(db, step, gone)?;
        Ok(gone)
    })
}

/// Adds a step to what was pruned.
fn note_pruned(db: Db<'_>, step: &PruneStep, gone: u64) -> Result<()> {
    let last_id = step.ids.iter().max().copied().unwrap_or(0);
    let Total { requests, cost_nano, tokens, mut others } = step.total;
    others += pruned(db)?.unwrap_or_default().total.others;
    let [before_s, last, latest_ms] =
        ["before_s", "last_id", "latest_ms"].map(|column| later_of("pruned", column));
    let sql = format!(
        "INSERT INTO pruned (id, before_s, entries, last_id, latest_ms, requests, cost_nano, tokens, other_quantities) \
         VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET before_s = {before_s}, \
         entries = pruned.entries + excluded.entries, last_id = {last}, latest_ms = {latest_ms}, \
         requests = pruned.requests + excluded.requests, cost_nano = pruned.cost_nano + excluded.cost_nano, \
         tokens = pruned.tokens + excluded.tokens, other_quantities = excluded.other_quantities"
    );
    let before_s = step.before_s.unwrap_or(i64::MIN);
    let others = others_text(&others)?;
    db.execute(
        &sql,
        params![before_s, int(gone), last_id, step.latest_ms, requests, cost_nano, tokens, others],
    )
    .map(drop)
}

/// How many entries could be pruned that were admitted before a time.
pub(crate) fn prunable(db: Db<'_>, before_s: i64) -> Result<u64> {
    let before_ms = before_s.saturating_mul(1_000);
    // By the index alone: of a hundred million entries a second or two.
    let all = format!("SELECT COUNT(*) FROM entry{} WHERE admitted_ms < ?1", db.by_time());
    let all = db.row(&all, params![before_ms], |row| row.get(0)).map(uint)?;
    let others = format!(
        "SELECT COUNT(*) FROM entry WHERE admitted_ms < ?2 AND id IN (SELECT id FROM credit_grant UNION ALL \
         SELECT id FROM crossing WHERE NOT ({PRUNABLE_CROSSING}))"
    );
    let others = db.row(&others, params![before_s, before_ms], |row| row.get(0)).map(uint)?;
    let staying = EntriesInUse::of(db)?.count_before(db, before_s)?;
    let beside_open = u64::try_from(ended_before(db, before_ms)?).unwrap_or(u64::MAX);
    Ok(all.saturating_sub(others + staying + beside_open))
}

fn ended_before(db: Db<'_>, before_ms: i64) -> Result<usize> {
    let mut count = 0;
    for id in ended_beside_open(db)? {
        let sql = "SELECT 1 FROM entry WHERE id = ?1 AND admitted_ms < ?2";
        count += usize::from(db.exists(sql, params![int(id), before_ms])?);
    }
    Ok(count)
}

/// Amounts by subject.
type Sums = Vec<(Subject, i64)>;

/// What of a window's sums has no entries any more, by subject.
pub(crate) fn pruned_of(
    db: Db<'_>,
    limit: &Limit,
    window: Span,
    names: &dyn Names,
) -> Result<Option<(i64, Sums)>> {
    let whole_since_s = whole_since_s(db)?;
    let before = Span { end_s: window.end_s.min(whole_since_s), ..window };
    if before.start_s >= before.end_s {
        return Ok(None);
    }
    let mut sums = history::within(db, limit, before, names)?;
    each_entry(db, before, |entry| {
        for subject in subjects(limit, &entry.attribution) {
            let sum: &mut i64 = sums.entry(subject).or_default();
            *sum = sum.saturating_sub(entry.amount(limit.unit));
        }
        Ok(())
    })?;
    sums.retain(|_, sum| *sum != 0);
    Ok(Some((whole_since_s, sums.into_iter().collect())))
}

#[cfg(test)]
mod tests;
