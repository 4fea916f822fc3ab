//! Sums of days, made of rollups once their quarters of an hour are over.
//!
//! A month has far fewer of them than of quarters, so what looks back far reads
//! these, and quarters only where they do not reach. No request waits for them:
//! they follow by themselves, a bounded number of rows at a time. What comes
//! later than that is added to both.
//!
//! A day is another in every time zone. So each sum is of a span that no
//! midnight of the zones in use cuts; a question about less than one reads
//! the quarters of it.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::domain::{Span, Window};
use crate::ledger::calendar;
use crate::store::reports::ROLLUP_S;
use crate::store::sql::columns::{json_from, json_text};
use crate::store::sql::rollup::{COLUMNS, RollupKey, RollupSums, Table, row_from, upsert_rollup};
use crate::store::sql::{Db, Result, Row, params};

/// Rows that are added at once: some five milliseconds, in which nothing else is
/// written.
const ROWS_MAX: usize = 500;

/// What is added to rows of a table.
pub(crate) type TableSums = (Table, BTreeMap<RollupKey, RollupSums>);

/// A span that is summed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Day {
    pub(crate) span: Span,
    /// Where it goes on, if its last quarter is only summed up in part.
    next: Option<RollupKey>,
}

impl Day {
    /// A span, and the text of its column `next`.
    pub(crate) fn of(span: Span, next: Option<&str>) -> Result<Self> {
        let row_of = || format!("the span from {}", span.start_s);
        let next = next.map(|names| json_from(names, "rollup_day_span.next", row_of)).transpose()?;
        Ok(Self { span, next: next.map(|names| RollupKey { start_s: span.end_s - ROLLUP_S, names }) })
    }

    /// Whether it sums up what has this key.
    pub(crate) fn holds(&self, key: &RollupKey) -> bool {
        self.span.contains(key.start_s) && *key < self.end()
    }

    /// The first key that is not summed up.
    fn end(&self) -> RollupKey {
        let whole = || RollupKey { start_s: self.span.end_s, ..RollupKey::default() };
        self.next.clone().unwrap_or_else(whole)
    }
}

/// All spans that are summed up, in their order.
pub(crate) fn days(db: Db<'_>) -> Result<Vec<Day>> {
    db.rows("SELECT start_s, end_s, next FROM rollup_day_span ORDER BY start_s", &[], day_from)
}

fn last(db: Db<'_>) -> Result<Option<Day>> {
    let sql = "SELECT start_s, end_s, next FROM rollup_day_span ORDER BY start_s DESC LIMIT 1";
    db.optional(sql, &[], day_from)
}

fn day_from(row: &Row<'_>) -> Result<Day> {
    Day::of(Span { start_s: row.get(0)?, end_s: row.get(1)? }, row.optional_text(2)?)
}

/// The first key that is not summed up; the least of all while nothing is.
pub(crate) fn end(db: Db<'_>) -> Result<RollupKey> {
    let none = RollupKey { start_s: i64::MIN, ..RollupKey::default() };
    Ok(last(db)?.map_or(none, |day| day.end()))
}

/// Adds to a quarter and, if that is summed up already, to its day. `end` is
/// what [`end`] says.
pub(crate) fn add(db: Db<'_>, end: &RollupKey, key: &RollupKey, sums: &RollupSums) -> Result<()> {
    upsert_rollup(db, Table::Quarters, key, sums)?;
    if key >= end {
        return Ok(());
    }
    let sql = "SELECT MAX(start_s) FROM rollup_day_span WHERE start_s <= ?1 AND end_s > ?1";
    let day: Option<i64> = db.row(sql, params![key.start_s], |row| row.get(0))?;
    // What is in no span is read from its quarters.
    let Some(start_s) = day else { return Ok(()) };
    for table in [Table::Days, Table::DaysByUser] {
        upsert_rollup(db, table, &key.within(start_s, table), sums)?;
    }
    Ok(())
}

/// What many quarters add to each table, where the spans are known that end after the first of them
/// has begun, in their order. Who writes them goes table by table, in the order of keys: so of
/// transactions that write at once none waits for another that waits for it.
pub(crate) fn in_tables(days: &[Day], quarters: BTreeMap<RollupKey, RollupSums>) -> Vec<TableSums> {
    let end = days.last().map(Day::end);
    let of_days = |table| {
        let mut sums_of: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
        for (key, sums) in end.iter().flat_map(|end| quarters.range(..end)) {
            let Some(day) = days.iter().find(|day| day.span.contains(key.start_s)) else { continue };
            sums_of.entry(key.within(day.span.start_s, table)).or_default().merge(sums);
        }
        (table, sums_of)
    };
    let [days, days_by_user] = [Table::Days, Table::DaysByUser].map(of_days);
    vec![(Table::Quarters, quarters), days, days_by_user]
}

