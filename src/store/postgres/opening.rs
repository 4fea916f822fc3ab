//! Opens a group's transaction: one round trip that locks and reads what the group needs.

use std::sync::LazyLock;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::domain::{Money, Span};
use crate::ledger::account::Segment;
use crate::ledger::meter::Meter;
use crate::ledger::shared::RowCount;
use crate::store::postgres::arrays::{BucketPlaces, Places};
use crate::store::postgres::clock::NOW_MS;
use crate::store::postgres::pipeline::{Sent, pipelined};
use crate::store::postgres::session::{Failure, Need, Rows, Wants};
use crate::store::postgres::transaction::{PgSession, WriteError};
use crate::store::postgres::whole::segments_of;
use crate::store::sql::codec::{int, uint};
use crate::store::sql::columns::unreadable;
use crate::store::sql::{Error, days};
use crate::throttle::Bucket;
use crate::throttle::shared::BucketKey;

/// Ids are taken once the row is locked: the number of them is read from it.
const LOCK_LANE: &str = "WITH locked AS MATERIALIZED (SELECT state, rules_version, group_id FROM lane \
    WHERE epoch = $1 AND lane = $2 FOR UPDATE) SELECT state, rules_version, group_id, \
    ARRAY(SELECT nextval('entry_id') FROM generate_series(1, CASE WHEN state = 'alive' THEN $3::bigint END)) FROM locked";
const NEW_METERS: &str = "WITH made AS (INSERT INTO meter (limit_name, subject, start_s, end_s, settled, held) \
    SELECT l, s, b, e, 0, 0 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) \
    WITH ORDINALITY AS w (l, s, b, e, n) ORDER BY n ON CONFLICT DO NOTHING RETURNING limit_name, start_s, subject) \
    SELECT limit_name, start_s, split_part(subject, '/', 1), COUNT(*) FROM made GROUP BY 1, 2, 3";
const METERS: &str = "SELECT n, settled, held FROM unnest($1::text[], $2::text[], $3::bigint[]) \
    WITH ORDINALITY AS w (l, s, b, n) JOIN meter ON limit_name = l AND subject = s AND start_s = b \
    ORDER BY n FOR UPDATE OF meter";
// Its guard may have come back and taken it over meanwhile.
const ORPHANS: &str = "SELECT id FROM hold WHERE id = ANY($1) AND epoch IN (SELECT epoch FROM node WHERE state <> 'alive') \
                       ORDER BY id FOR UPDATE";
const HOLDS: &str = "SELECT id FROM hold WHERE id = ANY($1) ORDER BY id FOR UPDATE";
const JOBS: &str = "SELECT hold_id FROM job WHERE hold_id = ANY($1) ORDER BY hold_id FOR UPDATE";
const LOCK_CORRECTED: &str = "SELECT 1 FROM entry WHERE id = ANY($1) ORDER BY id FOR UPDATE";
/// After the lock: what others have corrected while it was waited for is seen.
const BOOKED: &str = "SELECT id, CAST(SUM(cost_nano) AS BIGINT) FROM (SELECT id, cost_nano FROM entry \
    WHERE id = ANY($1) UNION ALL SELECT corrects, cost_nano FROM entry \
    WHERE corrects = ANY($1) AND corrects IS NOT NULL AND kind = 'adjust') AS booked (id, cost_nano) GROUP BY id";
const CREDIT: &str = "SELECT segments FROM credit WHERE id = 1 FOR UPDATE";
/// The time, beside each of the days that end after another; alone if there is none.
static NOW_AND_DAYS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {NOW_MS}, start_s, end_s, next FROM (VALUES (1)) AS one LEFT JOIN rollup_day_span ON end_s > $1 \
         ORDER BY start_s"
    )
});
const NEW_RATES: &str = "INSERT INTO rate (limit_name, subject, taken, gone, at_ms) \
    SELECT l, s, 0, 0, 0 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (l, s, n) ORDER BY n \
    ON CONFLICT DO NOTHING";
const RATES: &str = "SELECT n, CAST(taken AS TEXT), CAST(gone AS TEXT), at_ms \
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (l, s, n) JOIN rate ON limit_name = l AND subject = s \
    ORDER BY n FOR UPDATE OF rate";

