//! Rows of a group as arrays, so that one statement reads or writes all of them.

use tokio_postgres::types::ToSql;

use crate::ledger::shared::MeterKey;
use crate::store::postgres::session::Writes;
use crate::store::postgres::whole::segments_text;
use crate::store::sql::Error;
use crate::store::sql::codec::{HoldRow, int};
use crate::store::sql::columns::json_text;
use crate::store::sql::postgres::storable;
use crate::throttle::shared::BucketKey;

/// Places of meters, as arrays.
#[derive(Default)]
pub(super) struct Places {
    limits: Vec<String>,
    subjects: Vec<String>,
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Places {
    pub(super) fn push(&mut self, key: &MeterKey) {
        self.limits.push(key.limit.to_string());
        self.subjects.push(storable(key.subject.label()).into_owned());
        self.starts.push(key.start_s);
        self.ends.push(key.end_s);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.limits, &self.subjects, &self.starts]
    }

    pub(super) fn with_ends(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.limits, &self.subjects, &self.starts, &self.ends]
    }
}

/// Places of buckets of rates, as arrays.
#[derive(Default)]
pub(super) struct BucketPlaces {
    limits: Vec<String>,
    subjects: Vec<String>,
}

impl BucketPlaces {
    pub(super) fn of<'a>(keys: impl IntoIterator<Item = &'a BucketKey>) -> Self {
        let mut places = Self::default();
        for key in keys {
            places.limits.push(key.limit.to_string());
            places.subjects.push(storable(key.subject.label()).into_owned());
        }
        places
    }

    pub(super) fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.limits, &self.subjects]
    }
}

/// What is written of a group in arrays.
#[derive(Default)]
pub(super) struct GroupRows {
    pub(super) holds: Vec<i64>,
    pub(super) costs: Vec<i64>,
    pub(super) bodies: Vec<String>,
    pub(super) ended: Vec<i64>,
    pub(super) meters: Places,
    pub(super) settled: Vec<i64>,
    pub(super) held: Vec<i64>,
    pub(super) credit: Option<String>,
    pub(super) rates: BucketPlaces,
    /// Of these, what was taken and what came back, as decimal numbers.
    pub(super) taken: Vec<String>,
    pub(super) gone: Vec<String>,
    pub(super) at_ms: Vec<i64>,
}

impl GroupRows {
    pub(super) fn of(writes: &Writes<'_>) -> Result<Self, Error> {
        let mut rows = Self::default();
        for hold in &writes.holds {
            rows.holds.push(int(hold.id));
            rows.costs.push(hold.bound.cost.nano());
            rows.bodies.push(json_text(&HoldRow::of(hold))?);
        }
        rows.ended = writes
            .ended
            .iter()
            .copied()
            .chain(writes.jobs.iter().map(|(hold, _)| hold.id))
            .map(int)
            .collect();
        for (key, meter) in &writes.meters {
            rows.meters.push(key);
            rows.settled.push(meter.settled);
            rows.held.push(meter.held);
        }
        rows.credit = writes.credit.as_deref().map(segments_text).transpose()?;
        rows.rates = BucketPlaces::of(writes.rates.keys());
        for bucket in writes.rates.values() {
            rows.taken.push(bucket.taken.to_string());
            rows.gone.push(bucket.gone.to_string());
            rows.at_ms.push(i64::try_from(bucket.at.as_millis()).unwrap_or(i64::MAX));
        }
        Ok(rows)
    }
}
