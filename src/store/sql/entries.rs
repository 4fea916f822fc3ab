//! Entries that are asked for, and sums of limits that are made of entries.

use std::collections::{BTreeMap, HashMap};

use crate::domain::{Limit, Money, Span};
use crate::ledger::entry::{Basis, Entry, Kind};
use crate::ledger::meter::Subject;
use crate::store::records::Names;
use crate::store::reports::{AdmittedAfter, EntryFilter, ROLLUP_S};
use crate::store::sql::codec::{ENTRY_COLUMNS, entry_from, insert_entry, int, tags_text, uint};
use crate::store::sql::history::{self, each_settled};
use crate::store::sql::rollup::{RollupKey, RollupSums};
use crate::store::sql::{Db, Result, Value, days, params, pruned};

/// The entries that fit a filter, in its order.
pub(crate) fn entries<'f>(db: Db<'_>, filter: &'f EntryFilter, names: &dyn Names) -> Result<Vec<Entry>> {
    let (mut terms, mut values) = (vec!["TRUE".to_owned()], Vec::new());
    let mut term = |sql: &str, value: Option<Value<'f>>| {
        if let Some(value) = value {
            values.push(value);
            terms.push(format!("{sql} ?{}", values.len()));
        }
    };
    let ms = |s: i64| Value::Int(s.saturating_mul(1_000));
    term("api_key =", filter.key.as_deref().map(Value::Text));
    term("project =", filter.project.as_deref().map(Value::Text));
    term("admitted_ms >=", filter.since_s.map(ms));
    term("admitted_ms <", filter.until_s.map(ms));
    term("basis =", filter.basis.map(Basis::name).map(Value::Text));
    term("kind =", filter.kind.map(Kind::name).map(Value::Text));
    term("id >=", filter.from.map(int).map(Value::Int));
    let after = if filter.ascending { "id >" } else { "id <" };
    term(after, filter.after.map(int).map(Value::Int));
    let order = if filter.ascending { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry WHERE {} ORDER BY id {order} LIMIT {}",
        terms.join(" AND "),
        filter.count_max
    );
    db.rows(&sql, &values, |row| entry_from(row, names))
}

/// The next entries of requests and of their corrections, in the order in which the requests were
/// admitted, up to those of a time in Unix seconds. A correction is admitted with what it corrects.
pub(crate) fn admitted(
    db: Db<'_>,
    after: AdmittedAfter,
    until_s: i64,
    count_max: usize,
    names: &dyn Names,
) -> Result<Vec<Entry>> {
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry{} WHERE admitted_ms >= ?1 AND admitted_ms < ?2 \
         AND (admitted_ms > ?1 OR id > ?3) AND kind IN ('settle', 'release', 'adjust') \
         ORDER BY admitted_ms, id LIMIT {count_max}",
        db.by_time()
    );
    let until_ms = until_s.saturating_mul(1_000);
    db.rows(&sql, params![after.ms, until_ms, int(after.id)], |row| entry_from(row, names))
}

/// One entry by its id.
pub(crate) fn entry(db: Db<'_>, id: u64, names: &dyn Names) -> Result<Option<Entry>> {
    let sql = format!("SELECT {ENTRY_COLUMNS} FROM entry WHERE id = ?1");
    db.optional(&sql, params![int(id)], |row| entry_from(row, names))
}

/// The kind of an entry, if there is one of that id.
pub(crate) fn kind(db: Db<'_>, id: u64) -> Result<Option<String>> {
    db.optional("SELECT kind FROM entry WHERE id = ?1", params![int(id)], |row| row.get(0))
}

/// The greatest id of an entry, or 0.
pub(crate) fn last_id(db: Db<'_>) -> Result<u64> {
    db.row("SELECT COALESCE(MAX(id), 0) FROM entry", &[], |row| row.get(0)).map(uint)
}

/// Writes entries, and adds them to the sums.
pub(crate) fn insert_summed(db: Db<'_>, entries: &[Entry]) -> Result<()> {
    let summed = days::end(db)?;
    for entry in entries {
        let tags = tags_text(&entry.attribution.tags)?;
        insert_entry(db, entry, &tags)?;
        let mut sums = RollupSums::default();
        sums.add(entry);
        days::add(db, &summed, &RollupKey::of(entry, tags), &sums)?;
    }
    Ok(())
}

/// What corrections have added to the cost of an entry, in sum.
pub(crate) fn corrected_by(db: Db<'_>, id: u64) -> Result<Money> {
    let sql = "SELECT cost_nano FROM entry WHERE corrects = ?1 AND kind = ?2";
    let costs =
        db.rows(sql, params![int(id), Kind::Adjust.name()], |row| row.get(0).map(Money::from_nano))?;
    Ok(costs.into_iter().sum())
}

/// What each subject of a limit has settled in one window, from the entries:
/// slower, and independent of the rollups as far as entries were not pruned.
pub(crate) fn settled_by_entries(
    db: Db<'_>,
    limit: &Limit,
    span: Span,
    names: &dyn Names,
) -> Result<HashMap<Subject, i64>> {
    let whole_since_s = pruned::whole_since_s(db)?;
    let before = Span { end_s: span.end_s.min(whole_since_s), ..span };
    // Sums tell nothing shorter apart than a quarter of an hour.
    let is_short = span.end_s.saturating_sub(span.start_s) < ROLLUP_S;
    let mut sums = if before.start_s < before.end_s && !is_short {
        history::within(db, limit, before, names)?
    } else {
        HashMap::new()
    };
    let since = Span { start_s: span.start_s.max(whole_since_s), ..span };
    each_settled(db, limit, since, names, |subject, entry| {
        let sum: &mut i64 = sums.entry(subject).or_default();
        *sum = sum.saturating_add(entry.amount(limit.unit));
    })?;
    Ok(sums)
}

/// The newest entries that a limit counts in one window, newest first, and how
/// many there are in all.
pub(crate) fn counted(
    db: Db<'_>,
    limit: &Limit,
    span: Span,
    count_max: usize,
    names: &dyn Names,
) -> Result<(Vec<(Subject, Entry)>, usize)> {
    let (mut newest, mut count) = (BTreeMap::new(), 0);
    each_settled(db, limit, span, names, |subject, entry| {
        if entry.amount(limit.unit) == 0 {
            return;
        }
        count += 1;
        newest.insert((entry.id, subject.clone()), (subject, entry));
        if newest.len() > count_max {
            newest.pop_first();
        }
    })?;
    Ok((newest.into_values().rev().collect(), count))
}
