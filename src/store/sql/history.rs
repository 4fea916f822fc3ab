//! What limits that come into force have settled before: all of them in one
//! pass over the past, so that a thousand cost little more than one.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::domain::limit::{Per, Unit};
use crate::domain::{Limit, Span, Window};
use crate::ledger::Past;
use crate::ledger::calendar::Windows;
use crate::ledger::entry::{Attribution, Entry};
use crate::ledger::limit_index::LimitIndex;
use crate::ledger::meter::{Subject, subjects};
use crate::store::records::Names;
use crate::store::reports::ROLLUP_S;
use crate::store::sql::codec::{ENTRY_COLUMNS, attribution_from, entry_from, int};
use crate::store::sql::days::{self, Reading};
use crate::store::sql::quantities::{quantities_from, quantity_columns};
use crate::store::sql::{Db, Result, Row, params};

/// Whom spending was for, in the columns that say so.
const DIMENSIONS: usize = 7;
/// Attributions whose meters are remembered; some 500 bytes each.
const KNOWN_MAX: usize = 200_000;

/// What each of the limits has settled in its windows from a time on, where one
/// of them starts; in their order.
pub(crate) fn settled(db: Db<'_>, wanted: &[(&Limit, i64)], names: &dyn Names) -> Result<Vec<Past>> {
    let mut pasts: Vec<Past> = wanted.iter().map(|_| Past::new()).collect();
    let mut by_rollups = Vec::new();
    for (place, (limit, since_s)) in wanted.iter().enumerate() {
        let first = Windows::of(limit).span(*since_s);
        // Windows shorter than a rollup are summed from the entries themselves.
        if first.end_s.saturating_sub(first.start_s) < ROLLUP_S {
            pasts[place] = of_entries(db, limit, *since_s, names)?;
        } else {
            by_rollups.push(place);
        }
    }
    let summed: Vec<(&Limit, i64)> = by_rollups.iter().map(|place| wanted[*place]).collect();
    for (place, past) in by_rollups.into_iter().zip(of_rollups(db, &summed, i64::MAX, names)?) {
        pasts[place] = past;
    }
    Ok(pasts)
}

