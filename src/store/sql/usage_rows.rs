//! Rows that usage and costs are summed from, within bounds of time.
//!
//! Sums tell quarters of an hour apart; for single minutes there are only the
//! entries, found by the index on their time.

use crate::domain::{Money, Span};
use crate::ledger::entry::Kind;
use crate::store::reports::{ROLLUP_S, UsageRow, UsageSum};
use crate::store::sql::codec::uint;
use crate::store::sql::days::{self, Reading};
use crate::store::sql::quantities::{self, quantities_from, quantity_columns};
use crate::store::sql::{Db, Result, Row, params};

const COLUMNS: &str =
    concat!("project, api_key, endpoint, model, served_model, cost_nano, ", quantity_columns!());
const QUANTITIES_AT: usize = 6;
/// The first column behind them.
const BEHIND: usize = QUANTITIES_AT + quantities::COLUMNS;

/// Hands out lines of spending that was admitted from `since_s` on and before
/// `until_s`, until `each` wants no more.
///
/// Where `width_s` is made of whole rollups, so are the lines.
pub(crate) fn each_row(
    db: Db<'_>,
    width_s: i64,
    since_s: i64,
    until_s: i64,
    mut each: impl FnMut(UsageRow<'_>) -> bool,
) -> Result<()> {
    let span = Span { start_s: since_s, end_s: until_s };
    if width_s % ROLLUP_S == 0 {
        let columns = format!("{COLUMNS}, start_s, requests");
        let reading = Reading { columns: &columns, by_user: false, span };
        let bucket = |at_s: i64| at_s.div_euclid(width_s);
        let is_cut = |day: Span| bucket(day.start_s) != bucket(day.end_s - 1);
        return days::each_row(db, reading, is_cut, |row| Ok(each(usage_row(row, 1)?)));
    }
    // What was taken back, and what takes it back, come to nothing together.
    let sql = format!(
        "SELECT {COLUMNS}, admitted_ms, CAST(CASE WHEN kind = '{}' THEN 1 ELSE 0 END AS BIGINT) FROM entry WHERE admitted_ms >= ?1 AND admitted_ms < ?2 \
         AND kind IN ('{}', '{}') AND NOT (kind = 'adjust' AND basis = 'assumed') AND NOT (basis = 'assumed' AND EXISTS (SELECT 1 FROM entry AS back \
         WHERE back.corrects = entry.id AND back.admitted_ms = entry.admitted_ms AND back.kind = 'adjust' AND back.basis = 'assumed'))",
        Kind::Settle.name(),
        Kind::Settle.name(),
        Kind::Adjust.name()
    );
    let ms = |s: i64| s.saturating_mul(1_000);
    db.each(&sql, params![ms(since_s), ms(until_s)], |row| Ok(each(usage_row(row, 1_000)?)))
}

fn usage_row<'a>(row: &'a Row<'_>, scale: i64) -> Result<UsageRow<'a>> {
    let (asked, served) = (row.text(3)?, row.text(4)?);
    Ok(UsageRow {
        at_s: row.get::<i64>(BEHIND)?.div_euclid(scale),
        project: row.text(0)?,
        key: row.text(1)?,
        endpoint: row.text(2)?,
        model: if served.is_empty() { asked } else { served },
        sum: UsageSum {
            requests: uint(row.get(BEHIND + 1)?),
            cost: Money::from_nano(row.get(5)?),
            quantities: quantities_from(row, QUANTITIES_AT)?,
        },
    })
}
