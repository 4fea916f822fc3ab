//! One group of holds and records in one transaction.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::ledger::entry::{Crossing, Entry, Hold, Job, Kind};
use crate::store::objects::ObjectChange;
use crate::store::sql::codec::{HoldRow, insert_entry, int, tags_text};
use crate::store::sql::columns::json_text;
use crate::store::sql::rollup::{RollupKey, RollupSums};
use crate::store::sql::{Db, Result, crossings, days, entries, jobs, objects, params};
use crate::store::sqlite::pending::{CrossingRecord, EndingRecord, Pending, PendingWrite};

/// The batches of holds in the database that are not all ended yet.
#[derive(Debug, Default)]
pub(super) struct OpenBatches {
    /// By the first id, the last id and how many are open. They don't overlap.
    many: BTreeMap<u64, (u64, usize)>,
    /// Those of one hold that was written in its place among the records, not in
    /// the order of holds.
    single: HashSet<u64>,
    /// Holds of jobs, each in a row of its own.
    jobs: HashSet<u64>,
}

impl OpenBatches {
    /// None but the holds of these jobs.
    pub(super) fn with_jobs(jobs: HashSet<u64>) -> Self {
        Self { jobs, ..Self::default() }
    }

    /// The batch that holds an id: its first id, and how many are open.
    fn of(&self, id: u64) -> Option<(u64, usize)> {
        if self.single.contains(&id) {
            return Some((id, 1));
        }
        let (first, (last, open)) = self.many.range(..=id).next_back()?;
        (id <= *last).then_some((*first, *open))
    }
}

/// What is written in one transaction.
pub(super) struct Group<'a> {
    pub(super) holds: &'a [PendingWrite],
    pub(super) endings: &'a [EndingRecord],
    pub(super) crossings: &'a [CrossingRecord],
    /// Objects that could not be written before.
    pub(super) objects: &'a [ObjectChange],
}

/// Writes all in one transaction; `summed` is where the sums of days end.
/// Returns which crossings are new.
pub(super) fn commit(
    db: Db<'_>,
    summed: &RollupKey,
    group: &Group<'_>,
    open: &mut OpenBatches,
) -> Result<Vec<Crossing>> {
    let (changes, crossed) = db.transaction(|| write(db, summed, group, open))?;
    changes.note(open);
    Ok(crossed)
}

fn write(
    db: Db<'_>,
    summed: &RollupKey,
    group: &Group<'_>,
    open: &OpenBatches,
) -> Result<(HoldChanges, Vec<Crossing>)> {
    let mut changes = HoldChanges::default();
    let mut rollups: BTreeMap<RollupKey, RollupSums> = BTreeMap::new();
    let mut crossed = Vec::new();
    objects::write(db, group.objects)?;
    for waiting in group.holds {
        match &waiting.what {
            Pending::Hold { hold, depends_on_unwritten } => changes.open(hold, *depends_on_unwritten)?,
            Pending::Job(hold, job) => changes.detach(hold, job, open),
            Pending::Objects(learned) => objects::write(db, learned)?,
        }
    }
    for EndingRecord { entry, crossings, renewed, .. } in group.endings {
        let tags = tags_text(&entry.attribution.tags)?;
        insert_entry(db, entry, &tags)?;
        if matches!(entry.kind, Kind::Settle | Kind::Release) {
            changes.end(entry.id, open);
        }
        if let Some((hold, job)) = renewed {
            changes.detach(hold, job, open);
        }
        if entry.kind != Kind::Release {
            rollups.entry(RollupKey::of(entry, tags)).or_default().add(entry);
        }
        crossed.extend(crossings::insert(db, crossings)?);
    }
    for CrossingRecord { crossings, .. } in group.crossings {
        crossed.extend(crossings::insert(db, crossings)?);
    }
    for (key, sums) in &rollups {
        days::add(db, summed, key, sums)?;
    }
    changes.write(db, open)?;
    Ok((changes, crossed))
}

/// Writes endings outside the writer's thread, before it has started, and
/// clears all batches of holds.
pub(crate) fn write_endings(db: Db<'_>, ended: &[Entry]) -> Result<()> {
    db.transaction(|| {
        entries::insert_summed(db, ended)?;
        db.execute("DELETE FROM hold_batch", &[]).map(drop)
    })
}

