//! What is read from the database: entries, sums for usage, sums for limits.
//!
//! Sums come from `rollup` and the days made of it, so that a question about a
//! month costs little; `verify` proves both against entries.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params_from_iter};

use crate::domain::{Limit, Money, Span};
use crate::ledger::entry::{Entry, Kind};
use crate::ledger::meter::Subject;
use crate::store::StoreError;
use crate::store::records::Names;
use crate::store::reports::ROLLUP_S;
use crate::store::reports::{DailyUsage, EntryFilter, GroupBy, Groups, UsageFilter, UsageSum};
use crate::store::sqlite::codec::{ENTRY_COLUMNS, entry_from, int, tags_from, uint};
use crate::store::sqlite::days::{self, Reading};
use crate::store::sqlite::history::each_settled;
use crate::store::sqlite::quantities::{quantities_from, quantity_columns};
use crate::store::sqlite::{history, pruned};
use crate::sync::unpoisoned;

/// A read-only connection; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    db: Arc<Mutex<Connection>>,
}

impl Reader {
    pub(crate) fn new(db: Connection) -> Self {
        Self { db: Arc::new(Mutex::new(db)) }
    }

    /// Runs a query on the shared connection. It blocks: not for the proxy.
    pub(super) fn query<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let db = unpoisoned(self.db.lock());
        Ok(work(&db)?)
    }
}

/// The entries that fit a filter, in its order.
pub(super) fn entries(
    db: &Connection,
    filter: &EntryFilter,
    names: &dyn Names,
) -> rusqlite::Result<Vec<Entry>> {
    let mut terms = vec!["1"];
    let mut values: Vec<Value> = Vec::new();
    let mut term = |sql: &'static str, value: Option<Value>| {
        if let Some(value) = value {
            terms.push(sql);
            values.push(value);
        }
    };
    term("api_key = ?", filter.key.clone().map(Value::from));
    term("project = ?", filter.project.clone().map(Value::from));
    term("admitted_ms >= ?", filter.since_s.map(|s| Value::from(s.saturating_mul(1_000))));
    term("admitted_ms < ?", filter.until_s.map(|s| Value::from(s.saturating_mul(1_000))));
    term("basis = ?", filter.basis.map(|basis| Value::from(basis.name().to_owned())));
    term("kind = ?", filter.kind.map(|kind| Value::from(kind.name().to_owned())));
    term("id >= ?", filter.from.map(|id| Value::from(int(id))));
    let after = if filter.ascending { "id > ?" } else { "id < ?" };
    term(after, filter.after.map(|id| Value::from(int(id))));
    let order = if filter.ascending { "ASC" } else { "DESC" };
    let wanted = terms.join(" AND ");
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry WHERE {wanted} ORDER BY id {order} LIMIT {}",
        filter.count_max
    );
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(values), |row| entry_from(row, names))?;
    rows.collect()
}

/// One entry by its id.
pub(super) fn entry(db: &Connection, id: u64, names: &dyn Names) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {ENTRY_COLUMNS} FROM entry WHERE id = ?1");
    db.prepare_cached(&sql)?.query_row([int(id)], |row| entry_from(row, names)).optional()
}

/// What corrections have added to the cost of an entry, in sum.
pub(super) fn corrected_by(db: &Connection, id: u64) -> rusqlite::Result<Money> {
    let sql = "SELECT cost_nano FROM entry WHERE corrects = ?1 AND kind = ?2";
    let mut statement = db.prepare_cached(sql)?;
    let costs =
        statement.query_map((int(id), Kind::Adjust.name()), |row| row.get(0).map(Money::from_nano))?;
    costs.sum()
}

/// Sums of usage by group for each question, in one pass: the costliest first, days in
/// their order. Spans are widened to whole quarters of an hour.
pub(super) fn usages<const N: usize>(
    db: &Connection,
    questions: [(&GroupBy, Span); N],
    keep: impl Fn(&str, &str) -> bool,
) -> rusqlite::Result<[Groups; N]> {
    let mut questions = questions;
    for (_, span) in &mut questions {
        *span = days::whole_quarters(*span);
    }
    let starts = questions.iter().map(|(_, span)| span.start_s);
    let ends = questions.iter().map(|(_, span)| span.end_s);
    let by_user = questions.iter().any(|(by, _)| matches!(by, GroupBy::User | GroupBy::Tag));
    let span = Span { start_s: starts.min().unwrap_or(0), end_s: ends.max().unwrap_or(0) };
    let reading = Reading { columns: USAGE_COLUMNS, by_user, span };
    let is_cut = |day: Span| questions.iter().any(|(by, span)| by.cuts(day) || span.cuts(day));
    let mut sums: [HashMap<Vec<String>, UsageSum>; N] = std::array::from_fn(|_| HashMap::new());
    days::each_row(db, reading, is_cut, |row| {
        let text = |at: usize| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_str()?);
        if !keep(text(1)?, text(2)?) {
            return Ok(true);
        }
        let start_s = row.get(0)?;
        let (requests, cost) = (uint(row.get(8)?), Money::from_nano(row.get(9)?));
        let used = UsageSum { requests, cost, quantities: quantities_from(row, 10)? };
        for ((by, _), sums) in questions.iter().zip(&mut sums).filter(|((_, span), _)| span.contains(start_s))
        {
            for group in by.groups(row, start_s)? {
                sums.entry(group).or_default().add(&used);
            }
        }
        Ok(true)
    })?;
    let mut ordered = questions.iter().zip(sums).map(|((by, _), sums)| by.ordered(sums));
    Ok(std::array::from_fn(|_| ordered.next().unwrap_or_default()))
}

