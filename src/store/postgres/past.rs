//! What limits have settled before they come into force, added up while requests go on.
//!
//! It begins with a mark: an id that is given out while all lanes are locked, in a change of the
//! rules, by which every lane forgets the ids that it has left. So an entry that is written after
//! the mark either has a greater id, or is the ending of a hold that was open then. The past is
//! added up in a snapshot that is taken after the mark; by these ids what was written since is
//! found, whatever the order in which it became visible, and each entry is added once.
//!
//! The same is true of each later mark, once all is added that a snapshot after it has: then what
//! was found by an earlier mark need not be looked through again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::domain::Limit;
use crate::ledger::Past;
use crate::ledger::calendar::Windows;
use crate::ledger::entry::Entry;
use crate::ledger::limit_index::LimitIndex;
use crate::ledger::meter::subjects;

/// What limits have settled, as of an instant that can be caught up with.
#[derive(Debug, Default)]
pub struct Pasts {
    mark: u64,
    limits: Vec<LimitPast>,
    /// By places in `limits`.
    index: LimitIndex,
    /// The ids above the mark whose entries are added.
    added: HashSet<u64>,
    /// The holds up to the mark that had no entry yet.
    open: HashSet<u64>,
}

#[derive(Debug)]
struct LimitPast {
    limit: Arc<Limit>,
    windows: Windows,
    since_s: i64,
    past: Past,
}

/// What a database says of entries at one instant.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The ids above the mark that have entries.
    pub(super) added: HashSet<u64>,
    /// The holds up to the mark that have no entry yet.
    pub(super) open: HashSet<u64>,
}

impl Pasts {
    /// The settled sums of limits at an instant after a mark, each from where one of its windows
    /// starts, in Unix seconds.
    pub(super) fn new(
        mark: u64,
        seen: Seen,
        settled: impl IntoIterator<Item = (Arc<Limit>, i64, Past)>,
    ) -> Self {
        let limit_past = |(limit, since_s, past): (Arc<Limit>, i64, Past)| {
            let windows = Windows::of(&limit);
            LimitPast { limit, windows, since_s, past }
        };
        let limits: Vec<LimitPast> = settled.into_iter().map(limit_past).collect();
        let index = LimitIndex::of(limits.iter().map(|of| &*of.limit));
        Self { mark, limits, index, added: seen.added, open: seen.open }
    }

    /// The id that every later entry is above, unless its hold was open.
    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// How many entries above the mark are added.
    pub(super) fn added(&self) -> usize {
        self.added.len()
    }

    /// Goes on from a later mark, once it is caught up with an instant after that one, at which these
    /// holds up to the mark had no entry yet.
    pub(super) fn go_on_from(&mut self, mark: u64, open: HashSet<u64>) {
        self.added.retain(|id| *id > mark);
        (self.mark, self.open) = (mark, open);
    }

    /// The holds up to the mark that had no entry when it was last caught up with.
    pub(super) fn open(&self) -> impl Iterator<Item = u64> {
        self.open.iter().copied()
    }

    /// Whether nothing is known of any limit.
    pub(super) fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Whether it has what a limit has settled in windows from a time on, in Unix seconds.
    pub(super) fn has(&self, limit: &Limit, since_s: i64) -> bool {
        self.limits.iter().any(|of| of.is_of(limit, since_s))
    }

    /// Removes what a limit has settled in windows from a time on, or from one before it.
    pub(super) fn take(&mut self, limit: &Limit, since_s: i64) -> Option<Past> {
        let of = self.limits.iter_mut().find(|of| of.is_of(limit, since_s))?;
        Some(std::mem::take(&mut of.past))
    }

    /// The ids whose entries may have to be added: of the ids above the mark that have entries
    /// now, those that had none, and the holds that were open.
    pub(super) fn sought(&self, above: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let new = above.into_iter().filter(|id| !self.added.contains(id));
        new.chain(self.open()).collect()
    }

    /// Adds an entry that was sought, unless it was added before.
    pub(super) fn add(&mut self, entry: &Entry) {
        let is_new = self.open.remove(&entry.id) || self.added.insert(entry.id);
        if !is_new {
            return;
        }
        for place in self.index.places(&entry.attribution).iter() {
            let LimitPast { limit, windows, since_s, past } = &mut self.limits[*place];
            let start_s = windows.span(entry.admitted_ms.div_euclid(1_000)).start_s;
            let amount = entry.amount(limit.unit);
            if start_s < *since_s || amount == 0 {
                continue;
            }
            for subject in subjects(limit, &entry.attribution) {
                let sum = past.entry((subject, start_s)).or_default();
                *sum = sum.saturating_add(amount);
            }
        }
    }
}

impl LimitPast {
    fn is_of(&self, limit: &Limit, since_s: i64) -> bool {
        self.limit.name == limit.name && self.limit.counts_like(limit) && self.since_s <= since_s
    }
}
