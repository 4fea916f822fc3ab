//! A ledger whose counters are rows: what was loaded is written back, and ids are for holds.

use std::collections::BTreeSet;

use super::meters::{of_run, per_run};
use super::*;
use crate::ledger::account::{Account, Grant};
use crate::ledger::meter::{METERS_MAX, Subject, VALUES_MAX};
use crate::ledger::shared::{Counted, MeterKey, RowCount};
use crate::ledger::walk::LoadedMeters;

const DAY_MS: i64 = 86_400_000;

/// A ledger on rows, with a limit of a day's money and these ids.
fn shared(ids: impl IntoIterator<Item = u64>) -> Ledger {
    let limits = [limit("day", Per::Organization, Unit::Usd, Window::Day, Some(1_000))];
    let mut ledger = put_in_force(Ledger::shared(), &limits);
    ledger.give_ids(ids);
    ledger
}

fn key(ledger: &Ledger, at_ms: i64) -> MeterKey {
    let mut found = BTreeSet::new();
    ledger.meters_of(&of(0), at_ms, &mut found);
    found.pop_first().unwrap()
}

#[test]
fn the_last_end_of_a_window_is_written_back_though_a_hold_of_the_next_follows() {
    let mut ledger = shared([1, 2]);
    let yesterday = key(&ledger, START_MS);
    ledger.load_meter(&yesterday, Meter { settled: 700, held: 0 });
    let hold = held(&mut ledger, of(0), bound(200, 0), START_MS);
    ledger.apply(&ending(&hold, Kind::Settle, 100, 0, START_MS));
    held(&mut ledger, of(0), bound(200, 0), START_MS + DAY_MS);
    assert_eq!(ledger.meter(&yesterday), Some(Meter { settled: 800, held: 0 }));
}

#[test]
fn a_crossing_takes_no_id_of_a_hold() {
    let mut ledger = shared([1, 2]);
    let first = held(&mut ledger, of(0), bound(600, 0), START_MS);
    let crossings = ledger.apply(&ending(&first, Kind::Settle, 600, 0, START_MS));
    assert_eq!(crossings.iter().map(|crossing| crossing.id).collect::<Vec<_>>(), [0]);
    assert_eq!(held(&mut ledger, of(0), bound(1, 0), START_MS).id, 2);
}

#[test]
fn a_grant_counts_with_the_rules_that_are_read_and_not_before() {
    let mut ledger = shared([]);
    let grant = |id| Grant {
        id,
        amount: Money::from_nano(500),
        note: String::new(),
        created_ms: START_MS,
        expires_s: None,
        corrects: None,
    };
    let (first, _) = ledger.stage_grant(grant(7)).unwrap();
    assert!(ledger.account().is_none(), "it is not committed");
    ledger.grant(&first, START_MS);
    assert!(ledger.account().is_none(), "it is not read");
    // It was committed, and the call failed after it was read.
    let mut account = Account::new(first.id);
    account.add(Arc::clone(&first));
    drop(ledger.put_in_force(&[], Some(account), 1, START_MS));
    ledger.unstage_grant(&first);
    ledger.stage_grant(grant(8)).unwrap();
    assert_eq!(ledger.account().unwrap().grants().len(), 1);
}

/// A ledger on rows with a limit for each end user, and the meter of one.
fn per_user() -> (Ledger, MeterKey) {
    let ledger =
        put_in_force(Ledger::shared(), &[limit("users", Per::User, Unit::Usd, Window::Day, Some(1_000))]);
    let key = user_key(&ledger, START_MS);
    (ledger, key)
}

fn user_key(ledger: &Ledger, at_ms: i64) -> MeterKey {
    let mut found = BTreeSet::new();
    ledger.meters_of(&of(2), at_ms, &mut found);
    found.pop_first().unwrap()
}

/// The one limit whose rows are counted.
fn counted(ledger: &Ledger) -> Counted {
    let [counted] = <[_; 1]>::try_from(ledger.counted_limits()).unwrap();
    assert_eq!(&*counted.limit, "users");
    counted
}

fn rows(start_s: i64, rows: usize) -> RowCount {
    RowCount { limit: "users".to_owned(), start_s, key: None, rows }
}

