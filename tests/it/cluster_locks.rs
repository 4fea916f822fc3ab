//! What guards lock of a database that they share: nothing without need, and all in one order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use http::StatusCode;
use serde_json::json;
use spendguard::domain::demand::Bound;
use spendguard::domain::limit::{Mode, Only, Per, Source, Unit};
use spendguard::domain::{
    KeptContext, KnownObject, Limit, Money, ObjectKind, ObjectReference, Quantities, Window,
};
use spendguard::ledger::entry::{Crossing, Entry, Kind};
use spendguard::store::objects::ObjectChange;
use spendguard::store::records::AuditRow;
use spendguard::store::reports::EntryFilter;

use crate::alerts::Receiver;
use crate::cluster::Cluster;
use crate::cluster_once::{THRESHOLDS, webhook};
use crate::harness::{House, run};
use crate::postgres::Postgres;

/// What locks the lanes of all guards, and what the rules.
const LOCKS: [&str; 2] = [
    "FROM lane WHERE state = 'alive' ORDER BY epoch, lane FOR UPDATE",
    "SELECT version FROM rules WHERE id = 1 FOR UPDATE",
];
const DEADLOCK: &str = "deadlock detected";
/// Records that are written at once on each guard.
const MANY: usize = 40;

#[test]
fn guards_that_have_nothing_to_do_lock_nothing_of_all_guards() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        let url = receiver.listen().await;
        let cluster = Cluster::new(&format!("{}{THRESHOLDS}", webhook(&url, &folder)));
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        cluster.postgres.log_statements();
        let locks = || LOCKS.map(|text| cluster.postgres.logged(text));
        let before = locks();
        // Longer than a guard waits until it looks for the work of others.
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(locks(), before, "locks of all lanes, and of the rules");
        assert_eq!(guards[0].chat(&key, &[], json!({})).await.status, StatusCode::OK);
        assert_eq!(receiver.after(3).await.len(), 3, "what there is to do is done");
        assert!(locks()[0] > before[0]);
    });
}

/// Two guards on one database, and what each settled for some users, two days ago by now, when
/// that was summed up by days.
async fn with_past() -> (Postgres, [House; 2], Vec<Entry>) {
    let postgres = Postgres::start();
    let houses = [House::sharing(&postgres, None, "").await, House::sharing(&postgres, None, "").await];
    let chats = (0..MANY).map(|number| {
        houses[0].chat(&[], json!({ "model": "gpt-4o-mini", "user": format!("user-{number:02}") }))
    });
    assert!(join_all(chats).await.iter().all(|answer| answer.status == StatusCode::OK));
    for house in &houses {
        house.settled().await;
        house.guard.core().flush().await.unwrap();
    }
    postgres.ask(
        "UPDATE entry SET admitted_ms = admitted_ms - 172800000; UPDATE rollup SET start_s = start_s - 172800; \
         DELETE FROM rollup_day; DELETE FROM rollup_day_user; DELETE FROM rollup_day_span",
    );
    while houses[0].books.sum_up_some().await.unwrap() {}
    let entries =
        houses[0].books.reports().entries(EntryFilter { count_max: 1_000, ..EntryFilter::default() });
    let mut entries = entries.await.unwrap();
    entries.retain(|entry| entry.kind == Kind::Settle);
    assert_eq!(entries.len(), MANY);
    (postgres, houses, entries)
}

/// Has each guard write for a while, in groups of many, while others wait for the lanes.
async fn race(postgres: &Postgres, mut round: impl AsyncFnMut(usize)) {
    for number in 0..8 {
        let held = postgres.beside(
            "SET search_path TO spendguard;BEGIN;SELECT 1 FROM lane ORDER BY epoch, lane FOR UPDATE;SELECT pg_sleep(0.3);COMMIT",
        );
        tokio::time::sleep(Duration::from_millis(150)).await;
        round(number).await;
        drop(held);
        assert_eq!(postgres.logged(DEADLOCK), 0, "after round {number}");
    }
}

