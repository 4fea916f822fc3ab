//! A lane's session with PostgreSQL: each group is one transaction of two round trips.
//!
//! Statements that don't depend on each other are sent at once, and answered in their
//! order. An error rolls the transaction back, and a `COMMIT` behind it does nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::domain::Span;
use crate::ledger::account::Segment;
use crate::ledger::entry::{Crossing, Kind};
use crate::ledger::meter::Meter;
use crate::store::postgres::arrays::{GroupRows, Places};
use crate::store::postgres::clock::READ_NOW_MS;
use crate::store::postgres::database::{Database, blocking};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::nodes;
use crate::store::postgres::pipeline::{Sent, pipelined};
use crate::store::postgres::pool::Work;
use crate::store::postgres::session::{Failure, Need, Rows, Session, Wants, Writes};
use crate::store::postgres::whole::segments_of;
use crate::store::sql::batch::{Batch, Kept};
use crate::store::sql::codec::{insert_entry, int, tags_text, uint};
use crate::store::sql::postgres::numbered;
use crate::store::sql::rollup::{RollupKey, RollupSums};
use crate::store::sql::{Db, Error, Lent as _, audit, crossings, days, jobs, objects};

const LOCK_LANE: &str = "SELECT state, rules_version FROM lane WHERE epoch = $1 AND lane = $2 FOR UPDATE";
const NEW_METERS: &str = "INSERT INTO meter (limit_name, subject, start_s, end_s, settled, held) \
    SELECT l, s, b, e, 0, 0 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) \
    WITH ORDINALITY AS w (l, s, b, e, n) ORDER BY n ON CONFLICT DO NOTHING";
const METERS: &str = "SELECT n, settled, held FROM unnest($1::text[], $2::text[], $3::bigint[]) \
    WITH ORDINALITY AS w (l, s, b, n) JOIN meter ON limit_name = l AND subject = s AND start_s = b \
    ORDER BY n FOR UPDATE OF meter";
// Its guard may have come back and taken it over meanwhile.
const ORPHANS: &str = "SELECT id FROM hold WHERE id = ANY($1) AND epoch IN (SELECT epoch FROM node WHERE state <> 'alive') \
                       ORDER BY id FOR UPDATE";
const CREDIT: &str = "SELECT segments FROM credit WHERE id = 1 FOR UPDATE";
const IDS: &str = "SELECT nextval('entry_id') FROM generate_series(1, $1::bigint)";
const DAYS: &str = "SELECT start_s, end_s, next FROM rollup_day_span WHERE end_s > $1 ORDER BY start_s";
const NOTE_GROUP: &str = "UPDATE lane SET group_id = $3 WHERE epoch = $1 AND lane = $2";
const HOLDS: &str = "INSERT INTO hold (id, epoch, cost_nano, holds) SELECT i, $1, c, h \
    FROM unnest($2::bigint[], $3::bigint[], $4::text[]) AS w (i, c, h)";
const ENDED: &str = "DELETE FROM hold WHERE id = ANY($1)";
const PUT_METERS: &str = "UPDATE meter SET settled = w.settled, held = w.held \
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS w (l, s, b, settled, held) \
    WHERE limit_name = l AND subject = s AND start_s = b";
const PUT_CREDIT: &str = "UPDATE credit SET segments = $1 WHERE id = 1";
const LAST_GROUP: &str = "SELECT group_id FROM lane WHERE epoch = $1 AND lane = $2 FOR UPDATE";

/// Statements with their parameters, in their order.
type Statements = Vec<(String, Vec<Kept>)>;

/// A lane's connection, and the row that stands for it.
pub(super) struct PgSession {
    database: Arc<Database>,
    epoch: i64,
    lane: i64,
    client: Client,
    statements: HashMap<String, Statement>,
    /// The days that are summed up, as far as the open group needs them.
    days: Vec<days::Day>,
}

impl PgSession {
    pub(super) fn new(database: Arc<Database>, client: Client, epoch: i64, lane: i64) -> Self {
        Self { database, epoch, lane, client, statements: HashMap::new(), days: Vec::new() }
    }

