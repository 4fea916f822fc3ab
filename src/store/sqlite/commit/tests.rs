//! Each hold that is open is in the database, and a batch goes with its last hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::{Semaphore, oneshot};

use super::*;
use crate::domain::demand::{Bound, Tier};
use crate::ledger::entry::{Amounts, Attribution};
use crate::store::sql::codec::hold_batches;
use crate::store::sql::rollup::Ids;
use crate::store::sqlite;

fn hold(id: u64) -> Hold {
    let attribution = Attribution {
        project: "default".into(),
        project_name: "default".into(),
        key: "key_1".into(),
        key_name: "k".into(),
        end_user: None,
        tags: Arc::default(),
        endpoint: "/chat/completions".into(),
        model: "gpt-4o".into(),
        priced_as: None,
        image_model: None,
    };
    Hold {
        id,
        admitted_ms: 1_793_491_200_000,
        attribution: Arc::new(attribution),
        bound: Bound::default(),
        tier: Tier::default(),
        price_version: "test".into(),
        stream: false,
    }
}

fn release(id: u64) -> Entry {
    let hold = hold(id);
    Entry::ending(&hold, Kind::Release, hold.admitted_ms)
}

fn waiting(id: u64, depends_on_unwritten: bool) -> PendingWrite {
    let (ack, _) = oneshot::channel();
    PendingWrite { what: Pending::Hold { hold: Arc::new(hold(id)), depends_on_unwritten }, ack }
}

fn ending(id: u64, slots: &Arc<Semaphore>) -> EndingRecord {
    let slot = Arc::clone(slots).try_acquire_owned().unwrap();
    EndingRecord {
        entry: Box::new(release(id)),
        crossings: Vec::new(),
        released: Amounts::default(),
        renewed: None,
        _slot: slot,
    }
}

/// What is in the database, and what should be.
struct Books {
    db: rusqlite::Connection,
    summed: RollupKey,
    open: OpenBatches,
    slots: Arc<Semaphore>,
    next_id: u64,
    unended: BTreeSet<u64>,
}

impl Books {
    fn new() -> Self {
        let db = sqlite::memory();
        let (summed, open) = (days::end(Db::Sqlite(&db)).unwrap(), OpenBatches::default());
        let slots = Arc::new(Semaphore::new(1_000));
        Self { db, summed, open, slots, next_id: 1, unended: BTreeSet::new() }
    }

