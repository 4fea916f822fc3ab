//! Requests that wait for room, through many orders of their steps.

use std::task::{Wake, Waker};

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;
use spendguard::domain::Money;
use spendguard::domain::demand::Bound;
use spendguard::ledger::denial::Denial;
use spendguard::ledger::entry::{Entry, Kind};
use spendguard::ledger::waiting::{Place, Turn};
use spendguard::ledger::{Circumstances, Ledger, NotAdmitted, Past, ReserveRequest};

use crate::store::sqlite::commit_connection;

const ORDERS: usize = 5_000;

/// Keeps one call until it is heard, as the guard's does.
#[derive(Default)]
struct Bell {
    called: Mutex<bool>,
    heard: Condvar,
}

/// Shuttle's `Arc` can't be made into a waker.
struct Ring(Arc<Bell>);

impl Wake for Ring {
    fn wake(self: std::sync::Arc<Self>) {
        *self.0.called.lock().unwrap() = true;
        self.0.heard.notify_one();
    }
}

impl Bell {
    fn wait(&self) {
        let mut called = self.called.lock().unwrap();
        while !std::mem::take(&mut *called) {
            called = self.heard.wait(called).unwrap();
        }
    }
}

/// Does something to the ledger, and wakes who was called when it is unlocked.
fn with<T>(ledger: &Mutex<Ledger>, work: impl FnOnce(&mut Ledger) -> T) -> T {
    let mut locked = ledger.lock().unwrap();
    let done = work(&mut locked);
    let called = locked.queues().take_called();
    drop(locked);
    called.into_iter().for_each(Waker::wake);
    done
}

fn reserve(ledger: &mut Ledger, cost: i64, turn: Turn) -> Result<u64, Denial> {
    let bound = Bound { cost: Money::from_nano(cost), input_tokens: 0, output_tokens: 0 };
    let of = commit_connection::hold(0).attribution;
    let circumstances = Circumstances { at_ms: commit_connection::AT_MS, turn, ..Circumstances::default() };
    match ledger.admit(ReserveRequest::new(of, bound), &circumstances) {
        Ok((hold, _)) => Ok(hold.id),
        Err(NotAdmitted::ByLimit(denial)) => Err(denial),
        Err(NotAdmitted::Unpriced(_)) => unreachable!("each has a price"),
    }
}

/// Reserves, waiting as long as it takes; `leaves` after the first call.
fn request(ledger: &Mutex<Ledger>, cost: i64, leaves: bool) {
    let (bell, mut turn) = (Arc::new(Bell::default()), Turn::Newcomer);
    let mut place: Option<Place> = None;
    let id = loop {
        let denial = match with(ledger, |ledger| reserve(ledger, cost, turn)) {
            Ok(id) => break id,
            Err(denial) => denial,
        };
        let obstacle = denial.place().unwrap();
        if place.is_none() {
            let waker = Waker::from(std::sync::Arc::new(Ring(Arc::clone(&bell))));
            let ticket = with(ledger, |ledger| {
                let ticket = ledger.queues().ticket();
                assert!(ledger.queues().join(ticket, obstacle.clone(), &"key".into(), waker));
                ticket
            });
            (turn, place) = (Turn::Ticket(ticket), Some(obstacle));
            continue;
        }
        bell.wait();
        if let Turn::Ticket(ticket) = turn
            && leaves
        {
            return with(ledger, |ledger| ledger.queues().leave(ticket));
        }
    };
    thread::yield_now();
    with(ledger, |ledger| {
        ledger.apply(&Entry { cost: Money::ZERO, ..commit_connection::entry(id, Kind::Release) })
    });
}

#[test]
fn every_request_that_waits_is_called_even_if_one_leaves_when_its_turn_has_come() {
    shuttle::check_random(
        || {
            let limit = commit_connection::limit();
            let mut ledger = Ledger::new(1);
            let backfills = ledger.stage(std::slice::from_ref(&limit), commit_connection::AT_MS);
            let past = backfills.iter().map(|backfill| backfill.history(Past::new()));
            ledger.install(&[limit], past.collect());
            let ledger = Arc::new(Mutex::new(ledger));
            // There is room for 1,000.
            let requests = [(600, false), (600, true), (900, false), (300, false), (300, false)];
            let requests: Vec<_> = requests
                .into_iter()
                .map(|(cost, leaves)| {
                    let ledger = Arc::clone(&ledger);
                    thread::spawn(move || request(&ledger, cost, leaves))
                })
                .collect();
            for request in requests {
                request.join().unwrap();
            }
            assert!(ledger.lock().unwrap().queues().is_empty());
        },
        ORDERS,
    );
}
