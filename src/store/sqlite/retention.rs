//! What is pruned of the past.
//!
//! Entries that are old enough go, in steps of a few rows; the sums of their
//! quarters of an hour and days stay, and so does what they came to in all. A
//! quarter is compared with its entries before the first of them goes, since
//! nothing can prove its sums afterwards. These entries stay, however old:
//! grants of prepaid credit, thresholds whose window is not over, what an account
//! of credit is added up of, and endings whose batch still holds an open hold.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Connection, params};

use crate::domain::{Limit, Span};
use crate::ledger::entry::{Entry, Kind};
use crate::ledger::meter::{Subject, subjects};
use crate::store::records::Names;
use crate::store::reports::{PruneError, PruneStep, ROLLUP_S, Total, quarter_start_s};
use crate::store::sqlite::codec::{ENTRY_COLUMNS, HoldRow, entry_from, int, tags_text, uint};
use crate::store::sqlite::credit::EntriesInUse;
use crate::store::sqlite::history;
use crate::store::sqlite::pruned::{pruned, whole_since_s};
use crate::store::sqlite::quantities::others_text;
use crate::store::sqlite::rollup::{self, COLUMNS, Ids, RollupKey, RollupSums};

/// Rows that are deleted at once: a few milliseconds, in which nothing else is
/// written.
const ROWS_MAX: usize = 200;

/// Entries by themselves; thresholds go with their crossings.
const PRUNABLE: &str = "kind IN ('settle', 'release', 'adjust')";

/// A threshold whose window is over and that every channel has heard of.
const PRUNABLE_CROSSING: &str = "window_end_s <= ?1 AND at_ms < 1000 * ?1 AND is_routed = 1 AND NOT EXISTS \
    (SELECT 1 FROM delivery WHERE delivery.crossing = crossing.id AND state = 'waiting')";

