//! Rows and their locks. Each is locked by one transaction at a time, which keeps it until it
//! ends; those who wait get it in their order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::ledger::meter::Subject;
use crate::ledger::shared::MeterKey;
use crate::throttle::shared::BucketKey;

/// The place of a meter's row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) limit: Arc<str>,
    pub(super) subject: Subject,
    pub(super) start_s: i64,
}

impl From<&MeterKey> for Place {
    fn from(key: &MeterKey) -> Self {
        let MeterKey { limit, subject, start_s, .. } = key;
        Self { limit: Arc::clone(limit), subject: subject.clone(), start_s: *start_s }
    }
}

/// What can be locked, in the order in which every transaction has to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Rules,
    Node(usize),
    Lane(usize, i64),
    /// The place of a row that is being inserted: others who insert it wait.
    NewMeter(Place),
    Meter(Place),
    Credit,
    NewRate(BucketKey),
    Rate(BucketKey),
    Hold(u64),
    Job(u64),
    Entry(u64),
    /// The kind and object of a job that is being inserted: others who insert it wait.
    NewJob(String, String),
}

/// Who has locked which rows, by numbers of connections.
#[derive(Default)]
pub(super) struct Locks {
    rows: BTreeMap<Row, Locked>,
    of: BTreeMap<u64, BTreeSet<Row>>,
}

struct Locked {
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Locks {
    /// Locks a row, or queues for it: then it is locked once the receiver is notified. A row
    /// behind one that comes later in the order of locks is an error.
    pub(super) fn lock(&mut self, by: u64, row: &Row) -> Result<Option<oneshot::Receiver<()>>, String> {
        let own = self.of.entry(by).or_default();
        if own.contains(row) {
            return Ok(None);
        }
        if let Some(last) = own.last().filter(|last| *last > row) {
            return Err(format!("{row:?} is locked behind {last:?}"));
        }
        if let Some(locked) = self.rows.get_mut(row) {
            let (granted, grant) = oneshot::channel();
            locked.waiting.push_back((by, granted));
            return Ok(Some(grant));
        }
        self.rows.insert(row.clone(), Locked { waiting: VecDeque::new() });
        own.insert(row.clone());
        Ok(None)
    }

    /// Whether a connection has locked a row.
    pub(super) fn has(&self, by: u64, row: &Row) -> bool {
        self.of.get(&by).is_some_and(|rows| rows.contains(row))
    }

    /// Whether any connection has locked a row.
    pub(super) fn is_locked(&self, row: &Row) -> bool {
        self.rows.contains_key(row)
    }

    /// Whether another connection has locked a row.
    pub(super) fn is_locked_by_other(&self, by: u64, row: &Row) -> bool {
        self.is_locked(row) && !self.has(by, row)
    }

    /// Unlocks all rows of a connection; each goes to the first that still waits for it.
    pub(super) fn release(&mut self, by: u64) {
        for row in self.of.remove(&by).unwrap_or_default() {
            let Some(locked) = self.rows.get_mut(&row) else { continue };
            let mut next = None;
            while let Some((waiting, granted)) = locked.waiting.pop_front() {
                if granted.send(()).is_ok() {
                    next = Some(waiting);
                    break;
                }
            }
            match next {
                Some(next) => {
                    self.of.entry(next).or_default().insert(row);
                }
                None => drop(self.rows.remove(&row)),
            }
        }
    }

    /// Forgets all locks, and all who wait.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.of.clear();
    }
}