#[test]
fn late_sums_of_groups_that_are_written_at_once_are_in_the_way_of_none() {
    run(async {
        let (postgres, houses, entries) = Box::pin(with_past()).await;
        let correct = async |house: &House, original: &Entry| {
            let entry = Entry {
                id: 0,
                kind: Kind::Adjust,
                created_ms: house.guard.clock().now_ms(),
                cost: Money::from_nano(1),
                tool_fees: Money::ZERO,
                quantities: Quantities::default(),
                held: Bound::default(),
                basis: None,
                corrects: Some(original.id),
                ..original.clone()
            };
            house.guard.core().correct(entry, audit_row).await.unwrap();
        };
        race(&postgres, async |_| {
            // From another entry on, so that their groups have some in common and not all.
            let (first, second) = entries.split_at(MANY / 2);
            let on_one = first.iter().chain(second).map(|entry| correct(&houses[0], entry));
            let on_other = second.iter().chain(first).map(|entry| correct(&houses[1], entry));
            join(join_all(on_one), join_all(on_other)).await;
        })
        .await;
        let sums = |table: &str| postgres.ask(&format!("SELECT sum(cost_nano) FROM {table}"));
        let of_entries = sums("entry");
        for table in ["rollup", "rollup_day", "rollup_day_user"] {
            assert_eq!(sums(table), of_entries, "{table}");
        }
    });
}

fn audit_row(entry: &Entry) -> AuditRow {
    AuditRow {
        id: 0,
        at_ms: entry.created_ms,
        actor: "test".to_owned(),
        actor_name: "test".to_owned(),
        event: "entry.adjusted".to_owned(),
        project: None,
        resource: entry.id.to_string(),
        before: None,
        after: None,
    }
}

#[test]
fn objects_that_guards_learn_of_at_once_are_in_the_way_of_none() {
    run(async {
        let postgres = Postgres::start();
        let houses = [House::sharing(&postgres, None, "").await, House::sharing(&postgres, None, "").await];
        let put = |number: usize| ObjectChange::Put {
            of: ObjectReference { kind: ObjectKind::Conversation, id: format!("conv_{number:03}") },
            known: KnownObject {
                project: "default".into(),
                key: "key".into(),
                context: KeptContext::default(),
                container_memory: None,
                has_job: false,
                idle_s: 0,
                created_s: 1,
                used_s: 1,
                changes: 0,
            },
            expires_s: None,
        };
        let learn = async |house: &House, changes: Vec<ObjectChange>| {
            house.guard.objects_written(house.guard.learn_objects(changes)).await;
        };
        race(&postgres, async |_| {
            let (forth, back) = ((0..200).map(put).collect(), (0..200).rev().map(put).collect());
            join(learn(&houses[0], forth), learn(&houses[1], back)).await;
        })
        .await;
        assert_eq!(postgres.ask("SELECT count(*) FROM object"), "200");
    });
}

#[test]
fn crossings_that_guards_note_at_once_are_in_the_way_of_none() {
    run(async {
        let postgres = Postgres::start();
        let houses = [House::sharing(&postgres, None, "").await, House::sharing(&postgres, None, "").await];
        let limit = Arc::new(Limit {
            name: "users".into(),
            per: Per::User,
            only: Only::default(),
            unit: Unit::Usd,
            window: Window::Total,
            zone: "UTC".into(),
            soft: Vec::new(),
            hard: Some(1),
            mode: Mode::Enforce,
            source: Source::File,
        });
        let note = async |house: &House, crossings: Vec<Crossing>| {
            let core = house.guard.core();
            core.push_crossings(crossings, core.operators_slot().await.unwrap());
            core.flush().await.unwrap();
        };
        race(&postgres, async |round| {
            let crossing =
                |number: i64| Crossing::soft(&limit, "ann", number, round.try_into().unwrap(), 200, 1);
            let (forth, back) = ((1..200).map(crossing).collect(), (1..200).rev().map(crossing).collect());
            join(note(&houses[0], forth), note(&houses[1], back)).await;
        })
        .await;
        assert_eq!(
            postgres.ask("SELECT count(*) FROM crossing"),
            (8 * 199).to_string(),
            "each is written once"
        );
    });
}

#[test]
fn days_are_summed_up_with_all_guards_still_if_there_is_something_to_sum_up() {
    run(async {
        let (postgres, houses, _) = Box::pin(with_past()).await;
        postgres.log_statements();
        let locks = || LOCKS.map(|text| postgres.logged(text));
        let before = locks();
        assert!(!houses[0].books.sum_up_some().await.unwrap());
        assert_eq!(locks(), before);
        postgres.ask("DELETE FROM rollup_day; DELETE FROM rollup_day_user; DELETE FROM rollup_day_span");
        assert!(houses[1].books.sum_up_some().await.unwrap());
        assert_eq!(locks()[0], before[0] + 1);
    });
}