    /// Writes one group: new holds, of which some depend on unwritten releases, and such
    /// holds of an earlier admission; then the endings of some.
    fn write(&mut self, dependent: &[bool], late: &[u64], ends: &[u8]) -> Vec<u64> {
        let new: Vec<(u64, bool)> =
            dependent.iter().map(|depends_on_unwritten| (self.take_id(), *depends_on_unwritten)).collect();
        let (mut holds, mut later) = (Vec::new(), Vec::new());
        for (id, depends_on_unwritten) in new {
            // Half of those that depend are written after newer ones that do not.
            if depends_on_unwritten && id.is_multiple_of(2) {
                later.push(id);
            } else {
                holds.push(waiting(id, depends_on_unwritten));
            }
        }
        holds.extend(late.iter().map(|id| waiting(*id, true)));
        self.unended.extend(holds.iter().map(|waiting| match &waiting.what {
            Pending::Hold { hold, .. } => hold.id,
            Pending::Job(..) | Pending::Objects(_) => unreachable!("none is queued"),
        }));
        let mut endings = Vec::new();
        for end in ends {
            let Some(id) = self.unended.iter().copied().nth(usize::from(*end)) else { continue };
            self.unended.remove(&id);
            endings.push(ending(id, &self.slots));
        }
        let group = Group { holds: &holds, endings: &endings, crossings: &[], objects: &[] };
        commit(Db::Sqlite(&self.db), &self.summed, &group, &mut self.open).unwrap();
        later
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// The ids of each batch in the database.
    fn batches(&self) -> Vec<BTreeSet<u64>> {
        let id = |line: &str| serde_json::from_str::<HoldRow>(line).unwrap().id;
        let batches = hold_batches(Db::Sqlite(&self.db)).unwrap();
        batches.iter().map(|(_, text)| text.lines().map(id).collect()).collect()
    }
}

proptest! {
    #[test]
    fn a_batch_is_kept_until_all_its_holds_have_ended_and_no_longer(
        groups in prop::collection::vec(
            (prop::collection::vec(prop::bool::weighted(0.4), 0..4), prop::collection::vec(0_u8..6, 0..4)),
            1..8,
        ),
    ) {
        let mut books = Books::new();
        let mut late = Vec::new();
        for (dependent, ends) in &groups {
            late = books.write(dependent, &late, ends);
            let batches = books.batches();
            for batch in &batches {
                prop_assert!(!batch.is_disjoint(&books.unended), "{batch:?} is kept, open are {:?}", books.unended);
            }
            let stored: BTreeSet<u64> = batches.into_iter().flatten().collect();
            prop_assert!(stored.is_superset(&books.unended), "{:?} are open, stored are {stored:?}", books.unended);
        }
    }
}

#[test]
fn a_hold_that_is_opened_and_ended_by_one_group_takes_no_other_hold_with_it() {
    let mut books = Books::new();
    // Holds 1 and 3 share a batch; 2 depends on unwritten releases, and comes with its ending later.
    let late = books.write(&[false, true, false], &[], &[]);
    assert_eq!((late.as_slice(), books.batches()), (&[2][..], vec![BTreeSet::from([1, 3])]));
    books.write(&[], &late, &[1]);
    assert_eq!(books.batches(), [BTreeSet::from([1, 3])]);
    books.write(&[], &[], &[0]);
    assert_eq!(books.batches(), [BTreeSet::from([1, 3])], "3 is open");
}

fn detaching(id: u64, object: &str) -> PendingWrite {
    let (ack, _) = oneshot::channel();
    let (kind, object) = ("test".to_owned(), object.to_owned());
    let job = Job { kind, object, deadline_s: 1_793_577_600, terms: String::new() };
    PendingWrite { what: Pending::Job(Arc::new(hold(id)), job), ack }
}

/// The holds that are jobs after a group of holds and the endings of some ids.
fn jobs_after(books: &mut Books, holds: &[PendingWrite], ends: &[u64]) -> Vec<u64> {
    let endings: Vec<_> = ends.iter().map(|id| ending(*id, &books.slots)).collect();
    let group = Group { holds, endings: &endings, crossings: &[], objects: &[] };
    commit(Db::Sqlite(&books.db), &books.summed, &group, &mut books.open).unwrap();
    jobs::all(Db::Sqlite(&books.db), &Ids).unwrap().into_iter().map(|open| open.hold.id).collect()
}

#[test]
fn of_jobs_for_one_object_in_one_group_only_the_last_is_kept() {
    let mut books = Books::new();
    books.write(&[false, false, false], &[], &[]);
    // The request of hold 1 was cancelled while its job was being written.
    let holds = [detaching(1, "resp_1"), detaching(2, "resp_1")];
    assert_eq!(jobs_after(&mut books, &holds, &[1]), [2]);
    assert_eq!(books.batches(), [BTreeSet::from([1, 2, 3])], "3 is open");
    assert_eq!(jobs_after(&mut books, &[detaching(3, "resp_1")], &[2]), [3]);
    assert!(jobs_after(&mut books, &[], &[3]).is_empty());
    assert!(books.batches().is_empty());
}

#[test]
fn a_hold_that_is_detached_again_is_still_that_of_a_job() {
    let mut books = Books::new();
    books.write(&[false, false], &[], &[]);
    assert_eq!(jobs_after(&mut books, &[detaching(1, "resp_1")], &[]), [1]);
    assert_eq!(jobs_after(&mut books, &[detaching(1, "resp_1")], &[]), [1]);
    assert!(jobs_after(&mut books, &[], &[1]).is_empty());
    assert_eq!(books.batches(), [BTreeSet::from([1, 2])], "2 is open");
}
