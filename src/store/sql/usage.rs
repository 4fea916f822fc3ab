//! Sums of usage by group, for operators.
//!
//! They come from `rollup` and the days made of it, so that a question about a month costs
//! little; `verify` proves both against entries.

use std::collections::HashMap;

use crate::domain::{Money, Span};
use crate::store::reports::{DailyUsage, GroupBy, Groups, UsageFilter, UsageSum};
use crate::store::sql::codec::{tags_from, uint};
use crate::store::sql::days::{self, Reading};
use crate::store::sql::quantities::{quantities_from, quantity_columns};
use crate::store::sql::{Db, Result, Row};

/// Sums of usage by group for each question, in one pass: the costliest first, days in
/// their order. Spans are widened to whole quarters of an hour.
pub(crate) fn usages<const N: usize>(
    db: Db<'_>,
    questions: [(&GroupBy, Span); N],
    keep: impl Fn(&str, &str) -> bool,
) -> Result<[Groups; N]> {
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
        if !keep(row.text(1)?, row.text(2)?) {
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
pub(crate) fn daily_usage(
    db: Db<'_>,
    by: Option<&GroupBy>,
    span: Span,
    days: &[Span],
    series_max: usize,
    filter: &UsageFilter,
) -> Result<DailyUsage> {
    let selects = |project: &str, key: &str| filter.selects(project, key);
    let sums_of = |by: &GroupBy, span: Span| usages(db, [(by, span)], selects).map(|[groups]| groups);
    db.snapshot(|| {
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
        let days = days.iter().map(day).collect::<Result<_>>()?;
        Ok(DailyUsage { groups, days })
    })
}

const USAGE_COLUMNS: &str = concat!(
    "start_s, project, api_key, end_user, tags, endpoint, model, served_model, requests, cost_nano, ",
    quantity_columns!()
);

impl GroupBy {
    /// The groups that a row of [`USAGE_COLUMNS`] is of.
    fn groups(&self, row: &Row<'_>, start_s: i64) -> Result<Vec<Vec<String>>> {
        let one = |at: usize| Ok(vec![vec![row.get(at)?]]);
        match self {
            Self::Project => one(1),
            Self::Key => one(2),
            Self::User => one(3),
            Self::Endpoint => one(5),
            Self::Model => one(if row.text(7)?.is_empty() { 6 } else { 7 }),
            Self::Tag => {
                let tags = tags_from(row.text(4)?)?;
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

/// Hands out the ids of keys with Unix milliseconds at which they were used; a
/// key may come again and again.
pub(crate) fn each_use(db: Db<'_>, mut each: impl FnMut(&str, i64)) -> Result<()> {
    let reading = Reading { columns: "api_key, last_ms", by_user: false, span: Span::ALWAYS };
    days::each_row(
        db,
        reading,
        |_| false,
        |row| {
            each(row.text(0)?, row.get(1)?);
            Ok(true)
        },
    )
}
