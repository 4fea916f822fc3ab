//! Where facts are written: groups of them, each in one transaction.
//!
//! Holds are acknowledged when their group has committed. If it can't commit,
//! holds are refused at once, but endings are kept and tried again until they
//! are in: what has been spent is never forgotten.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::ledger::entry::Crossing;
use crate::store::days;
use crate::store::facts::{Fact, Passed, Pending, Record, Waiting, WrittenFreed};
use crate::store::group::{Group, OpenBatches, commit};
use crate::store::objects::ObjectChange;
use crate::store::rollup::RollupKey;
use crate::store::schema::VERSION;

/// How long another program's lock on the database is waited for. Requests wait
/// meanwhile, so it is short; what could not be written is tried again.
const BUSY_MAX: Duration = Duration::from_millis(50);

/// Hears what is written.
pub trait Observer: Send + 'static {
    /// A group is about to be written.
    fn committing(&self);
    /// It is in the database.
    fn committed(&self);
    /// It is not; holds in it were refused, the rest is kept. Said once, until
    /// the database can be written again.
    fn failed(&self, error: &rusqlite::Error);
    /// The database can be written again.
    fn recovered(&self);
    /// A meter has come to a mark where it had not been before.
    fn crossed(&self, crossing: &Crossing);
}

/// The one connection that writes, and what it has still to write.
pub(super) struct Desk {
    db: Connection,
    observer: Box<dyn Observer>,
    open: OpenBatches,
    /// Where the sums of days end; only work on the database moves it.
    summed: RollupKey,
    freed: Arc<WrittenFreed>,
    /// Facts that could not be written yet.
    backlog: Vec<Fact>,
    /// The same of thresholds; when they are written among facts changes nothing.
    passed: Vec<Passed>,
    /// The same of objects, in their order.
    objects: Vec<ObjectChange>,
    /// Holds that could not be written; their releases need not be either.
    refused: HashSet<u64>,
    healthy: bool,
}

impl Desk {
    pub(super) fn new(
        db: Connection,
        observer: Box<dyn Observer>,
        freed: Arc<WrittenFreed>,
    ) -> rusqlite::Result<Self> {
        db.busy_timeout(BUSY_MAX)?;
        let (open, summed) = (OpenBatches::default(), days::end(&db)?);
        let (backlog, passed, objects, refused) = (Vec::new(), Vec::new(), Vec::new(), HashSet::new());
        Ok(Self { db, observer, open, summed, freed, backlog, passed, objects, refused, healthy: true })
    }

    /// Hands out the connection.
    pub(super) fn disturb(&mut self, work: impl FnOnce(&mut Connection)) {
        work(&mut self.db);
    }

    /// Whether there is nothing that could not be written.
    pub(super) fn is_clear(&self) -> bool {
        self.backlog.is_empty() && self.passed.is_empty() && self.objects.is_empty()
    }

    /// Whether the last attempt to write succeeded.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Finds out whether the database can be written again.
    pub(super) fn probe(&mut self) {
        // Sets the version to what it is, which is a write like any other.
        let probed = self.db.pragma_update(None, "user_version", VERSION);
        self.note(probed.as_ref().err());
    }

    /// Writes holds, what could not be written before, and `records` in order.
    pub(super) fn write(&mut self, mut holds: Vec<Waiting>, records: Vec<Record>) {
        let mut facts = std::mem::take(&mut self.backlog);
        for record in records {
            match record {
                Record::Fact(fact) => facts.push(fact),
                Record::Passed(passed) => self.passed.push(passed),
                Record::Hold(waiting) => holds.push(waiting),
                Record::Job(job, _slot) => {
                    self.commit(&mut holds, &mut facts);
                    // It counts on what came before it. Dropped, it tells its
                    // asker that the ledger can't be written.
                    if facts.is_empty() && self.passed.is_empty() && self.objects.is_empty() {
                        job(&mut self.db);
                        // Of what can't be read, everything is taken to be behind it.
                        let all = |_| RollupKey { start_s: i64::MAX, ..RollupKey::default() };
                        self.summed = days::end(&self.db).unwrap_or_else(all);
                    }
                }
            }
        }
        self.commit(&mut holds, &mut facts);
        self.backlog = facts;
    }

    /// Writes a group. Afterwards `facts` holds what has to be tried again.
    fn commit(&mut self, holds: &mut Vec<Waiting>, facts: &mut Vec<Fact>) {
        let freed = facts.last().map(|fact| fact.freed);
        if !self.refused.is_empty() {
            facts.retain(|fact| !self.refused.remove(&fact.entry.id));
        }
        if holds.is_empty() && facts.is_empty() && self.passed.is_empty() && self.objects.is_empty() {
            return;
        }
        self.observer.committing();
        let group = Group { holds, facts, passed: &self.passed, objects: &self.objects };
        let written = commit(&self.db, &self.summed, &group, &mut self.open);
        self.note(written.as_ref().err());
        if let Ok(crossed) = &written {
            self.observer.committed();
            for crossing in crossed {
                self.observer.crossed(crossing);
            }
            facts.clear();
            self.passed.clear();
            self.objects.clear();
            if let Some(freed) = freed {
                self.freed.note(freed);
            }
        }
        for Waiting { what, written: tell } in holds.drain(..) {
            if written.is_err() {
                match what {
                    Pending::Hold { hold, .. } => drop(self.refused.insert(hold.id)),
                    // Upstream has made them, whether that can be written or not.
                    Pending::Objects(changes) => self.objects.extend(changes),
                }
            }
            let _ = tell.send(written.is_ok());
        }
    }

    fn note(&mut self, failure: Option<&rusqlite::Error>) {
        let was_healthy = std::mem::replace(&mut self.healthy, failure.is_none());
        match failure {
            Some(error) if was_healthy => self.observer.failed(error),
            None if !was_healthy => self.observer.recovered(),
            _ => {}
        }
    }
}
