//! When rules in memory are read again, and how much of them.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::ledger::Ledger;
use crate::ledger::entry::Crossing;

struct Silent;

impl Observer for Silent {
    fn committing(&self) {}

    fn committed(&self) {}

    fn failed(&self, _: &(dyn std::error::Error + 'static)) {}

    fn recovered(&self) {}

    fn crossed(&self, _: &Crossing) {}

    fn at_ms(&self, _: i64) {}
}

/// Rules of a version, which are distrusted while they are read so many times.
#[derive(Default)]
struct Stored {
    shared: OnceLock<Arc<Shared>>,
    version: AtomicI64,
    distrusts: AtomicUsize,
    /// Whether all keys were read, each time.
    reads: Mutex<Vec<bool>>,
}

impl RulesFollower for Stored {
    fn refresh(&self, all_keys: bool) -> Result<i64, StoreError> {
        unpoisoned(self.reads.lock()).push(all_keys);
        if self.distrusts.load(Ordering::Relaxed) > 0 {
            self.distrusts.fetch_sub(1, Ordering::Relaxed);
            self.shared.get().unwrap().distrust_rules();
        }
        Ok(self.version.load(Ordering::Relaxed))
    }
}

impl Stored {
    fn at(version: i64) -> (Arc<Self>, Arc<Shared>) {
        let ledger = Arc::new(LockedLedger::new(Ledger::shared()));
        let shared = Arc::new(Shared::new(ledger, Box::new(Silent), version, 1));
        let stored = Arc::new(Self { version: AtomicI64::new(version), ..Self::default() });
        let _ = stored.shared.set(Arc::clone(&shared));
        let _ = shared.follower.set(Arc::<Self>::clone(&stored));
        (stored, shared)
    }

    fn reads(&self) -> Vec<bool> {
        std::mem::take(&mut *unpoisoned(self.reads.lock()))
    }
}

#[test]
fn rules_that_are_distrusted_are_read_whole_and_once() {
    let (stored, shared) = Stored::at(3);
    assert!(shared.refresh(3));
    assert_eq!((shared.rules_version(), stored.reads()), (3, vec![]));
    shared.distrust_rules();
    shared.distrust_rules();
    assert_eq!(shared.rules_version(), UNKNOWN);
    assert!(shared.refresh(3) && shared.refresh(3));
    assert_eq!((shared.rules_version(), stored.reads()), (3, vec![true]));
    stored.version.store(4, Ordering::Relaxed);
    assert!(shared.refresh(4));
    assert_eq!((shared.rules_version(), stored.reads()), (4, vec![false]));
}

#[test]
fn rules_that_are_distrusted_while_they_are_read_are_read_again() {
    for first in [false, true] {
        let (stored, shared) = Stored::at(3);
        stored.distrusts.store(1, Ordering::Relaxed);
        stored.version.store(4, Ordering::Relaxed);
        if first {
            shared.distrust_rules();
        }
        assert!(shared.refresh(4));
        assert_eq!((shared.rules_version(), stored.reads()), (UNKNOWN, vec![first]));
        assert!(shared.refresh(4));
        assert_eq!((shared.rules_version(), stored.reads()), (4, vec![true]));
    }
}

#[test]
fn a_database_that_goes_back_is_noticed_though_the_rules_are_distrusted() {
    let (stored, shared) = Stored::at(3);
    shared.distrust_rules();
    stored.version.store(2, Ordering::Relaxed);
    assert!(!shared.refresh(2) && !shared.is_healthy());
}
