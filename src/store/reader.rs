//! What is read from the database: entries, sums for usage, sums for limits.
//!
//! Sums come from `rollup`, so that a question about a month costs no more than
//! the quarters of an hour in it; `verify` proves rollups against entries.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use crate::domain::{Limit, Money, Span, Tokens};
use crate::ledger::entry::{Basis, Entry, Kind};
use crate::ledger::meter::{Subject, subject};
use crate::store::StoreError;
use crate::store::rollup::ROLLUP_S;
use crate::store::rows::{ENTRY_COLUMNS, Names, entry_from, int, tags_from, tokens_from};

/// A read-only connection; clones share it.
#[derive(Clone, Debug)]
pub struct Reader {
    db: Arc<Mutex<Connection>>,
}

/// Which entries are wanted. Times are Unix seconds, `until` exclusive.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// Of this key.
    pub key: Option<String>,
    /// Of this project.
    pub project: Option<String>,
    /// Admitted at or after.
    pub since_s: Option<i64>,
    /// Admitted before.
    pub until_s: Option<i64>,
    /// Known on this basis.
    pub basis: Option<Basis>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this id or a later one: how far back it is looked.
    pub from: Option<u64>,
    /// After (in the order asked for) this id.
    pub after: Option<u64>,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// At most so many.
    pub count_max: usize,
}

/// By what usage is summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Each key.
    Key,
    /// Each project.
    Project,
    /// Each model that served.
    Model,
    /// Each end user.
    User,
    /// Each day of a calendar; the offsets are given by span.
    Day(Vec<Span>),
    /// Each endpoint.
    Endpoint,
    /// Each tag with its value.
    Tag,
}

/// A sum of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Settled requests.
    pub requests: u64,
    /// What they cost, corrections included.
    pub cost: Money,
    /// What they used.
    pub tokens: Tokens,
}

impl Reader {
    pub(crate) fn new(db: Connection) -> Self {
        Self { db: Arc::new(Mutex::new(db)) }
    }

    /// Runs a query on the shared connection. It blocks: not for the proxy.
    pub fn query<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        // A poisoned lock means that a query panicked; the connection is sound.
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(work(&db)?)
    }
}

/// The entries that fit a filter, in its order.
pub fn entries(db: &Connection, filter: &EntryFilter, names: &dyn Names) -> rusqlite::Result<Vec<Entry>> {
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
pub fn entry(db: &Connection, id: u64, names: &dyn Names) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {ENTRY_COLUMNS} FROM entry WHERE id = ?1");
    db.prepare_cached(&sql)?.query_row([int(id)], |row| entry_from(row, names)).optional()
}

/// The sums of usage by group, the costliest first; days in their order.
///
/// `since` and `until` are widened to whole quarters of an hour.
pub fn usage(
    db: &Connection,
    by: &GroupBy,
    since_s: i64,
    until_s: i64,
    keep: impl Fn(&str, &str) -> bool,
) -> rusqlite::Result<Vec<(Vec<String>, UsageSum)>> {
    let mut statement = db.prepare_cached(
        "SELECT start_s, project, api_key, end_user, tags, endpoint, model, served_model, requests, cost_nano, \
         input, cached_input, cache_write, cache_write_12h, audio_input, audio_cached_input, image_input, \
         image_cached_input, output, reasoning, audio_output, image_output FROM rollup \
         WHERE start_s >= ?1 AND start_s < ?2",
    )?;
    let since_s = since_s.div_euclid(ROLLUP_S).saturating_mul(ROLLUP_S);
    let mut rows = statement.query([since_s, until_s])?;
    let mut sums: HashMap<Vec<String>, UsageSum> = HashMap::new();
    while let Some(row) = rows.next()? {
        let text = |at: usize| row.get::<_, String>(at);
        let (project, key) = (text(1)?, text(2)?);
        if !keep(&project, &key) {
            continue;
        }
        let groups = match by {
            GroupBy::Key => vec![vec![key]],
            GroupBy::Project => vec![vec![project]],
            GroupBy::User => vec![vec![text(3)?]],
            GroupBy::Endpoint => vec![vec![text(5)?]],
            GroupBy::Model => {
                let (asked, served) = (text(6)?, text(7)?);
                vec![vec![if served.is_empty() { asked } else { served }]]
            }
            GroupBy::Tag => tags_from(&text(4)?).into_iter().map(|(tag, value)| vec![tag, value]).collect(),
            GroupBy::Day(days) => {
                let start_s: i64 = row.get(0)?;
                let day = days.partition_point(|day| day.end_s <= start_s);
                vec![vec![days.get(day).map_or(start_s, |day| day.start_s).to_string()]]
            }
        };
        let requests = u64::try_from(row.get::<_, i64>(8)?).unwrap_or(0);
        let (cost, tokens) = (Money::from_nano(row.get(9)?), tokens_from(row, 10)?);
        for group in groups {
            let sum = sums.entry(group).or_default();
            sum.requests += requests;
            sum.cost = sum.cost + cost;
            sum.tokens += tokens;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    if matches!(by, GroupBy::Day(_)) {
        sums.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    } else {
        sums.sort_unstable_by(|a, b| b.1.cost.cmp(&a.1.cost).then_with(|| a.0.cmp(&b.0)));
    }
    Ok(sums)
}

/// What each subject of a limit has settled in one window, from the entries:
/// slower, and independent of the rollups.
pub fn settled_by_entries(
    db: &Connection,
    limit: &Limit,
    span: Span,
    names: &dyn Names,
) -> rusqlite::Result<HashMap<Subject, i64>> {
    let mut sums = HashMap::new();
    each_settled(db, limit, span, names, |subject, entry| {
        let sum: &mut i64 = sums.entry(subject).or_default();
        *sum = sum.saturating_add(entry.amount(limit.unit));
    })?;
    Ok(sums)
}

/// The newest entries that a limit counts in one window, newest first, and how
/// many there are in all.
pub fn counted(
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
        newest.insert(entry.id, (subject, entry));
        if newest.len() > count_max {
            newest.pop_first();
        }
    })?;
    Ok((newest.into_values().rev().collect(), count))
}

/// Hands out each entry that a limit counts, with its subject.
pub(super) fn each_settled(
    db: &Connection,
    limit: &Limit,
    span: Span,
    names: &dyn Names,
    mut each: impl FnMut(Subject, Entry),
) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 \
         AND kind IN ('settle', 'adjust')"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let ms = |s: i64| s.saturating_mul(1_000);
    let mut rows = statement.query([ms(span.start_s), ms(span.end_s)])?;
    while let Some(row) = rows.next()? {
        let entry = entry_from(row, names)?;
        if let Some(subject) = subject(limit, &entry.attribution) {
            each(subject, entry);
        }
    }
    Ok(())
}

/// Hands out the ids of keys with Unix milliseconds at which they were used, to a
/// quarter of an hour or better; a key may come again and again.
pub fn each_use(db: &Connection, mut each: impl FnMut(&str, i64)) -> rusqlite::Result<()> {
    let mut statement = db.prepare("SELECT api_key, last_ms FROM rollup")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(row.get_ref(0)?.as_str()?, row.get(1)?);
    }
    Ok(())
}