/// The next entries that were admitted from one instant on and before another, at the end of a quarter.
/// Only reads, however much there is to compare.
pub(crate) fn next_entries(
    db: &Connection,
    from_ms: i64,
    before_s: i64,
) -> rusqlite::Result<Result<Option<PruneStep>, PruneError>> {
    let _snapshot = db.is_autocommit().then(|| db.unchecked_transaction()).transpose()?;
    let in_use = EntriesInUse::of(db)?;
    let open = ended_beside_open(db)?;
    let stays = |entry: &Entry| {
        open.contains(&entry.id) || in_use.has(entry.corrects.unwrap_or(entry.id), entry.admitted_ms)
    };
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry INDEXED BY entry_admitted WHERE admitted_ms >= ?1 AND admitted_ms < ?2 \
         AND {PRUNABLE} ORDER BY admitted_ms"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([from_ms, before_s.saturating_mul(1_000)])?;
    let (mut step, mut quarter) = (None::<PruneStep>, None::<i64>);
    while let Some(row) = rows.next()? {
        let entry = entry_from(row, &Ids)?;
        if stays(&entry) {
            continue;
        }
        let start_s = quarter_start_s(entry.admitted_ms.div_euclid(1_000));
        if *quarter.get_or_insert(start_s) != start_s {
            break;
        }
        let step = step.get_or_insert_with(|| PruneStep {
            ids: Vec::new(),
            before_s: Some(start_s.saturating_add(ROLLUP_S)),
            latest_ms: entry.admitted_ms,
            total: Total::default(),
        });
        step.take(&entry);
        if step.len() == ROWS_MAX {
            break;
        }
    }
    match quarter {
        Some(start_s) if start_s >= whole_since_s(db)? && !is_proven(db, start_s)? => {
            Ok(Err(PruneError::Unlike { start_s }))
        }
        _ => Ok(Ok(step)),
    }
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
fn is_proven(db: &Connection, start_s: i64) -> rusqlite::Result<bool> {
    let span = Span { start_s, end_s: start_s.saturating_add(ROLLUP_S) };
    let mut entries: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
    each_entry(db, span, |entry| {
        let tags = tags_text(&entry.attribution.tags)?;
        entries.entry(RollupKey::of(&entry, tags)).or_default().add(&entry);
        Ok(())
    })?;
    let sql = format!("SELECT {COLUMNS} FROM rollup WHERE start_s = ?1");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([start_s])?;
    while let Some(row) = rows.next()? {
        let (key, sums) = rollup::row_from(row)?;
        if entries.remove(&key) != Some(sums) {
            return Ok(false);
        }
    }
    Ok(entries.is_empty())
}

/// Hands out what sums are made of.
fn each_entry(
    db: &Connection,
    span: Span,
    mut each: impl FnMut(Entry) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 AND kind IN ('settle', 'adjust')"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([span.start_s.saturating_mul(1_000), span.end_s.saturating_mul(1_000)])?;
    while let Some(row) = rows.next()? {
        each(entry_from(row, &Ids)?)?;
    }
    Ok(())
}

/// The ids in batches of holds that are not all ended: an ending that went would be taken for an open hold.
fn ended_beside_open(db: &Connection) -> rusqlite::Result<HashSet<u64>> {
    let batches = crate::store::sqlite::codec::hold_batches(db)?;
    let lines = batches.iter().flat_map(|(_, text)| text.lines());
    // A line that can't be read stops the next start and is named by `verify`; it has no entry that could go.
    Ok(lines.filter_map(|line| serde_json::from_str::<HoldRow>(line).ok()).map(|row| row.id).collect())
}

/// The next crossings whose window was over before a time, with their entries.
pub(crate) fn next_crossings(db: &Connection, before_s: i64) -> rusqlite::Result<Option<PruneStep>> {
    let sql = format!("SELECT id FROM crossing WHERE {PRUNABLE_CROSSING} ORDER BY id LIMIT {ROWS_MAX}");
    let mut statement = db.prepare_cached(&sql)?;
    let ids: Vec<i64> = statement.query_map([before_s], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let step = PruneStep { ids, before_s: None, latest_ms: i64::MIN, total: Total::default() };
    Ok(Some(step).filter(|step| step.len() > 0))
}

/// Deletes what a step says, with what refers to it; all of it or nothing. Returns how many entries went.
pub(crate) fn delete(db: &mut Connection, step: &PruneStep) -> rusqlite::Result<u64> {
    let tx = db.transaction()?;
    let mut gone = 0;
    for id in &step.ids {
        if step.before_s.is_none() {
            tx.prepare_cached("DELETE FROM delivery WHERE crossing = ?1")?.execute([id])?;
            tx.prepare_cached("DELETE FROM crossing WHERE id = ?1")?.execute([id])?;
        }
        gone += tx.prepare_cached("DELETE FROM entry WHERE id = ?1")?.execute([id])?;
    }
    // What is gone already was counted by who made it go.
    if step.before_s.is_some() && gone != step.ids.len() {
        return Err(rusqlite::Error::StatementChangedRows(gone));
    }
    let last_id = step.ids.iter().max().copied().unwrap_or(0);
    let Total { requests, cost_nano, tokens, mut others } = step.total;
    others += pruned(&tx)?.unwrap_or_default().total.others;
    tx.prepare_cached(
        "INSERT INTO pruned VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET \
         before_s = max(before_s, excluded.before_s), entries = entries + excluded.entries, \
         last_id = max(last_id, excluded.last_id), latest_ms = max(latest_ms, excluded.latest_ms), \
         requests = requests + excluded.requests, cost_nano = cost_nano + excluded.cost_nano, \
         tokens = tokens + excluded.tokens, other_quantities = excluded.other_quantities",
    )?
    .execute(params![
        step.before_s.unwrap_or(i64::MIN),
        int(u64::try_from(gone).unwrap_or(u64::MAX)),
        last_id,
        step.latest_ms,
        int(requests),
        cost_nano,
        int(tokens),
        others_text(&others)?
    ])?;
    tx.commit()?;
    Ok(u64::try_from(gone).unwrap_or(u64::MAX))
}

/// How many entries could be pruned that were admitted before a time.
pub(crate) fn prunable(db: &Connection, before_s: i64) -> rusqlite::Result<u64> {
    let count = |sql: &str| db.query_row(sql, [before_s], |row| row.get::<_, i64>(0)).map(uint);
    // By the index alone: of a hundred million entries a second or two.
    let all = count("SELECT COUNT(*) FROM entry INDEXED BY entry_admitted WHERE admitted_ms < 1000 * ?1")?;
    let others = format!(
        "SELECT COUNT(*) FROM entry WHERE admitted_ms < 1000 * ?1 AND id IN (SELECT id FROM credit_grant UNION ALL \
         SELECT id FROM crossing WHERE NOT ({PRUNABLE_CROSSING}))"
    );
    let staying = EntriesInUse::of(db)?.count_before(db, before_s)?;
    let beside_open = u64::try_from(ended_before(db, before_s)?).unwrap_or(u64::MAX);
    Ok(all.saturating_sub(count(&others)? + staying + beside_open))
}

fn ended_before(db: &Connection, before_s: i64) -> rusqlite::Result<usize> {
    let mut ended = db.prepare_cached("SELECT 1 FROM entry WHERE id = ?1 AND admitted_ms < 1000 * ?2")?;
    let mut count = 0;
    for id in ended_beside_open(db)? {
        count += usize::from(ended.exists(params![int(id), before_s])?);
    }
    Ok(count)
}

/// Amounts by subject.
type Sums = Vec<(Subject, i64)>;

/// What of a window's sums has no entries any more, by subject.
pub(crate) fn pruned_of(
    db: &Connection,
    limit: &Limit,
    window: Span,
    names: &dyn Names,
) -> rusqlite::Result<Option<(i64, Sums)>> {
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
