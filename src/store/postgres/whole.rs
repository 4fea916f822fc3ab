//! What all guards together have settled and hold, to be shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::Money;
use crate::ledger::account::{Account, Segment};
use crate::ledger::meter::{METERS_MAX, Meter};
use crate::store::jobs::JobSum;
use crate::store::postgres::clock::NOW_S;
use crate::store::postgres::locks::rules_version;
use crate::store::sql::columns::{json_from, json_text, uint};
use crate::store::sql::{Db, Result, Row, credit, params};

/// The limit, the subject's label, the start of the window, and the meter.
type MeterRow = (String, String, i64, Meter);

/// What rows say of all meters of windows that are not over, and of prepaid credit.
#[derive(Debug)]
pub struct SharedMeters {
    /// The limit, the subject's label, the start of the window, and the meter.
    pub meters: Vec<MeterRow>,
    /// Prepaid credit, if any was granted.
    pub account: Option<Account>,
}

/// The ledger at one instant.
pub(super) struct Whole {
    /// The version of the rules.
    pub(super) rules_version: i64,
    /// Meters of windows that are not over, of each limit as many as there may be.
    pub(super) meters: Vec<MeterRow>,
    pub(super) credit: Option<Vec<Segment>>,
    /// What the open requests of other guards and all jobs may cost, in nano-dollars.
    pub(super) held_nano: i64,
    /// How many there are.
    pub(super) holds: usize,
    /// The jobs of each kind that run.
    pub(super) jobs: BTreeMap<String, JobSum>,
}

impl SharedMeters {
    /// Reads them.
    pub(super) fn read(db: Db<'_>) -> Result<Self> {
        let sql = format!(
            "SELECT limit_name, subject, start_s, settled, held FROM meter JOIN active_limit ON name = limit_name \
             WHERE end_s > {NOW_S}"
        );
        Ok(Self { meters: db.rows(&sql, &[], meter_from)?, account: account(db)? })
    }
}

/// Reads it.
pub(super) fn read(db: Db<'_>, own_epoch: i64) -> Result<Whole> {
    let held = "SELECT CAST(COALESCE(SUM(cost_nano), 0) AS BIGINT), COUNT(*) FROM hold WHERE epoch <> ?1";
    let (held_nano, holds): (i64, i64) =
        db.row(held, params![own_epoch], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let of_jobs = "SELECT kind, CAST(SUM(CAST(CAST(hold AS JSON)->>'cost' AS BIGINT)) AS BIGINT), COUNT(*) FROM job \
                   GROUP BY kind";
    let of_jobs: Vec<(String, i64, i64)> =
        db.rows(of_jobs, &[], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let held_nano = of_jobs.iter().fold(held_nano, |sum, (_, nano, _)| sum.saturating_add(*nano));
    let sum = |nano, count| JobSum { count: uint(count), held: Money::from_nano(nano) };
    let jobs: BTreeMap<_, _> =
        of_jobs.into_iter().map(|(kind, nano, count)| (kind, sum(nano, count))).collect();
    let holds = uint(holds).saturating_add(jobs.values().map(|sum| sum.count).sum());
    let holds = usize::try_from(holds).unwrap_or(usize::MAX);
    let rules_version = rules_version(db)?;
    let (meters, credit) = (shown_meters(db)?, credit_segments(db)?);
    Ok(Whole { rules_version, meters, credit, held_nano, holds, jobs })
}

fn shown_meters(db: Db<'_>) -> Result<Vec<MeterRow>> {
    let sql = format!(
        "SELECT name, subject, start_s, settled, held FROM active_limit CROSS JOIN LATERAL (SELECT * FROM meter \
         WHERE end_s > {NOW_S} AND limit_name = name LIMIT {METERS_MAX}) AS shown"
    );
    db.rows(&sql, &[], meter_from)
}

fn meter_from(row: &Row<'_>) -> Result<MeterRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, Meter { settled: row.get(3)?, held: row.get(4)? }))
}

/// Prepaid credit as it is, if any was granted.
pub(super) fn account(db: Db<'_>) -> Result<Option<Account>> {
    let Some(segments) = credit_segments(db)? else { return Ok(None) };
    let grants = credit::grants(db)?;
    let Some((first, _)) = grants.first() else { return Ok(None) };
    let mut account = Account::new(first.id);
    for (grant, _) in grants {
        account.cut(grant.expires_s);
        account.add(Arc::new(grant));
    }
    account.restore_segments(&segments);
    Ok(Some(account))
}

/// The stored segments of prepaid credit.
pub(super) fn credit_segments(db: Db<'_>) -> Result<Option<Vec<Segment>>> {
    let text = db.optional("SELECT segments FROM credit WHERE id = 1", &[], |row| row.get::<String>(0))?;
    text.as_deref().map(segments_of).transpose()
}

/// The segments of prepaid credit as JSON: end, granted, settled and held of each.
pub(super) fn segments_text(segments: &[Segment]) -> Result<String> {
    let rows: Vec<[i64; 4]> =
        segments.iter().map(|of| [of.end_ms, of.granted, of.settled, of.held]).collect();
    json_text(&rows)
}

/// The segments of prepaid credit from their text.
pub(super) fn segments_of(text: &str) -> Result<Vec<Segment>> {
    let rows: Vec<[i64; 4]> = json_from(text, "credit.segments", || "the account".to_owned())?;
    Ok(rows
        .into_iter()
        .map(|[end_ms, granted, settled, held]| Segment { end_ms, granted, settled, held })
        .collect())
}
