//! The one thread that writes, in groups.
//!
//! Whatever waits in the queue becomes one transaction. Holds are acknowledged
//! when it has committed. If it can't commit, holds are refused at once, but
//! endings are kept and tried again until they are in: what has been spent is
//! never forgotten. The queue is bounded, and each open reservation owns a slot
//! in it, so that its ending can always be written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, Transaction, params};
use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender};
use tokio::sync::oneshot;

use crate::domain::Tokens;
use crate::ledger::entry::{Crossing, Entry, Hold, Kind};
use crate::store::rows::{HoldRow, insert_entry, int, tags_text};
use crate::store::{Store, StoreError};

/// The longest group, which bounds how long one transaction can take.
const GROUP_MAX: usize = 4_096;
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A rollup's stretch of time: every time zone's hours and days are made of
/// whole quarters of an hour.
pub(crate) const ROLLUP_S: i64 = 900;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Something to write.
pub enum Record {
    /// A hold; the answer says whether it is in the database.
    Hold(Arc<Hold>, oneshot::Sender<bool>),
    /// An entry, with the thresholds it crossed; a crossing is written once,
    /// however often it is said.
    Entry(Box<Entry>, Vec<Crossing>),
    /// Work on the database in the order of the queue.
    Job(Job),
}

/// Hears what the writer does.
pub trait Observer: Send + 'static {
    /// A group is about to be written.
    fn committing(&self);
    /// It is in the database.
    fn committed(&self);
    /// It is not; holds in it were refused, the rest is kept.
    fn failed(&self, error: &rusqlite::Error);
    /// A threshold was crossed that had not been before.
    fn crossed(&self, crossing: &Crossing);
}

/// The handle to the writer's queue.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Sender<Record>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread. It ends when every handle and permit is gone.
    pub fn start<O: Observer>(
        store: &Store,
        queue_max: usize,
        observer: O,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let db = store.connect()?;
        let (queue, records) = mpsc::channel(queue_max);
        let healthy = Arc::new(AtomicBool::new(true));
        let shared = Arc::clone(&healthy);
        let body = move || {
            let mut thread = Thread {
                db,
                observer,
                healthy: shared,
                open: OpenBatches::default(),
                backlog: Vec::new(),
                refused: HashSet::new(),
            };
            thread.run(records);
        };
        let thread = std::thread::Builder::new().name("ledger-writer".to_owned()).spawn(body);
        let thread = thread.map_err(|_| StoreError::Unavailable)?;
        Ok((Self { queue, healthy }, thread))
    }

    /// A slot in the queue; waits while it is full.
    pub async fn slot(&self) -> Result<OwnedPermit<Record>, StoreError> {
        self.queue.clone().reserve_owned().await.map_err(|_| StoreError::Unavailable)
    }

    /// A slot in the queue if one is free now.
    pub fn try_slot(&self) -> Option<OwnedPermit<Record>> {
        self.queue.clone().try_reserve_owned().ok()
    }

    /// Whether the last group was written.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Records that wait to be written, slots of open reservations included.
    pub fn taken(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Does work on the database after all that was queued before it.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let slot = self.slot().await?;
        let (record, answer) = job(work);
        slot.send(record);
        Ok(answer.await.map_err(|_| StoreError::Unavailable)??)
    }

    /// Waits until all that was queued before is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.run(|_| Ok(())).await
    }
}

/// A record that does work, and where its result will be.
pub fn job<T, F>(work: F) -> (Record, oneshot::Receiver<rusqlite::Result<T>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let (tell, answer) = oneshot::channel();
    let job: Job = Box::new(move |db| {
        // Nobody may be waiting any more; the work is done all the same.
        let _ = tell.send(work(db));
    });
    (Record::Job(job), answer)
}

struct Thread<O> {
    db: Connection,
    observer: O,
    healthy: Arc<AtomicBool>,
    open: OpenBatches,
    backlog: Vec<Record>,
    /// Holds that could not be written; their releases need not be either.
    refused: HashSet<u64>,
}

impl<O: Observer> Thread<O> {
    fn run(&mut self, mut records: Receiver<Record>) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        loop {
            if self.backlog.is_empty() {
                if records.blocking_recv_many(&mut group, GROUP_MAX) == 0 {
                    return;
                }
            } else {
                std::thread::sleep(RETRY_AFTER);
                while group.len() < GROUP_MAX {
                    let Ok(record) = records.try_recv() else { break };
                    group.push(record);
                }
            }
            let mut facts = std::mem::take(&mut self.backlog);
            for record in group.drain(..) {
                if let Record::Job(job) = record {
                    self.write(&mut facts);
                    job(&mut self.db);
                } else {
                    facts.push(record);
                }
            }
            self.write(&mut facts);
            self.backlog.append(&mut facts);
        }
    }

    /// Writes a group. Afterwards `facts` holds what has to be tried again.
    fn write(&mut self, facts: &mut Vec<Record>) {
        let refused = &mut self.refused;
        facts.retain(|fact| !matches!(fact, Record::Entry(entry, _) if refused.remove(&entry.id)));
        if facts.is_empty() {
            return;
        }
        self.observer.committing();
        let written = commit(&mut self.db, facts, &mut self.open);
        self.healthy.store(written.is_ok(), Ordering::Relaxed);
        match written {
            Ok(crossed) => {
                self.observer.committed();
                for crossing in &crossed {
                    self.observer.crossed(crossing);
                }
                for fact in facts.drain(..) {
                    if let Record::Hold(_, admitted) = fact {
                        let _ = admitted.send(true);
                    }
                }
            }
            Err(error) => {
                self.observer.failed(&error);
                let refused = facts.extract_if(.., |fact| matches!(fact, Record::Hold(..)));
                for hold in refused {
                    if let Record::Hold(hold, admitted) = hold {
                        self.refused.insert(hold.id);
                        let _ = admitted.send(false);
                    }
                }
            }
        }
    }
}

