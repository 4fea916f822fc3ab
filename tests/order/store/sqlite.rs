//! The library's queue and group commit, with a connection that writes into a list.

pub(crate) mod commit_connection;
/// What is queued is the connection's here.
mod pending {
    pub(super) use crate::store::sqlite::commit_connection::{PendingWrite, Record};
}
#[path = "../../../src/store/sqlite/leader.rs"]
mod leader;
#[path = "../../../src/store/sqlite/queue.rs"]
mod queue;

use std::collections::HashMap;

use shuttle::sync::{Arc, Mutex};
use shuttle::thread;
use spendguard::domain::demand::Bound;
use spendguard::domain::{Limit, Money};
use spendguard::ledger::entry::{Entry, Hold, Kind};
use spendguard::ledger::{Ledger, Past};

use self::commit_connection::{CommitConnection, PendingWrite, Record, Written};
use self::leader::GroupCommit;
use self::queue::Wake;

/// Orders that are tried for each claim.
const ORDERS: usize = 5_000;

/// Asks for a hold as a request does: queued, then written by the first thread that can.
fn hold(leader: &GroupCommit, id: u64, waits_for_disk: bool) -> bool {
    let (written, answer) = shuttle::sync::mpsc::channel();
    let call = if waits_for_disk { Wake::Now } else { Wake::None };
    leader.queue.push_hold(PendingWrite { id, written }, call);
    if !waits_for_disk {
        thread::yield_now();
        leader.write_holds();
    }
    answer.recv().unwrap()
}

/// Asks for a hold that depends on the endings before it.
fn lean(leader: &GroupCommit, id: u64) -> bool {
    let (written, answer) = shuttle::sync::mpsc::channel();
    leader.queue.push(Record::Write(PendingWrite { id, written }), Wake::Now);
    answer.recv().unwrap()
}

fn end(leader: &GroupCommit, id: u64) {
    leader.queue.push(Record::Ending(id), Wake::Soon);
}

/// What somebody does beside the writer's thread.
type Client = Box<dyn FnOnce(&GroupCommit) + Send>;

/// Runs `clients` beside the writer's thread; returns what was written.
fn run(connection: CommitConnection, clients: Vec<Client>) -> Vec<Written> {
    let leader = Arc::new(GroupCommit::new(connection));
    let writer = {
        let leader = Arc::clone(&leader);
        thread::spawn(move || leader.run())
    };
    let clients: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let leader = Arc::clone(&leader);
            thread::spawn(move || client(&leader))
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    leader.queue.close();
    writer.join().unwrap();
    leader.undisturbed(|connection| connection.written())
}

fn client(id: u64, waits_for_disk: bool) -> Client {
    Box::new(move |leader| {
        for id in [id, id + 100] {
            if hold(leader, id, waits_for_disk) {
                end(leader, id);
            }
        }
    })
}

fn each_ends_once_after_its_hold(written: &[Written], ids: impl Iterator<Item = u64>) {
    let places = |wanted: Written| {
        let at = written.iter().enumerate().filter(move |(_, one)| **one == wanted);
        at.map(|(place, _)| place).collect::<Vec<_>>()
    };
    for id in ids {
        let (held, ended) = (places(Written::Hold(id)), places(Written::Ending(id)));
        assert!(held.len() == 1 && ended.len() == 1 && held[0] < ended[0], "{id}: {written:?}");
    }
}

#[test]
fn a_request_that_waits_for_a_hold_is_answered_in_every_order() {
    for waits_for_disk in [false, true] {
        shuttle::check_random(
            move || {
                let clients = (1..4).map(|id| client(id, waits_for_disk)).collect();
                let written = run(CommitConnection::sound(), clients);
                each_ends_once_after_its_hold(&written, (1..4).chain(101..104));
            },
            ORDERS,
        );
    }
}

#[test]
fn a_request_that_finds_the_commit_connection_taken_is_served_by_its_owner() {
    // Nothing wakes the thread here.
    let asker = |id| -> Client { Box::new(move |h| assert!(hold(h, id, false))) };
    shuttle::check_random(move || drop(run(CommitConnection::sound(), (1..4).map(asker).collect())), ORDERS);
}

