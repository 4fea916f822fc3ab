//! Recent crossings that no entry causes: hard limits that reject requests, caps that are
//! likely to be reached. Each is recorded once for its window, however often it is
//! detected.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::ledger::entry::AlertKind;
use crate::ledger::meter::Subject;
use crate::sync::unpoisoned;

/// How many are remembered. The database knows them all, so forgetting some
/// costs a write that changes nothing.
const REMEMBERED_MAX: usize = 10_000;

/// The recent crossings.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashSet<FactKey>>);

/// The key of a crossing.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FactKey {
    pub(super) limit: String,
    pub(super) subject: Subject,
    pub(super) mark: AlertKind,
    pub(super) hard: i64,
    pub(super) start_s: i64,
}

impl Recent {
    /// Records a crossing that is not known yet. `claimed` returns the slot that writing
    /// it needs; without one it stays unknown.
    pub(super) fn claim<T>(&self, key: FactKey, claimed: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut all = unpoisoned(self.0.lock());
        if all.contains(&key) {
            return None;
        }
        let found = claimed()?;
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(key);
        Some(found)
    }
}
