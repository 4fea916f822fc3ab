//! Limits that come into force: their meters are made of the past and of all open holds.
//!
//! While this runs no group is open on any guard, so entries and holds are those of one
//! instant.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::{Limit, Window};
use crate::ledger::calendar::Windows;
use crate::ledger::entry::{Crossing, Hold, reserved};
use crate::ledger::meter::{Meter, Subject, subjects};
use crate::store::postgres::clock::now_ms;
use crate::store::records::ActiveLimit;
use crate::store::sql::codec::uint;
use crate::store::sql::rollup::Ids;
use crate::store::sql::{Db, Result, crossings, history, params, verify};

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

/// Writes the limits in force, and makes the meters of those that count something new.
pub(super) fn activate(db: Db<'_>, of_file: &[(String, String)], limits: &[ActiveLimit]) -> Result<()> {
    let before: HashSet<String> = active(db)?.into_iter().map(|(name, _)| name).collect();
    let stays = |name: &str| limits.iter().any(|of| *of.limit.name == *name && of.counts_as_before);
    for name in before.iter().filter(|name| !stays(name)) {
        db.execute("DELETE FROM meter WHERE limit_name = ?1", params![name])?;
        db.execute("DELETE FROM rate WHERE limit_name = ?1", params![name])?;
    }
    let is_new = |of: &&ActiveLimit| {
        let is_kept = of.counts_as_before && before.contains(&*of.limit.name);
        !is_kept && !of.limit.is_rate() && of.limit.window != Window::Request
    };
    let new: Vec<Arc<Limit>> = limits.iter().filter(is_new).map(|of| Arc::clone(&of.limit)).collect();
    make_meters(db, &new)?;
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

/// Makes the meters of limits from all that is stored.
pub(super) fn make_meters(db: Db<'_>, limits: &[Arc<Limit>]) -> Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    let now_ms = now_ms(db)?;
    let windows: Vec<Windows> = limits.iter().map(|limit| Windows::of(limit)).collect();
    let since_s = |windows: &Windows| windows.span(now_ms.div_euclid(1_000)).start_s;
    let wanted: Vec<(&Limit, i64)> =
        limits.iter().zip(&windows).map(|(limit, windows)| (&**limit, since_s(windows))).collect();
    let pasts = history::settled(db, &wanted, &Ids)?;
    // Those of jobs are among them.
    let holds = verify::open_holds(db, &Ids)?;
    for ((limit, windows), past) in limits.iter().zip(&windows).zip(pasts) {
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
    db.execute("DELETE FROM meter WHERE limit_name = ?1", params![&*limit.name])?;
    let mut meters: Vec<_> = meters.into_iter().collect();
    meters.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    for ((subject, start_s), Meter { settled, held }) in meters {
        let end_s = windows.span(start_s).end_s;
        db.execute(
            "INSERT INTO meter (limit_name, subject, start_s, end_s, settled, held) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![&*limit.name, subject.label(), start_s, end_s, settled, held],
        )?;
        for threshold in thresholds.iter().copied().filter(|threshold| *threshold <= settled) {
            let id = db.row("SELECT nextval('entry_id')", &[], |row| row.get(0).map(uint))?;
            let crossing = Crossing::soft(limit, subject.label(), threshold, start_s, settled, now_ms);
            crossings::insert(db, &[Crossing { id, ..crossing }])?;
        }
    }
    Ok(())
}
