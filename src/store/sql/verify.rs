//! What the database says twice, compared: rollups, corrections, holds,
//! crossings, grants, and whether each entry can be true.
//!
//! A difference says what differs and by how much, what that does to limits, and what to
//! do about it. What the running guard keeps in memory is compared by `books::verify`.

mod crossings;
mod days;
mod entries;
mod grants;
mod holds;
mod rollups;

use std::collections::BTreeMap;

use crate::domain::{Balance, Money};
use crate::ledger::entry::Kind;
use crate::store::reports::{Difference, Report};
use crate::store::sql::{Db, Result, pruned, rollup};

pub(crate) use holds::open_holds;

/// Reads every entry and compares with it all that follows from entries. The database itself
/// names its `damage`.
pub(crate) fn verify(db: Db<'_>, damage: Vec<String>) -> Result<Report> {
    let mut report = Report { pruned: pruned::pruned(db)?, ..Report::default() };
    for answer in damage {
        report.note(|| damaged(answer));
    }
    let (mut lines, mut granted) = (Vec::new(), BTreeMap::new());
    let rebuilt = rollup::rebuilt(db, |entry| {
        report.entries += 1;
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.is_unreadable() => {
                report.note(|| entries::unreadable(&error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        entries::look(entry, &mut report);
        let note = || entry.note.clone().unwrap_or_default();
        match entry.kind {
            Kind::Threshold => lines.push((entry.id, note())),
            Kind::Grant => drop(granted.insert(entry.id, note())),
            Kind::Settle | Kind::Release | Kind::Adjust => {}
        }
        Ok(())
    })?;
    rollups::compare(db, rebuilt, &mut report)?;
    entries::repeated(db, &mut report)?;
    entries::corrections(db, &mut report)?;
    holds::compare(db, &mut report)?;
    crossings::compare(db, lines, &mut report)?;
    grants::compare(db, granted, &mut report)?;
    Ok(report)
}

fn damaged(answer: String) -> Difference {
    Difference {
        kind: "file",
        what: format!("the database file is damaged: {answer}"),
        about: answer,
        meaning: "what is lost with it is counted by no limit after the next start".to_owned(),
        remedy: "stop the guard and put back a backup, or salvage what can be read with `sqlite3 … .dump`"
            .to_owned(),
    }
}

/// Sums in words.
fn sums(requests: i64, cost_nano: i64, tokens: i64, quantities: &Balance) -> String {
    let mut said = format!("{requests} requests, {}, {tokens} tokens", usd(cost_nano));
    for (class, count) in quantities.non_zero().filter(|(class, _)| !class.is_token()) {
        said.push_str(&format!(", {count} {}", class.name()));
    }
    said
}

fn usd(nano: i64) -> String {
    format!("{} USD", Money::from_nano(nano))
}
