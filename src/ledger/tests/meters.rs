//! As many meters as there are end users: looked through and forgotten in slices.

use std::collections::HashSet;

use super::*;
use crate::ledger::meter::{METERS_MAX, Subject, VALUES_MAX};

const DAY_MS: i64 = 86_400_000;

fn per_user(soft: Vec<Soft>) -> [Arc<Limit>; 1] {
    let limit = (*limit("users", Per::User, Unit::Usd, Window::Day, Some(1_000))).clone();
    [Arc::new(Limit { soft, ..limit })]
}

fn user(number: u32) -> Arc<Attribution> {
    Arc::new(Attribution { end_user: Some(format!("user-{number}").into()), ..(*of(0)).clone() })
}

/// A ledger in which each of so many users has spent their number.
fn of_users(soft: Vec<Soft>, users: u32) -> Ledger {
    let limits = per_user(soft);
    let mut ledger = Ledger::new(1);
    let subject = |number: u32| Subject::One(format!("user-{number}").into());
    let seeds = ledger.stage(&limits, START_MS).into_iter().map(|backfill| {
        let spent = (0..users).map(|number| ((subject(number), backfill.since_s), i64::from(number)));
        backfill.history(spent.collect())
    });
    let seeds = seeds.collect();
    ledger.install(&limits, seeds);
    ledger
}

#[test]
fn a_walk_misses_no_meter_though_others_come_and_go_meanwhile() {
    let mut ledger = of_users(Vec::new(), 5_000);
    // These come to nothing, so their meters are removed in the middle of the walk.
    let mut gone: Vec<Arc<Hold>> =
        (10_000..14_000).map(|number| held(&mut ledger, user(number), bound(1, 0), START_MS)).collect();
    let (mut walk, mut seen, mut steps) = (ledger.in_force()[0].walk(), HashSet::new(), 0);
    while ledger.walk(&mut walk, START_MS, |subject, _, meter| {
        seen.insert((subject.label().to_owned(), meter.settled));
    }) {
        steps += 1;
        for hold in gone.drain(gone.len() / 2..) {
            ledger.apply(&ending(&hold, Kind::Release, 0, 0, START_MS));
        }
        held(&mut ledger, user(20_000 + steps), bound(1, 0), START_MS);
    }
    assert!(steps > 3, "it went in {steps} steps");
    for number in 0..5_000 {
        assert!(seen.contains(&(format!("user-{number}"), i64::from(number))), "user-{number} was missed");
    }
}

#[test]
fn meters_of_a_past_window_are_forgotten_a_few_with_each_hold() {
    let mut ledger = of_users(Vec::new(), 2_000);
    let open = held(&mut ledger, user(7), bound(1, 0), START_MS);
    held(&mut ledger, user(0), bound(1, 0), START_MS + DAY_MS);
    let left = ledger.limits[0].meters.len();
    assert!((1_900..2_001).contains(&left), "{left} are left after the first");
    for _ in 0..70 {
        held(&mut ledger, user(0), bound(1, 0), START_MS + DAY_MS);
    }
    let mut left: Vec<_> =
        ledger.limits[0].meters.iter().map(|((of, _), meter)| (of.label(), *meter)).collect();
    left.sort_unstable_by_key(|(of, _)| *of);
    assert_eq!(left, [("user-0", Meter { settled: 0, held: 71 }), ("user-7", Meter { settled: 7, held: 1 })]);
    ledger.apply(&ending(&open, Kind::Settle, 1, 0, START_MS + DAY_MS));
}

#[test]
fn thresholds_that_are_behind_are_found_once_each_in_bounded_portions() {
    let mut ledger = of_users(vec![Soft::Amount(100), Soft::Amount(500)], 3_000);
    let (mut walk, mut found) = (ledger.in_force()[0].walk(), HashSet::new());
    loop {
        let (crossings, has_more) = ledger.behind(&mut walk, START_MS);
        assert!(crossings.len() <= 129, "{} at once", crossings.len());
        for crossing in crossings {
            assert!(found.insert((crossing.subject, crossing.threshold)), "found twice");
        }
        if !has_more {
            break;
        }
    }
    assert_eq!(found.len(), 2_900 + 2_500);
}

