//! Limits that come into force: their meters are made of the past and of all open holds.
//!
//! Meters are made while no group is open on any guard, so that entries and holds are those of
//! one instant. A past is added up before, while requests go on, and caught up with in rounds,
//! until only little was written since: that is added while others wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::{Limit, Window};
use crate::ledger::Past;
use crate::ledger::calendar::Windows;
use crate::ledger::entry::{Crossing, Hold, reserved};
use crate::ledger::meter::{Meter, Subject, subjects};
use crate::store::postgres::clock::now_ms;
use crate::store::postgres::past::{Pasts, Seen};
use crate::store::postgres::transaction::IDS;
use crate::store::records::ActiveLimit;
use crate::store::reports::ROLLUP_S;
use crate::store::sql::batch::{Batch, Kept};
use crate::store::sql::codec::{ENTRY_COLUMNS, entry_from, insert_entry, int, uint};
use crate::store::sql::rollup::Ids;
use crate::store::sql::{Db, Result, crossings, history, params, pruned, verify};

/// Entries that are read, and meters that are written, by one statement.
const AT_ONCE: usize = 10_000;
/// Entries that are few enough to be added while changes of the rules wait.
const FEW: usize = 1_000;
/// What of entries above an id limits count.
const COUNTED_ABOVE: &str = "FROM entry WHERE id > ?1 AND kind IN ('settle', 'adjust')";
const METER_COLUMNS: &str = "limit_name, subject, start_s, end_s, settled, held";
/// An array of numbers, from its text.
const NUMBERS: &str = "CAST(CAST(?1 AS TEXT) AS BIGINT[])";

/// The meters of a limit, by subject and the start of their window.
type Meters = HashMap<(Subject, i64), Meter>;

/// Whether these limits are in force already, so that nothing has to be written.
pub(super) fn is_in_force(db: Db<'_>, of_file: &[(String, String)], limits: &[ActiveLimit]) -> Result<bool> {
    let (active, file): (HashMap<_, _>, HashMap<_, _>) =
        (active(db)?.into_iter().collect(), self::of_file(db)?.into_iter().collect());
    let same = |known: &HashMap<String, String>, name: &str, rule: &str| {
        known.get(name).is_some_and(|known| known == rule)
    };
    let is_same = active.len() == limits.len()
        && file.len() == of_file.len()
        && limits.iter().all(|of| of.counts_as_before && same(&active, &of.limit.name, &of.rule))
        && of_file.iter().all(|(name, rule)| same(&file, name, rule));
    Ok(is_same)
}

/// The limits in force, with ids in place of names: name, and rule as JSON.
pub(super) fn active(db: Db<'_>) -> Result<Vec<(String, String)>> {
    rules(db, "SELECT name, rule FROM active_limit ORDER BY name")
}

/// The limits of the configuration file, as they are written there: name, and rule as JSON.
pub(super) fn of_file(db: Db<'_>) -> Result<Vec<(String, String)>> {
    rules(db, "SELECT name, rule FROM file_limit ORDER BY name")
}

