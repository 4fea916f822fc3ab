//! Marks that meters have come to, against their lines in the ledger.

use std::collections::BTreeMap;

use crate::ledger::calendar::utc;
use crate::ledger::entry::entry_id;
use crate::store::reports::{Difference, Report};
use crate::store::sql::codec::uint;
use crate::store::sql::{Db, Result};

/// Compares crossings with the `lines` of the ledger: id and note.
pub(super) fn compare(db: Db<'_>, lines: Vec<(u64, String)>, report: &mut Report) -> Result<()> {
    let mut lines: BTreeMap<u64, String> = lines.into_iter().collect();
    let sql = "SELECT id, limit_name, subject, mark, threshold, window_start_s, settled, at_ms FROM crossing ORDER BY id";
    db.each(sql, &[], |row| {
        if lines.remove(&uint(row.get(0)?)).is_some() {
            return Ok(true);
        }
        let (limit, subject, mark): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let (threshold, start_s): (i64, i64) = (row.get(4)?, row.get(5)?);
        let (settled, at_ms): (i64, i64) = (row.get(6)?, row.get(7)?);
        report.note(|| Difference {
            kind: "crossing",
            about: format!("{limit} {subject} {mark} {threshold} {start_s}"),
            what: format!(
                "limit {limit:?}, {subject}: the {mark} threshold {threshold} of the window from {} was come to {} with \
                 {settled} settled (nano-dollars, tokens or requests), and the ledger has no line of it",
                utc(start_s),
                utc(at_ms.div_euclid(1_000))
            ),
            meaning: "no limit counts it; `ledger tail` and exports don't show that it was crossed".to_owned(),
            remedy: "none is needed for limits; put back a backup if the list must be complete".to_owned(),
        });
        Ok(true)
    })?;
    for (id, note) in &lines {
        report.note(|| Difference {
            kind: "crossing",
            about: entry_id(*id),
            what: format!("entry {} says {note:?}, and that is not noted as crossed", entry_id(*id)),
            meaning: "no limit counts it; its alert may be sent a second time".to_owned(),
            remedy: "none is needed for limits".to_owned(),
        });
    }
    Ok(())
}