#[test]
fn a_window_with_as_many_rows_as_may_be_is_full_and_another_is_not() {
    let (mut ledger, key) = per_user();
    assert!(!ledger.is_full(&key), "nothing was counted yet");
    let counted = counted(&ledger);
    ledger.note_counted(&counted, &[rows(key.start_s, METERS_MAX - 2)]);
    ledger.note_made(&[rows(key.start_s, 1)]);
    assert!(!ledger.is_full(&key));
    ledger.note_made(&[rows(key.start_s, 1)]);
    assert!(ledger.is_full(&key), "with what this guard has made since");
    assert!(!ledger.is_full(&user_key(&ledger, START_MS + DAY_MS)), "the next window is empty");
    ledger.note_counted(&counted, &[]);
    assert!(!ledger.is_full(&key), "counted again");
}

#[test]
fn a_key_with_as_many_values_as_may_be_is_full_and_another_key_is_not() {
    let mut ledger = put_in_force(Ledger::shared(), &[per_run()]);
    let [one, other] = [of_run(1, "a"), of_run(2, "a")].map(|of| {
        let mut found = BTreeSet::new();
        ledger.meters_of(&of, START_MS, &mut found);
        found.pop_first().unwrap()
    });
    let of_key = |key: &str, rows| RowCount {
        limit: "runs".to_owned(),
        start_s: one.start_s,
        key: Some(key.to_owned()),
        rows,
    };
    let [counted] = <[_; 1]>::try_from(ledger.counted_limits()).unwrap();
    assert!(counted.by_tag);
    ledger.note_counted(&counted, &[of_key("key_1", VALUES_MAX - 1), of_key("key_2", 7)]);
    assert!(!ledger.is_full(&one));
    ledger.note_made(&[of_key("key_1", 1)]);
    assert!(ledger.is_full(&one) && !ledger.is_full(&other));
}

#[test]
fn a_count_is_of_the_limit_that_was_counted_and_of_no_other_of_its_name() {
    let (ledger, key) = per_user();
    let of_dollars = counted(&ledger);
    let calls = limit("users", Per::User, Unit::Requests, Window::Day, Some(1_000));
    let mut ledger = put_in_force(ledger, &[calls]);
    let all = [rows(key.start_s, METERS_MAX)];
    ledger.note_counted(&of_dollars, &all);
    let key = user_key(&ledger, START_MS);
    assert!(!ledger.is_full(&key), "there are so many of the limit that is gone");
    let of_calls = counted(&ledger);
    ledger.note_counted(&of_calls, &all);
    assert!(ledger.is_full(&key));
}

#[test]
fn a_request_is_decided_by_rows_that_are_loaded_and_refused_without_one() {
    let (mut ledger, key) = per_user();
    let Err(Denial::TooManyMeters(limit)) = decide(&ledger, 2, bound(1, 0), START_MS) else {
        panic!("it is admitted on a meter that has no row")
    };
    assert_eq!(&*limit.name, "users");
    assert!(decide(&ledger, 0, bound(1, 0), START_MS).is_ok(), "who names no user needs no meter");
    ledger.load_meter(&key, Meter::default());
    assert!(decide(&ledger, 2, bound(1, 0), START_MS).is_ok());
}

#[test]
fn what_a_look_has_loaded_is_there_until_many_more_are() {
    let (mut ledger, key) = per_user();
    let row = |number: usize| ("users".to_owned(), format!("user-{number}"), key.start_s, Meter::default());
    let mut loaded = LoadedMeters::of(ledger.in_force(), (0..METERS_MAX).map(row));
    ledger.swap_meters(&mut loaded);
    ledger.load_meter(&key, Meter::default());
    ledger.forget_many_meters();
    assert_eq!(ledger.limits[0].meters.len(), METERS_MAX + 1);
    let subject = Subject::One("user-0".into());
    let others = (0..).map(|start_s| ((subject.clone(), start_s), Meter::default()));
    ledger.limits[0].meters.extend(others.take(METERS_MAX / 8));
    ledger.forget_many_meters();
    assert_eq!(ledger.limits[0].meters.len(), 0, "memory has a bound");
}
