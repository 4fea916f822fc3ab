//! What all guards together have settled and hold, to be shown.

use std::sync::Arc;

use crate::ledger::account::{Account, Segment};
use crate::ledger::meter::Meter;
use crate::store::postgres::clock::NOW_S;
use crate::store::postgres::locks::rules_version;
use crate::store::sql::columns::{json_from, json_text};
use crate::store::sql::{Db, Result, credit, params};

/// What rows say of meters and of prepaid credit.
#[derive(Debug)]
pub struct SharedMeters {
    /// The limit, the subject's label, the start of the window, and the meter.
    pub meters: Vec<(String, String, i64, Meter)>,
    /// Prepaid credit, if any was granted.
    pub account: Option<Account>,
}

/// The ledger at one instant.
pub(super) struct Whole {
    /// The version of the rules.
    pub(super) rules_version: i64,
    /// Meters of windows that are not over: limit, subject's label, start of the window.
    pub(super) meters: Vec<(String, String, i64, Meter)>,
    pub(super) credit: Option<Vec<Segment>>,
    /// What the open requests of other guards may cost, in nano-dollars.
    pub(super) held_nano: i64,
    /// How many there are.
    pub(super) holds: usize,
}

impl SharedMeters {
    /// Reads them.
    pub(super) fn read(db: Db<'_>) -> Result<Self> {
        Ok(Self { meters: meters(db)?, account: account(db)? })
    }
}

/// Reads it.
pub(super) fn read(db: Db<'_>, own_epoch: i64) -> Result<Whole> {
    let held = "SELECT CAST(COALESCE(SUM(cost_nano), 0) AS BIGINT), COUNT(*) FROM hold WHERE epoch <> ?1";
    let (held_nano, holds): (i64, i64) =
        db.row(held, params![own_epoch], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let holds = usize::try_from(holds).unwrap_or(0);
    let rules_version = rules_version(db)?;
    Ok(Whole { rules_version, meters: meters(db)?, credit: credit_segments(db)?, held_nano, holds })
}

/// The meters of windows that are not over.
fn meters(db: Db<'_>) -> Result<Vec<(String, String, i64, Meter)>> {
    let meters =
        format!("SELECT limit_name, subject, start_s, settled, held FROM meter WHERE end_s > {NOW_S}");
    db.rows(&meters, &[], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, Meter { settled: row.get(3)?, held: row.get(4)? }))
    })
}

/// Prepaid credit as it is, if any was granted.
fn account(db: Db<'_>) -> Result<Option<Account>> {
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