/// Usage in a span by group, and each day's share in the costliest groups. Day by day, so
/// that no more than one day's groups are in memory.
pub(super) fn daily_usage(
    db: &Connection,
    by: Option<&GroupBy>,
    span: Span,
    days: &[Span],
    series_max: usize,
    filter: &UsageFilter,
) -> rusqlite::Result<DailyUsage> {
    let _snapshot = db.is_autocommit().then(|| db.unchecked_transaction()).transpose()?;
    let selects = |project: &str, key: &str| filter.selects(project, key);
    let sums_of = |by: &GroupBy, span: Span| usages(db, [(by, span)], selects).map(|[groups]| groups);
    let groups = by.map(|by| sums_of(by, span)).transpose()?.unwrap_or_default();
    let series: Vec<_> = groups.iter().take(series_max).map(|(group, _)| group).collect();
    let day = |day: &Span| {
        let (mut all, mut spend) = (UsageSum::default(), vec![Money::ZERO; series.len() + 1]);
        for (group, sum) in sums_of(by.unwrap_or(&GroupBy::Project), *day)? {
            let at = series.iter().position(|name| **name == group).unwrap_or(series.len());
            spend[at] = spend[at] + sum.cost;
            all.add(&sum);
        }
        Ok((all, spend))
    };
    let days = days.iter().map(day).collect::<rusqlite::Result<_>>()?;
    Ok(DailyUsage { groups, days })
}

const USAGE_COLUMNS: &str = concat!(
    "start_s, project, api_key, end_user, tags, endpoint, model, served_model, requests, cost_nano, ",
    quantity_columns!()
);

impl GroupBy {
    /// The groups that a row of [`USAGE_COLUMNS`] is of.
    fn groups(&self, row: &Row<'_>, start_s: i64) -> rusqlite::Result<Vec<Vec<String>>> {
        let one = |at: usize| Ok(vec![vec![row.get(at)?]]);
        match self {
            Self::Project => one(1),
            Self::Key => one(2),
            Self::User => one(3),
            Self::Endpoint => one(5),
            Self::Model => one(if row.get_ref(7)?.as_str()?.is_empty() { 6 } else { 7 }),
            Self::Tag => {
                let tags = tags_from(row.get_ref(4)?.as_str()?)?;
                Ok(tags.into_iter().map(|(tag, value)| vec![tag, value]).collect())
            }
            Self::Day(days) => {
                let day = days.get(days.partition_point(|day| day.end_s <= start_s));
                Ok(vec![vec![day.map_or(start_s, |day| day.start_s).to_string()]])
            }
        }
    }

    /// Whether it tells parts of a day apart.
    fn cuts(&self, day: Span) -> bool {
        let Self::Day(days) = self else { return false };
        days.get(days.partition_point(|of| of.end_s <= day.start_s)).is_some_and(|of| of.cuts(day))
    }

    fn ordered(&self, sums: HashMap<Vec<String>, UsageSum>) -> Groups {
        let mut sums: Vec<_> = sums.into_iter().collect();
        if matches!(self, Self::Day(_)) {
            sums.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        } else {
            sums.sort_unstable_by(|a, b| b.1.cost.cmp(&a.1.cost).then_with(|| a.0.cmp(&b.0)));
        }
        sums
    }
}

/// What each subject of a limit has settled in one window, from the entries:
/// slower, and independent of the rollups as far as entries were not pruned.
pub(super) fn settled_by_entries(
    db: &Connection,
    limit: &Limit,
    span: Span,
    names: &dyn Names,
) -> rusqlite::Result<HashMap<Subject, i64>> {
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
pub(super) fn counted(
    db: &Connection,
    limit: &Limit,
    span: Span,
    count_max: usize,
    names: &dyn Names,
) -> rusqlite::Result<(Vec<(Subject, Entry)>, usize)> {
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

/// Hands out the ids of keys with Unix milliseconds at which they were used; a
/// key may come again and again.
pub(super) fn each_use(db: &Connection, mut each: impl FnMut(&str, i64)) -> rusqlite::Result<()> {
    let reading = Reading { columns: "api_key, last_ms", by_user: false, span: Span::ALWAYS };
    days::each_row(
        db,
        reading,
        |_| false,
        |row| {
            each(row.get_ref(0)?.as_str()?, row.get(1)?);
            Ok(true)
        },
    )
}
