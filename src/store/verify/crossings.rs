//! Soft thresholds crossed, against their lines in the ledger.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::ledger::entry::entry_id;
use crate::store::verify::{Difference, Report, at};

/// Compares crossings with the `lines` of the ledger: id, time, note.
///
/// A line has no threshold as a number, so lines and crossings are matched by
/// their instant and the limit and subject that a line's note begins with.
pub(super) fn compare(
    db: &Connection,
    lines: Vec<(u64, i64, String)>,
    report: &mut Report,
) -> rusqlite::Result<()> {
    let mut by_time: HashMap<i64, Vec<(u64, String)>> = HashMap::new();
    for (id, at_ms, note) in lines {
        by_time.entry(at_ms).or_default().push((id, note));
    }
    let mut statement = db.prepare(
        "SELECT limit_name, subject, threshold, window_start_s, settled, at_ms FROM crossing ORDER BY at_ms, threshold",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (limit, subject): (String, String) = (row.get(0)?, row.get(1)?);
        let (threshold, start_s): (i64, i64) = (row.get(2)?, row.get(3)?);
        let (settled, at_ms): (i64, i64) = (row.get(4)?, row.get(5)?);
        let begins = format!("{limit}: {subject} crossed ");
        let then = by_time.entry(at_ms).or_default();
        if let Some(line) = then.iter().position(|(_, note)| note.starts_with(&begins)) {
            then.remove(line);
            continue;
        }
        report.note(|| Difference {
            kind: "crossing",
            about: format!("{limit} {subject} {threshold} {start_s}"),
            what: format!(
                "limit {limit:?}, {subject}: threshold {threshold} of the window from {} was crossed {} with {settled} \
                 settled (nano-dollars, tokens or requests), and the ledger has no line of it",
                at(start_s),
                at(at_ms.div_euclid(1_000))
            ),
            meaning: "no limit counts it; `ledger tail` and exports don't show that it was crossed".to_owned(),
            mend: "none is needed for limits; put back a backup if the list must be complete".to_owned(),
        });
    }
    let mut left: Vec<_> = by_time.into_values().flatten().collect();
    left.sort_unstable();
    for (id, note) in &left {
        report.note(|| Difference {
            kind: "crossing",
            about: entry_id(*id),
            what: format!("entry {} says {note:?}, and that is not noted as crossed", entry_id(*id)),
            meaning: "no limit counts it; the same threshold may be told a second time".to_owned(),
            mend: "none is needed for limits".to_owned(),
        });
    }
    Ok(())
}