/// Sums up some more rows of quarters that ended before a time; `false` if there
/// are none.
pub(crate) fn sum_up(db: Db<'_>, before_s: i64, zones: &[TimeZone]) -> Result<bool> {
    db.transaction(|| sum_up_some(db, before_s, zones))
}

/// Whether there are rows of quarters to sum up that ended before a time, or a day to remove that
/// was summed up for other zones.
pub(crate) fn is_to_sum_up(db: Db<'_>, before_s: i64, zones: &[TimeZone]) -> Result<bool> {
    let rows = rows_from(db, &end(db)?, before_s.saturating_sub(ROLLUP_S))?;
    Ok(!rows.is_empty() || first_cut(db, zones)?.is_some())
}

fn sum_up_some(db: Db<'_>, before_s: i64, zones: &[TimeZone]) -> Result<bool> {
    let last = last(db)?;
    let rows = rows_from(db, &end(db)?, before_s.saturating_sub(ROLLUP_S))?;
    let Some((RollupKey { start_s, .. }, _)) = rows.first() else { return Ok(false) };
    let start_s = *start_s;
    let is_of_day = |day: &Day| day.next.is_some() || day_end_s(zones, day.span.start_s) > start_s;
    let day_start_s = last.filter(is_of_day).map_or(start_s, |day| day.span.start_s);
    let of_quarter = rows.iter().take_while(|(key, _)| key.start_s == start_s).count();
    let (now, later) = rows.split_at(of_quarter.min(ROWS_MAX));
    for table in [Table::Days, Table::DaysByUser] {
        let mut sums: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
        for (key, quarter) in now {
            sums.entry(key.within(day_start_s, table)).or_default().merge(quarter);
        }
        for (key, sums) in &sums {
            upsert_rollup(db, table, key, sums)?;
        }
    }
    let next = later.first().filter(|(key, _)| key.start_s == start_s);
    let next = next.map(|(key, _)| json_text(&key.names)).transpose()?;
    db.execute(
        "INSERT INTO rollup_day_span (start_s, end_s, next) VALUES (?1, ?2, ?3) \
         ON CONFLICT (start_s) DO UPDATE SET end_s = excluded.end_s, next = excluded.next",
        params![day_start_s, start_s + ROLLUP_S, next],
    )?;
    Ok(true)
}

/// The next rows of quarters that start at or before a time: one more than are
/// added at once.
fn rows_from(db: Db<'_>, from: &RollupKey, until_s: i64) -> Result<Vec<(RollupKey, RollupSums)>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM rollup WHERE (start_s, project, api_key, end_user, tags, endpoint, model, priced_as, \
         served_model) >= (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) AND start_s <= ?10 \
         ORDER BY start_s, project, api_key, end_user, tags, endpoint, model, priced_as, served_model LIMIT {}",
        ROWS_MAX + 1
    );
    let n = &from.names;
    let of = params![from.start_s, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], until_s];
    db.rows(&sql, of, row_from)
}

/// Where the first day ends, of the zones', that a time is in.
fn day_end_s(zones: &[TimeZone], at_s: i64) -> i64 {
    zones.iter().map(|zone| calendar::span(Window::Day, zone, at_s).end_s).min().unwrap_or(i64::MAX)
}

/// The start of the first span that a midnight of the zones cuts, if one does.
pub(crate) fn first_cut(db: Db<'_>, zones: &[TimeZone]) -> Result<Option<i64>> {
    let starts = days(db)?.into_iter().map(|day| day.span);
    let mut cut = starts.filter(|span| day_end_s(zones, span.start_s) < span.end_s);
    Ok(cut.next().map(|span| span.start_s))
}

/// Takes away the last span, unless it starts before a time; `false` if it does.
pub(crate) fn take_away(db: Db<'_>, from_s: i64) -> Result<bool> {
    db.transaction(|| {
        let Some(start_s) = last(db)?.map(|day| day.span.start_s).filter(|start_s| *start_s >= from_s) else {
            return Ok(false);
        };
        for table in [Table::Days.name(), Table::DaysByUser.name(), "rollup_day_span"] {
            db.execute(&format!("DELETE FROM {table} WHERE start_s = ?1"), params![start_s])?;
        }
        Ok(true)
    })
}

/// What a query reads sums of.
pub(crate) struct Reading<'a> {
    /// The columns, among them nothing finer than `by_user` says.
    pub(crate) columns: &'a str,
    /// Whether end users and tags are distinguished.
    pub(crate) by_user: bool,
    /// From when on, and until when; widened to whole quarters.
    pub(crate) span: Span,
}

