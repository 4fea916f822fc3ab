//! The crossings that no entry causes and that were noted of late: hard limits that reject
//! requests, caps that will be reached. Each is a fact once for its window, however often
//! it is seen.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::ledger::entry::AlertKind;
use crate::ledger::meter::Subject;
use crate::sync::unpoisoned;

/// How many are remembered. The database knows them all, so forgetting some
/// costs a write that changes nothing.
const REMEMBERED_MAX: usize = 10_000;

/// The crossings that were noted of late.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashSet<FactKey>>);

/// What makes a crossing unique.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FactKey {
    pub(super) limit: String,
    pub(super) subject: Subject,
    pub(super) mark: AlertKind,
    pub(super) hard: i64,
    pub(super) start_s: i64,
}

impl Recent {
    /// Takes up a crossing that is not known yet; `claimed` gives what its writing needs,
    /// and without that it stays unknown.
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