/// The batches of holds in the database that are not all ended yet: by the
/// first id, the last id and how many are open.
#[derive(Debug, Default)]
struct OpenBatches(BTreeMap<u64, (u64, usize)>);

impl OpenBatches {
    /// The batch that holds an id: its first id, and how many are open.
    fn of(&self, id: u64) -> Option<(u64, usize)> {
        let (first, (last, open)) = self.0.range(..=id).next_back()?;
        (id <= *last).then_some((*first, *open))
    }
}

/// Writes all facts in one transaction. Returns which crossings are new.
fn commit(db: &mut Connection, facts: &[Record], open: &mut OpenBatches) -> rusqlite::Result<Vec<Crossing>> {
    let tx = db.transaction()?;
    let mut changes = HoldChanges::default();
    let mut rollups: HashMap<RollupKey, RollupSums> = HashMap::new();
    let mut crossed = Vec::new();
    for fact in facts {
        match fact {
            Record::Hold(hold, _) => changes.open(hold),
            Record::Entry(entry, crossings) => {
                let tags = tags_text(&entry.attribution.tags);
                insert_entry(&tx, entry, &tags)?;
                if matches!(entry.kind, Kind::Settle | Kind::Release) {
                    changes.end(entry.id, open);
                }
                if entry.kind != Kind::Release {
                    rollups.entry(RollupKey::of(entry, tags)).or_default().add(entry);
                }
                crossed.extend(insert_crossings(&tx, crossings)?);
            }
            Record::Job(_) => {}
        }
    }
    for (key, sums) in &rollups {
        upsert_rollup(&tx, key, sums)?;
    }
    changes.write(&tx, open)?;
    tx.commit()?;
    changes.note(open);
    Ok(crossed)
}

/// Writes endings outside the writer's thread, before it has started, and
/// clears all batches of holds.
pub(crate) fn write_endings(db: &mut Connection, entries: &[Entry]) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    for entry in entries {
        let tags = tags_text(&entry.attribution.tags);
        insert_entry(&tx, entry, &tags)?;
        let mut sums = RollupSums::default();
        sums.add(entry);
        upsert_rollup(&tx, &RollupKey::of(entry, tags), &sums)?;
    }
    tx.execute("DELETE FROM hold_batch", [])?;
    tx.commit()
}

/// The holds that a group opens, and those that it ends.
#[derive(Default)]
struct HoldChanges {
    first: Option<u64>,
    last: u64,
    opened: usize,
    lines: String,
    /// By the first id of their batch, how many end.
    ended: HashMap<u64, usize>,
}

impl HoldChanges {
    fn open(&mut self, hold: &Hold) {
        self.first.get_or_insert(hold.id);
        self.last = hold.id;
        self.opened += 1;
        // A hold has no map with keys other than text, so this can't fail.
        self.lines.push_str(&serde_json::to_string(&HoldRow::of(hold)).unwrap_or_default());
        self.lines.push('\n');
    }

    fn end(&mut self, id: u64, open: &OpenBatches) {
        let own = self.first.filter(|first| *first <= id && id <= self.last);
        if let Some(first) = own.or_else(|| open.of(id).map(|(first, _)| first)) {
            *self.ended.entry(first).or_default() += 1;
        }
    }

    /// Writes the new batch and deletes those that are over.
    fn write(&self, tx: &Transaction<'_>, open: &OpenBatches) -> rusqlite::Result<()> {
        if let Some(first) = self.first {
            let mut insert = tx.prepare_cached("INSERT INTO hold_batch VALUES (?1, ?2)")?;
            insert.execute(params![int(first), self.lines])?;
        }
        let mut delete = tx.prepare_cached("DELETE FROM hold_batch WHERE first_id = ?1")?;
        for (first, ended) in &self.ended {
            if self.left(*first, open) == *ended {
                delete.execute([int(*first)])?;
            }
        }
        Ok(())
    }

    fn left(&self, first: u64, open: &OpenBatches) -> usize {
        if self.first == Some(first) { self.opened } else { open.of(first).map_or(0, |(_, left)| left) }
    }

    /// Notes the changes once the transaction has committed.
    fn note(self, open: &mut OpenBatches) {
        if let Some(first) = self.first {
            open.0.insert(first, (self.last, self.opened));
        }
        for (first, ended) in self.ended {
            let Some((_, left)) = open.0.get_mut(&first) else { continue };
            *left = left.saturating_sub(ended);
            if *left == 0 {
                open.0.remove(&first);
            }
        }
    }
}

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

fn upsert_rollup(tx: &Transaction<'_>, key: &RollupKey, sums: &RollupSums) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(
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

/// Writes thresholds crossed, each with a line in the ledger. Returns those
/// that had not been written before.
pub(crate) fn insert_crossings(db: &Connection, crossings: &[Crossing]) -> rusqlite::Result<Vec<Crossing>> {
    let mut new = Vec::new();
    for crossing in crossings {
        let written = db
            .prepare_cached("INSERT OR IGNORE INTO crossing VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                &*crossing.limit.name,
                crossing.subject,
                crossing.threshold,
                crossing.window_start_s,
                crossing.settled,
                crossing.at_ms,
            ])?;
        if written == 1 {
            insert_entry(db, &crossing.entry(), "")?;
            new.push(crossing.clone());
        }
    }
    Ok(new)
}
