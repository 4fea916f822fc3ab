//! Writes an open group and commits it: one round trip, unless thresholds were crossed.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use tokio_postgres::types::ToSql;

use crate::ledger::entry::{Crossing, Kind};
use crate::store::postgres::arrays::GroupRows;
use crate::store::postgres::pipeline::{Sent, pipelined};
use crate::store::postgres::session::Writes;
use crate::store::postgres::transaction::{IDS, PgSession, WriteError};
use crate::store::sql::batch::{Batch, Kept};
use crate::store::sql::codec::{ENTRY_COLUMNS, insert_entry, int, tags_text, uint};
use crate::store::sql::rollup::{self, COLUMNS, RollupKey, RollupSums, Table};
use crate::store::sql::{Db, Error, Value, audit, crossings, days, jobs, objects};

/// Writes what almost every group has, on rows that it has locked or made: its number, holds,
/// ended holds, meters, entries.
static GROUP: LazyLock<String> = LazyLock::new(|| {
    let entries = unnested(ENTRY_COLUMNS, GROUP_PARAMS + 1);
    format!(
        "WITH noted AS (UPDATE lane SET group_id = $3 WHERE epoch = $1 AND lane = $2), \
         held AS (INSERT INTO hold (id, epoch, cost_nano, holds) SELECT i, $1, c, h \
         FROM unnest($4::bigint[], $5::bigint[], $6::text[]) AS w (i, c, h)), \
         ended AS (DELETE FROM hold WHERE id = ANY($7::bigint[])), \
         counted AS (UPDATE meter SET settled = w.settled, held = w.held \
         FROM unnest($8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[]) AS w (l, s, b, settled, held) \
         WHERE limit_name = l AND subject = s AND start_s = b) \
         INSERT INTO entry ({ENTRY_COLUMNS}) {entries}"
    )
});
/// The parameters of [`GROUP`] before the columns of entries.
const GROUP_PARAMS: usize = 12;
const PUT_CREDIT: &str = "UPDATE credit SET segments = $1 WHERE id = 1";
const PUT_RATES: &str = "INSERT INTO rate (limit_name, subject, taken, gone, at_ms) \
    SELECT l, s, CAST(t AS NUMERIC), CAST(g AS NUMERIC), a \
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY AS w (l, s, t, g, a, n) \
    ORDER BY n ON CONFLICT (limit_name, subject) \
    DO UPDATE SET taken = excluded.taken, gone = excluded.gone, at_ms = excluded.at_ms";

/// Which columns of entries and sums are texts; the others are numbers.
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

/// Adds to sums of each table.
static SUMS: LazyLock<[String; 3]> = LazyLock::new(|| {
    [Table::Quarters, Table::Days, Table::DaysByUser].map(|table| {
        let (name, rows, addition) = (table.name(), unnested(COLUMNS, 1), rollup::addition(table, true));
        format!("INSERT INTO {name} ({COLUMNS}) {rows} {addition}")
    })
});

/// Rows whose columns are arrays, each a parameter from `first` on; in their order, in which rows
/// that are there already are locked.
fn unnested(columns: &str, first: usize) -> String {
    let array = |(at, name): (usize, &str)| {
        format!("${}::{}[]", first + at, if TEXTS.contains(&name) { "text" } else { "bigint" })
    };
    let arrays: Vec<String> = columns.split(", ").enumerate().map(array).collect();
    format!(
        "SELECT {columns} FROM unnest({}) WITH ORDINALITY AS w ({columns}, place) ORDER BY place",
        arrays.join(", ")
    )
}

/// Statements with their parameters, in their order.
type Statements = Vec<(String, Vec<Kept>)>;
/// The rows that are added to each table of sums, with the statement that does it.
type Sums = Vec<(&'static str, Columns)>;

impl PgSession {
    /// The rows of a group's entries, what they add to sums, and the statements that write what is
    /// not written in arrays; what depends on an answer is not among them. Rows that other groups may
    /// write at the same time are written in one order by all: table by table, and within each in
    /// the order of keys.
    fn batch(&self, writes: &Writes<'_>) -> Result<(Columns, Sums, Statements), Error> {
        let (rows, batch) = (Batch::default(), Batch::default());
        let db = Db::Batch(&batch);
        let mut quarters: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
        let entries = writes.entries.iter().copied().chain(&writes.charges).chain(&writes.corrections);
        for entry in sorted_by(entries, |entry| entry.id) {
            let tags = tags_text(&entry.attribution.tags)?;
            insert_entry(Db::Batch(&rows), entry, &tags)?;
            if entry.kind != Kind::Release {
                quarters.entry(RollupKey::of(entry, tags)).or_default().add(entry);
            }
        }
        let mut sums = Vec::new();
        for ((table, sums_of), text) in days::in_tables(&self.days, quarters).into_iter().zip(&*SUMS) {
            let rows = Batch::default();
            sums_of
                .iter()
                .try_for_each(|(key, of)| rollup::upsert_rollup(Db::Batch(&rows), table, key, of))?;
            if !sums_of.is_empty() {
                sums.push((text.as_str(), Columns::of(rows, COLUMNS)));
            }
        }
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
        Ok((Columns::of(rows, ENTRY_COLUMNS), sums, batch.into_statements()))
    }

    /// Sends all statements of a group, and the commit behind them unless crossings decide
    /// what else is written.
    pub(super) async fn written(&mut self, writes: &Writes<'_>) -> Result<Vec<Crossing>, WriteError> {
        let (entries, sums, batch) = self.batch(writes)?;
        let texts = batch.iter().map(|(text, _)| text.as_str()).chain(sums.iter().map(|(text, _)| *text));
        let texts: Vec<&str> = texts.chain([&**GROUP, PUT_CREDIT, PUT_RATES]).collect();
        self.prepare(&texts).await?;
        let group = GroupRows::of(writes)?;
        let is_last = writes.crossings.is_empty();
        let entries = entries.arrays();
        let mut pipeline = self.pipeline(writes, &group, &entries, &sums, &batch);
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
        sums: &'a Sums,
        batch: &'a Statements,
    ) -> Vec<Sent<'a, u64>> {
        let mut pipeline: Vec<Sent<'a, u64>> = Vec::new();
        pipeline.push(Box::pin(async {
            let [limits, subjects, starts] = group.meters.params();
            let lane: [&(dyn ToSql + Sync); 3] = [&self.epoch, &self.lane, &writes.group];
            let holds: [&(dyn ToSql + Sync); 4] = [&group.holds, &group.costs, &group.bodies, &group.ended];
            let meters: [&(dyn ToSql + Sync); 5] = [limits, subjects, starts, &group.settled, &group.held];
            let entries = entries.iter().map(|column| -> &(dyn ToSql + Sync) { column });
            let params: Vec<_> = lane.into_iter().chain(holds).chain(meters).chain(entries).collect();
            self.execute(&GROUP, &params).await
        }));
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
        for (text, columns) in sums {
            pipeline.push(Box::pin(async move {
                self.client.execute_raw(&self.statements[*text], columns.arrays()).await
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

/// Rows that are written as arrays, one for each column.
struct Columns {
    count: usize,
    rows: Vec<Vec<Kept>>,
}

impl Columns {
    /// The rows of a batch, for columns of these names.
    fn of(rows: Batch, columns: &str) -> Self {
        Self { count: columns.split(", ").count(), rows: rows.into_rows() }
    }

    fn arrays(&self) -> Vec<Vec<Value<'_>>> {
        let column = |at| self.rows.iter().filter_map(|row| row.get(at)).map(Kept::value).collect();
        (0..self.count).map(column).collect()
    }
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
