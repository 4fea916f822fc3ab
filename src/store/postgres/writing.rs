//! Writes an open group and commits it: one round trip, unless thresholds were crossed.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::ledger::entry::{Crossing, Kind};
use crate::store::postgres::arrays::GroupRows;
use crate::store::postgres::pipeline::{Sent, pipelined};
use crate::store::postgres::session::Writes;
use crate::store::postgres::transaction::{IDS, PgSession, WriteError};
use crate::store::sql::batch::{Batch, Kept};
use crate::store::sql::codec::{ENTRY_COLUMNS, insert_entry, int, tags_text, uint};
use crate::store::sql::rollup::{RollupKey, RollupSums};
use crate::store::sql::{Db, Error, Value, audit, crossings, days, jobs, objects};

const NOTE_GROUP: &str = "UPDATE lane SET group_id = $3 WHERE epoch = $1 AND lane = $2";
const HOLDS: &str = "INSERT INTO hold (id, epoch, cost_nano, holds) SELECT i, $1, c, h \
    FROM unnest($2::bigint[], $3::bigint[], $4::text[]) AS w (i, c, h)";
const ENDED: &str = "DELETE FROM hold WHERE id = ANY($1)";
const PUT_METERS: &str = "UPDATE meter SET settled = w.settled, held = w.held \
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS w (l, s, b, settled, held) \
    WHERE limit_name = l AND subject = s AND start_s = b";
const PUT_CREDIT: &str = "UPDATE credit SET segments = $1 WHERE id = 1";
const PUT_RATES: &str = "INSERT INTO rate (limit_name, subject, taken, gone, at_ms) \
    SELECT l, s, CAST(t AS NUMERIC), CAST(g AS NUMERIC), a \
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY AS w (l, s, t, g, a, n) \
    ORDER BY n ON CONFLICT (limit_name, subject) \
    DO UPDATE SET taken = excluded.taken, gone = excluded.gone, at_ms = excluded.at_ms";

/// Which columns of an entry are texts; the others are numbers.
const TEXTS: [&str; 16] = [
    "kind",
    "project",
    "api_key",
    "end_user",
    "tags",
    "endpoint",
    "model",
    "priced_as",
    "served_model",
    "tier",
    "basis",
    "other_quantities",
    "price_version",
    "upstream_request_id",
    "object_id",
    "note",
];
/// Writes entries; each parameter is a column of all of them.
static ENTRIES: LazyLock<String> = LazyLock::new(|| {
    let column = |(at, name): (usize, &str)| {
        format!("${}::{}[]", at + 1, if TEXTS.contains(&name) { "text" } else { "bigint" })
    };
    let columns: Vec<String> = ENTRY_COLUMNS.split(", ").enumerate().map(column).collect();
    format!("INSERT INTO entry ({ENTRY_COLUMNS}) SELECT * FROM unnest({})", columns.join(", "))
});

/// Statements with their parameters, in their order.
type Statements = Vec<(String, Vec<Kept>)>;

impl PgSession {
    /// The rows of a group's entries, and the statements that write what is not written in
    /// arrays; what depends on an answer is not among them. Rows that other groups may write at
    /// the same time are written in one order by all: table by table, and within each in the order
    /// of keys.
    fn batch(&self, writes: &Writes<'_>) -> Result<(Vec<Vec<Kept>>, Statements), Error> {
        let (rows, batch) = (Batch::default(), Batch::default());
        let db = Db::Batch(&batch);
        let mut rollups: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
        let entries = writes.entries.iter().copied().chain(&writes.charges).chain(&writes.corrections);
        for entry in sorted_by(entries, |entry| entry.id) {
            let tags = tags_text(&entry.attribution.tags)?;
            insert_entry(Db::Batch(&rows), entry, &tags)?;
            if entry.kind != Kind::Release {
                rollups.entry(RollupKey::of(entry, tags)).or_default().add(entry);
            }
        }
        days::add_all(db, &self.days, &rollups)?;
        if !writes.jobs.is_empty() {
            self.database.note_jobs();
        }
        // The object of a job that ends may be that of a new one.
        if self.database.has_jobs() {
            let ended = sorted_by(&writes.ended, |id| *id);
            ended.into_iter().try_for_each(|id| jobs::remove(db, *id))?;
        }
        let jobs = sorted_by(&writes.jobs, |(_, job)| (&*job.kind, &*job.object));
        jobs.into_iter().try_for_each(|(hold, job)| jobs::insert(db, hold, job))?;
        objects::write(db, objects::in_order(writes.objects.iter().copied().flatten()))?;
        writes.audited.iter().try_for_each(|row| audit::insert(db, row))?;
        Ok((rows.into_rows(), batch.into_statements()))
    }

    /// Sends all statements of a group, and the commit behind them unless crossings decide
    /// what else is written.
    pub(super) async fn written(&mut self, writes: &Writes<'_>) -> Result<Vec<Crossing>, WriteError> {
        let (entries, batch) = self.batch(writes)?;
        let texts: Vec<&str> = batch.iter().map(|(text, _)| text.as_str()).collect();
        self.prepare(&[NOTE_GROUP, HOLDS, ENDED, PUT_METERS, PUT_CREDIT, PUT_RATES, &ENTRIES]).await?;
        self.prepare(&texts).await?;
        let group = GroupRows::of(writes)?;
        let is_last = writes.crossings.is_empty();
        let entries = columns(&entries);
        let mut pipeline = self.pipeline(writes, &group, &entries, &batch);
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
        entries: &'a [Vec<Value<'a>>],
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
        if !group.rates.is_empty() {
            pipeline.push(Box::pin(async {
                let [limits, subjects] = group.rates.params();
                let GroupRows { taken, gone, at_ms, .. } = group;
                self.execute(PUT_RATES, &[limits, subjects, taken, gone, at_ms]).await
            }));
        }
        if !entries.is_empty() {
            pipeline.push(Box::pin(async move {
                self.client.execute_raw(&self.statements[ENTRIES.as_str()], entries).await
            }));
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
        // By what they are unique.
        let in_order = sorted_by(crossed, |of| {
            (&*of.limit.name, &*of.subject, of.mark.name(), of.threshold, of.window_start_s)
        });
        for (crossing, id) in in_order.into_iter().zip(ids) {
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

/// The columns of rows.
fn columns(rows: &[Vec<Kept>]) -> Vec<Vec<Value<'_>>> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|at| rows.iter().filter_map(|row| row.get(at)).map(Kept::value).collect()).collect()
}

/// Records in the order of a key.
fn sorted_by<'a, T, K: Ord>(
    records: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&'a T) -> K,
) -> Vec<&'a T> {
    let mut records: Vec<&T> = records.into_iter().collect();
    records.sort_by_key(|record| key(record));
    records
}