    /// Prepares what this connection has not prepared yet.
    async fn prepare(&mut self, texts: &[&str]) -> Result<(), tokio_postgres::Error> {
        let mut missing: Vec<&str> =
            texts.iter().copied().filter(|text| !self.statements.contains_key(*text)).collect();
        missing.sort_unstable();
        missing.dedup();
        let client = &self.client;
        let prepare = |text: &&str| {
            let text = numbered(text);
            async move { client.prepare(&text).await }
        };
        let prepared = try_join_all(missing.iter().map(prepare)).await?;
        self.statements.extend(missing.into_iter().map(str::to_owned).zip(prepared));
        Ok(())
    }

    async fn query(
        &self,
        text: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(&self.statements[text], params).await
    }

    async fn execute(
        &self,
        text: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        self.client.execute(&self.statements[text], params).await
    }

    /// What a failure before the commit was asked for means.
    async fn failed(&mut self, error: tokio_postgres::Error) -> Failure {
        if error.is_closed() || self.client.is_closed() {
            return Failure::Disconnected(error.into());
        }
        match self.client.batch_execute("ROLLBACK").await {
            Ok(()) => Failure::RolledBack(error.into()),
            Err(_) => Failure::Disconnected(error.into()),
        }
    }

    async fn opened(&mut self, wants: &Wants) -> Result<Option<Rows>, WriteError> {
        self.prepare(&[LOCK_LANE, NEW_METERS, METERS, ORPHANS, CREDIT, IDS, DAYS, READ_NOW_MS]).await?;
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
        let lane: [&(dyn ToSql + Sync); 2] = [&self.epoch, &self.lane];
        let orphans: Vec<i64> = wants.orphans.iter().copied().map(int).collect();
        let [ids, from, orphans]: [[&(dyn ToSql + Sync); 1]; 3] = [[&ids], [&from_s], [&orphans]];
        let sent: [(bool, &str, &[&(dyn ToSql + Sync)]); 8] = [
            (true, LOCK_LANE, &lane),
            (!new.is_empty(), NEW_METERS, &new_meters),
            (!wants.meters.is_empty(), METERS, &wanted),
            (wants.credit, CREDIT, &[]),
            (!wants.orphans.is_empty(), ORPHANS, &orphans),
            (wants.ids > 0, IDS, &ids),
            (wants.summed_from_s.is_some(), DAYS, &from),
            (true, READ_NOW_MS, &[]),
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
        let answers = pipelined(pipeline).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let [_, lane, _, meters, credit, orphans, ids, days, now] = &*answers else { return Ok(None) };
        let Some(lane) = lane.first() else { return Ok(None) };
        if lane.try_get::<_, &str>(0)? != "alive" {
            return Ok(None);
        }
        let days = days.iter().map(day).collect::<Result<_, _>>()?;
        let mut rows = Rows {
            rules_version: lane.try_get(1)?,
            meters: vec![None; wants.meters.len()],
            credit: credit.first().map(segments).transpose()?,
            orphans: orphans.iter().map(|row| row.try_get(0).map(uint)).collect::<Result<_, _>>()?,
            ids: ids.iter().map(|row| row.try_get(0).map(uint)).collect::<Result<_, _>>()?,
            now_ms: now.first().map_or(Ok(0), |row| row.try_get(0))?,
        };
        for row in meters {
            let place = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
            let meter = Meter { settled: row.try_get(1)?, held: row.try_get(2)? };
            if let Some(slot) = place.checked_sub(1).and_then(|at| rows.meters.get_mut(at)) {
                *slot = Some(meter);
            }
        }
        self.days = days;
        Ok(Some(rows))
    }

    /// The statements that write a group, in the order of locks; what depends on an answer is
    /// not among them.
    fn batch(&self, writes: &Writes<'_>) -> Result<Statements, Error> {
        let batch = Batch::default();
        let db = Db::Batch(&batch);
        let mut rollups: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
        for entry in writes.entries.iter().copied().chain(&writes.charges).chain(&writes.corrections) {
            let tags = tags_text(&entry.attribution.tags)?;
            insert_entry(db, entry, &tags)?;
            if entry.kind != Kind::Release {
                rollups.entry(RollupKey::of(entry, tags)).or_default().add(entry);
            }
        }
        for (key, sums) in &rollups {
            days::add_to(db, &self.days, key, sums)?;
        }
        if !writes.jobs.is_empty() {
            self.database.note_jobs();
        }
        // The object of a job that ends may be that of a new one.
        if self.database.has_jobs() {
            writes.ended.iter().try_for_each(|id| jobs::remove(db, *id))?;
        }
        writes.jobs.iter().try_for_each(|(hold, job)| jobs::insert(db, hold, job))?;
        writes.objects.iter().try_for_each(|changes| objects::write(db, changes))?;
        writes.audited.iter().try_for_each(|row| audit::insert(db, row))?;
        Ok(batch.into_statements())
    }

    /// Sends all statements of a group, and the commit behind them unless crossings decide
    /// what else is written.
    async fn written(&mut self, writes: &Writes<'_>) -> Result<Vec<Crossing>, WriteError> {
        let batch = self.batch(writes)?;
        let texts: Vec<&str> = batch.iter().map(|(text, _)| text.as_str()).collect();
        self.prepare(&[NOTE_GROUP, HOLDS, ENDED, PUT_METERS, PUT_CREDIT]).await?;
        self.prepare(&texts).await?;
        let group = GroupRows::of(writes)?;
        let is_last = writes.crossings.is_empty();
        let mut pipeline = self.pipeline(writes, &group, &batch);
        if is_last {
            pipeline.push(Box::pin(async { self.client.batch_execute("COMMIT").await.map(|()| 0) }));
        }
        pipelined(pipeline).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        if is_last {
            return Ok(Vec::new());
        }
        let new = self.crossed(&writes.crossings).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(new)
    }

    /// The statements of a group, to be sent in their order.
    fn pipeline<'a>(
        &'a self,
        writes: &'a Writes<'_>,
        group: &'a GroupRows,
        batch: &'a Statements,
    ) -> Vec<Sent<'a, u64>> {
        let mut pipeline: Vec<Sent<'a, u64>> = Vec::new();
        pipeline.push(Box::pin(async {
            self.execute(NOTE_GROUP, &[&self.epoch, &self.lane, &writes.group]).await
        }));
        if !group.holds.is_empty() {
            pipeline.push(Box::pin(async {
                self.execute(HOLDS, &[&self.epoch, &group.holds, &group.costs, &group.bodies]).await
            }));
        }
        if !group.ended.is_empty() {
            pipeline.push(Box::pin(async { self.execute(ENDED, &[&group.ended]).await }));
        }
        if !group.meters.is_empty() {
            pipeline.push(Box::pin(async {
                let [limits, subjects, starts] = group.meters.params();
                self.execute(PUT_METERS, &[limits, subjects, starts, &group.settled, &group.held]).await
            }));
        }
        if let Some(segments) = &group.credit {
            pipeline.push(Box::pin(async move { self.execute(PUT_CREDIT, &[segments]).await }));
        }
        for (text, params) in batch {
            pipeline.push(Box::pin(async move {
                let params = params.iter().map(Kept::value);
                self.client.execute_raw(&self.statements[text.as_str()], params).await
            }));
        }
        pipeline
    }

    /// Writes crossings, each with a line of the ledger if it is new.
    async fn crossed(&mut self, crossed: &[Crossing]) -> Result<Vec<Crossing>, WriteError> {
        self.prepare(&[IDS]).await?;
        let count = int(u64::try_from(crossed.len()).unwrap_or(u64::MAX));
        let ids = self.query(IDS, &[&count]).await?;
        let mut new = Vec::new();
        for (crossing, id) in crossed.iter().zip(ids) {
            let crossing = Crossing { id: uint(id.try_get(0)?), ..crossing.clone() };
            let (mark, line) = (Batch::default(), Batch::default());
            crossings::insert_mark(Db::Batch(&mark), &crossing)?;
            insert_entry(Db::Batch(&line), &crossing.entry(), "")?;
            if self.run(mark).await? > 0 {
                self.run(line).await?;
                new.push(crossing);
            }
        }
        Ok(new)
    }

    /// Runs the statements of a batch; returns how many rows they have changed.
    async fn run(&mut self, batch: Batch) -> Result<u64, tokio_postgres::Error> {
        let mut changed = 0;
        for (text, params) in batch.into_statements() {
            self.prepare(&[&text]).await?;
            let params = params.iter().map(Kept::value);
            changed += self.client.execute_raw(&self.statements[text.as_str()], params).await?;
        }
        Ok(changed)
    }
}