/// Hands out every row of sums in a time, until `each` wants no more: of days,
/// and of quarters where there are none or where `is_cut` says that a day is to
/// be split.
pub(crate) fn each_row(
    db: Db<'_>,
    Reading { columns, by_user, span }: Reading<'_>,
    is_cut: impl FnMut(Span) -> bool,
    mut each: impl FnMut(&Row<'_>) -> Result<bool>,
) -> Result<()> {
    let table = if by_user { Table::DaysByUser } else { Table::Days };
    let of_days = format!("SELECT {columns} FROM {} WHERE start_s >= ?1 AND start_s < ?2", table.name());
    let of_quarters = format!(
        "SELECT {columns} FROM rollup WHERE start_s >= ?1 AND start_s < ?2 AND (start_s > ?3 OR \
         (project, api_key, end_user, tags, endpoint, model, priced_as, served_model) >= \
         (?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11))"
    );
    // Days and quarters must be of one instant.
    db.snapshot(|| {
        for Segment { is_of_days, span: Span { start_s, end_s }, from } in
            segments(days(db)?, whole_quarters(span), is_cut)
        {
            let mut is_over = false;
            let each = |row: &Row<'_>| {
                is_over = !each(row)?;
                Ok(!is_over)
            };
            if is_of_days {
                db.each(&of_days, params![start_s, end_s], each)?;
            } else {
                let (from_s, n) = (from.start_s, &from.names);
                let of = params![start_s, end_s, from_s, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]];
                db.each(&of_quarters, of, each)?;
            }
            if is_over {
                break;
            }
        }
        Ok(())
    })
}

/// Times whose sums are in one table.
pub(crate) struct Part {
    pub(crate) table: Table,
    /// Where its sums start.
    pub(crate) starts: Vec<i64>,
    /// Of quarters, the first key that no day before sums up.
    pub(crate) from: RollupKey,
}

/// What a time, widened to whole quarters, is made of: days where they are summed
/// up, else quarters.
pub(crate) fn parts(db: Db<'_>, span: Span) -> Result<Vec<Part>> {
    let days = days(db)?;
    let starts: Vec<i64> = days.iter().map(|day| day.span.start_s).collect();
    let part = |Segment { is_of_days, span, from }: Segment| {
        let is_in = |start_s: &i64| span.contains(*start_s);
        if is_of_days {
            return Part { table: Table::Days, starts: starts.iter().copied().filter(is_in).collect(), from };
        }
        let quarters = std::iter::successors(Some(span.start_s), |start_s| start_s.checked_add(ROLLUP_S));
        Part { table: Table::Quarters, starts: quarters.take_while(is_in).collect(), from }
    };
    Ok(segments(days, whole_quarters(span), |_| false).into_iter().map(part).collect())
}

/// Widened to whole quarters.
pub(crate) fn whole_quarters(Span { start_s, end_s }: Span) -> Span {
    let up = |at_s: i64| at_s.saturating_add(ROLLUP_S - 1).div_euclid(ROLLUP_S).saturating_mul(ROLLUP_S);
    Span { start_s: start_s.div_euclid(ROLLUP_S).saturating_mul(ROLLUP_S), end_s: up(end_s) }
}

/// Rows of one table, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    is_of_days: bool,
    span: Span,
    /// Of quarters, the first key that no day before sums up.
    from: RollupKey,
}

/// What a time is made of.
fn segments(days: Vec<Day>, span: Span, mut is_cut: impl FnMut(Span) -> bool) -> Vec<Segment> {
    let mut found: Vec<Segment> = Vec::new();
    let mut rest =
        Segment { is_of_days: false, span, from: RollupKey { start_s: i64::MIN, ..RollupKey::default() } };
    let fits = |day: &Day| span.start_s <= day.span.start_s && day.span.end_s <= span.end_s;
    for day in days.into_iter().filter(fits) {
        if is_cut(day.span) {
            continue;
        }
        let end = day.end();
        if rest.span.start_s < day.span.start_s {
            found.push(Segment { span: Span { end_s: day.span.start_s, ..rest.span }, ..rest });
        }
        match found.last_mut().filter(|last| last.is_of_days && last.span.end_s == day.span.start_s) {
            Some(last) => last.span.end_s = day.span.end_s,
            None => found.push(Segment { is_of_days: true, span: day.span, from: RollupKey::default() }),
        }
        rest = Segment { is_of_days: false, span: Span { start_s: end.start_s, ..span }, from: end };
    }
    found.push(rest);
    found
}

#[cfg(test)]
mod tests;