/// What each subject of a limit has settled in a part of one window that is made
/// of whole quarters of an hour.
pub(crate) fn within(
    db: Db<'_>,
    limit: &Limit,
    part: Span,
    names: &dyn Names,
) -> Result<HashMap<Subject, i64>> {
    let mut sums = HashMap::new();
    for past in of_rollups(db, &[(limit, part.start_s)], part.end_s, names)? {
        for ((subject, _), amount) in past {
            let sum: &mut i64 = sums.entry(subject).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
    Ok(sums)
}

/// What each of the limits has settled before a time that ends a quarter of an hour, in the window
/// that it is in; in their order.
pub(crate) fn before(
    db: Db<'_>,
    limits: &[Arc<Limit>],
    until_s: i64,
    names: &dyn Names,
) -> Result<Vec<Past>> {
    let start_s = |limit: &Limit| Windows::of(limit).span(until_s).start_s;
    let wanted: Vec<(&Limit, i64)> = limits.iter().map(|limit| (&**limit, start_s(limit))).collect();
    of_rollups(db, &wanted, until_s, names)
}

fn of_entries(db: Db<'_>, limit: &Limit, since_s: i64, names: &dyn Names) -> Result<Past> {
    let (windows, mut past) = (Windows::of(limit), Past::new());
    let rest = Span { start_s: since_s, end_s: i64::MAX };
    each_settled(db, limit, rest, names, |subject, entry| {
        let start_s = windows.span(entry.admitted_ms.div_euclid(1_000)).start_s;
        add(&mut past, subject, start_s, entry.amount(limit.unit));
    })?;
    Ok(past)
}

/// Hands out each entry that a limit counts, with its subject; once for each of several.
pub(crate) fn each_settled(
    db: Db<'_>,
    limit: &Limit,
    span: Span,
    names: &dyn Names,
    mut each: impl FnMut(Subject, Entry),
) -> Result<()> {
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 \
         AND kind IN ('settle', 'adjust')"
    );
    let ms = |s: i64| s.saturating_mul(1_000);
    db.each(&sql, params![ms(span.start_s), ms(span.end_s)], |row| {
        let entry = entry_from(row, names)?;
        let mut subjects = subjects(limit, &entry.attribution).peekable();
        while let Some(subject) = subjects.next() {
            if subjects.peek().is_none() {
                each(subject, entry);
                break;
            }
            each(subject, entry.clone());
        }
        Ok(true)
    })
}

fn add(past: &mut Past, subject: Subject, start_s: i64, amount: i64) {
    let sum: &mut i64 = past.entry((subject, start_s)).or_default();
    *sum = sum.saturating_add(amount);
}

/// A limit's meter that an entry counts on.
struct Target {
    limit: usize,
    subject: Subject,
    /// The window that was added to last, and what was added.
    span: Span,
    amount: i64,
}

fn of_rollups(db: Db<'_>, wanted: &[(&Limit, i64)], until_s: i64, names: &dyn Names) -> Result<Vec<Past>> {
    let windows: Vec<Windows> = wanted.iter().map(|(limit, _)| Windows::of(limit)).collect();
    let index = LimitIndex::of(wanted.iter().map(|(limit, _)| *limit));
    let mut pasts: Vec<Past> = wanted.iter().map(|_| Past::new()).collect();
    let Some(first_s) = wanted.iter().map(|(_, since_s)| *since_s).min() else { return Ok(pasts) };
    let mut known: HashMap<Vec<u8>, Vec<Target>, RandomState> = HashMap::default();
    let (mut of, span) = (Vec::new(), Span { start_s: first_s, end_s: until_s });
    let reading = Reading { columns: COLUMNS, by_user: needs_users(wanted), span };
    days::each_row(db, reading, cuts(wanted), |row| {
        let start_s = row.get(START_S_AT)?;
        of.clear();
        for column in 0..DIMENSIONS {
            // No text holds this byte, so no two attributions look alike.
            of.extend_from_slice(row.text(column)?.as_bytes());
            of.push(0xff);
        }
        if !known.contains_key(&of) {
            if known.len() == KNOWN_MAX {
                settle(&mut pasts, known.drain().flat_map(|(_, targets)| targets));
            }
            known.insert(of.clone(), targets(wanted, &index, &attribution_from(row, 0, names)?));
        }
        for target in known.get_mut(&of).into_iter().flatten() {
            let (limit, since_s) = wanted[target.limit];
            if start_s < since_s {
                continue;
            }
            if !target.span.contains(start_s) {
                add(&mut pasts[target.limit], target.subject.clone(), target.span.start_s, target.amount);
                (target.span, target.amount) = (windows[target.limit].span(start_s), 0);
            }
            target.amount = target.amount.saturating_add(amount(row, limit.unit)?);
        }
        Ok(true)
    })?;
    settle(&mut pasts, known.into_values().flatten());
    for past in &mut pasts {
        past.retain(|_, amount| *amount != 0);
    }
    Ok(pasts)
}

const COLUMNS: &str = concat!(
    "project, api_key, end_user, tags, endpoint, model, priced_as, requests, cost_nano, start_s, ",
    quantity_columns!()
);
const START_S_AT: usize = 9;
const QUANTITIES_AT: usize = 10;

/// Whether one of the limits asks who the end user is, or for a tag.
fn needs_users(wanted: &[(&Limit, i64)]) -> bool {
    let is_by_user =
        |limit: &Limit| matches!(limit.per, Per::User | Per::Tag(_)) || !limit.only.tags.is_empty();
    wanted.iter().any(|(limit, _)| is_by_user(limit))
}

/// Says which days the limits' windows tell parts of apart.
fn cuts(wanted: &[(&Limit, i64)]) -> impl FnMut(Span) -> bool {
    // Of a thousand limits nearly all have the same windows.
    let mut kinds: Vec<(Window, &str, i64, Windows)> = Vec::new();
    for (limit, since_s) in wanted {
        let is_like = |(window, zone, since, _): &(Window, &str, i64, Windows)| {
            (*window, *zone, *since) == (limit.window, &*limit.zone, *since_s)
        };
        if !kinds.iter().any(is_like) {
            kinds.push((limit.window, &limit.zone, *since_s, Windows::of(limit)));
        }
    }
    move |day| {
        kinds.iter().any(|(_, _, since_s, windows)| {
            let first_s = day.start_s.max(*since_s);
            first_s < day.end_s && windows.span(first_s).cuts(day)
        })
    }
}

fn settle(pasts: &mut [Past], targets: impl Iterator<Item = Target>) {
    for Target { limit, subject, span, amount } in targets {
        add(&mut pasts[limit], subject, span.start_s, amount);
    }
}

fn targets(wanted: &[(&Limit, i64)], index: &LimitIndex, of: &Attribution) -> Vec<Target> {
    let target = |limit: &usize| {
        let limit = *limit;
        let none = Span { start_s: 0, end_s: 0 };
        subjects(wanted[limit].0, of).map(move |subject| Target { limit, subject, span: none, amount: 0 })
    };
    index.places(of).iter().flat_map(target).collect()
}

fn amount(row: &Row<'_>, unit: Unit) -> Result<i64> {
    match unit {
        Unit::Usd => row.get(8),
        Unit::Requests => row.get(7),
        Unit::Tokens => Ok(int(quantities_from(row, QUANTITIES_AT)?.tokens_total())),
        Unit::InputTokens => Ok(int(quantities_from(row, QUANTITIES_AT)?.input_tokens_total())),
        Unit::OutputTokens => Ok(int(quantities_from(row, QUANTITIES_AT)?.output_tokens_total())),
    }
}