impl PgSession {
    /// Sends all statements at once, and returns the rows of each.
    async fn asked(&mut self, wants: &Wants) -> Result<Vec<Vec<Row>>, WriteError> {
        self.prepare(&[LOCK_LANE, NEW_METERS, METERS, CREDIT, NEW_RATES, RATES]).await?;
        self.prepare(&[ORPHANS, HOLDS, JOBS, LOCK_CORRECTED, BOOKED, &NOW_AND_DAYS]).await?;
        let (mut wanted, mut new) = (Places::default(), Places::default());
        for (key, need) in &wants.meters {
            wanted.push(key);
            if *need == Need::New {
                new.push(key);
            }
        }
        let ids = int(u64::try_from(wants.ids).unwrap_or(u64::MAX));
        let from_s = wants.summed_from_s.unwrap_or(i64::MAX);
        let (wanted, new_meters) = (wanted.params(), new.with_ends());
        let rates = BucketPlaces::of(&wants.rates);
        let rates = rates.params();
        let lane: [&(dyn ToSql + Sync); 3] = [&self.epoch, &self.lane, &ids];
        let orphans: Vec<i64> = wants.orphans.iter().copied().map(int).collect();
        let jobs: Vec<i64> = wants.jobs.iter().copied().map(int).collect();
        let holds: Vec<i64> = wants.holds.iter().copied().map(int).collect();
        let corrected: Vec<i64> = wants.corrected.iter().copied().map(int).collect();
        let [from, orphans, holds, jobs, corrected]: [[&(dyn ToSql + Sync); 1]; 5] =
            [[&from_s], [&orphans], [&holds], [&jobs], [&corrected]];
        let sent: [(bool, &str, &[&(dyn ToSql + Sync)]); 12] = [
            (true, LOCK_LANE, &lane),
            (!new.is_empty(), NEW_METERS, &new_meters),
            (!wants.meters.is_empty(), METERS, &wanted),
            (wants.credit, CREDIT, &[]),
            (!wants.rates.is_empty(), NEW_RATES, &rates),
            (!wants.rates.is_empty(), RATES, &rates),
            (!wants.orphans.is_empty(), ORPHANS, &orphans),
            (!wants.holds.is_empty(), HOLDS, &holds),
            (!wants.jobs.is_empty(), JOBS, &jobs),
            (!wants.corrected.is_empty(), LOCK_CORRECTED, &corrected),
            (!wants.corrected.is_empty(), BOOKED, &corrected),
            // The last: it may have waited for the rows.
            (true, &NOW_AND_DAYS, &from),
        ];
        let session = &*self;
        let begin = async { session.client.batch_execute("BEGIN").await.map(|()| Vec::new()) };
        let mut pipeline: Vec<Sent<'_, Vec<Row>>> = vec![Box::pin(begin)];
        for (is_wanted, text, params) in sent {
            pipeline.push(Box::pin(async move {
                if is_wanted { session.query(text, params).await } else { Ok(Vec::new()) }
            }));
        }
        // The first error is the cause of those behind it.
        Ok(pipelined(pipeline).await.into_iter().collect::<Result<_, _>>()?)
    }

    /// Locks and reads what a group wants.
    pub(super) async fn opened(&mut self, wants: &Wants) -> Result<Result<Rows, Failure>, WriteError> {
        let answers = self.asked(wants).await?;
        let [_, lane, made, meters, credit, _, rates, orphans, holds, jobs, _, booked, now] = &*answers
        else {
            return Err(WriteError::Silent);
        };
        let Some(lane) = lane.first() else { return Ok(Err(Failure::GivenUp)) };
        if lane.try_get::<_, &str>(0)? != "alive" {
            return Ok(Err(Failure::GivenUp));
        }
        let ids: Vec<i64> = lane.try_get(3)?;
        let mut rows = Rows {
            group: lane.try_get(2)?,
            rules_version: lane.try_get(1)?,
            meters: vec![None; wants.meters.len()],
            made: made.iter().map(made_rows).collect::<Result<_, _>>()?,
            credit: credit.first().map(segments).transpose()?,
            orphans: orphans.iter().map(|row| row.try_get(0).map(uint)).collect::<Result<_, _>>()?,
            holds: holds.iter().map(|row| row.try_get(0).map(uint)).collect::<Result<_, _>>()?,
            jobs: jobs.iter().map(|row| row.try_get(0).map(uint)).collect::<Result<_, _>>()?,
            booked: booked.iter().map(cost).collect::<Result<_, _>>()?,
            rates: rates.iter().map(|row| bucket(row, &wants.rates)).collect::<Result<_, _>>()?,
            ids: ids.into_iter().map(uint).collect(),
            now_ms: now.first().map_or(Ok(0), |row| row.try_get(0))?,
        };
        for row in meters {
            let place = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
            let meter = Meter { settled: row.try_get(1)?, held: row.try_get(2)? };
            if let Some(slot) = place.checked_sub(1).and_then(|at| rows.meters.get_mut(at)) {
                *slot = Some(meter);
            }
        }
        self.days = now.iter().filter_map(|row| day(row).transpose()).collect::<Result<_, _>>()?;
        Ok(Ok(rows))
    }
}

fn made_rows(row: &Row) -> Result<RowCount, WriteError> {
    let rows = usize::try_from(row.try_get::<_, i64>(3)?).unwrap_or(0);
    Ok(RowCount { limit: row.try_get(0)?, start_s: row.try_get(1)?, key: row.try_get(2)?, rows })
}

fn cost(row: &Row) -> Result<(u64, Money), WriteError> {
    Ok((uint(row.try_get(0)?), Money::from_nano(row.try_get(1)?)))
}

fn day(row: &Row) -> Result<Option<days::Day>, WriteError> {
    let Some(start_s) = row.try_get(1)? else { return Ok(None) };
    let span = Span { start_s, end_s: row.try_get(2)? };
    Ok(Some(days::Day::of(span, row.try_get(3)?)?))
}

fn segments(row: &Row) -> Result<Vec<Segment>, WriteError> {
    Ok(segments_of(row.try_get(0)?)?)
}

/// A bucket, and its place among those that were wanted.
fn bucket(row: &Row, wanted: &[BucketKey]) -> Result<(BucketKey, Bucket), WriteError> {
    let place = usize::try_from(row.try_get::<_, i64>(0)?).ok().and_then(|place| place.checked_sub(1));
    let key = place.and_then(|place| wanted.get(place)).ok_or(Error::NoRow)?;
    let parts = |at| -> Result<u128, WriteError> {
        let text: &str = row.try_get(at)?;
        text.parse()
            .map_err(|_| unreadable("rate", key.limit.to_string(), format!("{text:?} is no count")).into())
    };
    let at_ms = u64::try_from(row.try_get::<_, i64>(3)?).unwrap_or(0);
    Ok((key.clone(), Bucket { taken: parts(1)?, gone: parts(2)?, at: Duration::from_millis(at_ms) }))
}
