//! The connection that commits groups of holds and records, each in one transaction.
//!
//! Holds are acknowledged when their group has committed. If the group can't commit,
//! its holds are refused at once; endings are kept and retried until they are in the
//! database, so that no spending is lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::store::Observer;
use crate::store::objects::ObjectChange;
use crate::store::sql::rollup::RollupKey;
use crate::store::sql::{self, Db, days, jobs};
use crate::store::sqlite::commit::{Group, OpenBatches, commit};
use crate::store::sqlite::pending::{
    CrossingRecord, EndingRecord, Pending, PendingWrite, Record, WrittenReleases,
};
use crate::store::sqlite::schema::VERSION;

/// How long another program's lock on the database is waited for. Requests wait
/// meanwhile, so it is short; what could not be written is tried again.
const BUSY_MAX: Duration = Duration::from_millis(50);

/// The one connection that writes, and what it has still to write.
pub(super) struct CommitConnection {
    db: Connection,
    observer: Box<dyn Observer>,
    open: OpenBatches,
    /// Where the sums of days end; only work on the database moves it.
    summed: RollupKey,
    released: Arc<WrittenReleases>,
    /// Facts that could not be written yet.
    backlog: Vec<EndingRecord>,
    /// The same of crossings; their place among endings makes no difference.
    crossings: Vec<CrossingRecord>,
    /// The same of objects, in their order.
    objects: Vec<ObjectChange>,
    /// Holds that could not be written; their releases need not be either.
    refused: HashSet<u64>,
    healthy: bool,
}

impl CommitConnection {
    pub(super) fn new(
        db: Connection,
        observer: Box<dyn Observer>,
        released: Arc<WrittenReleases>,
    ) -> sql::Result<Self> {
        db.busy_timeout(BUSY_MAX)?;
        let open = OpenBatches::with_jobs(jobs::ids(Db::Sqlite(&db))?);
        let summed = days::end(Db::Sqlite(&db))?;
        let (backlog, crossings, objects, refused) = (Vec::new(), Vec::new(), Vec::new(), HashSet::new());
        Ok(Self { db, observer, open, summed, released, backlog, crossings, objects, refused, healthy: true })
    }

    /// Lends the connection.
    pub(super) fn disturb(&mut self, work: impl FnOnce(&mut Connection)) {
        work(&mut self.db);
    }

    /// Whether there is nothing that could not be written.
    pub(super) fn is_clear(&self) -> bool {
        self.backlog.is_empty() && self.crossings.is_empty() && self.objects.is_empty()
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
    pub(super) fn write(&mut self, mut holds: Vec<PendingWrite>, records: Vec<Record>) {
        let mut endings = std::mem::take(&mut self.backlog);
        for record in records {
            match record {
                Record::Ending(ending) => endings.push(ending),
                Record::Crossings(crossings) => self.crossings.push(crossings),
                Record::Write(waiting) => holds.push(waiting),
                Record::Work(work, _slot) => {
                    self.commit(&mut holds, &mut endings);
                    // It depends on what came before it. Dropped, it answers that the
                    // ledger can't be written.
                    if endings.is_empty() && self.crossings.is_empty() && self.objects.is_empty() {
                        work(&self.db);
                        // Of what can't be read, everything is taken to be behind it.
                        let all = |_| RollupKey { start_s: i64::MAX, ..RollupKey::default() };
                        self.summed = days::end(Db::Sqlite(&self.db)).unwrap_or_else(all);
                    }
                }
            }
        }
        self.commit(&mut holds, &mut endings);
        self.backlog = endings;
    }

    /// Writes a group. Afterwards `endings` holds what has to be tried again.
    fn commit(&mut self, holds: &mut Vec<PendingWrite>, endings: &mut Vec<EndingRecord>) {
        let released = endings.last().map(|ending| ending.released);
        if !self.refused.is_empty() {
            endings.retain(|ending| !self.refused.remove(&ending.entry.id));
        }
        if holds.is_empty() && endings.is_empty() && self.crossings.is_empty() && self.objects.is_empty() {
            return;
        }
        self.observer.committing();
        let group = Group { holds, endings, crossings: &self.crossings, objects: &self.objects };
        let written = commit(Db::Sqlite(&self.db), &self.summed, &group, &mut self.open);
        self.note(written.as_ref().err());
        if let Ok(crossed) = &written {
            self.observer.committed();
            for crossing in crossed {
                self.observer.crossed(crossing);
            }
            endings.clear();
            self.crossings.clear();
            self.objects.clear();
            if let Some(released) = released {
                self.released.note(released);
            }
        }
        for PendingWrite { what, ack } in holds.drain(..) {
            if written.is_err() {
                match what {
                    Pending::Hold { hold, .. } => drop(self.refused.insert(hold.id)),
                    // It stays the hold of a request.
                    Pending::Job(..) => {}
                    // Upstream has made them, whether that can be written or not.
                    Pending::Objects(changes) => self.objects.extend(changes),
                }
            }
            let _ = ack.send(written.is_ok());
        }
    }

    fn note(&mut self, failure: Option<&(impl std::error::Error + 'static)>) {
        let was_healthy = std::mem::replace(&mut self.healthy, failure.is_none());
        match failure {
            Some(error) if was_healthy => self.observer.failed(error),
            None if !was_healthy => self.observer.recovered(),
            _ => {}
        }
    }
}
