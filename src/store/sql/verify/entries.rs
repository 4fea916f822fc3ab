//! Entries by themselves: what none can say, and corrections of nothing.

use crate::domain::Money;
use crate::ledger::calendar::utc;
use crate::ledger::entry::{Basis, Entry, Kind, PARTLY_ASSUMED, entry_id};
use crate::store::sql::codec::{int, uint};
use crate::store::sql::pruned;
use crate::store::sql::verify::{Difference, Report, usd};
use crate::store::sql::{Db, Error, Result, Row, params};

/// Notes what an entry says that can't be true.
pub(super) fn look(entry: &Entry, report: &mut Report) {
    if let Some((what, meaning)) = doubt(entry) {
        let of = &entry.attribution;
        let when = utc(entry.admitted_ms.div_euclid(1_000));
        report.note(|| Difference {
            kind: "entry",
            about: entry_id(entry.id),
            what: format!("entry {} of key {}, admitted {when}, {what}", entry_id(entry.id), of.key),
            meaning,
            remedy: "it was changed after it was written: put back a backup, or correct what it should have cost with \
                   `spendguard ledger adjust`"
                .to_owned(),
        });
    }
}

/// What is wrong with an entry, and what that means for limits.
fn doubt(entry: &Entry) -> Option<(String, String)> {
    let (cost, held) = (usd(entry.cost.nano()), usd(entry.held.cost.nano()));
    let used = !entry.quantities.is_zero();
    match entry.kind {
        Kind::Release if entry.cost != Money::ZERO || used => Some((
            format!(
                "is a release, yet costs {cost} and {} tokens, or calls of tools",
                entry.quantities.tokens_total()
            ),
            format!("no limit counts it; if upstream bills it, limits are {cost} too low"),
        )),
        Kind::Settle if entry.basis.is_none() => Some((
            format!("is settled at {cost}, yet does not say on what basis that is known"),
            format!("limits count {cost}, which may be too much or too little"),
        )),
        // More than the hold is charged where more hosted calls were seen than it was for, and less of a
        // batch some of whose lines are known.
        Kind::Settle
            if entry.basis == Some(Basis::Assumed)
                && entry.cost < entry.held.cost
                && entry.note.as_deref() != Some(PARTLY_ASSUMED) =>
        {
            Some((
                format!("is charged its hold (basis assumed), yet costs {cost} where {held} were held"),
                format!("limits count {cost} instead of {held}"),
            ))
        }
        Kind::Settle if entry.cost < Money::ZERO => {
            Some((format!("costs {cost}"), "limits count less than was spent".to_owned()))
        }
        Kind::Settle if entry.tool_fees > entry.cost => Some((
            format!("costs {cost}, of which {} are fees of tools", usd(entry.tool_fees.nano())),
            format!("limits count {cost}, which is too little if the fees are right"),
        )),
        Kind::Adjust if used && !entry.takes_back() => Some((
            format!("is a correction of money, yet has {} tokens", entry.quantities.tokens_total()),
            "limits in tokens would count them after a restart, and don't now".to_owned(),
        )),
        Kind::Threshold | Kind::Grant if entry.cost != Money::ZERO || used => Some((
            format!(
                "notes a {}, yet costs {cost} and {} tokens",
                entry.kind.name(),
                entry.quantities.tokens_total()
            ),
            "no limit counts it".to_owned(),
        )),
        Kind::Release | Kind::Settle | Kind::Adjust | Kind::Threshold | Kind::Grant => None,
    }
}

/// An entry that can't be read, as the error says.
pub(super) fn unreadable(error: &Error) -> Difference {
    Difference {
        kind: "entry",
        about: error.to_string(),
        what: error.to_string(),
        meaning: "limits that are in force don't count it, sums of the past may".to_owned(),
        remedy: "it was changed after it was written: put back a backup".to_owned(),
    }
}

/// Ids that several entries have.
pub(super) fn repeated(db: Db<'_>, report: &mut Report) -> Result<()> {
    if db.has_unique_ids() {
        return Ok(());
    }
    let sql = "SELECT id, COUNT(*), CAST(SUM(cost_nano) AS BIGINT) FROM entry GROUP BY id HAVING COUNT(*) > 1 ORDER BY id";
    db.each(sql, &[], |row| {
        let (id, count, cost): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        report.note(|| Difference {
            kind: "entry",
            about: format!("id of {}", entry_id(uint(id))),
            what: format!("{count} entries have the id {}; together they cost {}", entry_id(uint(id)), usd(cost)),
            meaning: "limits count each of them, though a request has one entry".to_owned(),
            remedy: "they were changed after they were written, or the database's sequence of ids was set back: put back a \
                     backup, or take back what is too much with `spendguard ledger adjust`"
                .to_owned(),
        });
        Ok(true)
    })
}

/// Corrections whose entry is not there, is not settled, or is another's.
pub(super) fn corrections(db: Db<'_>, report: &mut Report) -> Result<()> {
    let sql = "SELECT a.id, a.corrects, a.cost_nano, a.api_key, a.admitted_ms / 1000, e.kind, e.api_key, \
         e.admitted_ms / 1000 FROM entry a LEFT JOIN entry e ON e.id = a.corrects \
         WHERE (a.kind = 'adjust' OR (a.kind = 'settle' AND a.corrects IS NOT NULL)) \
         AND (e.id IS NULL OR e.kind <> 'settle' OR (a.api_key, a.project, a.end_user, a.tags, a.model, a.admitted_ms) \
         <> (e.api_key, e.project, e.end_user, e.tags, e.model, e.admitted_ms)) \
         AND NOT (e.id IS NULL AND a.admitted_ms / 1000 < ?1 AND a.corrects <= ?2)";
    // What was pruned may have been corrected just before.
    let (before_s, last_id) =
        pruned::pruned(db)?.map_or((i64::MIN, 0), |pruned| (pruned.before_s, int(pruned.last_id)));
    db.each(sql, params![before_s, last_id], |row| {
        let difference = correction(row)?;
        report.note(|| difference);
        Ok(true)
    })
}

fn correction(row: &Row<'_>) -> Result<Difference> {
    let (id, corrects): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
    let (cost, key): (i64, String) = (row.get(2)?, row.get(3)?);
    let (counted, kind): (i64, Option<String>) = (row.get(4)?, row.get(5)?);
    let target = corrects.map_or_else(|| "no entry".to_owned(), |id| entry_id(uint(id)));
    let is = match kind.as_deref() {
        None => "which is not there".to_owned(),
        Some("settle") => {
            let (of, then): (String, i64) = (row.get(6)?, row.get(7)?);
            format!("which is of key {of} and was admitted {}", utc(then))
        }
        Some(kind) => format!("which is of kind {kind}, not a settled request"),
    };
    Ok(Difference {
        kind: "correction",
        about: entry_id(uint(id)),
        what: format!(
            "correction {} of {} counts for key {key} at {}; it corrects {target}, {is}",
            entry_id(uint(id)),
            usd(cost),
            utc(counted)
        ),
        meaning: format!(
            "limits of key {key} count {} in that window that nothing there explains",
            usd(cost)
        ),
        remedy: format!(
            "put back a backup with the entry, or take it back: `spendguard ledger adjust` of {} on a settled entry of \
             that key and window",
            usd(cost.saturating_neg())
        ),
    })
}