/// Why a group was not written.
enum WriteError {
    /// The database failed, or the connection.
    Database(tokio_postgres::Error),
    /// A record has no text, or a row can't be read.
    Record(Error),
}

impl From<tokio_postgres::Error> for WriteError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        Self::Record(error)
    }
}

impl Session for PgSession {
    async fn open(&mut self, wants: &Wants) -> Result<Rows, Failure> {
        match self.opened(wants).await {
            Ok(Some(rows)) => Ok(rows),
            Ok(None) => {
                self.roll_back().await?;
                Err(Failure::GivenUp)
            }
            Err(WriteError::Database(error)) => Err(self.failed(error).await),
            Err(WriteError::Record(error)) => {
                self.roll_back().await?;
                Err(Failure::RolledBack(error.into()))
            }
        }
    }

    async fn commit(&mut self, writes: &Writes<'_>) -> Result<Vec<Crossing>, Failure> {
        match self.written(writes).await {
            Ok(new) => Ok(new),
            // Sent behind the other statements: if the connection is gone, it may have been
            // executed all the same.
            Err(WriteError::Database(error)) if error.is_closed() || self.client.is_closed() => {
                Err(Failure::Unknown(error.into()))
            }
            Err(WriteError::Database(error)) => Err(self.failed(error).await),
            Err(WriteError::Record(error)) => {
                self.roll_back().await?;
                Err(Failure::RolledBack(error.into()))
            }
        }
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        let rolled_back = self.client.batch_execute("ROLLBACK").await;
        rolled_back.map_err(|error| Failure::Disconnected(error.into()))
    }

