//! Rebuilds what is derived, and compares: rollups against entries.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::ledger::entry::Kind;
use crate::store::rollup::{RollupKey, RollupSums};
use crate::store::rows::{ENTRY_COLUMNS, Names, entry_from, int, tags_text, tokens_from};

/// As many differences as a report names one by one.
const DIFFERENCES_MAX: usize = 50;

/// What a comparison of the whole database found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Entries read.
    pub entries: u64,
    /// Rollup rows compared.
    pub rollups: u64,
    /// What does not agree, in words; empty if all does.
    pub differences: Vec<String>,
}

/// Reads every entry, rebuilds every rollup, and says where they differ.
pub fn verify(db: &Connection, names: &dyn Names) -> rusqlite::Result<Report> {
    let mut report = Report::default();
    integrity(db, &mut report)?;
    let mut rebuilt = rebuild(db, names, &mut report)?;
    let mut statement = db.prepare(
        "SELECT start_s, project, api_key, end_user, tags, endpoint, model, priced_as, served_model, requests, \
         cost_nano, last_ms, input, cached_input, cache_write, cache_write_12h, audio_input, audio_cached_input, \
         image_input, image_cached_input, output, reasoning, audio_output, image_output FROM rollup",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.rollups += 1;
        let mut names: [String; 8] = Default::default();
        for (at, name) in names.iter_mut().enumerate() {
            *name = row.get(at + 1)?;
        }
        let key = RollupKey { start_s: row.get(0)?, names };
        let stored = RollupSums {
            requests: u64::try_from(row.get::<_, i64>(9)?).unwrap_or(0),
            cost_nano: row.get(10)?,
            last_ms: row.get(11)?,
            tokens: tokens_from(row, 12)?,
        };
        let expected = rebuilt.remove(&key).unwrap_or_default();
        if stored != expected {
            note(&mut report, || difference(&key, &stored, &expected));
        }
    }
    for (key, expected) in &rebuilt {
        note(&mut report, || difference(key, &RollupSums::default(), expected));
    }
    Ok(report)
}

fn integrity(db: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut check = db.prepare("PRAGMA quick_check")?;
    let answers = check.query_map([], |row| row.get::<_, String>(0))?;
    for answer in answers {
        let answer = answer?;
        if answer != "ok" {
            note(report, || format!("the database file is damaged: {answer}"));
        }
    }
    Ok(())
}

fn rebuild(
    db: &Connection,
    names: &dyn Names,
    report: &mut Report,
) -> rusqlite::Result<HashMap<RollupKey, RollupSums>> {
    let mut rebuilt: HashMap<RollupKey, RollupSums> = HashMap::new();
    let mut statement = db.prepare(&format!("SELECT {ENTRY_COLUMNS} FROM entry"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entry = entry_from(row, names)?;
        report.entries += 1;
        if matches!(entry.kind, Kind::Settle | Kind::Adjust) {
            let tags = tags_text(&entry.attribution.tags);
            rebuilt.entry(RollupKey::of(&entry, tags)).or_default().add(&entry);
        }
        if entry.kind == Kind::Release && entry.cost.nano() != 0 {
            note(report, || format!("entry {} is a release, yet costs {}", entry.id, entry.cost));
        }
    }
    Ok(rebuilt)
}

fn difference(key: &RollupKey, stored: &RollupSums, expected: &RollupSums) -> String {
    let [project, api_key, ..] = &key.names;
    format!(
        "quarter of an hour {} of key {api_key} in {project}: stored {} requests, {} nano-dollars, {} tokens; \
         the entries add up to {} requests, {} nano-dollars, {} tokens",
        key.start_s,
        stored.requests,
        stored.cost_nano,
        int(stored.tokens.total()),
        expected.requests,
        expected.cost_nano,
        int(expected.tokens.total()),
    )
}

fn note(report: &mut Report, text: impl FnOnce() -> String) {
    if report.differences.len() < DIFFERENCES_MAX {
        report.differences.push(text());
    }
}