#[test]
fn a_hold_that_depends_on_an_ending_is_never_written_without_it() {
    shuttle::check_random(
        || {
            let leaning: Client = Box::new(|leader| {
                assert!(hold(leader, 1, false));
                end(leader, 1);
                assert!(lean(leader, 2));
                leader.undisturbed(|connection| assert!(connection.written().contains(&Written::Ending(1))));
                end(leader, 2);
            });
            let written = run(CommitConnection::sound(), vec![leaning, client(3, false), client(4, true)]);
            each_ends_once_after_its_hold(&written, [1, 2, 3, 4, 103, 104].into_iter());
        },
        ORDERS,
    );
}

#[test]
fn a_commit_connection_that_another_thread_needed_forgets_no_request() {
    shuttle::check_random(
        || {
            let checkpoint: Client = Box::new(|leader| leader.undisturbed(|_| thread::yield_now()));
            let written =
                run(CommitConnection::sound(), vec![client(1, false), client(2, false), checkpoint]);
            each_ends_once_after_its_hold(&written, [1, 2, 101, 102].into_iter());
        },
        ORDERS,
    );
}

#[test]
fn a_commit_connection_that_fails_answers_all_and_loses_no_ending() {
    shuttle::check_random(
        || {
            let written =
                run(CommitConnection::failing(3), vec![client(1, false), client(2, false), client(3, false)]);
            let held = written.iter().filter_map(|one| match one {
                Written::Hold(id) => Some(*id),
                Written::Ending(_) => None,
            });
            each_ends_once_after_its_hold(&written, held.collect::<Vec<_>>().into_iter());
            let holds = written.iter().filter(|one| matches!(one, Written::Hold(_))).count();
            assert_eq!(holds * 2, written.len(), "{written:?}");
        },
        ORDERS,
    );
}

/// A request's whole life, as the guard does it: what is done to the ledger and
/// what is queued are one step.
fn spend(ledger: &Mutex<Ledger>, leader: &GroupCommit, cost: i64) {
    let id = {
        let mut ledger = ledger.lock().unwrap();
        let id = ledger.take_id();
        let bound = Bound { cost: Money::from_nano(cost), input_tokens: 0, output_tokens: 0 };
        ledger.apply_hold(&std::sync::Arc::new(Hold { bound, ..commit_connection::hold(id) }));
        id
    };
    assert!(hold(leader, id, false));
    let mut ledger = ledger.lock().unwrap();
    ledger.apply(&Entry { cost: Money::from_nano(cost), ..commit_connection::entry(id, Kind::Settle) });
    leader.queue.push(Record::Spent(cost), Wake::Soon);
}

/// A limit comes into force, as the guard does it.
fn install(ledger: &Mutex<Ledger>, leader: &GroupCommit, limit: &std::sync::Arc<Limit>) {
    let (report, summed) = shuttle::sync::mpsc::channel();
    let wanted = [std::sync::Arc::clone(limit)];
    let mut backfills = {
        let mut ledger = ledger.lock().unwrap();
        let backfills = ledger.stage(&wanted, commit_connection::AT_MS);
        let job = Record::Work(Box::new(move |spent| report.send(spent).unwrap()));
        leader.queue.push(job, Wake::Now);
        backfills
    };
    let spent: i64 = summed.recv().unwrap();
    let backfill = backfills.remove(0);
    let past: Past = HashMap::from([((commit_connection::EVERYBODY, backfill.since_s), spent)]);
    ledger.lock().unwrap().install(&wanted, vec![backfill.history(past)]);
}

#[test]
fn a_limit_that_comes_into_force_counts_everything_once() {
    shuttle::check_random(
        || {
            let ledger = Arc::new(Mutex::new(Ledger::new(1)));
            let spender = |cost| -> Client {
                let ledger = Arc::clone(&ledger);
                Box::new(move |leader| {
                    spend(&ledger, leader, cost);
                    spend(&ledger, leader, cost * 10);
                })
            };
            let installer: Client = {
                let ledger = Arc::clone(&ledger);
                Box::new(move |leader| install(&ledger, leader, &commit_connection::limit()))
            };
            run(CommitConnection::sound(), vec![spender(1), spender(2), installer]);
            let ledger = ledger.lock().unwrap();
            let (_, readings) = ledger.limits(commit_connection::AT_MS).next().unwrap();
            assert_eq!((readings[0].meter.settled, readings[0].meter.held), (33, 0));
        },
        ORDERS,
    );
}