    fn epoch(&self) -> i64 {
        self.epoch
    }

    fn set_epoch(&mut self, epoch: i64) {
        self.epoch = epoch;
    }

    async fn rejoin(&mut self) -> Result<(i64, HashSet<u64>), Failure> {
        let (database, lost) = (Arc::clone(&self.database), self.epoch);
        let rejoining =
            move || nodes::rejoin(Lease::take(&database, Work::Long)?.connection(), &database.config, lost);
        blocking(rejoining).await.map_err(|error| Failure::RolledBack(error.into()))
    }

    async fn reconnect(&mut self) -> Result<i64, Failure> {
        let lost = |error: crate::store::DatabaseError| Failure::Disconnected(error);
        self.client = self.database.client().await.map_err(lost)?;
        self.statements.clear();
        let group = async {
            self.prepare(&[LAST_GROUP]).await?;
            self.client.batch_execute("BEGIN").await?;
            let rows = self.query(LAST_GROUP, &[&self.epoch, &self.lane]).await?;
            self.client.batch_execute("ROLLBACK").await?;
            rows.first().map(|row| row.try_get(0)).transpose()
        };
        let group: Result<Option<i64>, tokio_postgres::Error> = group.await;
        group.map_err(|error| lost(error.into()))?.ok_or(Failure::GivenUp)
    }
}

fn day(row: &Row) -> Result<days::Day, WriteError> {
    let span = Span { start_s: row.try_get(0)?, end_s: row.try_get(1)? };
    Ok(days::Day::of(span, row.try_get(2)?)?)
}

fn segments(row: &Row) -> Result<Vec<Segment>, WriteError> {
    Ok(segments_of(row.try_get(0)?)?)
}