#[test]
fn what_was_counted_while_the_past_was_read_is_added_to_it() {
    let limits = per_user(Vec::new());
    let mut ledger = Ledger::new(1);
    let before = held(&mut ledger, user(1), bound(5, 0), START_MS);
    let staged = ledger.stage(&limits, START_MS);
    let meanwhile = held(&mut ledger, user(1), bound(7, 0), START_MS);
    ledger.apply(&ending(&before, Kind::Settle, 3, 0, START_MS));
    let past = Past::from([((Subject::One("user-1".into()), staged[0].since_s), 100)]);
    ledger.install(&limits, vec![staged[0].history(past)]);
    assert_eq!(readings(&ledger, START_MS)[0].1.meter, Meter { settled: 103, held: 7 });
    ledger.apply(&ending(&meanwhile, Kind::Settle, 7, 0, START_MS));
    assert_eq!(readings(&ledger, START_MS)[0].1.meter, Meter { settled: 110, held: 0 });
}

#[test]
fn a_limit_with_as_many_meters_as_memory_is_meant_to_hold_refuses_new_users_by_its_name() {
    let mut ledger = of_users(Vec::new(), 1);
    let subject = Subject::One("user-0".into());
    let starts = (0..).map(|start_s| ((subject.clone(), start_s), Meter::default()));
    ledger.limits[0].meters.extend(starts.take(METERS_MAX - 1));
    let decide = |number| {
        let circumstances = Circumstances { at_ms: START_MS, ..Circumstances::default() };
        ledger.decide(&ReserveRequest::new(user(number), bound(1, 0)), &circumstances)
    };
    assert!(decide(0).is_ok(), "it has a meter");
    let Err(denial) = decide(1) else { panic!("there is no room for another") };
    let limit = denial.limit().map(|limit| &*limit.name);
    assert!(matches!(denial, Denial::TooManyMeters(_)) && limit == Some("users"), "{denial:?}");
}

/// A limit for each run of each key, which never ends.
pub(super) fn per_run() -> Arc<Limit> {
    limit("runs", Per::Tag("run".into()), Unit::Usd, Window::Day, Some(1_000))
}

pub(super) fn of_run(who: u8, run: &str) -> Arc<Attribution> {
    let tags = [("run".to_owned(), run.to_owned())].into();
    Arc::new(Attribution { tags: Arc::new(tags), ..(*of(who)).clone() })
}

#[test]
fn one_value_has_a_meter_in_each_key_and_who_names_none_is_counted_on_none() {
    let mut ledger = in_force(&[per_run()]);
    let untagged = Arc::new(Attribution { tags: Arc::default(), ..(*of(1)).clone() });
    for (of, nano) in [(of_run(1, "a"), 900), (of_run(2, "a"), 800), (of_run(1, "b=/c"), 7), (untagged, 5)] {
        held(&mut ledger, of, bound(nano, 0), START_MS);
    }
    let read = readings(&ledger, START_MS);
    let read: Vec<_> = read.iter().map(|(_, of)| (of.subject.label(), of.meter.held)).collect();
    assert_eq!(read, [("key_1/run=a", 900), ("key_1/run=b=/c", 7), ("key_2/run=a", 800)]);
    let decide = |of, nano| {
        let circumstances = Circumstances { at_ms: START_MS, ..Circumstances::default() };
        ledger.decide(&ReserveRequest::new(of, bound(nano, 0)), &circumstances)
    };
    assert!(decide(of_run(1, "a"), 101).is_err() && decide(of_run(2, "a"), 101).is_ok());
}

#[test]
fn a_key_with_as_many_values_as_may_be_is_refused_new_ones_and_no_other_key_is() {
    let mut ledger = in_force(&[per_run()]);
    let start_s = ledger.limits[0].span(START_MS / 1_000).start_s;
    let subject = |number: usize| Subject::Tagged(format!("key_1/run={number}").into());
    let of_window = |start_s, count| {
        (0..count).map(move |number| ((subject(number), start_s), Meter { settled: 1, held: 0 }))
    };
    ledger.limits[0].meters.extend(of_window(start_s - 1, VALUES_MAX));
    ledger.limits[0].meters.extend(of_window(start_s, VALUES_MAX - 1));
    let decide = |ledger: &Ledger, of| {
        let circumstances = Circumstances { at_ms: START_MS, ..Circumstances::default() };
        ledger.decide(&ReserveRequest::new(of, bound(1, 0)), &circumstances)
    };
    assert!(decide(&ledger, of_run(1, "new")).is_ok(), "those of the last window don't count");
    let last = held(&mut ledger, of_run(1, "last"), bound(1, 0), START_MS);
    let denial = decide(&ledger, of_run(1, "new")).unwrap_err();
    assert!(matches!(denial, Denial::TooManyMeters(_)), "{denial:?}");
    for known in [of_run(1, "last"), of_run(1, "0"), of_run(2, "new")] {
        assert!(decide(&ledger, known).is_ok());
    }
    ledger.apply(&ending(&last, Kind::Release, 0, 0, START_MS));
    assert!(decide(&ledger, of_run(1, "new")).is_ok(), "what came to nothing takes no room");
}