/// The holds that a group opens, and those that it ends.
#[derive(Default)]
struct HoldChanges {
    first: Option<u64>,
    last: u64,
    opened: usize,
    lines: String,
    /// Holds in batches of their own, with their lines.
    single: Vec<(u64, String)>,
    /// By the first id of their batch, how many end.
    ended: BTreeMap<u64, usize>,
    /// Holds that get a row of their own, with the jobs that they are for.
    detached: Vec<(Arc<Hold>, Job)>,
    /// Holds of jobs that end.
    ended_jobs: Vec<u64>,
}

impl HoldChanges {
    fn open(&mut self, hold: &Hold, depends_on_unwritten: bool) -> Result<()> {
        let mut line = json_text(&HoldRow::of(hold))?;
        line.push('\n');
        if depends_on_unwritten {
            self.single.push((hold.id, line));
            return Ok(());
        }
        self.first.get_or_insert(hold.id);
        self.last = hold.id;
        self.opened += 1;
        self.lines.push_str(&line);
        Ok(())
    }

    /// A hold leaves its batch for a row of its own.
    fn detach(&mut self, hold: &Arc<Hold>, job: &Job, open: &OpenBatches) {
        self.end(hold.id, open);
        self.detached.push((Arc::clone(hold), job.clone()));
    }

    fn end(&mut self, id: u64, open: &OpenBatches) {
        // Its request was cancelled while this group was gathered.
        if let Some(at) = self.detached.iter().position(|(hold, _)| hold.id == id) {
            self.detached.swap_remove(at);
            return;
        }
        // Its id may lie within a batch that it has left.
        if open.jobs.contains(&id) {
            self.ended_jobs.push(id);
            return;
        }
        if let Some(first) = self.batch_of(id, open) {
            *self.ended.entry(first).or_default() += 1;
        }
    }

    /// The first id of the batch that holds an id. The ids of a batch may enclose
    /// that of a hold with a batch of its own, which may end in the group that opens it.
    fn batch_of(&self, id: u64, open: &OpenBatches) -> Option<u64> {
        if self.is_single(id) {
            return Some(id);
        }
        let own = self.first.filter(|first| *first <= id && id <= self.last);
        open.of(id).map(|(first, _)| first).or(own)
    }

    fn is_single(&self, id: u64) -> bool {
        self.single.iter().any(|(single, _)| *single == id)
    }

    /// Writes the new batch and deletes those that are over.
    fn write(&self, db: Db<'_>, open: &OpenBatches) -> Result<()> {
        let insert = |first: u64, lines: &str| {
            db.execute("INSERT INTO hold_batch VALUES (?1, ?2)", params![int(first), lines])
        };
        if let Some(first) = self.first {
            insert(first, &self.lines)?;
        }
        for (id, line) in &self.single {
            insert(*id, line)?;
        }
        // The object of a job that ends may be that of a new one.
        self.ended_jobs.iter().try_for_each(|id| jobs::remove(db, *id))?;
        self.detached.iter().try_for_each(|(hold, job)| jobs::insert(db, hold, job))?;
        for (first, _) in self.ended.iter().filter(|(first, ended)| self.left(**first, open) == **ended) {
            db.execute("DELETE FROM hold_batch WHERE first_id = ?1", params![int(*first)])?;
        }
        Ok(())
    }

    fn left(&self, first: u64, open: &OpenBatches) -> usize {
        if self.is_single(first) {
            return 1;
        }
        if self.first == Some(first) { self.opened } else { open.of(first).map_or(0, |(_, left)| left) }
    }

    /// Notes the changes once the transaction has committed.
    fn note(self, open: &mut OpenBatches) {
        if let Some(first) = self.first {
            open.many.insert(first, (self.last, self.opened));
        }
        open.single.extend(self.single.iter().map(|(id, _)| *id));
        for id in &self.ended_jobs {
            open.jobs.remove(id);
        }
        open.jobs.extend(self.detached.iter().map(|(hold, _)| hold.id));
        for (first, ended) in self.ended {
            if open.single.remove(&first) {
                continue;
            }
            let Some((_, left)) = open.many.get_mut(&first) else { continue };
            *left = left.saturating_sub(ended);
            if *left == 0 {
                open.many.remove(&first);
            }
        }
    }
}

#[cfg(test)]
mod tests;
