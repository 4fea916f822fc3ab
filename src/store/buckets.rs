//! What usage and costs are summed from, line by line, within bounds of time.
//!
//! Sums tell quarters of an hour apart; for single minutes there are only the
//! entries, found by the index on their time.

use rusqlite::{Connection, Row};

use crate::domain::{Money, Quantities, Span};
use crate::ledger::entry::Kind;
use crate::store::days::{self, Reading};
use crate::store::quantities::{self, quantities_from, quantity_columns};
use crate::store::rollup::ROLLUP_S;
use crate::store::rows::uint;

/// What was spent at one time for one key on one model.
#[derive(Debug)]
pub struct Line<'a> {
    /// When, in Unix seconds: of an entry its own time, of a sum its start.
    pub at_s: i64,
    /// Id of the project.
    pub project: &'a str,
    /// Id of the key.
    pub key: &'a str,
    /// The endpoint, by its path.
    pub endpoint: &'a str,
    /// The model that served, or else the one asked for; empty where there is none.
    pub model: &'a str,
    /// Settled requests.
    pub requests: u64,
    /// What they cost, corrections included.
    pub cost: Money,
    /// What they used.
    pub quantities: Quantities,
}

const COLUMNS: &str =
    concat!("project, api_key, endpoint, model, served_model, cost_nano, ", quantity_columns!());
const QUANTITIES_AT: usize = 6;
/// The first column behind them.
const BEHIND: usize = QUANTITIES_AT + quantities::COLUMNS;

/// Hands out lines of spending that was admitted from `since_s` on and before
/// `until_s`, until `each` wants no more.
///
/// Where `width_s` is made of whole rollups, so are the lines.
pub fn each_line(
    db: &Connection,
    width_s: i64,
    since_s: i64,
    until_s: i64,
    mut each: impl FnMut(Line<'_>) -> bool,
) -> rusqlite::Result<()> {
    let span = Span { start_s: since_s, end_s: until_s };
    if width_s % ROLLUP_S == 0 {
        let columns = format!("{COLUMNS}, start_s, requests");
        let reading = Reading { columns: &columns, by_user: false, span };
        let bucket = |at_s: i64| at_s.div_euclid(width_s);
        let is_cut = |day: Span| bucket(day.start_s) != bucket(day.end_s - 1);
        return days::each_row(db, reading, is_cut, |row| Ok(each(line(row, 1)?)));
    }
    let sql = format!(
        "SELECT {COLUMNS}, admitted_ms, kind = '{}' FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 \
         AND kind IN ('{}', '{}')",
        Kind::Settle.name(),
        Kind::Settle.name(),
        Kind::Adjust.name()
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([since_s.saturating_mul(1_000), until_s.saturating_mul(1_000)])?;
    while let Some(row) = rows.next()? {
        if !each(line(row, 1_000)?) {
            break;
        }
    }
    Ok(())
}

fn line<'a>(row: &'a Row<'_>, scale: i64) -> rusqlite::Result<Line<'a>> {
    let text = |at: usize| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_str()?);
    let (asked, served) = (text(3)?, text(4)?);
    Ok(Line {
        at_s: row.get::<_, i64>(BEHIND)?.div_euclid(scale),
        project: text(0)?,
        key: text(1)?,
        endpoint: text(2)?,
        model: if served.is_empty() { asked } else { served },
        requests: uint(row.get(BEHIND + 1)?),
        cost: Money::from_nano(row.get(5)?),
        quantities: quantities_from(row, QUANTITIES_AT)?,
    })
}
