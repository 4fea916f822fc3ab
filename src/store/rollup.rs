//! Rollups: sums of entries for each quarter of an hour.
//!
//! They are derived, written with the entries they sum up, and can be rebuilt.

use rusqlite::{Connection, params};

use crate::domain::Tokens;
use crate::ledger::entry::{Entry, Kind};
use crate::store::rows::int;

/// A rollup's stretch of time: every time zone's hours and days are made of
/// whole quarters of an hour.
pub(crate) const ROLLUP_S: i64 = 900;

/// What one rollup row is about.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct RollupKey {
    pub(crate) start_s: i64,
    /// Project, key, end user, tags, endpoint, model, priced as, served model.
    pub(crate) names: [String; 8],
}

impl RollupKey {
    pub(crate) fn of(entry: &Entry, tags: String) -> Self {
        let of = &entry.attribution;
        let start_s = entry.admitted_ms.div_euclid(1_000 * ROLLUP_S) * ROLLUP_S;
        let names = [
            of.project.to_string(),
            of.key.to_string(),
            of.end_user.as_deref().unwrap_or("").to_owned(),
            tags,
            of.endpoint.to_string(),
            of.model.to_string(),
            of.priced_as.as_deref().unwrap_or("").to_owned(),
            entry.served_model.as_deref().unwrap_or("").to_owned(),
        ];
        Self { start_s, names }
    }
}

/// What one rollup row sums up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RollupSums {
    pub(crate) requests: u64,
    pub(crate) cost_nano: i64,
    pub(crate) tokens: Tokens,
    pub(crate) last_ms: i64,
}

impl RollupSums {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.requests += u64::from(entry.kind == Kind::Settle);
        self.cost_nano = self.cost_nano.saturating_add(entry.cost.nano());
        self.tokens += entry.tokens;
        self.last_ms = self.last_ms.max(entry.admitted_ms);
    }
}

pub(crate) fn upsert_rollup(db: &Connection, key: &RollupKey, sums: &RollupSums) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO rollup VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, \
         ?18, ?19, ?20, ?21, ?22, ?23, ?24) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, \
         cost_nano = cost_nano + excluded.cost_nano, input = input + excluded.input, \
         cached_input = cached_input + excluded.cached_input, cache_write = cache_write + excluded.cache_write, \
         cache_write_12h = cache_write_12h + excluded.cache_write_12h, \
         audio_input = audio_input + excluded.audio_input, \
         audio_cached_input = audio_cached_input + excluded.audio_cached_input, \
         image_input = image_input + excluded.image_input, \
         image_cached_input = image_cached_input + excluded.image_cached_input, output = output + excluded.output, \
         reasoning = reasoning + excluded.reasoning, audio_output = audio_output + excluded.audio_output, \
         image_output = image_output + excluded.image_output, last_ms = max(last_ms, excluded.last_ms)",
    )?;
    let n = &key.names;
    let t = sums.tokens.classes().map(|(_, count)| int(count));
    statement.execute(params![
        key.start_s,
        n[0],
        n[1],
        n[2],
        n[3],
        n[4],
        n[5],
        n[6],
        n[7],
        int(sums.requests),
        sums.cost_nano,
        t[0],
        t[1],
        t[2],
        t[3],
        t[4],
        t[5],
        t[6],
        t[7],
        t[8],
        t[9],
        t[10],
        t[11],
        sums.last_ms,
    ])?;
    Ok(())
}
