//! Rollups against the entries they sum up, and their days against them.

use std::collections::HashMap;

use crate::ledger::calendar::utc;
use crate::ledger::entry::entry_id;
use crate::store::reports::ROLLUP_S;
use crate::store::reports::{Pruned, Total};
use crate::store::sql::codec::uint;
use crate::store::sql::pruned;
use crate::store::sql::rollup::{COLUMNS, RollupKey, RollupSums, row_from};
use crate::store::sql::verify::days::Expected;
use crate::store::sql::verify::{Difference, Report, sums, usd};
use crate::store::sql::{Db, Result, params};

pub(super) fn compare(
    db: Db<'_>,
    mut rebuilt: HashMap<RollupKey, RollupSums>,
    report: &mut Report,
) -> Result<()> {
    let mut unlike = Vec::new();
    // Sums whose entries were pruned can only be proven all together.
    let pruned = pruned::pruned(db)?.unwrap_or(Pruned { before_s: i64::MIN, ..Pruned::default() });
    let (mut stored_before, mut expected_before) = (Total::default(), pruned.total);
    let mut days = Expected::new(db)?;
    db.each(&format!("SELECT {COLUMNS} FROM rollup"), &[], |row| {
        report.rollups += 1;
        let (key, stored) = row_from(row)?;
        days.add(&key, &stored);
        let expected = rebuilt.remove(&key).unwrap_or_default();
        if key.start_s < pruned.before_s {
            stored_before.add(&stored);
            expected_before.add(&expected);
        } else if stored != expected {
            unlike.push((key, stored, expected));
        }
        Ok(true)
    })?;
    rebuilt.retain(|key, sums| {
        if key.start_s < pruned.before_s {
            expected_before.add(sums);
        }
        key.start_s >= pruned.before_s
    });
    if stored_before != expected_before {
        report.note(|| unlike_before(pruned.before_s, stored_before, expected_before));
    }
    unlike.extend(rebuilt.into_iter().map(|(key, expected)| (key, RollupSums::default(), expected)));
    unlike.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, stored, expected) in &unlike {
        let entries = entries_of(db, key)?;
        report.note(|| difference(key, (stored, expected), &entries, pruned.entries > 0));
    }
    days.compare(db, report)
}

/// Which entries a rollup sums up, in words.
fn entries_of(db: Db<'_>, key: &RollupKey) -> Result<String> {
    let sql = "SELECT MIN(id), MAX(id), COUNT(*) FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 AND project = ?3 \
         AND api_key = ?4 AND end_user = ?5 AND tags = ?6 AND endpoint = ?7 AND model = ?8 AND priced_as = ?9 \
         AND served_model = ?10 AND kind IN ('settle', 'adjust')";
    let (start_ms, n) = (key.start_s.saturating_mul(1_000), &key.names);
    let end_ms = start_ms.saturating_add(ROLLUP_S * 1_000);
    let of = params![start_ms, end_ms, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]];
    db.row(sql, of, |row| {
        let (first, last): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
        let Some((first, last)) = first.zip(last) else { return Ok("it has no entries, which".to_owned()) };
        let count: i64 = row.get(2)?;
        let from = entry_id(uint(first));
        Ok(if count == 1 {
            format!("its entry {from}")
        } else {
            format!("its {count} entries {from} to {}", entry_id(uint(last)))
        })
    })
}

/// Sums before a time against what was pruned and what is left of their entries.
fn unlike_before(before_s: i64, stored: Total, expected: Total) -> Difference {
    let total = |of: Total| sums(of.requests, of.cost_nano, of.tokens, &of.others);
    Difference {
        kind: "rollup",
        about: format!("before {}", utc(before_s)),
        what: format!(
            "all rollups before {}, where entries were pruned, say {}; what was pruned and what is left of the entries add \
             up to {}",
            utc(before_s),
            total(stored),
            total(expected)
        ),
        meaning: "usage lists show it; limits whose window reaches back so far start with it after a restart"
            .to_owned(),
        remedy: "one of them was changed after it was written: put back a backup".to_owned(),
    }
}

fn difference(
    key: &RollupKey,
    (stored, expected): (&RollupSums, &RollupSums),
    entries: &str,
    is_pruned: bool,
) -> Difference {
    let [project, api_key, user, tags, endpoint, model, _, served] = &key.names;
    let said =
        |of: &RollupSums| sums(of.requests, of.cost_nano, of.quantities.tokens_total(), &of.quantities);
    let mut of = format!("key {api_key}, project {project}, {endpoint}");
    for (what, name) in [("model", model), ("served by", served), ("end user", user), ("tags", tags)] {
        if !name.is_empty() {
            of.push_str(&format!(", {what} {name}"));
        }
    }
    Difference {
        kind: "rollup",
        about: format!("{} {of}", utc(key.start_s)),
        what: format!(
            "the rollup from {} of {of} says {}; {entries} add up to {}",
            utc(key.start_s),
            said(stored),
            said(expected)
        ),
        meaning: meaning(stored, expected),
        remedy: if is_pruned {
            "put back a backup: rollups can't be made from entries any more, since older ones were pruned"
                .to_owned()
        } else {
            "entries are the truth: stop the guard, run `sqlite3 spendguard.db 'DROP TABLE rollup'` and start it, which \
             makes the rollups from them; if entries were changed by hand, put back a backup"
                .to_owned()
        },
    }
}

fn meaning(stored: &RollupSums, expected: &RollupSums) -> String {
    let more = |name: &str, by: i64| match by {
        0 => None,
        by if by > 0 => Some(format!("{by} {name} too many")),
        by => Some(format!("{} {name} too few", by.unsigned_abs())),
    };
    let by = stored.cost_nano.saturating_sub(expected.cost_nano);
    let cost = match by {
        0 => None,
        by if by > 0 => Some(format!("{} too high, and refuse so much too early", usd(by))),
        by => Some(format!("{} too low, and let so much too much through", usd(by.saturating_neg()))),
    };
    let tokens = stored.quantities.tokens_total().saturating_sub(expected.quantities.tokens_total());
    let requests = stored.requests.saturating_sub(expected.requests);
    let parts: Vec<String> =
        [cost, more("requests", requests), more("tokens", tokens)].into_iter().flatten().collect();
    if parts.is_empty() {
        return "no limit is affected: only how much there is of each class, or when the key was last used"
            .to_owned();
    }
    format!(
        "limits that are made or changed for this time, and all limits after a restart, would start {}; usage lists \
         show it now",
        parts.join("; ")
    )
}
