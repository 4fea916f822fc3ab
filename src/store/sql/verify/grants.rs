//! Grants of prepaid credit against their lines in the ledger.

use std::collections::BTreeMap;

use crate::ledger::entry::entry_id;
use crate::store::reports::{Difference, Report};
use crate::store::sql::{Db, Result, credit};

/// Compares grants with the `lines` of the ledger: id and note.
pub(super) fn compare(db: Db<'_>, mut lines: BTreeMap<u64, String>, report: &mut Report) -> Result<()> {
    for (grant, _) in credit::grants(db)? {
        let (id, says) = (entry_id(grant.id), grant.entry().note.unwrap_or_default());
        let line = lines.remove(&grant.id);
        if line.as_ref() == Some(&says) {
            continue;
        }
        let line =
            line.map_or_else(|| "has no line of it".to_owned(), |line| format!("says {line:?} in {id}"));
        report.note(|| Difference {
            kind: "grant",
            about: id.clone(),
            what: format!("there is a grant {says:?}, and the ledger {line}"),
            meaning: format!("the account has {} USD by it that no operator may have granted", grant.amount),
            remedy: "it was changed after it was written: put back a backup".to_owned(),
        });
    }
    for (id, line) in lines {
        report.note(|| Difference {
            kind: "grant",
            about: entry_id(id),
            what: format!("entry {} says {line:?}, and there is no such grant", entry_id(id)),
            meaning: "the account lacks it, so requests are refused too early".to_owned(),
            remedy: "put back a backup, or grant it again".to_owned(),
        });
    }
    Ok(())
}