fn rules(db: Db<'_>, sql: &str) -> Result<Vec<(String, String)>> {
    db.rows(sql, &[], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Those of the limits whose past has to be added up before they come into force: all that have
/// one, unless it is known of each. `pasts` are caught up with the present.
pub(super) fn lacking(db: Db<'_>, limits: &[ActiveLimit], pasts: &mut Pasts) -> Result<Vec<Arc<Limit>>> {
    let new = new_limits(&names_in_force(db)?, limits);
    if !pasts.is_empty() {
        catch_up(db, pasts)?;
        if !is_whole(db, pasts)? {
            *pasts = Pasts::default();
        }
    }
    let now_s = now_ms(db)?.div_euclid(1_000);
    let (mut with_past, mut is_known) = (Vec::new(), true);
    for limit in new {
        let span = Windows::of(&limit).span(now_s);
        if span.end_s.saturating_sub(span.start_s) < ROLLUP_S {
            continue;
        }
        if db.exists("SELECT 1 FROM rollup WHERE start_s >= ?1 LIMIT 1", params![span.start_s])? {
            is_known &= pasts.has(&limit, span.start_s);
            with_past.push(limit);
        }
    }
    Ok(if is_known { Vec::new() } else { with_past })
}

/// Adds up what limits have settled up to the instant that the open snapshot is of. `mark` is an
/// id that was given out before, in a change of the rules.
pub(super) fn learn(db: Db<'_>, limits: Vec<Arc<Limit>>, mark: u64) -> Result<Pasts> {
    let seen = Seen { added: ids_above(db, mark)?.into_iter().collect(), open: open_up_to(db, mark)? };
    let now_s = now_ms(db)?.div_euclid(1_000);
    let since_s: Vec<i64> = limits.iter().map(|limit| Windows::of(limit).span(now_s).start_s).collect();
    let wanted: Vec<(&Limit, i64)> =
        limits.iter().zip(&since_s).map(|(limit, since_s)| (&**limit, *since_s)).collect();
    let pasts = history::settled(db, &wanted, &Ids)?;
    let settled = limits.into_iter().zip(since_s).zip(pasts);
    Ok(Pasts::new(mark, seen, settled.map(|((limit, since_s), past)| (limit, since_s, past))))
}

/// Whether more was written since a mark than may be read while others wait, beside so many entries
/// that are added.
pub(super) fn is_far_behind(db: Db<'_>, mark: u64, added: usize) -> Result<bool> {
    let few = added.saturating_add(FEW);
    db.exists(&format!("SELECT 1 {COUNTED_ABOVE} OFFSET {few} LIMIT 1"), params![int(mark)])
}

/// Catches up with the instant that the open snapshot is of, and goes on from a mark that was made
/// before it. Nothing is known any more if some of it was pruned.
pub(super) fn go_on(db: Db<'_>, mut pasts: Pasts, mark: u64) -> Result<Pasts> {
    catch_up(db, &mut pasts)?;
    if !is_whole(db, &pasts)? {
        return Ok(Pasts::default());
    }
    pasts.go_on_from(mark, open_up_to(db, mark)?);
    Ok(pasts)
}

/// The holds up to a mark that have no entry yet.
fn open_up_to(db: Db<'_>, mark: u64) -> Result<HashSet<u64>> {
    let sql = "SELECT id FROM (SELECT id FROM hold UNION ALL SELECT hold_id FROM job) AS held \
               WHERE id <= ?1 AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.id = held.id)";
    Ok(db.rows(sql, params![int(mark)], |row| row.get(0).map(uint))?.into_iter().collect())
}

/// The ids above one that have entries which limits count.
fn ids_above(db: Db<'_>, mark: u64) -> Result<Vec<u64>> {
    db.rows(&format!("SELECT id {COUNTED_ABOVE}"), params![int(mark)], |row| row.get(0).map(uint))
}

/// Adds what was written since.
fn catch_up(db: Db<'_>, pasts: &mut Pasts) -> Result<()> {
    let sought = pasts.sought(ids_above(db, pasts.mark())?);
    // By a join, which has a good plan whatever is known of the table.
    let sql =
        format!("SELECT {ENTRY_COLUMNS} FROM unnest({NUMBERS}) AS o (sought) JOIN entry ON id = sought");
    for ids in sought.chunks(AT_ONCE) {
        db.each(&sql, params![numbers(ids)], |row| {
            pasts.add(&entry_from(row, &Ids)?);
            Ok(true)
        })?;
    }
    Ok(())
}

/// Whether nothing that was written since the mark has been pruned before it was added. While the
/// rules are locked, nothing is, and in a snapshot it is known which was.
fn is_whole(db: Db<'_>, pasts: &Pasts) -> Result<bool> {
    if pruned::pruned(db)?.is_some_and(|pruned| pruned.last_id > pasts.mark()) {
        return Ok(false);
    }
    let open: Vec<u64> = pasts.open().collect();
    let sql = format!(
        "SELECT 1 FROM unnest({NUMBERS}) AS o (id) WHERE NOT EXISTS (SELECT 1 FROM hold WHERE hold.id = o.id) \
         AND NOT EXISTS (SELECT 1 FROM job WHERE hold_id = o.id) \
         AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.id = o.id)"
    );
    Ok(!db.exists(&sql, params![numbers(&open)])?)
}

/// The text of an array.
fn numbers(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

fn names_in_force(db: Db<'_>) -> Result<HashSet<String>> {
    Ok(active(db)?.into_iter().map(|(name, _)| name).collect())
}

/// The limits whose meters have to be made.
fn new_limits(before: &HashSet<String>, limits: &[ActiveLimit]) -> Vec<Arc<Limit>> {
    let is_new =
        |of: &&ActiveLimit| !is_kept(before, of) && !of.limit.is_rate() && of.limit.window != Window::Request;
    limits.iter().filter(is_new).map(|of| Arc::clone(&of.limit)).collect()
}

/// Whether a limit counts on the rows that are there.
fn is_kept(before: &HashSet<String>, of: &ActiveLimit) -> bool {
    of.counts_as_before && before.contains(&*of.limit.name)
}

/// Writes the limits in force, and makes the meters of those that count something new. To be done
/// while all lanes are locked. The meters of those that are gone are removed later, by each guard's
/// upkeep; what is left of them by the time that a limit of that name comes into force goes before.
pub(super) fn activate(
    db: Db<'_>,
    of_file: &[(String, String)],
    limits: &[ActiveLimit],
    pasts: Pasts,
) -> Result<()> {
    let before = names_in_force(db)?;
    for of in limits.iter().filter(|of| !is_kept(&before, of)) {
        db.execute("DELETE FROM meter WHERE limit_name = ?1", params![&*of.limit.name])?;
        db.execute("DELETE FROM rate WHERE limit_name = ?1", params![&*of.limit.name])?;
    }
    make_meters(db, &new_limits(&before, limits), pasts)?;
    db.execute("DELETE FROM active_limit", &[])?;
    for of in limits {
        db.execute(
            "INSERT INTO active_limit (name, rule) VALUES (?1, ?2)",
            params![&*of.limit.name, of.rule],
        )?;
    }
    db.execute("DELETE FROM file_limit", &[])?;
    for (name, rule) in of_file {
        db.execute("INSERT INTO file_limit (name, rule) VALUES (?1, ?2)", params![name, rule])?;
    }
    Ok(())
}

/// Makes the meters of limits from all that is stored: what is known of their pasts is caught up
/// with, the others are added up here.
fn make_meters(db: Db<'_>, limits: &[Arc<Limit>], mut pasts: Pasts) -> Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    if !pasts.is_empty() {
        catch_up(db, &mut pasts)?;
    }
    let now_ms = now_ms(db)?;
    let windows: Vec<Windows> = limits.iter().map(|limit| Windows::of(limit)).collect();
    let since_s = |windows: &Windows| windows.span(now_ms.div_euclid(1_000)).start_s;
    let (mut known, mut unknown): (Vec<Option<Past>>, Vec<(&Limit, i64)>) = Default::default();
    for (limit, since_s) in limits.iter().zip(windows.iter().map(since_s)) {
        let past = pasts.take(limit, since_s);
        if past.is_none() {
            unknown.push((limit, since_s));
        }
        known.push(past);
    }
    let mut others = history::settled(db, &unknown, &Ids)?.into_iter();
    // Those of jobs are among them.
    let holds = verify::open_holds(db, &Ids)?;
    for ((limit, windows), past) in limits.iter().zip(&windows).zip(known) {
        let past = past.or_else(|| others.next()).unwrap_or_default();
        let mut meters: Meters =
            past.into_iter().map(|(place, settled)| (place, Meter { settled, held: 0 })).collect();
        for hold in &holds {
            hold_on(limit, windows, hold, &mut meters);
        }
        put(db, limit, windows, meters, now_ms)?;
    }
    Ok(())
}

fn hold_on(limit: &Limit, windows: &Windows, hold: &Hold, meters: &mut Meters) {
    let start_s = windows.span(hold.admitted_ms.div_euclid(1_000)).start_s;
    for subject in subjects(limit, &hold.attribution) {
        let meter = meters.entry((subject, start_s)).or_default();
        meter.held = meter.held.saturating_add(reserved(&hold.bound, limit.unit));
    }
}

fn put(db: Db<'_>, limit: &Arc<Limit>, windows: &Windows, meters: Meters, now_ms: i64) -> Result<()> {
    let thresholds = limit.thresholds();
    let mut meters: Vec<_> = meters.into_iter().collect();
    meters.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut crossed = Vec::new();
    for ((subject, start_s), Meter { settled, .. }) in &meters {
        for threshold in thresholds.iter().copied().filter(|threshold| threshold <= settled) {
            crossed.push(Crossing::soft(limit, subject.label(), threshold, *start_s, *settled, now_ms));
        }
    }
    for some in meters.chunks(AT_ONCE) {
        let row = |((subject, start_s), Meter { settled, held }): &((Subject, i64), Meter)| {
            let text = |text: &str| Kept::Text(text.to_owned());
            let [start, end] = [*start_s, windows.span(*start_s).end_s].map(Kept::Int);
            vec![text(&limit.name), text(subject.label()), start, end, Kept::Int(*settled), Kept::Int(*held)]
        };
        let rows: Vec<Vec<Kept>> = some.iter().map(row).collect();
        db.insert_rows("meter", &columns(METER_COLUMNS), &rows)?;
    }
    put_crossings(db, limit, crossed)
}

/// Writes soft thresholds of a limit that are passed already, each with a line of the ledger, but
/// for those that were written before.
fn put_crossings(db: Db<'_>, limit: &Limit, mut crossed: Vec<Crossing>) -> Result<()> {
    let Some(since_s) = crossed.iter().map(|crossing| crossing.window_start_s).min() else { return Ok(()) };
    let known = crossings::soft_since(db, &limit.name, since_s)?;
    crossed.retain(|of| !known.contains(&(of.subject.clone(), of.threshold, of.window_start_s)));
    for some in crossed.chunks_mut(AT_ONCE) {
        let count = i64::try_from(some.len()).unwrap_or(i64::MAX);
        let ids: Vec<u64> = db.rows(IDS, params![count], |row| row.get(0).map(uint))?;
        let (marks, lines) = (Batch::default(), Batch::default());
        for (crossing, id) in some.iter_mut().zip(ids) {
            crossing.id = id;
            crossings::insert_mark(Db::Batch(&marks), crossing)?;
            insert_entry(Db::Batch(&lines), &crossing.entry(), "")?;
        }
        db.insert_rows("crossing", &columns(crossings::COLUMNS), &marks.into_rows())?;
        db.insert_rows("entry", &columns(ENTRY_COLUMNS), &lines.into_rows())?;
    }
    Ok(())
}

/// The names of columns, from their list.
fn columns(list: &str) -> Vec<String> {
    list.split(", ").map(str::to_owned).collect()
}
